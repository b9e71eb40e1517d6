"""Verify a finished record folder, and list its problems.

A shard is one task: it is read once, from beginning to end, to check its checksum, its records and their
agreement with its part of the manifest. Checks across shards (the metadata, speakers, audio files) run in
the caller's process. Problems are returned as a list; damaged files do not raise.
"""

from collections.abc import Callable, Iterator, Sequence

from ser_batch.corpus.table import Listing, recordings
from ser_batch.records.folder import RecordFolder
from ser_batch.records.verification.metadata import (
    AudioFile,
    Problem,
    limit_problems,
    listed_file_problems,
    metadata_problems,
    read_failure,
    repeat_problems,
    survey_manifest,
)
from ser_batch.records.verification.shards import ShardCheck, ShardReport, check_shard
from ser_batch.runtime.engine import Engine, Outcome
from ser_batch.storage.filesystems import file_status
from ser_batch.storage.fingerprints import file_sha256

_AUDIO_FILES_PER_TASK = 100


def verify_records(
    records: RecordFolder,
    engine: Engine,
    source: Listing | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Problem]:
    """All problems of a record folder: first those of the metadata, then those of each shard in order.

    Args:
        records: the folder.
        engine: runs the tasks that read shards.
        source: what the folder was built from, to check that its audio has not changed; None: not checked.
        on_progress: called with (examples and audio files done, total) after each shard.
    """
    survey = survey_manifest(records, with_files=source is not None)
    problems = [*metadata_problems(records), *listed_file_problems(records), *survey.problems]
    present = []
    path_of = {recording.file: recording.path for recording in recordings(source.recordings)} if source else {}
    for audio in survey.files.values():
        if audio.file in path_of:
            present.append((audio, path_of[audio.file]))
        else:
            what = "its audio is not in SOURCE; give the SOURCE that the folder was built from"
            problems.append(Problem(audio.shard, audio.index, audio.file, what))
    done, total = 0, records.n_examples() + len(present)
    on_progress(done, total)
    checks = (
        ShardCheck(records.path, shard, records.front_end.shape, records.labels, shard.name in survey.unchanged)
        for shard in records.shards()
    )
    for outcome in engine.map(check_shard, checks):
        problems += _shard_problems(outcome, records)
        done += outcome.task.shard.examples
        on_progress(done, total)
    for audio_outcome in engine.map(_check_audio, _parts(present, _AUDIO_FILES_PER_TASK)):
        problems += _audio_problems(audio_outcome)
        done += len(audio_outcome.task)
        on_progress(done, total)
    if not problems:
        problems += repeat_problems(records)
    order = {shard.name: number for number, shard in enumerate(records.shards())}
    # Sorted, because tasks end in any order: the list does not depend on the number of workers.
    return sorted(problems, key=lambda p: (order.get(p.shard, -1), p.shard, -1 if p.index is None else p.index))


def _parts(items: Sequence[tuple[AudioFile, str]], size: int) -> Iterator[Sequence[tuple[AudioFile, str]]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _shard_problems(outcome: Outcome[ShardCheck, ShardReport], records: RecordFolder) -> list[Problem]:
    shard, report = outcome.task.shard, outcome.result
    if report is None:
        return [Problem(shard.name, None, "", f"could not be checked: {outcome.failure}")]
    if report.sha256 != shard.sha256:
        for other in records.shards():
            if other.sha256 == report.sha256 and other.bytes:
                # Every record then differs from its row: one problem in place of many.
                return [Problem(shard.name, None, "", f"holds the bytes of {other.name}: swapped or copied over")]
    return report.problems


def _check_audio(sources: Sequence[tuple[AudioFile, str]]) -> list[Problem]:
    """Compare audio files with the checksums of their rows."""
    problems = []
    for audio, path in sources:
        try:
            # Opening a pipe would wait forever for a writer.
            if not file_status(path).is_regular:
                what = "its audio is no longer a regular file"
            elif file_sha256(path) == audio.sha256:
                continue
            else:
                what = "its audio has changed since the folder was built"
        except OSError as error:
            what = f"its audio {read_failure(error)}"
        problems.append(Problem(audio.shard, audio.index, audio.file, what))
    return limit_problems(problems)


def _audio_problems(outcome: Outcome[Sequence[tuple[AudioFile, str]], list[Problem]]) -> list[Problem]:
    if outcome.result is not None:
        return outcome.result
    audio, _ = outcome.task[0]
    what = f"its audio and that of {len(outcome.task) - 1} more could not be checked: {outcome.failure}"
    return [Problem(audio.shard, audio.index, audio.file, what)]
