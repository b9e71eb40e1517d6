"""Kill inferences at random moments, let them finish, and compare the table with one that nobody disturbed.

    python tools/kill_infer.py path/to/wav work/ --kills 1000 --options="-j 2"

An inference is killed (SIGKILL, parent and workers), begun again by the same command and killed again, a few times
in a row, and then left to finish. There is no table before it is whole, and what the journal holds is never lost.
Exit code 1 if one byte differs.

Inferences are forked from this process, which has imported what they need, so that a kill costs no import.
"""

import argparse
import os
import random
import shlex
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ser_batch.inference.infer  # noqa: F401 - what a fork shall not have to import
from ser_batch.inference.predictions import stamp_of
from ser_batch.inference.results import journal_path
from tools.kill_build import MOST_KILLS_IN_A_ROW, Tally, after

_DONE = (0, 3)
_FAILED_TO_FINISH = 99


def start(arguments: list[str], said: Path) -> int:
    """Begin an inference in a process group of its own; its process id."""
    child = os.fork()
    if child:
        os.setpgid(child, child)  # here, so that it can be killed at once
        return child
    code = _FAILED_TO_FINISH
    try:
        err = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(err, 2)
        from ser_batch.cli.app import main

        code = main(arguments)
    finally:
        os._exit(code)


def kill_when(child: int, is_time: Callable[[], bool]) -> int | None:
    """Kill a process group at some moment; None if it was killed, else the exit code it had before."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if is_time():
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.001)


def after_writes(number: int, file: Path) -> Callable[[], bool]:
    """The moment when a file was seen to be written to so many times."""
    stamps = {stamp_of(str(file))}

    def is_time() -> bool:
        stamps.add(stamp_of(str(file)))
        return len(stamps) > number

    return is_time


def n_done(table: Path) -> int:
    """How many recordings the journal of a table that was killed knows."""
    connection = sqlite3.connect(journal_path(table))
    try:
        (number,) = connection.execute("SELECT count(error) FROM recordings").fetchone()
        return int(number)
    except sqlite3.OperationalError:  # killed before it made its tables
        return 0
    finally:
        connection.close()


@dataclass(frozen=True)
class Killer:
    """Kills one inference over and over.

    Attributes:
        arguments: of the command line, without ``--out``.
        whole: the table of an undisturbed inference.
        secs: how long that took.
        writes: how often its journal was seen to be written to.
    """

    arguments: list[str]
    whole: bytes
    secs: float
    writes: int

    @classmethod
    def beside(cls, arguments: list[str], table: Path) -> "Killer":
        """Make the undisturbed table."""
        began = time.perf_counter()
        stamps = set()
        log = _log_of(table)

        def never() -> bool:
            stamps.add(stamp_of(str(log)))
            return False

        code = kill_when(start([*arguments, "-o", str(table)], table.with_suffix(".log")), never)
        if code not in _DONE:
            raise SystemExit(f"the undisturbed inference failed: {table.with_suffix('.log').read_text()}")
        return cls(arguments, table.read_bytes(), time.perf_counter() - began, len(stamps))

    def kill_one(self, table: Path, kills: int, dice: random.Random, tally: Tally) -> None:
        """Begin a table anew, kill it up to ``kills`` times in a row, let it finish, compare."""
        for left in (table, journal_path(table), _log_of(table)):
            left.unlink(missing_ok=True)
        command = [*self.arguments, "-o", str(table)]
        said = table.with_suffix(".log")
        met: list[int] = []
        for _ in range(kills):
            moment = (
                after(dice.uniform(0, self.secs))
                if dice.random() < 0.5
                else after_writes(dice.randint(1, self.writes), _log_of(table))
            )
            if kill_when(start(command, said), moment) is not None:
                break
            met.append(n_done(table))
            if table.exists() and table.read_bytes() != self.whole:
                tally.wrong.append(f"killed at {met}: half-written")
        if met != sorted(met):
            tally.wrong.append(f"killed at {met}: results were lost")
        code = kill_when(start(command, said), lambda: False)
        if code not in _DONE:
            tally.wrong.append(f"killed at {met}: exit code {code}: {said.read_text()}")
        elif table.read_bytes() != self.whole:
            tally.wrong.append(f"killed at {met}: the table differs")
        if left_behind := [path.name for path in table.parent.glob(f".{table.name}.*.partial")]:
            tally.wrong.append(f"killed at {met}: left behind: {left_behind}")
        tally.stages.update(f"{number} done" for number in met)
        tally.builds += 1


def _log_of(table: Path) -> Path:
    """What SQLite appends to before it changes the journal itself."""
    journal = journal_path(table)
    return journal.with_name(f"{journal.name}-wal")


def main() -> int:
    """Kill, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder of audio")
    parser.add_argument("work", type=Path, help="folder for two tables; both are deleted first")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", type=shlex.split, default=[], help="options of infer, in one word")
    parser.add_argument("--suffix", default=".csv", help="of the table")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    killer = Killer.beside(
        ["infer", str(arguments.source), "-q", *arguments.options], arguments.work / f"whole{arguments.suffix}"
    )
    print(f"undisturbed: {killer.secs:.2f} s, {len(killer.whole)} bytes, {killer.writes} writes seen", flush=True)
    dice, tally = random.Random(arguments.seed), Tally()
    while tally.kills < arguments.kills:
        in_a_row = min(dice.randint(1, MOST_KILLS_IN_A_ROW), arguments.kills - tally.kills)
        n_wrong = len(tally.wrong)
        killer.kill_one(arguments.work / f"killed{arguments.suffix}", in_a_row, dice, tally)
        for line in tally.wrong[n_wrong:]:
            print(f"MISMATCH: {line}", flush=True)
    print(f"{tally.kills} kills of {tally.builds} inferences, seed {arguments.seed}; the killed ones were at")
    for stage in sorted(tally.stages, key=lambda stage: int(stage.split()[0])):
        print(f"{tally.stages[stage]:8d}  {stage}")
    print(f"{len(tally.wrong)} mismatches")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
