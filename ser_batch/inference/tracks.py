"""Label tracks: the emotions of a recording over time, as files for audio editors and annotation tools."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from ser_batch.errors import OutputError, UsageError
from ser_batch.inference.audformat_database import AUDFORMAT, write_database
from ser_batch.inference.table import read_rows
from ser_batch.inference.track_formats import KINDS, Interval, Track
from ser_batch.storage.writing import open_atomically, os_errors_named

# File systems allow 255 bytes for a name; the rest is for the suffix and a temporary name.
_LONGEST_NAME_BYTES = 200


@dataclass(frozen=True)
class TrackCounts:
    """Result of writing tracks.

    Attributes:
        recordings: number of recordings with a track.
        files: number of files written.
        without: number of rows without a prediction.
    """

    recordings: int
    files: int
    without: int


def check_track_format(kind: str) -> None:
    """Check the name of a format.

    Raises:
        UsageError: there is no such format.
    """
    if kind not in (*KINDS, AUDFORMAT):
        raise UsageError(f"{kind}: no such format of label tracks; choose one of {', '.join((*KINDS, AUDFORMAT))}")


def write_tracks(table: Path, folder: Path, kind: str) -> TrackCounts:
    """Write the label tracks of a prediction table.

    A window lasts until the next one begins; neighbours with one emotion are one interval. There is a file for each
    recording, named as the recording with a suffix, or one audformat database of all; it replaces an earlier one.

    Args:
        table: a prediction table of any format, best one with a row for each window.
        folder: of the files; created if absent.
        kind: one of `KINDS`, or `AUDFORMAT`.

    Raises:
        UsageError: there is no such kind.
        OutputError: the table cannot be read, or a file cannot be written.
    """
    check_track_format(kind)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is not a folder; choose another --out for the files of the tracks")
    recordings = _Recordings(table)
    if kind == AUDFORMAT:
        n_files = write_database(folder, table.stem, recordings)
    else:
        n_files = sum(_write_files(folder, kind, tracks, n) for tracks, n in recordings.numbered())
    return TrackCounts(recordings.n_recordings, n_files, recordings.n_without)


class _Recordings:
    """The tracks of each recording of a table, in its order; recordings without a prediction are left out.

    Attributes:
        n_recordings: number of recordings so far.
        n_without: number of rows without a prediction so far.
    """

    def __init__(self, table: Path) -> None:
        self._table = table
        self._times: dict[str, int] = {}
        self.n_without = 0

    @property
    def n_recordings(self) -> int:
        return len(self._times)

    def __iter__(self) -> Iterator[list[Track]]:
        return (tracks for tracks, _ in self.numbered())

    def numbered(self) -> Iterator[tuple[list[Track], int]]:
        """Also how often the recording was met, from 1: its rows may not be together."""
        for file, group in groupby(read_rows(self._table), key=lambda row: str(row["file"])):
            rows = list(group)
            known = [row for row in rows if not row["error"]]
            self.n_without += len(rows) - len(known)
            if known:
                self._times[file] = self._times.get(file, 0) + 1
                yield list(_tracks(file, known)), self._times[file]


def _write_files(folder: Path, kind: str, tracks: list[Track], n: int) -> int:
    """Write the files of one recording, and return their number."""
    suffix, write = KINDS[kind]
    name = _safe_name(tracks[0].file) + (f".{n}" if n > 1 else "")
    files = list(_by_file(folder / name, suffix, tracks, one_tier=kind == "audacity"))
    for path, of_file in files:
        with os_errors_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_atomically(path) as opened:
                opened.write(write(of_file))
    return len(files)


def _tracks(file: str, rows: Sequence[dict[str, Any]]) -> Iterator[Track]:
    """A track for each channel."""
    channels: dict[int | None, list[dict[str, Any]]] = {}
    for row in rows:
        channels.setdefault(row.get("channel"), []).append(row)
    for channel, of_channel in channels.items():
        of_channel.sort(key=lambda row: row["start"])
        ends = [min(row["end"], after["start"]) for row, after in pairwise(of_channel)]
        pieces = [
            (row["start"], end, row["emotion"], row["confidence"])
            for row, end in zip(of_channel, [*ends, of_channel[-1]["end"]], strict=True)
            if end > row["start"]
        ]
        duration = max(of_channel[-1]["end"], *(row["duration"] for row in of_channel))
        yield Track(file, channel, duration, _merged(pieces))


def _merged(pieces: Iterable[tuple[float, float, str, float]]) -> list[Interval]:
    """Intervals from pieces; pieces with one emotion that touch are one interval."""
    merged: list[list[tuple[float, float, str, float]]] = []
    for piece in pieces:
        if merged and merged[-1][-1][2] == piece[2] and merged[-1][-1][1] == piece[0]:
            merged[-1].append(piece)
        else:
            merged.append([piece])
    return [
        Interval(group[0][0], group[-1][1], group[0][2], sum(piece[3] for piece in group) / len(group))
        for group in merged
    ]


def _by_file(path: Path, suffix: str, tracks: Sequence[Track], one_tier: bool) -> Iterator[tuple[Path, list[Track]]]:
    """The files, and the tracks in each."""
    if not one_tier or len(tracks) == 1:
        yield path.with_name(path.name + suffix), list(tracks)
        return
    for track in tracks:
        yield path.with_name(f"{path.name}.channel-{track.channel}{suffix}"), [track]


def _safe_name(file: str) -> str:
    """A relative path for a name in the table: it does not leave the folder, and no part of it is too long."""
    parts = [part for part in PurePosixPath(file).parts if part != "/"]
    return "/".join(_short("__" if part == ".." else part) for part in parts)


def _short(name: str) -> str:
    encoded = name.encode()
    if len(encoded) <= _LONGEST_NAME_BYTES:
        return name
    kept = encoded[: _LONGEST_NAME_BYTES - 13].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.sha256(encoded).hexdigest()[:12]}"
