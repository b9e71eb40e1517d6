"""Formats of label tracks: the text of one file from the tracks of a recording."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

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
