"""A record folder: names of its files, and its metadata.

`tfrecords/README.md` documents the format.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import field_validator

from ser_batch.audio.frontends import FrontEnd
from ser_batch.corpus.splits import SPLITS, stable_keys
from ser_batch.corpus.table import Rows, first_equal
from ser_batch.errors import RecordsError
from ser_batch.formatting import pluralize
from ser_batch.records.manifest import ADVICE, MANIFEST, REJECTED, examples, failed, open_part, part_path
from ser_batch.storage.fingerprints import json_fingerprint
from ser_batch.storage.settings import Settings

PROVENANCE = "provenance.json"
BUILDING = ".building"
# Files of earlier versions, which had these in place of the manifest's parts.
EARLIER_TABLES = ("manifest.csv", "errors.csv")


class Shard(Settings):
    """One shard.

    Attributes:
        name: of its file.
        split: the split of its examples.
        examples: number of examples.
        bytes, sha256: of its file.
        manifest_sha256: of its part of the manifest.
    """

    name: str
    split: str
    examples: int
    bytes: int
    sha256: str
    manifest_sha256: str


class Provenance(Settings):
    """The content of provenance.json.

    Attributes:
        kind: ``records``.
        version: of ser-batch.
        fingerprint: from `records_fingerprint`.
        front_end: of the log-mels.
        front_end_fingerprint: the front end's fingerprint.
        labels: label names; an example's label is an index into them.
        plan: settings of the build (see `ser_batch.records.plan.BuildPlan.settings`).
        shards: in order.
        rejected_sha256: of the manifest's part of recordings that were rejected before any shard.
        errors: number of unusable recordings.
        warnings: number of recordings with each warning code.
    """

    kind: Literal["records"]
    version: str
    fingerprint: str
    front_end: FrontEnd
    front_end_fingerprint: str
    labels: tuple[str, ...]
    plan: dict[str, Any]
    shards: tuple[Shard, ...]
    rejected_sha256: str
    errors: int
    warnings: dict[str, int]

    @field_validator("front_end")
    @classmethod
    def _has_frames(cls, front_end: FrontEnd) -> FrontEnd:
        if min(front_end.n_mels, front_end.hop_length) < 1 or front_end.n_frames < 1:
            raise ValueError("its log-mels would have no bands or no frames")
        return front_end


def records_fingerprint(front_end: FrontEnd, labels: Sequence[str], shards: Sequence[Shard]) -> str:
    """SHA-256 over the front end, the labels and the content of the shards.

    Args:
        front_end: of the log-mels.
        labels: label names in order.
        shards: in order.
    """
    return json_fingerprint([front_end.to_json(), list(labels), [(shard.name, shard.sha256) for shard in shards]])


@dataclass(frozen=True)
class RecordFolder:
    """A finished record folder.

    Attributes:
        path: the folder.
        provenance: the content of provenance.json.
    """

    path: Path
    provenance: Provenance

    @property
    def front_end(self) -> FrontEnd:
        """The front end of the log-mels."""
        return self.provenance.front_end

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names; an example's label is an index into them."""
        return self.provenance.labels

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the front end, the labels and the content of the shards."""
        return self.provenance.fingerprint

    def shards(self, split: str | None = None) -> list[Shard]:
        """The shards of one split, or all."""
        return [shard for shard in self.provenance.shards if split in (None, shard.split)]

    def n_examples(self, split: str | None = None) -> int:
        """Number of examples in one split, or in all."""
        return sum(shard.examples for shard in self.shards(split))

    def summary(self) -> str:
        """The folder's size as one line of text."""
        splits = [f"{split} {self.n_examples(split)}" for split in SPLITS if self.shards(split)]
        size = sum(shard.bytes for shard in self.shards())
        return (
            f"{pluralize(self.n_examples(), 'example')} ({', '.join(splits)}) "
            f"in {pluralize(len(self.shards()), 'shard')}, {size / 1e6:.1f} MB, "
            f"{pluralize(self.provenance.errors, 'error')}"
        )

    def shard_paths(self, shards: Iterable[Shard]) -> list[Path]:
        """The paths of shards, after a check that each file has its original size.

        Raises:
            RecordsError: a file is missing or has a different size.
        """
        paths = []
        for shard in shards:
            path = self.path / shard.name
            if not path.exists():
                how = "is missing"
            elif path.stat().st_size != shard.bytes:
                how = f"is not the shard of {shard.bytes} bytes that was written"
            else:
                paths.append(path)
                continue
            raise RecordsError(f"{path}: {how}; {ADVICE}")
        return paths

    def manifest(self, *columns: str, shards: Iterable[Shard] | None = None) -> Iterator[pa.Table]:
        """The manifest's rows of examples: one table per shard, in order, with a row for each example.

        Args:
            columns: of `ser_batch.records.manifest.SCHEMA`.
            shards: a subset of the folder's shards; None: all.

        Raises:
            RecordsError: a part is missing or damaged.
        """
        for shard in self.provenance.shards if shards is None else shards:
            yield examples(open_part(self.path, shard.name, {*columns, "error"})).select(columns)

    def errors(self) -> Iterator[pa.Table]:
        """The manifest's rows of unusable recordings: first those rejected before any shard, then by shard.

        Raises:
            RecordsError: a part is missing or damaged.
        """
        return _failed_parts(self.path, [shard.name for shard in self.provenance.shards])


