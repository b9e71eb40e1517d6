"""Kill runs of a command at random moments, let them finish, and compare every byte with an uninterrupted run.

    python tools/kill_runs.py work/ --kills 200 -- build-records path/to/wav --num-shards 2 -j 2
    python tools/kill_runs.py work/ --kills 200 --out preds.csv -- infer path/to/wav -j 2
    python tools/kill_runs.py work/ --kills 200 -- train tfrecords/emodb --recipe seed --epochs 3

A run is killed (SIGKILL, parent and workers), begun again by the same command and killed again, a few times in a row,
and then left to finish. A file that has its final name at a kill must be whole already. Exit code 1 if a byte differs.

Runs are forked from this process, which has imported what they need, so that a kill costs no import.
"""

import argparse
import contextlib
import importlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ser_batch.storage.fingerprints import file_sha256
from ser_batch.storage.outputs import LOCK

MOST_KILLS_IN_A_ROW = 5

# Of what the commands write: clock times (the weights in model.keras are those in model.tflite), and the results that a
# table is made from, which come in blocks of any size.
_IGNORED = ("logs", "model.keras", ".*.parts", LOCK)
_DONE = (0, 3)
_FAILED_TO_FINISH = 99
_IMPORTS = {
    "build-records": "ser_batch.records.build",
    "train": "ser_batch.training.train",
    "cross-validate": "ser_batch.evaluation.cross_validate",
    "evaluate": "ser_batch.evaluation.evaluate",
    "infer": "ser_batch.inference.infer",
}


def digests(folder: Path, ignored: Sequence[str] = _IGNORED) -> dict[str, str]:
    """SHA-256 of every file in a folder, hidden ones and subfolders included; folders are there with ``""``."""
    left_out = {path for pattern in ignored for path in folder.rglob(pattern)}
    return {
        str(path.relative_to(folder)): "" if path.is_dir() else file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if not left_out & {path, *path.parents}
    }


def start(arguments: Sequence[str], log: Path) -> int:
    """Begin a run in a process group of its own, its standard error in a file; its process id."""
    child = os.fork()
    if child:
        os.setpgid(child, child)  # here, so that it can be killed at once
        return child
    code = _FAILED_TO_FINISH
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        from ser_batch.cli.app import main

        code = main([*arguments])
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


def after(secs: float) -> Callable[[], bool]:
    """A moment after a number of seconds."""
    ends = time.perf_counter() + secs
    return lambda: time.perf_counter() >= ends


def after_files(number: int, folder: Path) -> Callable[[], bool]:
    """The moment when so many new names, finished or not, were seen in a folder."""
    before = {*folder.rglob("*")}
    seen: set[Path] = set()

    def is_time() -> bool:
        try:
            seen.update(folder.rglob("*"))
        except FileNotFoundError:  # a subfolder went meanwhile
            return False
        return len(seen - before) >= number

    return is_time


@dataclass
class KillSummary:
    """Results of many kills.

    Attributes:
        n_files: for each number of files at a kill, finished or not, the number of such kills.
        runs: number of runs that were killed and then finished.
        wrong: differences, one line each.
    """

    n_files: Counter[int] = field(default_factory=Counter)
    runs: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """Number of kills of runs that had not ended."""
        return self.n_files.total()


@dataclass(frozen=True)
class Killer:
    """Kills one command repeatedly.

    Attributes:
        arguments: of the command line, without ``--out``.
        out: name of what it writes.
        whole: digests of an undisturbed run's folder.
        secs: how long that took.
        n_names: how many names were seen in its folder while it ran.
    """

    arguments: tuple[str, ...]
    out: str
    whole: dict[str, str]
    secs: float
    n_names: int

    @classmethod
    def beside(cls, arguments: Sequence[str], folder: Path, out: str = "out") -> "Killer":
        """Let it run undisturbed, into an empty folder."""
        importlib.import_module(_IMPORTS[arguments[0]])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        names: set[Path] = set()

        def never() -> bool:
            with contextlib.suppress(FileNotFoundError):  # a folder may be removed while it is listed
                names.update(folder.rglob("*"))
            return False

        began = time.perf_counter()
        log = folder.with_suffix(".log")
        if kill_when(start([*arguments, "-o", str(folder / out)], log), never) not in _DONE:
            raise SystemExit(f"the undisturbed run failed: {log.read_text()}")
        return cls(tuple(arguments), out, digests(folder), time.perf_counter() - began, len(names))

    def _moment(self, folder: Path, dice: random.Random) -> Callable[[], bool]:
        """Any moment, or, every other time, one at which a file is being made."""
        if dice.random() < 0.5:
            return after(dice.uniform(0, self.secs))
        return after_files(dice.randint(1, self.n_names), folder)

    def kill_one_run(self, folder: Path, kills: int, dice: random.Random, summary: KillSummary) -> None:
        """Start a new run, kill it up to ``kills`` times in a row, let it finish, compare."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [*self.arguments, "-o", str(folder / self.out)]
        log = folder.with_suffix(".log")
        files_at_kills: list[int] = []
        for _ in range(kills):
            if (code := kill_when(start(command, log), self._moment(folder, dice))) is not None:
                if code not in _DONE:
                    summary.wrong.append(f"killed at {files_at_kills}: exit code {code}: {log.read_text()}")
                break
            files_at_kills.append(len([*folder.rglob("*")]))
            now = digests(folder)
            if half := [name for name in self.whole.keys() & now.keys() if self.whole[name] != now[name]]:
                summary.wrong.append(f"killed at {files_at_kills}: half-written: {', '.join(sorted(half))}")
        code = kill_when(start(command, log), lambda: False)
        now = digests(folder)
        if code not in _DONE:
            summary.wrong.append(f"killed at {files_at_kills}: exit code {code}: {log.read_text()}")
        elif other := [name for name in self.whole.keys() | now.keys() if self.whole.get(name) != now.get(name)]:
            summary.wrong.append(f"killed at {files_at_kills}: differ: {', '.join(sorted(other))}")
        summary.n_files.update(files_at_kills)
        summary.runs += 1


def main() -> int:
    """Kill, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for two outputs; both are deleted first")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="out", help="name of the output")
    parser.add_argument("command", nargs="+", help="a command of ser-batch and its arguments, after --; without --out")
    arguments = parser.parse_args()
    killer = Killer.beside([*arguments.command, "-q"], arguments.work / "whole", arguments.out)
    print(f"undisturbed: {killer.secs:.2f} s, {len(killer.whole)} files, {killer.n_names} names seen", flush=True)
    dice, summary = random.Random(arguments.seed), KillSummary()
    while summary.kills < arguments.kills:
        in_a_row = min(dice.randint(1, MOST_KILLS_IN_A_ROW), arguments.kills - summary.kills)
        n_wrong = len(summary.wrong)
        killer.kill_one_run(arguments.work / "killed", in_a_row, dice, summary)
        for line in summary.wrong[n_wrong:]:
            print(f"MISMATCH: {line}", flush=True)
    print(f"{summary.kills} kills of {summary.runs} runs, seed {arguments.seed}; the killed ones had so many files:")
    for number in sorted(summary.n_files):
        print(f"{summary.n_files[number]:8d}  {number}")
    print(f"{len(summary.wrong)} mismatches")
    return 1 if summary.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
