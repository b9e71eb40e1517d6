"""Labelling of recordings by folders, file names, CSV or regular expression."""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

import pyarrow as pa

from ser_batch.corpus.columns import ALIASES, EXTRA_CELLS, SUFFIXES, read_csv
from ser_batch.corpus.folders import SPLIT_NAMES, find_layout, folders_of, split_layout
from ser_batch.corpus.naming_schemes import CORPORA, NamingRule, corpus_rule
from ser_batch.corpus.sources import normalize_name, printable
from ser_batch.corpus.table import Listing, Recording, Rejection, has_undecoded_bytes, make_table, recordings
from ser_batch.errors import LabelError, UsageError
from ser_batch.formatting import pluralize

_FOLDERS = "folders"

# Words that pandas.read_csv reads as a missing value, even in quotes.
MISSING_VALUE_WORDS = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|")
)
_MAX_LISTED = 5

# The new name in a label map that excludes a label's recordings.
DROP = "(drop)"


@dataclass(frozen=True)
class Labelled:
    """A listing with labels.

    Attributes:
        recordings: those with a label, in SOURCE's order.
        rejections: all unusable inputs, including those of the listing.
        rule: source of the labels, for messages: ``emodb names``, ``folders``, ``columns``...
        notes: warnings about labels and speakers.
        left_out: number of recordings that the label map excludes, by original label; they are in neither table.
    """

    recordings: pa.Table
    rejections: list[Rejection]
    rule: str
    notes: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _LabelSource:
    """Source of labels.

    Attributes:
        title: for messages.
        rule: from a recording's key to label and speaker.
        split_of: from a recording's key to its split; None: there are no splits.
        notes: warnings.
    """

    title: str
    rule: NamingRule
    split_of: Callable[[str], str | None] | None = None
    notes: list[str] = field(default_factory=list)


def label_recordings(listing: Listing, labels: str = "auto", label_map: Mapping[str, str] | None = None) -> Labelled:
    """Assign labels and, if known, speakers to recordings. Values from the columns of a CSV have priority.

    Args:
        listing: from `list_source`.
        labels: ``auto``, ``folder``, the name of a corpus, ``regex:PATTERN`` or the path of a CSV.
        label_map: original label to new label or `DROP`, applied last; other labels do not change.

    Raises:
        LabelError: no labels are found, or only one class, or the map has a label that no recording has.
        UsageError: ``labels`` is not one of the above.
    """
    source = _find_label_source(listing, labels)
    renamed = label_map or {}
    rejections = list(listing.rejections)
    found: Counter[str] = Counter()

    def usable() -> Iterator[Recording]:
        for recording in recordings(listing.recordings):
            known = _resolve_label(source, recording)
            if not isinstance(known, str):
                found[known[0]] += 1
                known = (renamed.get(known[0], known[0]), *known[1:])
                if known[0] == DROP:
                    continue
                known = _unusable_label(known[0]) or known
            if isinstance(known, str):
                part = (recording.start_secs, recording.end_secs)
                rejections.append(Rejection(recording.file, "label", known, part=part))
            else:
                yield recording._replace(label=known[0], speaker=known[1], split=known[2])

    table = make_table(usable())
    _check_label_map(renamed, found)
    left_out = Counter({label: count for label, count in found.items() if renamed.get(label) == DROP})
    if not len(table):
        raise _no_labels(source.title, rejections, left_out)
    if source.title == _FOLDERS and len(found) == 1:
        raise LabelError(f"only one class's folder, {next(iter(found))}, holds recordings. {_THREE_WAYS}")
    notes = [*listing.label_notes, *source.notes, *_label_notes(table), *speaker_notes(table)]
    return Labelled(table, rejections, source.title, notes, left_out)


def _no_labels(title: str, rejections: Sequence[Rejection], left_out: Counter[str]) -> LabelError:
    if left_out:
        number = pluralize(left_out.total(), "recording")
        return LabelError(f"--label-map leaves out all {number} with labels; keep two labels or more")
    return LabelError(
        f"no labels found ({title}): the first of {len(rejections)} inputs, {rejections[0].file}, "
        f"{rejections[0].reason}. {_THREE_WAYS}"
    )


def _label_notes(table: pa.Table) -> list[str]:
    labels = table["label"].unique().to_pylist()
    notes = _undecoded_notes("labels", labels)
    if similar := _similar_names(labels, str.casefold):
        notes.append(f"labels that differ only by case are different classes: {similar}; --label-map can join them")
    return notes


def _undecoded_notes(what: str, names: Iterable[str | None]) -> list[str]:
    undecoded = sorted(name for name in names if name and has_undecoded_bytes(name))
    if not undecoded:
        return []
    return [f"{what} that are not UTF-8 are written as bytes, as '{undecoded[0]}'; save a CSV that holds them as UTF-8"]


