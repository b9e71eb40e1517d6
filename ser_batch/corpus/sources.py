"""Listing of a SOURCE (directory, file, list or CSV) as a table of recordings, in a fixed order."""

import dataclasses
import io
import os
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from unicodedata import normalize
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from ser_batch.corpus.columns import ALIASES, EXTRA_CELLS, SUFFIXES, decoded, read_csv
from ser_batch.corpus.folders import SPLIT_NAMES
from ser_batch.corpus.table import Listing, Part, Recording, Rejection, first_equal, make_table, recordings, text_keys
from ser_batch.errors import SourceError, UsageError
from ser_batch.formatting import parse_secs, pluralize
from ser_batch.storage.filesystems import STORES, WEB, is_url, is_web, url_problem

EXTENSIONS = frozenset(
    "aac ac3 aif aifc aiff amr ape asf au avi awb caf flac flv gsm m4a m4b m4v mka mkv mov mp1 mp2 mp3 mp4 mpeg mpg "
    "oga ogg ogv opus rf64 snd sph spx tta voc w64 wav wave webm wma wmv wv 3g2 3ga 3gp".split()
)

# The columns of a CSV that are used.
COLUMNS = ("file", "label", "speaker", "split", "start", "end")


def printable(name: str) -> str:
    r"""A file's name as valid text, unique for each file.

    Bytes that are not UTF-8 are written as ``\xNN``, and a backslash as ``\\``.
    """
    if name.isascii() and "\\" not in name:
        return name
    doubled = name.replace("\\", "\\\\")
    return re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", doubled)


def normalize_name(name: str) -> str:
    """A label or speaker in normalised form: Unicode's composed form (NFC), without surrounding space."""
    return name.strip() if name.isascii() else normalize("NFC", name).strip()


def list_source(source: str) -> Listing:
    """List a SOURCE: a directory, one file, a CSV or TSV with a ``file`` column, ``@list.txt``, or ``-`` for stdin.

    A directory or file may be in an object store, and so may the files of a CSV or list.

    Relative paths in a CSV or a list are resolved against its folder, those from stdin against the working directory.

    Raises:
        SourceError: SOURCE does not exist, is not in one of these forms, or has no recordings.
    """
    return _list_source(source, whole_keys=False)


def list_sources(sources: Sequence[str]) -> Listing:
    """List one or several SOURCEs, in their order.

    With several, keys begin with the path of the directory, or are the path of the file; keys from CSVs and lists are
    not changed. A repeated key is a rejection, and so is a directory without audio.

    Raises:
        SourceError: as `list_source` does.
        UsageError: standard input is given twice.
    """
    if len(sources) == 1:
        return list_source(sources[0])
    if sources.count("-") > 1:
        raise UsageError("SOURCE -: standard input can be read only once; give - once")
    return _joined(sources, [_list_or_reject(source) for source in sources])


def _list_source(source: str, whole_keys: bool) -> Listing:
    if source == "-":
        return _list_paths(sys.stdin.buffer.read(), Path(), "standard input")
    if source.startswith("@"):
        path = Path(source[1:])
        return _list_paths(_read(path), path.parent, str(path))
    if is_url(source):
        return _list_store(source, whole_keys)
    path = Path(source)
    if path.is_dir():
        return _list_directory(path, whole_keys)
    if not os.path.lexists(path):
        raise SourceError(f"{source}: no such file or directory")
    if path.suffix.lower() in SUFFIXES:
        return _list_csv(path)
    if path.suffix.lower() == ".txt":
        raise SourceError(f"{path}: a text file; to read the paths in it, write @{source}")
    return Listing(make_table([Recording(printable(str(path) if whole_keys else path.name), str(path))]))


def _list_or_reject(source: str) -> Listing:
    try:
        return _list_source(source, whole_keys=True)
    except SourceError as error:
        path = Path(source)
        if not (path.is_dir() or (path.exists() and path.suffix.lower() == ".txt")):
            raise
        # The shell's * also matches folders without audio, and text files.
        reason = str(error).removeprefix(f"{path}: ")
        return Listing(make_table([]), [Rejection(printable(str(path)), "list", reason)])


