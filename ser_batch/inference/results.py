"""What is known of a prediction table's recordings, on disk while and after the table is made.

The journal of ``preds.csv`` is ``.preds.csv.journal``, an SQLite database: the plan in SOURCE order, and with
each recording, once it is done, its result and the stamp of the file that it was read from. It is what a run
continues from, what tells that a table is finished, and what an update takes over. The table is made from it.

The results of a task are one transaction: a killed process loses none that ended. The disk is made sure of every
second, so a power loss costs at most the last second's results; SQLite's checksums find what was torn.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.corpus.table import Listing, Part
from ser_batch.errors import OutputError
from ser_batch.inference.predictions import Result, stamp_of
from ser_batch.runtime.signals import resumable
from ser_batch.storage.locks import held
from ser_batch.storage.writing import disk_errors_named, sync_folder

_SYNC_SECS = 1.0

# Raised with every change of what the tables below hold.
_VERSION = 4

# A recording is done when its error is not NULL: then it is empty, or why there are no rows.
# Start and end are seconds as asked for; NULL where none were.
_COLUMNS = """(
    position INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    file TEXT NOT NULL,
    start_secs REAL,
    end_secs REAL,
    channel INTEGER,
    size INTEGER,
    mtime_ns INTEGER,
    duration REAL,
    warnings TEXT,
    error TEXT,
    rows BLOB
)"""


@dataclass(frozen=True)
class Comparison:
    """How a listing differs from the plan in a journal.

    Attributes:
        came, went: recordings that are only in the listing, or only in the plan.
        moved: whether they only stand in another order.
        elsewhere: whether they only lie in another place: all names are the same.
        changed: files that are done and were written since.
    """

    came: int
    went: int
    moved: bool
    elsewhere: bool
    changed: int

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not (self.came or self.went or self.moved or self.changed)


def journal_path(table: Path) -> Path:
    """Where the journal of a table is."""
    return table.with_name(f".{table.name}.journal")


@contextmanager
def open_journal(table: Path, restart: bool = False) -> Iterator["Journal"]:
    """The journal of a table, for this run alone.

    Args:
        table: path of the table; its folder must exist.
        restart: throw away what is in it.

    Raises:
        OutputError: another run is at it, it cannot be written, or it is damaged.
    """
    path = journal_path(table)
    with disk_errors_named(table), held(path, table), resumable():
        if restart:
            path.with_name(f"{path.name}-wal").unlink(missing_ok=True)
            os.truncate(path, 0)
        sync_folder(path.parent)
        with _database_errors_named(table, path), contextlib.closing(sqlite3.connect(path)) as connection:
            _prepare(connection)
            yield Journal(connection)


@contextmanager
def _database_errors_named(table: Path, path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        full = "full" in str(error)
        raise OutputError(
            f"{table}: cannot write ({'No space left on device' if full else error}); what was finished is kept: "
            "make room or change the rights, then run the same command again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise OutputError(
            f"{path}: is damaged ({error}); give --restart to make the table anew, or name another --out"
        ) from error


def _prepare(connection: sqlite3.Connection) -> None:
    connection.isolation_level = None  # transactions begin and end where `Journal` says
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # no shared memory, which network disks lack
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"written by another version of ser-batch: form {version}, not {_VERSION}")
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.execute(f"CREATE TABLE IF NOT EXISTS recordings {_COLUMNS}")
    connection.execute(f"CREATE TEMP TABLE listing {_COLUMNS}")


class Journal:
    """A journal in use: see `open_journal`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._synced_secs = time.monotonic()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def fact(self, name: str) -> Any:
        """Something noted of the whole table; None if nothing was."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", [name]).fetchone()
        return None if row is None else json.loads(row[0])

    def note(self, **facts: object) -> None:
        """Note things of the whole table, as JSON."""
        rows = [(name, json.dumps(value)) for name, value in facts.items()]
        self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def begin(self, listing: Listing, identity: dict[str, Any], tables: list[str]) -> None:
        """Write down the plan of a new table.

        Args:
            listing: what is to be predicted.
            identity: what else decides the result.
            tables: the SHA-256 of what may stand in the table's place.
        """
        with self._transaction():
            self.note(identity=identity, tables=tables)
            self._insert("recordings", _planned(listing, stamped=False))

    def compare(self, listing: Listing) -> Comparison:
        """How a listing, and the files in it, differ from the plan."""
        with self._transaction():
            self._connection.execute("DELETE FROM temp.listing")
            self._insert("temp.listing", _planned(listing, stamped=True))
        other_keys, other_files = self._row(
            "SELECT count(*), total(l.file IS NOT r.file) FROM temp.listing l LEFT JOIN recordings r USING (position) "
            "WHERE l.key IS NOT r.key"
        )
        (n_more,) = self._row("SELECT (SELECT count(*) FROM temp.listing) - (SELECT count(*) FROM recordings)")
        came = went = 0
        if other_keys or n_more:
            (came,) = self._row("SELECT count(*) FROM temp.listing WHERE key NOT IN (SELECT key FROM recordings)")
            (went,) = self._row("SELECT count(*) FROM recordings WHERE key NOT IN (SELECT key FROM temp.listing)")
        (changed,) = self._row(
            "SELECT count(*) FROM temp.listing l JOIN recordings r USING (key) WHERE r.error IS NOT NULL "
            "AND (l.size IS NOT r.size OR l.mtime_ns IS NOT r.mtime_ns)"
        )
        elsewhere = bool(other_keys) and not other_files and not n_more
        return Comparison(came, went, bool(other_keys) and not came and not went, elsewhere, changed)

    def forget_changed(self) -> None:
        """Take recordings for not done whose files changed, where the last compared listing is the plan."""
        self._connection.execute(
            "UPDATE recordings SET error = NULL WHERE EXISTS (SELECT 1 FROM temp.listing l "
            "WHERE l.position = recordings.position "
            "AND (l.size IS NOT recordings.size OR l.mtime_ns IS NOT recordings.mtime_ns))"
        )

    def update(self) -> None:
        """Take the last compared listing for the plan, and over what is known of files that did not change."""
        with self._transaction():
            self._connection.execute(f"CREATE TABLE updated {_COLUMNS}")
            self._connection.execute(
                "INSERT INTO updated SELECT l.position, l.key, l.file, l.start_secs, l.end_secs, l.channel, l.size, "
                "l.mtime_ns, r.duration, r.warnings, ifnull(l.error, r.error), r.rows "
                "FROM temp.listing l LEFT JOIN recordings r "
                "ON l.key = r.key AND l.error IS NULL AND l.size IS r.size AND l.mtime_ns IS r.mtime_ns"
            )
            self._connection.execute("DROP TABLE recordings")
            self._connection.execute("ALTER TABLE updated RENAME TO recordings")
            self._connection.execute("DELETE FROM facts WHERE name = 'tally'")

    def pending(self) -> NDArray[np.int64]:
        """The positions of the recordings that are not done, in the plan's order."""
        rows = self._connection.execute("SELECT position FROM recordings WHERE error IS NULL ORDER BY position")
        return np.fromiter((position for (position,) in rows), dtype=np.int64)

    def record(self, results: Sequence[Result]) -> None:
        """Keep some results; `Result.number` is the position in the plan."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE recordings SET size = ?, mtime_ns = ?, duration = ?, warnings = ?, error = ?, rows = ? "
                "WHERE position = ?",
                (
                    (
                        *(result.stamp or (None, None)),
                        result.duration_secs,
                        " ".join(result.warnings),
                        result.error,
                        result.rows.astype("<f8").tobytes(),
                        result.number,
                    )
                    for result in results
                ),
            )
        if time.monotonic() - self._synced_secs > _SYNC_SECS:
            self._connection.execute("PRAGMA wal_checkpoint")
            self._synced_secs = time.monotonic()

    def results(self, row_length: int) -> Iterator[tuple[str, Part, int | None, Result]]:
        """Each file's key, the part and channel as asked for, and its result, in the plan's order, once all are done.

        Args:
            row_length: numbers in one of `Result.rows`.
        """
        for position, file, start_secs, end_secs, channel, *content in self._connection.execute(
            "SELECT position, file, start_secs, end_secs, channel, duration, warnings, error, rows FROM recordings "
            "ORDER BY position"
        ):
            duration_secs, warnings, error, rows = content
            numbers = np.frombuffer(rows or b"", dtype="<f8").reshape(-1, row_length)
            result = Result(position, numbers, duration_secs or 0.0, tuple((warnings or "").split()), error)
            yield file, (start_secs, end_secs), channel, result

    def _row(self, query: str) -> Any:
        return self._connection.execute(query).fetchone()

    def _insert(self, table: str, rows: Iterable[Sequence[object]]) -> None:
        self._connection.executemany(
            f"INSERT INTO {table} (position, key, file, start_secs, end_secs, channel, "  # noqa: S608
            "size, mtime_ns, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )


def _planned(listing: Listing, stamped: bool) -> Iterator[Sequence[object]]:
    """The plan's rows; what could not be listed is done already."""
    for position, one in enumerate(listing.recordings):
        part = (one.file, os.path.abspath(one.path), *map(repr, (one.start_secs, one.end_secs, one.channel)))
        stamp = stamp_of(one.path) if stamped else None
        channel = one.channel if isinstance(one.channel, int) else None
        yield position, _key(part), one.file, one.start_secs, one.end_secs, channel, *(stamp or (None, None)), None
    for position, refused in enumerate(listing.rejections, len(listing.recordings)):
        key = _key((refused.file, refused.reason))
        yield position, key, refused.file, *refused.part, None, None, None, refused.reason


def _key(parts: Sequence[str]) -> bytes:
    """What tells a recording from all others, short: half a million of them share one with a chance of 1e-27."""
    return hashlib.blake2b(os.fsencode("\0".join(parts)), digest_size=16).digest()
