"""A record folder's files: their names, and what its metadata say.

`tfrecords/README.md` documents the same for people.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ser_batch.audio.frontends import FrontEnd
from ser_batch.corpus.splits import SPLITS, stable_keys
from ser_batch.corpus.table import Rows, first_equal
from ser_batch.errors import RecordsError
from ser_batch.formatting import pluralize
from ser_batch.records.manifest import BUILDING, ERROR_COLUMNS, MANIFEST_COLUMNS
from ser_batch.storage.fingerprints import json_fingerprint

MANIFEST = "manifest.csv"
ERRORS = "errors.csv"
PROVENANCE = "provenance.json"

_OLD_ERROR_COLUMNS = ("file", "stage", "reason", "sha256")  # of folders from before the parts were named


def records_fingerprint(front_end: FrontEnd, labels: Sequence[str], shards: Sequence[dict[str, Any]]) -> str:
    """SHA-256 over all that is in the shards and how to read it.

    Args:
        front_end: what the log-mels were computed with.
        labels: label names in order.
        shards: each with its ``name`` and ``sha256``, in order.
    """
    return json_fingerprint([front_end.to_json(), list(labels), [(shard["name"], shard["sha256"]) for shard in shards]])


_ADVICE = "ser-batch verify says what else is wrong, and build-records --restart makes the folder anew"


@dataclass(frozen=True)
class RecordFolder:
    """A finished record folder.

    Attributes:
        path: where it is.
        provenance: the content of provenance.json.
    """

    path: Path
    provenance: dict[str, Any]

    @property
    def front_end(self) -> FrontEnd:
        """What its log-mels were computed with."""
        return FrontEnd.from_json(self.provenance["front_end"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names; an example's label is an index into them."""
        return tuple(self.provenance["labels"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that is in the shards and how to read it."""
        return str(self.provenance["fingerprint"])

    def shards(self, split: str | None = None) -> list[dict[str, Any]]:
        """The shards of one split, or all: ``name``, ``split``, ``examples``, ``bytes``, ``sha256``."""
        return [shard for shard in self.provenance["shards"] if split in (None, shard["split"])]

    def n_examples(self, split: str | None = None) -> int:
        """Number of examples in one split, or in all."""
        return sum(shard["examples"] for shard in self.shards(split))

    def summary(self) -> str:
        """Its size in one line, for people."""
        splits = [f"{split} {self.n_examples(split)}" for split in SPLITS if self.shards(split)]
        size = sum(shard["bytes"] for shard in self.shards())
        return (
            f"{pluralize(self.n_examples(), 'example')} ({', '.join(splits)}) "
            f"in {pluralize(len(self.shards()), 'shard')}, {size / 1e6:.1f} MB, "
            f"{pluralize(self.provenance['errors'], 'error')}"
        )

    def shard_paths(self, shards: Iterable[dict[str, Any]]) -> list[Path]:
        """Where these shards are, each of the size that was written.

        Raises:
            RecordsError: one is not.
        """
        paths = []
        for shard in shards:
            path = self.path / shard["name"]
            if not path.exists():
                how = "is missing"
            elif path.stat().st_size != shard["bytes"]:
                how = f"is not the shard of {shard['bytes']} bytes that was written"
            else:
                paths.append(path)
                continue
            raise RecordsError(f"{path}: {how}; {_ADVICE}")
        return paths

    def manifest(self) -> Iterator[dict[str, str]]:
        """The rows of manifest.csv, one per example, in shard order."""
        yield from self._rows(MANIFEST, MANIFEST_COLUMNS)

    def errors(self) -> Iterator[dict[str, str]]:
        """The rows of errors.csv, one per input that could not be used."""
        for row in self._rows(ERRORS, ERROR_COLUMNS, _OLD_ERROR_COLUMNS):
            yield {"start": "", "end": ""} | row

    def _rows(self, name: str, *known: tuple[str, ...]) -> Iterator[dict[str, str]]:
        try:
            with open(self.path / name, encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                if tuple(reader.fieldnames or ()) not in known:
                    raise RecordsError(
                        f"{self.path / name}: is damaged (its columns are not those of such a table); {_ADVICE}"
                    )
                yield from reader
        except OSError as error:
            raise RecordsError(f"{self.path / name}: cannot be read ({error.strerror}); {_ADVICE}") from error
        except (ValueError, csv.Error) as error:
            raise RecordsError(f"{self.path / name}: is damaged ({error}); {_ADVICE}") from error


class Span(NamedTuple):
    """Which part of which file an example or a recording is: times as texts of the manifest, in seconds."""

    file: str
    start: str
    end: str


def recording_spans(rows: Iterable[Mapping[str, str]]) -> Iterator[Span]:
    """The span of each recording, from the manifest's rows; a recording's windows stand together."""
    first: Mapping[str, str] | None = None
    for row in rows:
        first = row if first is None or first["file"] != row["file"] else first
        if is_last_window(first, row):
            yield Span(row["file"], first["start"], row["end"])
            first = None


def is_last_window(first: Mapping[str, str], row: Mapping[str, str]) -> bool:
    """Whether a row of the manifest is of the last window of the recording whose first window is given."""
    return float(row["end"]) >= float(first["start"]) + float(first["duration"]) - 1e-5


def repeated(spans: Iterable[Span]) -> Rows:
    """The places of the spans that are equal to an earlier one; all but their keys are dropped while they are read."""
    keys = stable_keys(0, ("\0".join(span) for span in spans))
    return np.flatnonzero(first_equal(keys) != np.arange(len(keys)))


def refuse_repeated(records: RecordFolder, rows: Callable[[], Iterable[Mapping[str, str]]]) -> None:
    """See that no part of a file is in these rows twice.

    Args:
        records: the folder that they are of.
        rows: gives rows of its manifest, whenever it is called.

    Raises:
        RecordsError: one is.
    """
    try:
        places = repeated(recording_spans(rows()))
    except (TypeError, ValueError) as error:
        raise RecordsError(f"{records.path / MANIFEST}: is damaged ({error}); {_ADVICE}") from error
    if len(places):
        file, start, end = next(islice(recording_spans(rows()), int(places[0]), None))
        raise RecordsError(
            f"{records.path}: holds {pluralize(len(places), 'recording')} twice, the first of them {file} "
            f"from {start} s to {end} s; build it again with build-records --restart, which keeps one of each"
        )


def open_records(path: Path) -> RecordFolder:
    """Open a finished record folder.

    Raises:
        RecordsError: it is not there, not finished, or not a record folder.
    """
    try:
        provenance = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (path / BUILDING).is_dir():
            raise RecordsError(f"{path}: an unfinished record folder; run its build-records command again") from None
        reason = "not a record folder (no provenance.json)" if path.is_dir() else "no such folder"
        raise RecordsError(f"{path}: {reason}; make one with build-records") from None
    except NotADirectoryError:
        raise RecordsError(f"{path}: a file, not a record folder; name the folder that build-records made") from None
    except (OSError, ValueError) as error:
        raise RecordsError(f"{path / PROVENANCE}: cannot be read ({error}); build the folder again") from error
    needed = {"kind", "front_end", "labels", "fingerprint", "shards", "plan", "errors", "warnings", "version"}
    if not isinstance(provenance, dict) or not needed <= provenance.keys() or provenance["kind"] != "records":
        raise RecordsError(f"{path}: its provenance.json is not that of a record folder; make one with build-records")
    return RecordFolder(path, provenance)