def _joined(sources: Sequence[str], listings: list[Listing]) -> Listing:
    """The listings of several sources as one."""
    ends = np.cumsum([len(listing.recordings) for listing in listings])
    tables = [listing.recordings for listing in listings]
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    rejections = [one for listing in listings for one in listing.rejections]
    table, repeats = _without_repeats(table)
    for repeated, number, first in repeats:
        where, before = (sources[int(np.searchsorted(ends, at, "right"))] for at in (number, first))
        reason = f"is listed again by {printable(where)}, after {printable(before)}"
        rejections.append(Rejection(repeated.file, "list", reason, part=_part(repeated)))
    return Listing(
        table,
        rejections,
        sum(listing.other_files for listing in listings),
        frozenset.intersection(*(listing.has_columns for listing in listings)),
        [note for listing in listings for note in listing.notes],
        [note for listing in listings for note in listing.label_notes],
        [question for listing in listings for question in listing.label_candidates],
        {name: base for listing in listings for name, base in listing.bases.items()},
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error


def _list_directory(root: Path, whole_keys: bool) -> Listing:
    walk = _AudioWalk(root)
    prefix = os.path.join(root, "")
    before = prefix.removeprefix("./") if whole_keys else ""
    table = make_table(Recording(printable(before + relative), prefix + relative) for relative in walk)
    if not len(table) and not walk.rejections:
        holds = pluralize(walk.other_files, "other file") if walk.other_files else "nothing"
        raise SourceError(f"{root}: no audio in it or its subfolders (it holds {holds}); give another folder")
    rejections = [dataclasses.replace(one, file=printable(before) + one.file) for one in walk.rejections]
    return Listing(table, sorted(rejections, key=lambda one: one.file), walk.other_files)


def _list_store(url: str, whole_keys: bool) -> Listing:
    """List a prefix of an object store, one object of it, or one file of a web server."""
    from ser_batch.storage.objects import is_object, list_objects

    path = _web_path(url) if is_web(url) else url
    if is_web(url) and path.endswith("/"):
        raise SourceError(f"{url}: web servers list no files; give a CSV or @list.txt with the URL of every file")
    try:
        if is_object(url):
            if os.path.splitext(path)[1].lower() in {*SUFFIXES, ".txt"}:
                raise SourceError(f"{url}: a list; copy it to this machine: the files in it may be remote")
            name = url if whole_keys else path.rpartition("/")[2]
            return Listing(make_table([Recording(printable(name), url)]))
        keys = list_objects(url)
    except OSError as error:
        raise SourceError(
            f"{url}: cannot be listed ({error.strerror}); check the URL, the credentials and the address of the store"
        ) from error
    audio = [key for key in keys if os.path.splitext(key)[1][1:].lower() in EXTENSIONS]
    prefix = url.rstrip("/") + "/"
    if not audio:
        holds = pluralize(len(keys), "other object") if keys else "nothing"
        raise SourceError(f"{url}: no audio below it (it holds {holds}); give another prefix")
    before = prefix if whole_keys else ""
    table = make_table(Recording(printable(before + key), prefix + key) for key in audio)
    return Listing(table, other_files=len(keys) - len(audio))


def _web_path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError as error:
        raise SourceError(f"{url}: is not a valid URL ({error}); correct it") from error


class _AudioWalk:
    """Iterator over the audio files of a directory, as relative paths in the order of their text.

    Attributes:
        rejections: folders that could not be listed so far.
        other_files: number of files without an audio extension so far.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.rejections: list[Rejection] = []
        self.other_files = 0

    def __iter__(self) -> Iterator[str]:
        # Only the folders on the current path are in memory; a folder's name is sorted with its trailing slash.
        open_folders = [self._entries("", frozenset())]
        while open_folders:
            relative, above = next(open_folders[-1], (None, frozenset()))
            if relative is None:
                open_folders.pop()
            elif relative.endswith("/"):
                open_folders.append(self._entries(relative, above))
            else:
                yield relative

    def _entries(
        self, folder: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[tuple[str, frozenset[tuple[int, int]]]]:
        """A folder's audio files and subfolders (with a trailing slash), in order, each with its parent folders."""
        names: list[str] = []
        try:
            status = os.stat(self._root / folder)
            here = (status.st_dev, status.st_ino)
            if here in above:
                self._reject(folder, "is a link to a folder that contains it")
                return
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        names.append(f"{entry.name}/")
                    elif os.path.splitext(entry.name)[1][1:].lower() in EXTENSIONS:
                        names.append(entry.name)
                    else:
                        self.other_files += 1
        except OSError as error:
            if not folder:
                raise SourceError(f"{self._root}: cannot be listed ({error.strerror})") from error
            self._reject(folder, f"cannot be listed: {error.strerror}")
        names.sort()
        for name in names:
            yield folder + name, above | {here}

    def _reject(self, folder: str, reason: str) -> None:
        self.rejections.append(Rejection(printable(folder.removesuffix("/")), "list", reason))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: it counts as a file, and gets an error row as unreadable
        return False


def _list_paths(content: bytes, base: Path, name: str) -> Listing:
    try:
        text = io.BytesIO(decoded(content))
    except UnicodeError as error:
        raise SourceError(f"{name}: has the byte order mark of UTF-16, but is not UTF-16; save it as UTF-8") from error
    lines = (os.fsdecode(line.rstrip(b"\n").removesuffix(b"\r")) for line in text)
    rows = ((number, {"file": line}) for number, line in enumerate(lines, 1) if line.strip())
    return _list_rows(rows, base, name)


def _list_csv(path: Path) -> Listing:
    table = read_csv(path, COLUMNS, ALIASES)
    if "file" not in table.columns:
        if not table.header:
            raise SourceError(f"{path}: is empty; it needs a header with the column file, and a row for each recording")
        header = ", ".join(table.header)
        raise SourceError(f"{path}: no column 'file'; its columns are: {header}; rename the one that holds paths")
    listing = _list_rows(table.rows, path.parent, str(path))
    return dataclasses.replace(
        listing,
        has_columns=table.columns,
        notes=[*table.alias_note("file"), *table.unused_notes()],
        label_notes=table.alias_note("label"),
        label_candidates=[f"{path}: column '{name}'" for name in table.possible_labels()],
    )


def _list_rows(rows: Iterable[tuple[int, dict[str, str]]], base: Path, name: str) -> Listing:
    refused: list[tuple[int, Rejection]] = []
    lines = array("q")

    def usable() -> Iterator[Recording]:
        for line, row in rows:
            file = printable(row["file"])
            if not file or "\0" in file:
                rejection = Rejection(file.replace("\0", ""), "list", f"line {line} has no file name")
                refused.append((line, rejection))
                continue
            if problem := row.get(EXTRA_CELLS):
                refused.append((line, Rejection(file, "list", f"line {line} {problem}")))
                continue
            try:
                recording = _of_row(row, base)
            except ValueError as error:
                refused.append((line, Rejection(file, "list", f"line {line}: {error}", part=_readable_part(row))))
                continue
            lines.append(line)
            yield recording

    table, repeats = _without_repeats(make_table(usable()))
    for repeated, number, first in repeats:
        reason = f"line {lines[number]} repeats line {lines[first]}"
        refused.append((lines[number], Rejection(repeated.file, "list", reason, part=_part(repeated))))
    if not lines and not refused:
        raise SourceError(f"{name}: lists no recordings; give one path per line")
    refused.sort(key=lambda one: one[0])
    return Listing(table, [one for _, one in refused], bases={name: os.path.abspath(base)})


def _without_repeats(table: pa.Table) -> tuple[pa.Table, list[tuple[Recording, int, int]]]:
    """Remove recordings with the same key and the same part as an earlier one.

    Returns:
        The other recordings; and the removed ones, each with its number and that of the earlier recording.
    """
    first = first_equal(text_keys(repr((one.file, *_part(one))) for one in recordings(table)))
    numbers = np.flatnonzero(first != np.arange(len(first)))
    pairs = zip(recordings(table.take(numbers)), recordings(table.take(first[numbers])), numbers.tolist(), strict=True)
    repeats = [
        (one, number, int(first[number]))
        for one, before, number in pairs
        if (one.file, *_part(one)) == (before.file, *_part(before))  # equal 64-bit keys are not sufficient
    ]
    if not repeats:
        return table, []
    return table.take(np.delete(np.arange(len(table)), [number for _, number, _ in repeats])), repeats


def _part(recording: Recording) -> Part:
    return recording.start_secs, recording.end_secs


def _of_row(row: dict[str, str], base: Path) -> Recording:
    if problem := url_problem(row["file"], STORES + WEB):
        raise ValueError(problem)
    start_secs = parse_secs(row.get("start") or "0")
    end_secs = parse_secs(row["end"]) if row.get("end") else None
    if end_secs is not None and end_secs <= start_secs:
        raise ValueError(f"end {row['end']} is not after start {row.get('start') or 0}")
    known = (normalize_name(printable(row.get(column, ""))) for column in ("label", "speaker", "split"))
    label, speaker, split = (text or None for text in known)
    split = SPLIT_NAMES.get(split.casefold(), split) if split else None
    path = row["file"] if is_url(row["file"]) else os.path.join(base, row["file"])
    return Recording(printable(row["file"]), path, label, speaker, split, start_secs, end_secs)


def _readable_part(row: dict[str, str]) -> Part:
    """Start and end of a row, if both are valid."""
    try:
        return parse_secs(row.get("start") or "0"), parse_secs(row["end"]) if row.get("end") else None
    except ValueError:
        return None, None


def refuse_own_table(sources: Iterable[str], out: str) -> None:
    """Check that an output table is not also a SOURCE, for example because a shell's * matches it.

    Raises:
        UsageError: it is.
    """
    for one in sources:
        if out != "-" and os.path.exists(out) and os.path.exists(one) and os.path.samefile(one, out):
            raise UsageError(
                f"SOURCE {one}: is the output table; remove it from the SOURCEs (*.wav instead of *), or write "
                "it to another folder"
            )