def speaker_notes(table: pa.Table) -> list[str]:
    """Warnings about speaker names that may be mistakes."""
    speakers = table["speaker"].unique().to_pylist()
    notes = _undecoded_notes("speakers", speakers)
    if similar := _similar_names(speakers, lambda name: re.sub(r"(?<!\d)0+(?=\d)", "", name.casefold())):
        notes.append(f"speakers that differ only by case or leading zeros are different speakers: {similar}")
    if words := sorted({name for name in speakers if name} & MISSING_VALUE_WORDS):
        notes.append(f"'{words[0]}' is used as the name of one speaker; leave it empty if the speaker is unknown")
    return notes


def _similar_names(names: Iterable[str | None], key: Callable[[str], str]) -> str:
    """The groups of names with the same key, as text; empty if there are none."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name or "")].append(name or "")
    similar = sorted(" and ".join(f"'{name}'" for name in sorted(group)) for group in groups.values() if len(group) > 1)
    more = f" and {len(similar) - _MAX_LISTED} more" if len(similar) > _MAX_LISTED else ""
    return ", ".join(similar[:_MAX_LISTED]) + more


def name_speakers(listing: Listing, rule: str) -> Listing:
    """Fill in missing speakers of a listing.

    Args:
        listing: from `ser_batch.corpus.sources.list_source`; speakers from a CSV are kept.
        rule: ``folder``: the name of the recording's folder; ``regex:PATTERN``: the group ``(?P<speaker>…)`` of a
            regular expression that is searched in its key. Recordings without a match have no speaker.

    Raises:
        UsageError: the rule is neither.
    """
    if rule == "folder":
        speaker_of = _folder_of
    elif rule.startswith("regex:"):
        pattern = _pattern(rule.removeprefix("regex:"), "--speaker-from", "speaker")

        def speaker_of(file: str) -> str | None:
            match = pattern.search(file)
            return match["speaker"] if match else None
    else:
        raise UsageError(f"--speaker-from {rule}: give folder, or regex: and a pattern with a group (?P<speaker>…)")
    named = (
        one._replace(speaker=one.speaker or normalize_name(speaker_of(one.file) or "") or None)
        for one in recordings(listing.recordings)
    )
    return dataclasses.replace(listing, recordings=make_table(named))


def _folder_of(file: str) -> str | None:
    return PurePosixPath(file).parent.name.strip(".") or None


_THREE_WAYS = (
    "Give labels in one of three ways: one folder per class, file names of a known corpus "
    f"({', '.join(CORPORA)}), or a CSV with the columns file and label (--labels FILE.csv)"
)


def _resolve_label(source: _LabelSource, recording: Recording) -> tuple[str, str | None, str | None] | str:
    """A recording's label, speaker and split, or the reason that it has no label."""
    label, speaker, split = recording.label, recording.speaker, recording.split
    if label is None or speaker is None:
        found = source.rule(recording.file)
        if not isinstance(found, str):
            label, speaker = label or normalize_name(found[0]), speaker or normalize_name(found[1] or "") or None
        elif label is None:
            return found
    if source.split_of is not None and split is None:
        split = source.split_of(recording.file)
    return label or "", speaker, split


def _unusable_label(label: str) -> str | None:
    """The reason that a label is not allowed; None if it is."""
    if not (label and label.isprintable()):
        return f"has a label that is not plain text: {label!r}"
    if label in MISSING_VALUE_WORDS:
        return (
            f"has the label '{label}', which pandas reads as missing; rename it with --label-map, or map it to {DROP}"
        )
    return None