def error_parts(folder: Path) -> Iterator[pa.Table]:
    """As `RecordFolder.errors`; also for a folder that cannot be finished because no recording is usable."""
    if (folder / PROVENANCE).exists() or not part_path(folder, REJECTED).exists():
        return open_records(folder).errors()
    names = sorted(path.stem for path in (folder / MANIFEST).glob("*.parquet"))
    return _failed_parts(folder, [name for name in names if name != REJECTED])


def _failed_parts(folder: Path, shards: Iterable[str]) -> Iterator[pa.Table]:
    return (failed(open_part(folder, name)) for name in (REJECTED, *shards))


def recording_parts(rows: pa.Table) -> pa.Table:
    """The file and the part of it of each recording.

    Args:
        rows: of one part of the manifest, with the columns ``file``, ``start``, ``end`` and ``recording``.

    Returns:
        A row for each recording, in the order of first windows: ``recording``, ``file``, ``start_min``, ``end_max``.
    """
    times = [("start", "min"), ("end", "max")]
    return rows.group_by(["recording", "file"], use_threads=False).aggregate(times)


def find_repeats(rows: Iterable[pa.Table]) -> tuple[Rows, Rows]:
    """Recordings that repeat an earlier recording: the same part of the same file.

    Args:
        rows: parts of the manifest, as for `recording_parts`; read one at a time.

    Returns:
        The numbers (column ``recording``) of the repeats, and for each the number of the first such recording in
        SOURCE's order.
    """
    keys, numbers = [], []
    for part in map(recording_parts, rows):
        columns = (part[name].to_pylist() for name in ("file", "start_min", "end_max"))
        keys.append(stable_keys(0, (f"{file}\0{start}\0{end}" for file, start, end in zip(*columns, strict=True))))
        numbers.append(part["recording"].to_numpy())
    order = np.argsort(recordings := np.concatenate([np.empty(0, np.int64), *numbers]), kind="stable")
    first = first_equal(np.concatenate([np.empty(0, np.uint64), *keys])[order])
    repeats = np.flatnonzero(first != np.arange(len(first)))
    return recordings[order][repeats], recordings[order][first[repeats]]


def check_no_repeats(records: RecordFolder, shards: Iterable[Shard] | None = None) -> None:
    """Check that no part of a file is in a record folder twice.

    Args:
        records: the folder.
        shards: the shards to check; None: all.

    Raises:
        RecordsError: a part is in the folder twice.
    """
    columns = ("file", "start", "end", "recording")
    shards = records.shards() if shards is None else list(shards)
    repeats, _ = find_repeats(records.manifest(*columns, shards=shards))
    if not len(repeats):
        return
    for part in map(recording_parts, records.manifest(*columns, shards=shards)):
        if found := [row for row in part.to_pylist() if row["recording"] == repeats[0]]:
            raise RecordsError(
                f"{records.path}: holds {pluralize(len(repeats), 'recording')} twice, for example "
                f"{found[0]['file']} from {found[0]['start_min']} s to {found[0]['end_max']} s; build it again with "
                "build-records --restart, which keeps one of each"
            )


def open_records(path: Path) -> RecordFolder:
    """Open a finished record folder.

    Raises:
        RecordsError: the folder is missing, not finished, or not a record folder of this version.
    """
    try:
        text = (path / PROVENANCE).read_bytes()
        content = json.loads(text)
    except FileNotFoundError:
        if (path / BUILDING).is_dir():
            raise RecordsError(f"{path}: an unfinished record folder; run its build-records command again") from None
        reason = "not a record folder (no provenance.json)" if path.is_dir() else "no such folder"
        raise RecordsError(f"{path}: {reason}; make one with build-records") from None
    except NotADirectoryError:
        raise RecordsError(f"{path}: a file, not a record folder; give the folder that build-records wrote") from None
    except (OSError, ValueError) as error:
        raise RecordsError(f"{path / PROVENANCE}: cannot be read ({error}); build the folder again") from error
    if not isinstance(content, dict) or content.get("kind") != "records":
        raise RecordsError(f"{path}: its provenance.json is not that of a record folder; make one with build-records")
    if "tables" in content:
        raise RecordsError(
            f"{path}: written by ser-batch {content.get('version')}, with a {EARLIER_TABLES[0]} that this version does "
            "not support; build it again with build-records --restart"
        )
    advice = "; build the folder again with build-records --restart"
    return RecordFolder(path, Provenance.parse(text, str(path / PROVENANCE), RecordsError, advice))
