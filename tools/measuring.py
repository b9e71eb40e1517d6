"""Shared by the tools: commands of the product, their time and memory, run in turn, and Markdown tables."""

import datetime
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
_POLL_SECS = 0.1
_MIB = 1 << 20


def ser_batch(*arguments: str) -> None:
    """Run a command of the product; an error ends the tool."""
    subprocess.run([sys.executable, "-m", "ser_batch", *arguments], check=True)


@dataclass(frozen=True)
class Measured:
    """One run of one command.

    Attributes:
        secs: from start to end, as a user waits.
        cpu_secs: of all its processes.
        largest_bytes: peak resident size of its largest process, from the system's own account.
        sum_bytes: the most that all its processes held at once, polled; shared pages count in each.
        output: what it printed.
    """

    secs: float
    cpu_secs: float
    largest_bytes: int
    sum_bytes: int
    output: str


@dataclass
class Series:
    """Several runs of one command over so many files."""

    files: int
    name: str
    workers: int
    run: Callable[[], Measured]
    runs: list[Measured] = field(default_factory=list)

    @property
    def secs(self) -> float:
        """The median."""
        return statistics.median(run.secs for run in self.runs)

    @property
    def cpu_secs(self) -> float:
        """The median. CPU time beyond that of one worker is machine overhead, not waiting time."""
        return statistics.median(run.cpu_secs for run in self.runs)


def measure(command: list[str], environment: dict[str, str] | None = None, root: Path = ROOT) -> Measured:
    """Run a command of Python from the root of a checkout.

    Raises:
        SystemExit: the command failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=root,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
    )
    sums = [0]
    poll = threading.Thread(target=_poll, args=(process.pid, sums), daemon=True)
    poll.start()
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    secs = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    poll.join()
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode} of: {' '.join(command)}")
    return Measured(secs, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, max(sums), output)


def _poll(pid: int, sums: list[int]) -> None:
    while resident := sum(map(_resident_bytes, _family(pid))):
        sums.append(resident)
        time.sleep(_POLL_SECS)


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def multiply(corpus: Path, folder: Path, files: int) -> Path:
    """The corpus under many names (000/03a01Wa.wav, …): hard links, or symbolic ones where they cannot be."""
    waves = sorted(corpus.glob("*.wav"))
    for number in range(files):
        wave = waves[number % len(waves)]
        place = folder / f"{number // len(waves):03d}" / wave.name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(wave, place)
        except OSError:
            place.symlink_to(wave)
    return folder


def repeat_in_turn(series: list[Series], repeats: int) -> None:
    """Run A B C A B C …, so that other load on the machine affects all alike."""
    for number in range(repeats):
        for one in series:
            one.runs.append(one.run())
            done = f"{number + 1}/{repeats} {one.files} files, {one.name}: {one.runs[-1].secs:.2f} s"
            print(done, file=sys.stderr, flush=True)


def print_machine(protocol: str) -> None:
    """Where and when."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    print(f"{cpu}, {len(os.sched_getaffinity(0))} usable CPUs, load {os.getloadavg()[0]:.1f} at the start;")
    print(f"{datetime.date.today()}, Python {platform.python_version()}; {protocol}.\n")


def print_comparison(series: list[Series]) -> None:
    """One row a command; ratios to the naive loop over as many files, efficiency to one worker."""
    print(
        "| files | command | seconds (least to most) | CPU seconds | files/s | times naive | efficiency "
        "| peak MiB: largest, sum |"
    )
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for one in series:
        alike = [other for other in series if other.files == one.files]
        naive, single = alike[0], alike[1]
        spread = f"{min(run.secs for run in one.runs):.2f} to {max(run.secs for run in one.runs):.2f}"
        efficiency = "" if one is naive else f"{single.secs / one.secs / one.workers:.0%}"
        print(
            f"| {one.files:,} | {one.name} | {one.secs:.2f} ({spread}) | {one.cpu_secs:.2f} "
            f"| {one.files / one.secs:,.0f} | {naive.secs / one.secs:.2f} | {efficiency} | {peaks(one)} |"
        )


def print_flatness(series: list[Series]) -> None:
    """One row a number of files: what a file costs must not grow with it."""
    print("| files | command | seconds | ms per file | peak MiB: largest, sum |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for one in series:
        print(f"| {one.files:,} | {one.name} | {one.secs:.2f} | {1e3 * one.secs / one.files:.3f} | {peaks(one)} |")


def peaks(series: Series) -> str:
    """MiB at most: of the largest process, and of all together."""
    largest = max(run.largest_bytes for run in series.runs)
    return f"{largest / _MIB:,.0f}, {max(run.sum_bytes for run in series.runs) / _MIB:,.0f}"
