"""Reading CSV files: encoding, delimiter, and which column is which."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO

from ser_batch.errors import SourceError

SUFFIXES = frozenset({".csv", ".tsv"})
# Other names under which people write the columns of a table of recordings.
ALIASES = {"file": ("path", "filename", "wav"), "label": ("emotion",)}
# Where a row says that it has more cells than the header; no column has this name.
SURPLUS = ""

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_SAMPLE_ROWS = 1000
_NAMED_COLUMNS = 10
_MOST_LABELS = 50
_LABEL_WORDS = frozenset(
    "label labels class classes target targets category emotion emotions emo sentiment affect mood feeling "
    "klasse kategorie gefühl stimmung".split()
)
# Parts of names that stand for speakers.
SPEAKER_WORDS = frozenset("speaker speakers speakerid spk spkr actor subject talker voice singer sprecher".split())
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Table:
    """A CSV, with its columns found.

    Attributes:
        path: where it is.
        columns: the names that were looked for and found.
        renamed: of `columns`, those that have another name in the file, and that name.
        header: all names as they are in the file.
        unused: places in `header` of the columns that were not looked for.
        sample: the first rows, all cells.
        rows: each with its line number, as text by name, and `SURPLUS` where cells do not fit; they can be read once.
    """

    path: Path
    columns: frozenset[str]
    renamed: Mapping[str, str]
    header: Sequence[str]
    unused: Sequence[int]
    sample: Sequence[Sequence[str]]
    rows: Iterator[tuple[int, dict[str, str]]]

    def alias_note(self, name: str) -> list[str]:
        """A warning if a column has an alias for its name."""
        return [f"{self.path}: column '{self.renamed[name]}' is used as {name}"] if name in self.renamed else []

    def unused_notes(self) -> list[str]:
        """Warnings that name the columns that are not used."""
        speakers = [] if "speaker" in self.columns else [at for at in self.unused if self._is_near(at, SPEAKER_WORDS)]
        others = [f"'{self.header[at]}'" for at in self.unused if at not in speakers]
        notes = [
            f"{self.path}: column '{self.header[at]}' is not used; rename it to speaker if it says who speaks"
            for at in speakers
        ]
        if others:
            more = f" and {len(others) - _NAMED_COLUMNS} more" if len(others) > _NAMED_COLUMNS else ""
            notes.append(f"{self.path}: columns that are not used: {', '.join(others[:_NAMED_COLUMNS])}{more}")
        return notes

    def possible_labels(self) -> list[str]:
        """The unused columns that may hold labels, by their names; if there are none, by their values."""
        if "label" in self.columns:
            return []
        by_name = [at for at in self.unused if self._is_near(at, _LABEL_WORDS) or plain(self.header[at]) == "y"]
        by_values = [at for at in self.unused if not self._is_near(at, SPEAKER_WORDS) and self._has_few_values(at)]
        return [self.header[at] for at in by_name or by_values]

    def _is_near(self, at: int, words: frozenset[str]) -> bool:
        """Whether a column's name, or a part of it, is one of the words, or a misspelt long one."""
        from difflib import get_close_matches

        name = plain(self.header[at])
        if not words.isdisjoint(re.split(r"[\W_]+", name)):
            return True
        long_words = [word for word in words if min(len(word), len(name)) > 4]
        return bool(get_close_matches(name, long_words, cutoff=0.8))

    def _has_few_values(self, at: int) -> bool:
        """Whether a column has a few different words, each of them twice or more on average."""
        values = [row[at].strip() for row in self.sample if at < len(row) and row[at].strip()]
        words = {value for value in values if re.search(r"[^\W\d_]", value)}
        return 1 < len(words) <= _MOST_LABELS and 2 * len(words) <= len(values)


def plain(name: str) -> str:
    """A column's name as names are compared: without case and surrounding space."""
    return name.strip().casefold()


