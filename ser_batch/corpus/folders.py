"""Detection of the meaning of a corpus' folders: class, speaker, split."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from ser_batch.corpus.columns import SPEAKER_WORDS
from ser_batch.errors import LabelError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
_EMOTIONS = frozenset(
    # English
    "angry anger ang annoyance annoyed rage fury irritation irritated frustration frustrated fru disgust disgusted dis "
    "fear fearful fea scared panic anxiety anxious nervous happy happiness hap joy joyful amusement amused excitement "
    "excited exc elation elated sad sadness sorrow grief despair desperation neutral neu normal calm calmness relaxed "
    "relief boredom bored surprise surprised sur contempt pride proud shame guilt love tenderness hate interest "
    "interested positive negative "
    # German
    "ärger aerger wut wütend wuetend zorn zornig ekel angst ängstlich aengstlich furcht freude fröhlich froehlich "
    "glücklich gluecklich froh trauer traurig traurigkeit langeweile gelangweilt überraschung ueberraschung überrascht "
    "ueberrascht ruhig verachtung stolz scham verzweiflung "
    # French, Italian, Spanish
    "colère joie tristesse peur dégoût neutre calme ennui rabbia gioia tristezza paura disgusto sorpresa neutrale "
    "neutro ira enojo alegría felicidad miedo asco".split()
)
_MAX_LISTED = 5


@dataclass(frozen=True)
class Layout:
    """The meaning of each folder level in a recording's path.

    Attributes:
        skipped: number of leading folders that are neither class nor speaker; the last of them is the split.
        has_splits: whether there is a level for splits.
        class_at: level of the class, after the skipped folders.
        speaker_at: level of the speaker, after the skipped folders; None: there is none.
        notes: warnings.
    """

    skipped: int
    has_splits: bool
    class_at: int = -1
    speaker_at: int | None = None
    notes: list[str] = field(default_factory=list)

    def names(self, file: str) -> tuple[str, str | None] | str:
        """A recording's label and speaker, or the reason that it has none."""
        folders = _parts(file.rpartition("/")[0])[self.skipped :]
        if not folders:
            return "is not inside a class folder"
        return folders[self.class_at], None if self.speaker_at is None else folders[self.speaker_at]

    def split(self, file: str) -> str | None:
        """A recording's split, if it is in a split's folder."""
        folders = _parts(file.rpartition("/")[0])
        if not self.has_splits or len(folders) < self.skipped:
            return None
        return SPLIT_NAMES[folders[self.skipped - 1].casefold()]


def folders_of(files: Iterable[str]) -> list[list[str]]:
    """The distinct folders of the files, each as a list of names."""
    return [_parts(folder) for folder in sorted({file.rpartition("/")[0] for file in files})]


def split_layout(folders: Sequence[list[str]]) -> Layout:
    """Detect the split level: ``train``, with ``val`` or ``test``, and no other folder beside them."""
    # The common prefix of the first and the last in sorted order is common to all.
    ends = zip(min(folders, default=()), max(folders, default=()), strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    if len(folders) == 1:
        return Layout(max(0, common - 1), has_splits=False)
    tops = {names[common] for names in folders if len(names) > common}
    if len(tops) > 1 and "train" in {SPLIT_NAMES.get(top.casefold()) for top in tops} <= {*SPLIT_NAMES.values()}:
        return Layout(common + 1, True, notes=[f"splits are taken from the folders {_join_names(tops)}"])
    return Layout(common, has_splits=False)


def find_layout(folders: Sequence[list[str]]) -> Layout:
    """Detect the level of the classes: the only level, the one named by emotions, or the only one that varies.

    Raises:
        LabelError: several levels are possible.
    """
    splits = split_layout(folders)
    below = [list(names[splits.skipped :]) for names in folders if len(names) > splits.skipped]
    depths = {len(names) for names in below}
    if depths <= {1}:
        return Layout(splits.skipped, splits.has_splits)
    # If the depths differ, only the first and the last names can be compared.
    places = range(depths.pop()) if len(depths) == 1 else (0, -1)
    levels = {place: {names[place] for names in below} for place in places}
    class_at = _class_level(levels)
    if class_at is None:
        raise LabelError(_ambiguity_message(levels, folders, splits))
    if places == (0, -1):
        return Layout(splits.skipped, splits.has_splits, class_at)
    others = {place: names for place, names in levels.items() if place != class_at and len(names) > 1}
    speakers = [place for place, names in others.items() if all(SPEAKER_WORDS & _words(name) for name in names)]
    if len(speakers) == 1:
        notes = [f"speakers are taken from the folders {_join_names(levels[speakers[0]])}"]
        return Layout(splits.skipped, splits.has_splits, class_at, speakers[0], notes)
    notes = []
    if others and len(levels) == 2:
        (names,) = others.values()
        known = {SPLIT_NAMES[name.casefold()] for name in names if name.casefold() in SPLIT_NAMES}
        meaning = "split" if "train" in known and len(known) > 1 else "speaker"
        way = _label_regex(2, class_at, folders, splits).replace("<speaker>", f"<{meaning}>")
        notes = [f"the folders {_join_names(names)} are not used; if they are {meaning}s, give --labels '{way}'"]
    return Layout(splits.skipped, splits.has_splits, class_at, notes=notes)


def _class_level(levels: dict[int, set[str]]) -> int | None:
    shares = {
        place: sum(bool(_EMOTIONS & _words(name)) for name in names) / len(names) for place, names in levels.items()
    }
    best = max(shares.values())
    leading = [place for place, share in shares.items() if share == best]
    if best >= 0.5 and len(leading) == 1:
        return leading[0]
    varying = [place for place, names in levels.items() if len(names) > 1]
    if not varying:
        return list(levels)[-1]
    return varying[0] if len(varying) == 1 else None


def _ambiguity_message(levels: dict[int, set[str]], folders: Sequence[list[str]], splits: Layout) -> str:
    uniform = tuple(levels) != (0, -1)
    readings = []
    for place, names in levels.items():
        if len(names) > 1:
            way = _label_regex(len(levels) if uniform else 0, place, folders, splits)
            readings.append(f"--labels '{way}' if the classes are {_join_names(names)}")
    return f"folders are nested, and their names do not show which are the classes; give {', or '.join(readings)}"


def _label_regex(depth: int, class_at: int, folders: Sequence[list[str]], splits: Layout) -> str:
    """The regular expression with the class at one level; the depth is 0 if it differs between folders."""
    label, speaker, any_name = "(?P<label>[^/]+)", "(?P<speaker>[^/]+)", "[^/]+"
    split = ""
    if splits.has_splits:
        tops = {names[splits.skipped - 1] for names in folders if len(names) >= splits.skipped}
        split = f"(?P<split>{'|'.join(sorted(tops))})/"
    if depth:
        names = [speaker if depth == 2 else any_name] * depth
        names[class_at] = label
        return f"regex:{split}{'/'.join(names)}/{any_name}$"
    above = "".join(f"{re.escape(name)}/" for name in folders[0][: splits.skipped - splits.has_splits])
    return f"regex:^[./]*{above}{split}{label}/" if class_at == 0 else f"regex:{split}(?:.*/)?{label}/{any_name}$"


def _parts(folder: str) -> list[str]:
    return [name for name in folder.split("/") if name not in {"", ".", ".."}]


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", name).casefold()))


def _join_names(names: Collection[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(sorted(names)[:_MAX_LISTED]) + more
