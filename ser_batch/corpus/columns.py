"""Reading CSV files: detection of encoding, delimiter and columns."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import IO

from ser_batch.errors import SourceError

SUFFIXES = frozenset({".csv", ".tsv"})
# Accepted alternative names of columns.
ALIASES = {"file": ("path", "filename", "wav"), "label": ("emotion",)}
# Key of the error message of a row with more cells than the header; no column has this name.
EXTRA_CELLS = ""

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_SAMPLE_ROWS = 1000
_LISTED_COLUMNS = 10
_MAX_LABELS = 50
_LABEL_WORDS = frozenset(
    "label labels class classes target targets category emotion emotions emo sentiment affect mood feeling "
    "klasse kategorie gefühl stimmung".split()
)
# Words that mark a column or folder name as that of a speaker.
SPEAKER_WORDS = frozenset("speaker speakers speakerid spk spkr actor subject talker voice singer sprecher".split())
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Table:
    """An open CSV, with its columns identified.

    Attributes:
        path: of the file.
        columns: the requested columns that the file has.
        renamed: for those of `columns` with an alias in the file, the alias.
        header: all column names as written in the file.
        unused: indices in `header` of the columns that were not requested.
        sample: the first rows, all cells.
        rows: each row's line number and cells by name, with `EXTRA_CELLS` if it has too many cells; can be read once.
    """

    path: Path
    columns: frozenset[str]
    renamed: Mapping[str, str]
    header: Sequence[str]
    unused: Sequence[int]
    sample: Sequence[Sequence[str]]
    rows: Iterator[tuple[int, dict[str, str]]]

    def alias_note(self, name: str) -> list[str]:
        """A warning if an alias is used for a column."""
        return [f"{self.path}: column '{self.renamed[name]}' is used as {name}"] if name in self.renamed else []

    def unused_notes(self) -> list[str]:
        """Warnings about the columns that are not used."""
        speakers = [] if "speaker" in self.columns else [at for at in self.unused if self._is_near(at, SPEAKER_WORDS)]
        others = [f"'{self.header[at]}'" for at in self.unused if at not in speakers]
        notes = [
            f"{self.path}: column '{self.header[at]}' is not used; rename it to speaker if it holds speaker names"
            for at in speakers
        ]
        if others:
            more = f" and {len(others) - _LISTED_COLUMNS} more" if len(others) > _LISTED_COLUMNS else ""
            notes.append(f"{self.path}: columns that are not used: {', '.join(others[:_LISTED_COLUMNS])}{more}")
        return notes

    def possible_labels(self) -> list[str]:
        """The unused columns that may hold labels, judged by name; if there are none, judged by values."""
        if "label" in self.columns:
            return []
        by_name = [at for at in self.unused if self._is_near(at, _LABEL_WORDS) or plain(self.header[at]) == "y"]
        by_values = [at for at in self.unused if not self._is_near(at, SPEAKER_WORDS) and self._has_few_values(at)]
        return [self.header[at] for at in by_name or by_values]

    def _is_near(self, at: int, words: frozenset[str]) -> bool:
        """Whether a column's name, or a part of it, is one of the words, or similar to a long one."""
        name = plain(self.header[at])
        if not words.isdisjoint(re.split(r"[\W_]+", name)):
            return True
        long_words = [word for word in words if min(len(word), len(name)) > 4]
        return bool(get_close_matches(name, long_words, cutoff=0.8))

    def _has_few_values(self, at: int) -> bool:
        """Whether a column has few different words, each used twice or more on average."""
        values = [row[at].strip() for row in self.sample if at < len(row) and row[at].strip()]
        words = {value for value in values if re.search(r"[^\W\d_]", value)}
        return 1 < len(words) <= _MAX_LABELS and 2 * len(words) <= len(values)


def plain(name: str) -> str:
    """A column's name for comparison: case-folded, without surrounding space."""
    return name.strip().casefold()


def read_csv(path: Path, names: Collection[str], aliases: Mapping[str, Collection[str]] = {}) -> Table:
    """Open a CSV: UTF-8, or UTF-16 with a byte order mark; separated by commas, semicolons or tabs.

    Args:
        path: a ``.tsv`` is separated by tabs; otherwise the delimiter is detected from the header.
        names: the requested columns.
        aliases: alternative names of a column, used if no column has its own name.

    Raises:
        SourceError: the file is not a valid CSV (for example a quote is not closed), or two columns have the same
            meaning; also raised while rows are read.
    """
    with _csv_errors(path):
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
    """The delimiter with the most requested columns, then with the most columns."""
    if path.suffix.lower() == ".tsv":
        return "\t"

    def fit(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        return sum(plain(cell) in wanted for cell in cells), len(cells)

    return max(_DELIMITERS, key=fit)


def _numbered(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its last line.

    Raises:
        csv.Error: a quote is not closed, so a cell contains other rows.
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
    """Raise a csv.Error if the quotes of a row of several lines are invalid."""
    for _ in csv.reader(lines, delimiter=delimiter, strict=True):
        pass
    # Tab-separated tables often have quotes without a meaning, for example at both ends of other cells.
    if delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in row):
        raise csv.Error("a cell holds tabs and line ends")


def _places(
    path: Path, header: Sequence[str], names: Collection[str], aliases: Mapping[str, Collection[str]]
) -> dict[str, int]:
    """Index of each requested column that the file has."""
    places = {}
    for name in names:
        for spellings in ((name,), aliases.get(name, ())):
            found = [at for at, written in enumerate(header) if plain(written) in spellings]
            if len(found) > 1:
                doubled = ", ".join(f"'{header[at]}'" for at in found)
                raise SourceError(f"{path}: {len(found)} columns for {name}: {doubled}; keep or rename one of them")
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
    with file, _csv_errors(path):
        for line, row in numbered:
            cells = {name: row[at] if at < len(row) else "" for name, at in places.items()}
            if any(cell.strip() for cell in row[n_columns:]):
                cells[EXTRA_CELLS] = f"has {len(row)} cells, {misfit}"
            yield line, cells


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise SourceError(f"{path}: not a CSV ({error})") from error
    except UnicodeError as error:
        raise SourceError(f"{path}: has the byte order mark of UTF-16, but is not UTF-16; save it as UTF-8") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
