"""From one task to one shard, and the note that says what it holds.

A worker writes a shard whole, then its note into ``.building/``; what has its note is never done again.
Whatever becomes of a recording, it stands in the note: as rows, or as an error.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.table import Recording, Rejection
from ser_batch.errors import AudioError
from ser_batch.records.examples import Example, serialize
from ser_batch.records.manifest import note_path
from ser_batch.records.plan import ShardTask
from ser_batch.records.tfrecords import write_record
from ser_batch.runtime.process import expect_progress
from ser_batch.storage.fingerprints import audio_sha256, file_sha256
from ser_batch.storage.writing import open_atomically, write_json


def probe(recordings: Sequence[Recording], front_end: FrontEnd) -> None:
    """Do to recordings what `write_shard` does, and write nothing: to find one that ends its worker."""
    for recording in recordings:
        try:
            for _ in LogMelWindows(recording, front_end):
                expect_progress()
        except AudioError:
            pass
        finally:
            expect_progress(0)


def write_shard(task: ShardTask) -> None:
    """Write one shard and the note of what it holds. The same task gives the same bytes."""
    path = Path(task.folder) / task.name
    note = _ShardNote(task)
    with open_atomically(path, "wb") as file:
        for recording in task.recordings:
            note.add(recording, file)
    write_json(note_path(path.parent, task.name), note.content(path))


class _ShardNote:
    """Collects what a shard holds while it is written."""

    def __init__(self, task: ShardTask) -> None:
        self._task = task
        self._refused = {recording: (stage, reason) for recording, stage, reason in task.refused}
        self._label_index = {label: index for index, label in enumerate(task.labels)}
        self._rows: list[list[str]] = []
        self._errors: list[tuple[str, ...]] = []
        self._warnings: Counter[str] = Counter()

    def add(self, recording: Recording, file: IO[bytes]) -> None:
        """Write a recording's examples; if it turns out to be unusable, take them back."""
        sha256 = ""
        begin, n_rows = file.tell(), len(self._rows)
        try:
            sha256 = audio_sha256(recording.path)
            if recording in self._refused:
                raise AudioError(*self._refused[recording])
            windows = LogMelWindows(recording, self._task.front_end)
            expect_progress()
            for window in windows:
                start_secs, end_secs = round(window.start_secs, 6), round(window.end_secs, 6)
                example = Example(
                    window.log_mel,
                    self._label_index[recording.label or ""],
                    recording.file,
                    recording.speaker or "",
                    start_secs,
                    end_secs,
                )
                write_record(file, serialize(example))
                self._rows.append([repr(start_secs), repr(end_secs)])
                expect_progress()
        except AudioError as error:
            file.seek(begin)
            file.truncate()
            del self._rows[n_rows:]
            part = (recording.start_secs, recording.end_secs)
            self._errors.append(Rejection(recording.file, error.stage, error.reason, sha256, part).row())
        else:
            duration = repr(round(windows.duration_secs, 6))
            for index in range(n_rows, len(self._rows)):
                start, end = self._rows[index]
                known = [recording.label or "", recording.speaker or "", self._task.split, self._task.name]
                self._rows[index] = [recording.file, start, end, *known, str(index), duration, sha256]
            self._warnings.update(windows.warnings)
        finally:
            expect_progress(0)

    def content(self, path: Path) -> dict[str, Any]:
        """The note, once the shard is on disk."""
        shard = {
            "name": path.name,
            "split": self._task.split,
            "examples": len(self._rows),
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        return {"shard": shard, "rows": self._rows, "errors": self._errors, "warnings": self._warnings}
