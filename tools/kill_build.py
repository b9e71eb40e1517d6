"""Kill builds at random moments, let them finish, and compare every byte with a build that nobody disturbed.

    python tools/kill_build.py path/to/wav work/ --kills 1000 --options="--num-shards 2 --front-end speech"

A build is killed (SIGKILL, parent and workers), begun again by the same command and killed again, a few times in a
row, and then left to finish. What has its final name at a kill must be whole already. Exit code 1 if one byte differs.
"""

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ser_batch.records.folder import MANIFEST, PROVENANCE
from ser_batch.records.manifest import BUILDING
from ser_batch.records.tfds import DATASET
from ser_batch.storage.fingerprints import file_sha256

MOST_KILLS_IN_A_ROW = 5

NOTHING, PLAN, METADATA, COMPLETE = "nothing yet", "plan written", "metadata", "complete"
_DONE = (0, 3)


class BuildFailed(Exception):  # noqa: N818 - what it says is an event, not a kind of error
    """A build that nobody killed did not finish."""


def build_command(source: Path, out: Path, *options: str) -> list[str]:
    """The command line of a build, errors only."""
    return [sys.executable, "-m", "ser_batch", "build-records", str(source), "-o", str(out), "-q", *options]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, hidden ones and subfolders included; folders are there with ``""``."""
    return {
        str(path.relative_to(folder)): "" if path.is_dir() else file_sha256(path) for path in sorted(folder.rglob("*"))
    }


def stage_of(folder: Path) -> str:
    """How far a build had come, from what it left."""
    building = folder / BUILDING
    if (folder / PROVENANCE).exists():
        return COMPLETE
    if not (building / "plan.json").exists():
        return NOTHING
    if [*folder.glob(f".{MANIFEST}.*"), *folder.glob(MANIFEST)]:
        return METADATA
    notes = len([*building.glob(f"{DATASET}-*.json")])
    return f"{notes} shards" if notes else PLAN


def stage_order(stage: str) -> int:
    """Sorts stages in the order in which a build goes through them."""
    fixed = {NOTHING: -2, PLAN: -1, METADATA: sys.maxsize - 1, COMPLETE: sys.maxsize}
    return fixed[stage] if stage in fixed else int(stage.split()[0])


def finish(command: list[str]) -> None:
    """Run a build to its end.

    Raises:
        BuildFailed: it ended with another exit code than 0 or 3.
    """
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode not in _DONE:
        raise BuildFailed(f"exit code {ended.returncode}: {ended.stderr.strip()}")


def kill_when(command: list[str], is_time: Callable[[], bool]) -> bool:
    """Start a build and kill its whole process group at some moment; False if it had finished before.

    Raises:
        BuildFailed: it failed before it could be killed.
    """
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        if is_time():
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    _, said = process.communicate()  # ends when the last process that holds the pipe has ended
    if process.returncode == -signal.SIGKILL:
        return True
    if process.returncode not in _DONE:
        raise BuildFailed(f"exit code {process.returncode}: {said.strip()}")
    return False


def after(secs: float) -> Callable[[], bool]:
    """A moment by the clock."""
    ends = time.perf_counter() + secs
    return lambda: time.perf_counter() >= ends


def after_files(number: int, folder: Path) -> Callable[[], bool]:
    """The moment when so many new names of shards, finished or not, were seen in a record folder."""
    before = {*folder.glob(f"*{DATASET}-*")}
    seen: set[Path] = set()

    def is_time() -> bool:
        seen.update(folder.glob(f"*{DATASET}-*"))
        return len(seen - before) >= number

    return is_time


@dataclass
class Tally:
    """What came of many kills.

    Attributes:
        stages: how many kills met a build at each stage.
        builds: how many builds were killed and finished.
        wrong: what differed, one line each.
    """

    stages: Counter[str] = field(default_factory=Counter)
    builds: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """Builds that were still running when they were killed."""
        return self.stages.total()


@dataclass(frozen=True)
class Killer:
    """Kills one build over and over.

    Attributes:
        source: what is built.
        options: of `build-records`.
        whole: digests of an undisturbed build.
        secs: how long that took.
    """

    source: Path
    options: tuple[str, ...]
    whole: dict[str, str]
    secs: float

    @classmethod
    def beside(cls, source: Path, work: Path, *options: str) -> "Killer":
        """Make the undisturbed build in ``work``."""
        shutil.rmtree(work, ignore_errors=True)
        began = time.perf_counter()
        finish(build_command(source, work, *options))
        return cls(source, options, digests(work), time.perf_counter() - began)

    def _moment(self, out: Path, dice: random.Random) -> Callable[[], bool]:
        """Any moment, or, every other time, one at which a shard is being written."""
        if dice.random() < 0.5:
            return after(dice.uniform(0, self.secs))
        shards = sum(name.startswith(DATASET) for name in self.whole)
        return after_files(dice.randint(1, shards), out)

    def kill_one_build(self, out: Path, kills: int, dice: random.Random, tally: Tally) -> None:
        """Begin a build anew, kill it up to ``kills`` times in a row, let it finish, compare."""
        shutil.rmtree(out, ignore_errors=True)
        command = build_command(self.source, out, *self.options)
        met: list[str] = []
        try:
            for _ in range(kills):
                if not kill_when(command, self._moment(out, dice)):
                    break
                met.append(stage_of(out))
                visible = {name: digest for name, digest in digests(out).items() if not name.startswith(".")}
                if half := _differing({name: self.whole.get(name, "") for name in visible}, visible):
                    tally.wrong.append(f"killed at {met}: half-written: {half}")
            finish(command)
            if differ := _differing(self.whole, digests(out)):
                tally.wrong.append(f"killed at {met}: differ: {differ}")
        except BuildFailed as failed:
            tally.wrong.append(f"killed at {met}: {failed}")
        tally.stages.update(met)
        tally.builds += 1


def _differing(one: dict[str, str], other: dict[str, str]) -> str:
    return ", ".join(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))


def main() -> int:
    """Kill, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder of audio")
    parser.add_argument("work", type=Path, help="folder for two record folders; both are deleted first")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", type=shlex.split, default=[], help="options of build-records, in one word")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    killer = Killer.beside(arguments.source, arguments.work / "whole", *arguments.options)
    print(f"undisturbed: {killer.secs:.2f} s, {len(killer.whole)} files")
    dice, tally = random.Random(arguments.seed), Tally()
    while tally.kills < arguments.kills:
        in_a_row = min(dice.randint(1, MOST_KILLS_IN_A_ROW), arguments.kills - tally.kills)
        n_wrong = len(tally.wrong)
        killer.kill_one_build(arguments.work / "killed", in_a_row, dice, tally)
        for line in tally.wrong[n_wrong:]:
            print(f"MISMATCH: {line}", flush=True)
    print(f"{tally.kills} kills of {tally.builds} builds, seed {arguments.seed}; the killed builds were at")
    for stage in sorted(tally.stages, key=stage_order):
        print(f"{tally.stages[stage]:8d}  {stage}")
    print(f"{len(tally.wrong)} mismatches")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
