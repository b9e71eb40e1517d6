"""Label tracks: the emotions of a recording over time, as files for audio editors and annotation tools."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from ser_batch.errors import OutputError, UsageError
from ser_batch.inference.table import read_rows
from ser_batch.storage.writing import open_atomically, os_errors_named

# File systems allow 255 bytes for a name; the rest is for the suffix and a temporary name.
_LONGEST_NAME_BYTES = 200
_XML_SCHEMA = "{http://www.w3.org/2001/XMLSchema-instance}noNamespaceSchemaLocation"
_ELAN_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Interval:
    """A part of a recording with one predicted emotion.

    Attributes:
        start_secs, end_secs: intervals of a track do not overlap.
        emotion: the predicted label.
        confidence: mean over the windows in it.
    """

    start_secs: float
    end_secs: float
    emotion: str
    confidence: float


@dataclass(frozen=True)
class Track:
    """The intervals of a recording, or of one of its channels.

    Attributes:
        file: as in the table.
        channel: number from 0; None: the mean of all.
        duration_secs: of the recording.
        intervals: in order.
    """

    file: str
    channel: int | None
    duration_secs: float
    intervals: Sequence[Interval]

    @property
    def tier(self) -> str:
        """Name of the track within a file of several."""
        return "emotion" if self.channel is None else f"emotion, channel {self.channel}"


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


def write_tracks(table: Path, folder: Path, kind: str) -> TrackCounts:
    """Write a file of label tracks for each recording of a prediction table.

    A window lasts until the next one begins; neighbours with one emotion are one interval. A file is named as the
    recording, with a suffix; it replaces an earlier one.

    Args:
        table: a prediction table of any format, best one with a row for each window.
        folder: of the files; created if absent.
        kind: one of `KINDS`.

    Raises:
        UsageError: there is no such kind.
        OutputError: the table cannot be read, or a file cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"--format {kind}: no such format; choose one of {', '.join(KINDS)}")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is not a folder; choose another --out for the files of the tracks")
    suffix, write = KINDS[kind]
    names: dict[str, int] = {}
    n_files = n_without = 0
    for file, group in groupby(read_rows(table), key=lambda row: str(row["file"])):
        rows = list(group)
        known = [row for row in rows if not row["error"]]
        n_without += len(rows) - len(known)
        if not known:
            continue
        tracks = list(_tracks(file, known))
        names[file] = names.get(file, 0) + 1
        name = _safe_name(file) + (f".{names[file]}" if names[file] > 1 else "")
        for path, of_file in _by_file(folder / name, suffix, tracks, one_tier=kind == "audacity"):
            with os_errors_named(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with open_atomically(path) as opened:
                    opened.write(write(of_file))
            n_files += 1
    return TrackCounts(len(names), n_files, n_without)


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


def _audacity(tracks: Sequence[Track]) -> str:
    """Start, end and label, with tabs between."""
    (track,) = tracks
    return "".join(
        f"{one.start_secs:.6f}\t{one.end_secs:.6f}\t{_one_line(one.emotion)} {one.confidence:.2f}\n"
        for one in track.intervals
    )


def _textgrid(tracks: Sequence[Track]) -> str:
    """A Praat TextGrid in the long format, with an interval tier for each channel; gaps are empty intervals."""
    longest = max(track.duration_secs for track in tracks)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {longest:.6f}"]
    lines += ["tiers? <exists>", f"size = {len(tracks)}", "item []:"]
    for number, track in enumerate(tracks, 1):
        intervals = list(_without_gaps(track, longest))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(track.tier)}"]
        lines += ["        xmin = 0", f"        xmax = {longest:.6f}", f"        intervals: size = {len(intervals)}"]
        for place, (start, end, text) in enumerate(intervals, 1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
            ]
            lines += [f"            text = {_quoted(text)}"]
    return "\n".join(lines) + "\n"


def _without_gaps(track: Track, end_secs: float) -> Iterator[tuple[float, float, str]]:
    at = 0.0
    for one in track.intervals:
        if one.start_secs > at:
            yield at, one.start_secs, ""
        yield one.start_secs, one.end_secs, one.emotion
        at = one.end_secs
    if at < end_secs:
        yield at, end_secs, ""


def _rttm(tracks: Sequence[Track]) -> str:
    """Rich Transcription Time Marked (NIST): one line per interval, the emotion as the speaker's name."""
    return "".join(
        f"SPEAKER {_word(track.file)} {(track.channel or 0) + 1} {one.start_secs:.3f} "
        f"{one.end_secs - one.start_secs:.3f} <NA> <NA> {_word(one.emotion)} {one.confidence:.3f} <NA>\n"
        for track in tracks
        for one in track.intervals
    )


def _elan(tracks: Sequence[Track]) -> str:
    """An ELAN annotation document (EAF 3.0), with a tier for each channel; its date is fixed, so that bytes are."""
    versions = {"AUTHOR": "", "DATE": "1970-01-01T00:00:00Z", "FORMAT": "3.0", "VERSION": "3.0"}
    document = ElementTree.Element("ANNOTATION_DOCUMENT", versions | {_XML_SCHEMA: _ELAN_SCHEMA})
    header = ElementTree.SubElement(document, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    media = _NOT_IN_XML.sub("�", tracks[0].file)
    link = {"MEDIA_URL": media, "RELATIVE_MEDIA_URL": media, "MIME_TYPE": "audio/x-wav"}
    ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", link)
    order = ElementTree.SubElement(document, "TIME_ORDER")
    number = 0
    for track in tracks:
        tier = ElementTree.SubElement(
            document, "TIER", {"TIER_ID": track.tier, "LINGUISTIC_TYPE_REF": "emotion", "DEFAULT_LOCALE": "en"}
        )
        for one in track.intervals:
            number += 1
            slots = [(f"ts{2 * number - 1}", one.start_secs), (f"ts{2 * number}", one.end_secs)]
            for slot, secs in slots:
                ElementTree.SubElement(
                    order, "TIME_SLOT", {"TIME_SLOT_ID": slot, "TIME_VALUE": str(round(1000 * secs))}
                )
            annotation = ElementTree.SubElement(ElementTree.SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION")
            annotation.attrib |= {"ANNOTATION_ID": f"a{number}"}
            annotation.attrib |= {"TIME_SLOT_REF1": slots[0][0], "TIME_SLOT_REF2": slots[1][0]}
            ElementTree.SubElement(annotation, "ANNOTATION_VALUE").text = _NOT_IN_XML.sub("�", one.emotion)
    kind = {"LINGUISTIC_TYPE_ID": "emotion", "TIME_ALIGNABLE": "true", "GRAPHIC_REFERENCES": "false"}
    ElementTree.SubElement(document, "LINGUISTIC_TYPE", kind)
    ElementTree.SubElement(document, "LOCALE", {"LANGUAGE_CODE": "en"})
    ElementTree.indent(document)
    return ElementTree.tostring(document, "unicode", xml_declaration=True) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _word(text: str) -> str:
    """Text without spaces, as fields of an RTTM file are separated by them."""
    return "_".join(text.split()) or "_"


def _quoted(text: str) -> str:
    return '"' + _one_line(text).replace('"', '""') + '"'


# Suffix of the files, and the function from the tracks of a file to its text.
KINDS: dict[str, tuple[str, Callable[[Sequence[Track]], str]]] = {
    "audacity": (".txt", _audacity),
    "textgrid": (".TextGrid", _textgrid),
    "rttm": (".rttm", _rttm),
    "elan": (".eaf", _elan),
}