def read_csv(path: Path, names: Collection[str], aliases: Mapping[str, Collection[str]] = {}) -> Table:
    """Open a CSV: UTF-8, or UTF-16 with a byte order mark; separated by commas, semicolons or tabs.

    Args:
        path: a ``.tsv`` is separated by tabs; of others the header decides.
        names: the columns that are wanted.
        aliases: other names that a column may have, if it is not there by its own.

    Raises:
        SourceError: it cannot be read as CSV, a quote is not closed for one, or two columns mean the same; also while
            rows are read.
    """
    with _errors_named(path):
        file = _open_text(path)
        head = _head(file)
        if "\0" in head[-1]:
            raise SourceError(f"{path}: not a text in UTF-8 or in UTF-16 with a byte order mark; save it as UTF-8")
        wanted = {*names, *chain.from_iterable(aliases.values())}
        delimiter = _delimiter(path, head[-1], wanted)
        numbered = _numbered(chain(head, file), delimiter)
        _, header = next(numbered, (0, []))
        places = _places(path, header, names, aliases)
        sample = list(islice(numbered, _SAMPLE_ROWS))
    unused = [at for at, name in enumerate(header) if at not in places.values() and name.strip()]
    renamed = {name: header[at].strip() for name, at in places.items() if plain(header[at]) != name}
    misfit = f"and the header has {len(header)}; put quotes around a cell that holds a {_DELIMITERS[delimiter]}"
    rows = _rows(path, file, chain(sample, numbered), places, len(header), misfit)
    return Table(path, frozenset(places), renamed, header, unused, [row for _, row in sample], rows)


def decoded(content: bytes) -> bytes:
    """The content of a text file as UTF-8, without a byte order mark."""
    if content.startswith(_UTF16_MARKS):
        return content.decode("utf-16").encode("utf-8", "surrogatepass")
    return content.removeprefix(codecs.BOM_UTF8)


def _open_text(path: Path) -> IO[str]:
    file = open(path, "rb")  # noqa: SIM115 - `_rows` closes it
    if file.peek(2)[:2] in _UTF16_MARKS:
        return io.TextIOWrapper(file, "utf-16", newline="")
    return io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")


def _head(file: IO[str]) -> list[str]:
    """The lines up to the first that is not blank."""
    lines = [""]
    for line in file:
        lines.append(line)
        if line.strip():
            break
    return lines[1:] or lines


def _delimiter(path: Path, header: str, wanted: Collection[str]) -> str:
    """The delimiter that gives most of the wanted columns, then most columns."""
    if path.suffix.lower() == ".tsv":
        return "\t"

    def fit(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        return sum(plain(cell) in wanted for cell in cells), len(cells)

    return max(_DELIMITERS, key=fit)


def _numbered(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its last line.

    Raises:
        csv.Error: a quote is not closed, so that other rows became a part of its cell.
    """
    taken: list[str] = []

    def remembered() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    reader = csv.reader(remembered(), delimiter=delimiter)
    try:
        for row in reader:
            if len(taken) > 1:
                _check_quotes(taken, row, delimiter)
            taken.clear()
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        began = reader.line_num - len(taken) + 1
        raise csv.Error(f"the row that begins in line {began}: {error}; look for a quote that is not closed") from error


def _check_quotes(lines: Sequence[str], row: Sequence[str], delimiter: str) -> None:
    """Raise a csv.Error if a row of several lines is none by its quotes."""
    for _ in csv.reader(lines, delimiter=delimiter, strict=True):
        pass
    # Tables that are separated by tabs often have quotes that mean nothing, at both ends of other cells for instance.
    if delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in row):
        raise csv.Error("a cell holds tabs and line ends")


def _places(
    path: Path, header: Sequence[str], names: Collection[str], aliases: Mapping[str, Collection[str]]
) -> dict[str, int]:
    """Where each wanted column is, of those that are there."""
    places = {}
    for name in names:
        for spellings in ((name,), aliases.get(name, ())):
            found = [at for at, written in enumerate(header) if plain(written) in spellings]
            if len(found) > 1:
                doubled = ", ".join(f"'{header[at]}'" for at in found)
                raise SourceError(f"{path}: {len(found)} columns mean {name}: {doubled}; keep or rename one of them")
            if found:
                places[name] = found[0]
                break
    return places


def _rows(
    path: Path,
    file: IO[str],
    numbered: Iterable[tuple[int, list[str]]],
    places: Mapping[str, int],
    n_columns: int,
    misfit: str,
) -> Iterator[tuple[int, dict[str, str]]]:
    with file, _errors_named(path):
        for line, row in numbered:
            cells = {name: row[at] if at < len(row) else "" for name, at in places.items()}
            if any(cell.strip() for cell in row[n_columns:]):
                cells[SURPLUS] = f"has {len(row)} cells, {misfit}"
            yield line, cells


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise SourceError(f"{path}: not a CSV ({error})") from error
    except UnicodeError as error:
        raise SourceError(f"{path}: has the byte order mark of UTF-16, but is not UTF-16; save it as UTF-8") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
