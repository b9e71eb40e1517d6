"""Write a shard and its part of the manifest, in a worker.

A worker writes a shard, then its part; a shard with a part is not written again. Every recording of the task is in
the part: as rows of examples, or as an error.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.table import Recording, Rejection
from ser_batch.errors import AudioError
from ser_batch.records.examples import Example, serialize
from ser_batch.records.manifest import part_path, rejection_row, write_part
from ser_batch.records.plan import ShardTask
from ser_batch.records.tfrecords import write_record
from ser_batch.storage.fingerprints import audio_sha256, file_sha256
from ser_batch.storage.writing import open_atomically


def probe(numbered: Sequence[tuple[int, Recording]], front_end: FrontEnd) -> None:
    """Process recordings as `write_shard` does, without writing, to find one that crashes its worker."""
    for _, recording in numbered:
        try:
            for _ in LogMelWindows(recording, front_end):
                pass
        except AudioError:
            pass


def write_shard(task: ShardTask) -> None:
    """Write one shard and its part of the manifest. The same task gives the same bytes."""
    path = Path(task.folder) / task.name
    rows: list[dict[str, Any]] = []
    n_examples = 0
    with open_atomically(path, "wb") as file:
        for number, recording in task.numbered():
            added = _write_recording(task, number, recording, file)
            for row in added:
                if "error" not in row:
                    row["index"] = n_examples
                    n_examples += 1
            rows += added
    facts = {"shard_bytes": str(path.stat().st_size), "shard_sha256": file_sha256(path)}
    write_part(part_path(path.parent, task.name), rows, facts)


def _write_recording(task: ShardTask, number: int, recording: Recording, file: IO[bytes]) -> list[dict[str, Any]]:
    """Write a recording's examples, or nothing if it is unusable; return its rows of the manifest."""
    speaker = recording.speaker or ""
    known: dict[str, Any] = {
        "file": recording.file,
        "label": recording.label or "",
        "speaker": speaker,
        "split": task.split,
        "shard": task.name,
        "recording": number,
    }
    sha256 = ""
    begin = file.tell()
    rows: list[dict[str, Any]] = []
    try:
        sha256 = audio_sha256(recording.path)
        if number in task.refused:
            raise AudioError(*task.refused[number])
        windows = LogMelWindows(recording, task.front_end)
        for window in windows:
            start_secs, end_secs = round(window.start_secs, 6), round(window.end_secs, 6)
            label = task.labels.index(known["label"])
            example = Example(window.log_mel, label, recording.file, speaker, start_secs, end_secs)
            write_record(file, serialize(example))
            rows.append(known | {"start": start_secs, "end": end_secs, "window": len(rows), "sha256": sha256})
    except AudioError as error:
        file.seek(begin)
        file.truncate()
        part = (recording.start_secs, recording.end_secs)
        return [known | rejection_row(Rejection(recording.file, error.stage, error.reason, sha256, part))]
    found = {"duration": round(windows.duration_secs, 6), "warnings": " ".join(windows.warnings)}
    return [row | found for row in rows]
