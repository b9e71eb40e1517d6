"""The naming schemes of known corpora, and the ways to label a table of recordings."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ser_batch.audio.recordings import Listing, Recording, Recordings, Rejection, posix_stem, printable, read_csv
from ser_batch.errors import LabelError, UsageError
from ser_batch.wording import counted


@dataclass(frozen=True)
class Corpus:
    """How a corpus writes label and speaker into its file names.

    Attributes:
        title: what it is, for messages.
        pattern: matches the end of a path without extension; groups ``label`` and ``speaker``.
        labels: code in the name to label.
        source: where the scheme is documented.
    """

    title: str
    pattern: str
    labels: Mapping[str, str]
    source: str


CORPORA = {
    "emodb": Corpus(
        "EmoDB",
        r"(?P<speaker>\d\d)[ab]\d\d(?P<label>[A-Z])[a-z]",
        {
            "W": "anger",
            "L": "boredom",
            "E": "disgust",
            "A": "fear",
            "F": "happiness",
            "T": "sadness",
            "N": "neutral",
        },
        "Burkhardt et al., A Database of German Emotional Speech, Interspeech 2005",
    ),
    "ravdess": Corpus(
        "RAVDESS",
        r"\d\d-\d\d-(?P<label>\d\d)-\d\d-\d\d-\d\d-(?P<speaker>\d\d)",
        {
            "01": "neutral",
            "02": "calm",
            "03": "happiness",
            "04": "sadness",
            "05": "anger",
            "06": "fear",
            "07": "disgust",
            "08": "surprise",
        },
        "Livingstone & Russo, PLoS ONE 13(5), 2018, 10.1371/journal.pone.0196391",
    ),
    "crema-d": Corpus(
        "CREMA-D",
        r"(?P<speaker>1\d{3})_[A-Z]{3}_(?P<label>[A-Z]{3})_(?:LO|MD|HI|XX|X)",
        {
            "ANG": "anger",
            "DIS": "disgust",
            "FEA": "fear",
            "HAP": "happiness",
            "NEU": "neutral",
            "SAD": "sadness",
        },
        "Cao et al., IEEE Trans. Affective Computing 5(4), 2014, 10.1109/TAFFC.2014.2336244",
    ),
    "tess": Corpus(
        "TESS",
        r"(?P<speaker>OAF?|YAF)_[a-z]+_(?P<label>[a-z]+)",
        {
            "angry": "anger",
            "disgust": "disgust",
            "fear": "fear",
            "happy": "happiness",
            "ps": "surprise",
            "sad": "sadness",
            "neutral": "neutral",
        },
        "Pichora-Fuller & Dupuis, Toronto emotional speech set, 2020, 10.5683/SP2/E8H2MF",
    ),
    "savee": Corpus(
        "SAVEE",
        r"(?P<speaker>DC|JE|JK|KL)[_/](?P<label>[a-z]{1,2})\d\d",
        {
            "a": "anger",
            "d": "disgust",
            "f": "fear",
            "h": "happiness",
            "n": "neutral",
            "sa": "sadness",
            "su": "surprise",
        },
        "Haq & Jackson, Surrey Audio-Visual Expressed Emotion, AVSP 2009",
    ),
    "emovo": Corpus(
        "EMOVO",
        r"(?P<label>[a-z]{3})-(?P<speaker>[fm]\d)-[bnld]\d",
        {
            "neu": "neutral",
            "dis": "disgust",
            "gio": "happiness",
            "pau": "fear",
            "rab": "anger",
            "sor": "surprise",
            "tri": "sadness",
        },
        "Costantini et al., EMOVO corpus, LREC 2014",
    ),
}

# One actress's files of TESS are named OA_ in one word of the set and OAF_ in all others.
_SAME_SPEAKER = {"tess": {"OA": "OAF"}}


@dataclass(frozen=True)
class Labelled:
    """A listing with labels.

    Attributes:
        recordings: those that have a label, in SOURCE's order.
        rejections: all inputs that cannot be used, those of the listing included.
        rule: where the labels came from, for people: ``emodb names``, ``folders``, ``columns``...
    """

    recordings: Recordings
    rejections: list[Rejection]
    rule: str


# A naming rule: the recording's label and speaker, or why its name does not tell.
NamingRule = Callable[[Recording], tuple[str, str | None] | str]


def label_recordings(listing: Listing, labels: str = "auto", label_map: Mapping[str, str] | None = None) -> Labelled:
    """Give every recording its label and, where known, its speaker. What a CSV's columns say always wins.

    Args:
        listing: from `list_source`.
        labels: ``auto``, ``folder``, the name of a corpus, ``regex:PATTERN`` or the path of a CSV.
        label_map: label as found to label as wanted, applied last; a label that is not in it is refused.

    Raises:
        LabelError: there are no labels this way, or only one class.
        UsageError: ``labels`` is not one of the above.
    """
    name, rule = _naming_rule(listing, labels)
    rejections = list(listing.rejections)

    def usable() -> Iterator[Recording]:
        for recording in listing.recordings:
            labelled = _apply(rule, recording)
            if isinstance(labelled, Recording) and label_map is not None:
                labelled = _mapped(labelled, label_map)
            if isinstance(labelled, Recording) and not (labelled.label and labelled.label.isprintable()):
                labelled = f"has a label that is no plain text: {labelled.label!r}"
            if isinstance(labelled, Recording):
                yield labelled
            else:
                part = (recording.start_secs, recording.end_secs)
                rejections.append(Rejection(recording.file, "label", labelled, part=part))

    recordings = Recordings(usable())
    if not recordings:
        raise LabelError(
            f"no labels found ({name}): the first of {len(rejections)} inputs, {rejections[0].file}, "
            f"{rejections[0].reason}. {_THREE_WAYS}"
        )
    if rule is _folder_rule and len(recordings.column("label")[0]) == 1:
        raise LabelError(f"only one class's folder, {recordings[0].label}, holds recordings. {_THREE_WAYS}")
    return Labelled(recordings, rejections, name)


def name_speakers(listing: Listing, rule: str) -> Listing:
    """The listing with speakers where it has none.

    Args:
        listing: from `ser_batch.audio.recordings.list_source`; a speaker from a CSV stays.
        rule: ``folder``: the name of the folder that a recording is in; ``regex:PATTERN``: the group
            ``(?P<speaker>…)`` of a regular expression over its key. What does not match has no speaker.

    Raises:
        UsageError: it is neither.
    """
    if rule == "folder":
        speaker_of = _folder_of
    elif rule.startswith("regex:"):
        pattern = _pattern(rule.removeprefix("regex:"), "--speaker-from", "speaker")

        def speaker_of(recording: Recording) -> str | None:
            match = pattern.search(recording.file)
            return match["speaker"] if match else None
    else:
        raise UsageError(f"--speaker-from {rule}: give folder, or regex: and a pattern with a group (?P<speaker>…)")
    named = (
        dataclasses.replace(recording, speaker=recording.speaker or speaker_of(recording))
        for recording in listing.recordings
    )
    return dataclasses.replace(listing, recordings=Recordings(named))


def _folder_of(recording: Recording) -> str | None:
    return PurePosixPath(recording.file).parent.name.strip(".") or None


_THREE_WAYS = (
    "Give labels in one of three ways: one folder per class, file names of a known corpus "
    f"({', '.join(CORPORA)}), or a CSV with the columns file and label (--labels FILE.csv)"
)


def _apply(rule: NamingRule, recording: Recording) -> Recording | str:
    if recording.label is not None and recording.speaker is not None:
        return recording
    found = rule(recording)
    if isinstance(found, str):
        return recording if recording.label is not None else found
    label, speaker = found
    return _with(recording, recording.label or label, recording.speaker or speaker)


def _with(recording: Recording, label: str, speaker: str | None) -> Recording:
    # A third of the time of `dataclasses.replace`.
    part = recording.start_secs, recording.end_secs
    return Recording(recording.file, recording.path, label, speaker, recording.split, *part)


def _mapped(recording: Recording, label_map: Mapping[str, str]) -> Recording | str:
    label = recording.label or ""
    if label in label_map:
        return _with(recording, label_map[label], recording.speaker)
    return f"has the label {label!r}, which the label map does not name"


def _naming_rule(listing: Listing, labels: str) -> tuple[str, NamingRule]:
    if labels == "auto":
        return _auto_rule(listing)
    if labels == "folder":
        return "folders", _folder_rule
    if labels in CORPORA:
        return f"{labels} names", corpus_rule(labels)
    if labels.startswith("regex:"):
        return "regex", _regex_rule(labels.removeprefix("regex:"))
    if labels.lower().endswith(".csv"):
        return f"CSV {Path(labels).name}", _csv_rule(Path(labels))
    known = ", ".join(CORPORA)
    raise UsageError(f"--labels {labels}: not auto, folder, a known corpus ({known}), regex:… or a CSV's path")


def _auto_rule(listing: Listing) -> tuple[str, NamingRule]:
    n_unlabelled = sum(count for (label, _, _), count in listing.recordings.kinds().items() if label is None)
    if not n_unlabelled and listing.recordings:
        return "columns", lambda recording: "has no label"
    if "label" in listing.has_columns:
        return "columns", lambda recording: "has no label in its row"
    for name in CORPORA:
        rule = corpus_rule(name)
        if _fits_most(rule, _unlabelled(listing), n_unlabelled):
            return f"{name} names", rule
    if any("/" in recording.file for recording in _unlabelled(listing)):
        return "folders", _folder_rule
    raise LabelError(f"no labels found among {counted(len(listing.recordings), 'recording')}. {_THREE_WAYS}")


def _unlabelled(listing: Listing) -> Iterator[Recording]:
    return (recording for recording in listing.recordings if recording.label is None)


def _fits_most(rule: NamingRule, recordings: Iterable[Recording], number: int) -> bool:
    """Whether a rule fits more than half of so many recordings; looks no further than it must."""
    fitting = others = 0
    for recording in recordings:
        if isinstance(rule(recording), str):
            others += 1
            if 2 * others >= number:
                return False
        else:
            fitting += 1
            if 2 * fitting > number:
                return True
    return False


def corpus_rule(name: str) -> NamingRule:
    """The naming rule of a known corpus."""
    corpus = CORPORA[name]
    pattern = re.compile(rf"(?:^|/){corpus.pattern}$")
    same_speaker = _SAME_SPEAKER.get(name, {})

    def rule(recording: Recording) -> tuple[str, str | None] | str:
        match = pattern.search(posix_stem(recording))
        if match is None:
            return f"is not named as {corpus.title} names its files"
        if match["label"] not in corpus.labels:
            return f"has the code {match['label']!r}, which {corpus.title} does not use"
        return corpus.labels[match["label"]], same_speaker.get(match["speaker"], match["speaker"])

    return rule


def _folder_rule(recording: Recording) -> tuple[str, str | None] | str:
    folder = PurePosixPath(recording.file).parent.name
    return (folder, None) if folder not in {"", ".."} else "lies in no class's folder"


def _regex_rule(text: str) -> NamingRule:
    pattern = _pattern(text, "--labels", "label")

    def rule(recording: Recording) -> tuple[str, str | None] | str:
        match = pattern.search(recording.file)
        if match is None or not match["label"]:
            return "does not match the labels' regular expression"
        return match["label"], match["speaker"] if "speaker" in pattern.groupindex else None

    return rule


def _pattern(text: str, option: str, group: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"{option} regex:{text}: not a regular expression ({error})") from error
    if group not in pattern.groupindex:
        raise UsageError(f"{option} regex:{text}: no group (?P<{group}>…) in it")
    return pattern


def _csv_rule(path: Path) -> NamingRule:
    rows, columns = read_csv(path)
    if not {"file", "label"} <= set(columns):
        raise LabelError(f"{path}: needs the columns file and label; it has: {', '.join(columns) or 'none'}")
    by_file: dict[str, tuple[str, str | None]] = {}
    for line, row in rows:
        file = printable(row["file"])
        found = (printable(row["label"].strip()), printable(row.get("speaker", "").strip()) or None)
        if by_file.setdefault(file, found) != found:
            raise LabelError(f"{path}: line {line} labels {file} otherwise than a line before it; keep one of them")

    def rule(recording: Recording) -> tuple[str, str | None] | str:
        label, speaker = by_file.get(recording.file, ("", None))
        return (label, speaker) if label else f"has no label in {path.name}"

    return rule


def read_label_map(path: Path) -> dict[str, str]:
    """A CSV with the columns ``from`` and ``to``: label as found, label as wanted.

    Raises:
        LabelError: it has not these columns, or maps one label twice.
    """
    lines, columns = read_csv(path)
    if not {"from", "to"} <= set(columns):
        raise LabelError(f"{path}: needs the columns from and to; it has: {', '.join(columns) or 'none'}")
    rows = list(lines)
    doubled = [label for label, count in Counter(row["from"] for _, row in rows).items() if count > 1]
    if doubled:
        raise LabelError(f"{path}: maps {', '.join(doubled)} more than once; keep one line for each")
    label_map = {printable(row["from"].strip()): printable(row["to"].strip()) for _, row in rows}
    if "" in label_map.values():
        raise LabelError(f"{path}: maps a label to nothing; leave its line out, and its recordings are refused")
    return label_map