def _check_label_map(label_map: Mapping[str, str], found: Collection[str]) -> None:
    """Raise a LabelError if the map has a label that no recording has."""
    absent = [label for label in label_map if label not in found]
    if absent and found:
        near = get_close_matches(absent[0], found, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "correct the line or remove it"
        raise LabelError(
            f"--label-map: no recording has the label '{absent[0]}'; labels found: {', '.join(sorted(found))}; {hint}"
        )


def _find_label_source(listing: Listing, labels: str) -> _LabelSource:
    if labels.startswith("regex:"):
        return _regex_source(labels.removeprefix("regex:"))
    folders = folders_of(one.file for one in recordings(listing.recordings))
    if labels == "auto":
        source = _auto_source(listing, folders)
    elif labels == "folder":
        source = _folder_source(folders)
    elif labels in CORPORA:
        source = _LabelSource(f"{labels} names", corpus_rule(labels))
    elif Path(labels).suffix.lower() in SUFFIXES:
        source = _csv_source(Path(labels))
    else:
        known = ", ".join(CORPORA)
        raise UsageError(f"--labels {labels}: not auto, folder, a known corpus ({known}), regex:… or a CSV's path")
    layout = split_layout(folders)
    if not layout.has_splits or "split" in listing.has_columns:
        return source
    return dataclasses.replace(source, split_of=layout.split, notes=[*source.notes, *layout.notes])


def _folder_source(folders: Sequence[list[str]]) -> _LabelSource:
    layout = find_layout(folders)
    return _LabelSource(_FOLDERS, layout.names, notes=layout.notes)


def _auto_source(listing: Listing, folders: Sequence[list[str]]) -> _LabelSource:
    n_unlabelled = listing.recordings["label"].null_count
    if not n_unlabelled and len(listing.recordings):
        return _LabelSource("columns", lambda file: "has no label")
    if "label" in listing.has_columns:
        return _LabelSource("columns", lambda file: "has no label in its row")
    if n_unlabelled < len(listing.recordings):
        raise LabelError(
            "some SOURCEs have a column label and others have none; give --labels for the others "
            f"(folder, {', '.join(CORPORA)}, regex:… or a CSV)"
        )
    if listing.label_candidates:
        raise LabelError(
            f"{'; '.join(listing.label_candidates)} may hold the labels: rename it to label, or give --labels with "
            f"another way (folder, {', '.join(CORPORA)}, regex:… or a CSV)"
        )
    for name in CORPORA:
        rule = corpus_rule(name)
        if _fits_most(rule, _unlabelled(listing), n_unlabelled):
            return _LabelSource(f"{name} names", rule)
    if any("/" in file for file in _unlabelled(listing)):
        return _folder_source(folders)
    raise LabelError(f"no labels found among {pluralize(len(listing.recordings), 'recording')}. {_THREE_WAYS}")


def _unlabelled(listing: Listing) -> Iterator[str]:
    return (recording.file for recording in recordings(listing.recordings) if recording.label is None)


def _fits_most(rule: NamingRule, files: Iterable[str], number: int) -> bool:
    """Whether a rule matches more than half of ``number`` keys; stops as soon as the result is certain."""
    fitting = others = 0
    for file in files:
        if isinstance(rule(file), str):
            others += 1
            if 2 * others >= number:
                return False
        else:
            fitting += 1
            if 2 * fitting > number:
                return True
    return False


def _regex_source(text: str) -> _LabelSource:
    pattern = _pattern(text, "--labels", "label")

    def rule(file: str) -> tuple[str, str | None] | str:
        match = pattern.search(file)
        if match is None or not match["label"]:
            return "does not match the regular expression of --labels"
        return match["label"], match["speaker"] if "speaker" in pattern.groupindex else None

    def split_of(file: str) -> str | None:
        match = pattern.search(file)
        split = match["split"] if match else None
        return SPLIT_NAMES.get(split.casefold(), split) if split else None

    return _LabelSource("regex", rule, split_of if "split" in pattern.groupindex else None)


def _pattern(text: str, option: str, group: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"{option} regex:{text}: not a regular expression ({error})") from error
    if group not in pattern.groupindex:
        raise UsageError(f"{option} regex:{text}: no group (?P<{group}>…) in it")
    return pattern


def _csv_source(path: Path) -> _LabelSource:
    table = read_csv(path, ("file", "label", "speaker"), ALIASES)
    if not {"file", "label"} <= table.columns:
        raise LabelError(f"{path}: needs the columns file and label; it has: {', '.join(table.header) or 'none'}")
    by_file: dict[str, tuple[str, str | None]] = {}
    for line, row in table.rows:
        _check_cells(path, line, row)
        file = printable(row["file"])
        found = (normalize_name(printable(row["label"])), normalize_name(printable(row.get("speaker", ""))) or None)
        if by_file.setdefault(file, found) != found:
            raise LabelError(
                f"{path}: line {line} has another label or speaker of {file} than an earlier line; keep one"
            )

    def rule(file: str) -> tuple[str, str | None] | str:
        label, speaker = by_file.get(file, ("", None))
        return (label, speaker) if label else f"has no label in {path.name}"

    notes = [*table.alias_note("file"), *table.alias_note("label"), *table.unused_notes()]
    return _LabelSource(f"CSV {path.name}", rule, notes=notes)


def _check_cells(path: Path, line: int, row: Mapping[str, str]) -> None:
    """Raise a LabelError if a row has more cells than the header."""
    if problem := row.get(EXTRA_CELLS):
        raise LabelError(f"{path}: line {line} {problem}")


def read_label_map(path: Path) -> dict[str, str]:
    """Read a CSV with the columns ``from`` and ``to``: original label, and new label or `DROP`.

    Raises:
        LabelError: a column is missing, a label is mapped twice, or a name is empty.
    """
    table = read_csv(path, ("from", "to"))
    if table.columns != {"from", "to"}:
        raise LabelError(f"{path}: needs the columns from and to; it has: {', '.join(table.header) or 'none'}")
    label_map: dict[str, str] = {}
    for line, row in table.rows:
        _check_cells(path, line, row)
        old, new = (normalize_name(printable(row[name])) for name in ("from", "to"))
        if not old or not new:
            raise LabelError(
                f"{path}: line {line} maps '{old}' to '{new}'; give both names. Write {DROP} as 'to' to leave a label "
                "out; labels without a line stay as they are"
            )
        if new in MISSING_VALUE_WORDS:
            raise LabelError(f"{path}: line {line} maps to '{new}', which pandas reads as missing; give another name")
        if old in label_map:
            raise LabelError(f"{path}: line {line} maps {old} a second time; keep one line for each label")
        if new.casefold() == DROP.strip("()"):
            raise LabelError(f"{path}: line {line} maps '{old}' to '{new}'; write {DROP} to leave a label out")
        label_map[old] = DROP if re.fullmatch(r"\(\s*drop\s*\)", new, re.IGNORECASE) else new
    return label_map
