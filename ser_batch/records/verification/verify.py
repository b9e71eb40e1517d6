"""From a finished record folder to the list of what is wrong with it.

A shard is one task: it is read once, from beginning to end, for its checksum, its records and their
agreement with the manifest. What spans shards (the metadata, the order of the manifest, speakers) is
checked by the caller's process. Problems are returned as a list; damaged files do not raise.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ser_batch.corpus.table import Listing
from ser_batch.records.folder import MANIFEST, PROVENANCE, RecordFolder, recording_spans, repeated
from ser_batch.records.verification.metadata import (
    Problem,
    _listed_shard_problems,
    _malformed_provenance,
    _manifest_rows,
    _metadata_problems,
    _Row,
    _Survey,
    _table_problems,
    _unreadable,
)
from ser_batch.records.verification.shards import _check_shard, _ShardCheck, _ShardReport
from ser_batch.runtime.engine import Engine, Outcome
from ser_batch.storage.fingerprints import file_sha256

_AUDIO_FILES_PER_TASK = 100


def verify_records(
    records: RecordFolder,
    engine: Engine,
    source: Listing | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Problem]:
    """All that is wrong with a record folder: the metadata's problems first, then each shard's in order.

    Args:
        records: the folder.
        engine: where shards are read.
        source: what the folder was built from, to see that its audio is still the same; None: not checked.
        on_progress: called with (examples and audio files done, all) after each shard.
    """
    if malformed := _malformed_provenance(records.provenance):
        return [Problem(PROVENANCE, None, "", malformed)]
    survey = _Survey(records, with_files=source is not None)
    problems = [*_metadata_problems(records), *_listed_shard_problems(records), *survey.problems]
    listed = {recording.file: recording.path for recording in source.recordings} if source else {}
    present = [(row, listed[row.file]) for row in survey.files.values() if row.file in listed]
    problems += [
        Problem(row.shard, row.index, row.file, "its audio is not in SOURCE; name what the folder was built from")
        for row in survey.files.values()
        if row.file not in listed
    ]
    done, total = 0, records.n_examples() + len(present)
    on_progress(done, total)
    for shard in engine.map(_check_shard, _shard_checks(records, survey)):
        problems += _shard_problems(shard, records)
        done += shard.task.shard["examples"]
        on_progress(done, total)
    for audio in engine.map(_check_audio, _parts(present, _AUDIO_FILES_PER_TASK)):
        problems += _audio_problems(audio)
        done += len(audio.task)
        on_progress(done, total)
    if not problems:
        problems += _table_problems(records)
    if not problems:
        problems += _repeat_problems(records)
    order = {shard["name"]: number for number, shard in enumerate(records.shards())}
    # Tasks end in any order; the list is the same for any number of workers.
    return sorted(problems, key=lambda p: (order.get(p.shard, -1), -1 if p.index is None else p.index))


def _parts(items: Sequence[tuple[_Row, str]], size: int) -> Iterator[Sequence[tuple[_Row, str]]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _repeat_problems(records: RecordFolder) -> Iterator[Problem]:
    """Whether a part of a file is more than one recording: nothing would tell their predictions apart."""
    places = set(repeated(recording_spans(records.manifest())).tolist())
    for place, span in enumerate(recording_spans(records.manifest()) if places else ()):
        if place in places:
            what = f"the part from {span.start} s to {span.end} s is in it twice; build-records --restart keeps one"
            yield Problem(MANIFEST, None, span.file, what)


def _shard_checks(records: RecordFolder, survey: _Survey) -> Iterator[_ShardCheck]:
    """A task for every shard, made while the manifest is read: never all of its rows are held."""
    shards = {shard["name"]: shard for shard in records.shards()}
    to_check = partial(_ShardCheck, records.path, shape=records.front_end.shape, labels=records.labels)
    if not survey.readable:
        yield from (to_check(shard=shard, rows=None) for shard in shards.values())
        return
    scattered: dict[str, list[_Row]] = {name: [] for name in survey.scattered}
    together: list[_Row] = []
    for row in _manifest_rows(records):
        if isinstance(row, Problem) or row.shard not in shards:
            continue
        if row.shard in scattered:
            scattered[row.shard].append(row)
            continue
        if together and together[0].shard != row.shard:
            yield to_check(shard=shards.pop(together[0].shard), rows=tuple(together))
            together = []
        together.append(row)
    if together:
        scattered[together[0].shard] = together
    for name, shard in shards.items():
        yield to_check(shard=shard, rows=tuple(scattered.get(name, ())))


def _shard_problems(outcome: Outcome[_ShardCheck, _ShardReport], records: RecordFolder) -> list[Problem]:
    name = outcome.task.shard["name"]
    report = outcome.result
    if report is None:
        return [Problem(name, None, "", f"could not be checked: {outcome.death}")]
    if report.sha256 != outcome.task.shard["sha256"]:
        for other in records.shards():
            if other["sha256"] == report.sha256 and other["bytes"]:
                # Every record then differs from its row: saying so of each would hide this.
                return [Problem(name, None, "", f"holds the bytes of {other['name']}: swapped or copied over")]
    return report.problems


def _check_audio(sources: Sequence[tuple[_Row, str]]) -> list[Problem]:
    """Compare audio files with the checksums of their rows."""
    problems = []
    for row, path in sources:
        try:
            # Opening a pipe would wait for a writer for ever.
            if os.path.exists(path) and not os.path.isfile(path):
                what = "its audio is no regular file any more"
            elif file_sha256(path) == row.sha256:
                continue
            else:
                what = "its audio has changed since the folder was built"
        except OSError as error:
            what = f"its audio {_unreadable(error)}"
        problems.append(Problem(row.shard, row.index, row.file, what))
    return problems


def _audio_problems(outcome: Outcome[Sequence[tuple[_Row, str]], list[Problem]]) -> list[Problem]:
    if outcome.result is not None:
        return outcome.result
    row, _ = outcome.task[0]
    what = f"its audio and that of {len(outcome.task) - 1} more could not be checked: {outcome.death}"
    return [Problem(row.shard, row.index, row.file, what)]
