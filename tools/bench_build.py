"""Time `ser-batch build-records` against the loop that everybody writes first, and print a Markdown table.

    python tools/bench_build.py path/to/emodb/wav --files 10000 --repeats 5
    python tools/bench_build.py path/to/emodb/wav --flat --front-end speech

The loop: one process that reads each file with soundfile, computes the front end with the public calls of librosa and
SciPy, and writes nothing. Commands run in turn (A B C A B C …) in fresh processes, start-up included; medians count.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FLAT_FILES = (1_000, 10_000, 100_000)
_POLL_SECS = 0.1
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_MIB = 1 << 20


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
        """The median; what four workers take more than one is the machine's, not time that they waited."""
        return statistics.median(run.cpu_secs for run in self.runs)


def measure(command: list[str], environment: dict[str, str] | None = None) -> Measured:
    """Run a command of Python from the repository's root.

    Raises:
        SystemExit: the command failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
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


# --- what runs in processes of its own


def naive_loop(source: str, front_end: str) -> None:
    """The loop; prints how long it took without start-up and imports."""
    import soundfile

    from tests import reference

    public = {"seed": reference.public_log_mel, "speech": reference.public_speech_log_mel}[front_end]
    features = []
    began = time.perf_counter()
    for path in sorted(Path(source).rglob("*.wav")):
        samples, rate_hz = soundfile.read(path, dtype="float32")
        features.append(public(samples, rate_hz))
    print(json.dumps(time.perf_counter() - began))


def front_ends(source: str, files: int, repeats: int) -> None:
    """Both ways to the same log-mels, in turn on one core; prints seconds per file of each."""
    import soundfile

    from ser_batch.audio.frontend import SEED
    from ser_batch.audio.logmels import log_mel
    from tests.reference import public_log_mel

    waveforms = [soundfile.read(path, dtype="float32") for path in sorted(Path(source).rglob("*.wav"))[:files]]
    ways: dict[str, Callable[[Any, int], Any]] = {"public": public_log_mel, "ours": partial(log_mel, front_end=SEED)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            for samples, rate_hz in waveforms:
                run(samples, rate_hz)
            if repeat:  # the first is warm-up
                times[name].append((time.perf_counter() - began) / len(waveforms))
    print(json.dumps({name: statistics.median(values) for name, values in times.items()}))


def _function(call: str) -> list[str]:
    return ["-c", f"from tools import bench_build; bench_build.{call}"]


# --- what is compared


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


def run_naive(source: Path, front_end: str, times: float = 1.0) -> Measured:
    """The loop; ``times`` as long if it stands for that many more files, start-up counted once."""
    measured = measure(_function(f"naive_loop({str(source)!r}, {front_end!r})"))
    extra_secs = (times - 1) * float(measured.output)
    return replace(measured, secs=measured.secs + extra_secs, cpu_secs=measured.cpu_secs + extra_secs)


def run_build(source: Path, work: Path, front_end: str, workers: int) -> Measured:
    """One build into a fresh folder, deleted afterwards."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    options = ["-q", "--front-end", front_end, "-j", str(workers)]
    measured = measure(["-m", "ser_batch", "build-records", str(source), "-o", str(out), *options])
    shutil.rmtree(out)
    return measured


def compare(corpus: Path, work: Path, files: int, front_end: str) -> list[Series]:
    """The naive loop and builds with 1, 2 and 4 workers, over the corpus or a multiple of it."""
    corpus_size = len(sorted(corpus.glob("*.wav")))
    source = multiply(corpus, work / f"source-{files}", files)
    name, times = "naive loop", 1.0
    if files > corpus_size:
        name, times = f"naive loop (scaled from {corpus_size})", files / corpus_size
    series = [Series(files, name, 1, lambda: run_naive(corpus if times > 1 else source, front_end, times))]
    counts = [workers for workers in (1, 2, 4) if workers <= len(os.sched_getaffinity(0))]
    return series + [_builds(source, work, files, front_end, workers) for workers in counts]


def _builds(source: Path, work: Path, files: int, front_end: str, workers: int) -> Series:
    return Series(files, f"build-records -j {workers}", workers, lambda: run_build(source, work, front_end, workers))


def repeat_in_turn(series: list[Series], repeats: int) -> None:
    """A B C A B C …: what the machine does meanwhile meets all alike."""
    for number in range(repeats):
        for one in series:
            one.runs.append(one.run())
            done = f"{number + 1}/{repeats} {one.files} files, {one.name}: {one.runs[-1].secs:.2f} s"
            print(done, file=sys.stderr, flush=True)


# --- what is printed


def print_machine(front_end: str, repeats: int) -> None:
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
    print(f"{datetime.date.today()}, Python {platform.python_version()}; front end {front_end}, median of {repeats}.\n")


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
            f"| {one.files / one.secs:,.0f} | {naive.secs / one.secs:.2f} | {efficiency} | {_peaks(one)} |"
        )


def print_flatness(series: list[Series]) -> None:
    """One row a number of files: what a file costs must not grow with it."""
    print("| files | command | seconds | ms per file | peak MiB: largest, sum |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for one in series:
        print(f"| {one.files:,} | {one.name} | {one.secs:.2f} | {1e3 * one.secs / one.files:.3f} | {_peaks(one)} |")


def _peaks(series: Series) -> str:
    largest = max(run.largest_bytes for run in series.runs)
    return f"{largest / _MIB:,.0f}, {max(run.sum_bytes for run in series.runs) / _MIB:,.0f}"


def print_front_ends(corpus: Path, repeats: int) -> None:
    """One core, waveforms in memory: only the features."""
    measured = measure(_function(f"front_ends({str(corpus)!r}, 50, {repeats})"), _ONE_THREAD)
    secs = json.loads(measured.output)
    print("\nFront end `seed`, one core, 50 waveforms in memory: ", end="")
    print(f"public calls {1e3 * secs['public']:.2f} ms per file, ours {1e3 * secs['ours']:.2f} ms: ", end="")
    print(f"{secs['public'] / secs['ours']:.2f} times as fast")


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="EmoDB's wav folder")
    parser.add_argument("--files", type=int, default=10_000, help="the larger of the two comparisons")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--front-end", choices=["seed", "speech"], default="seed")
    flat_help = "instead: what a file costs among " + ", ".join(f"{files:,}" for files in FLAT_FILES)
    parser.add_argument("--flat", type=int, nargs="*", metavar="FILES", help=flat_help)
    parser.add_argument("--work", type=Path, help="where sources and outputs go for the time being")
    options = parser.parse_args()
    corpus = options.corpus.absolute()
    print_machine(options.front_end, options.repeats)
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder).absolute()
        if options.flat is not None:
            cpus = len(os.sched_getaffinity(0))
            sizes = options.flat or FLAT_FILES
            sources = {files: multiply(corpus, work / f"source-{files}", files) for files in sizes}
            flat = [_builds(source, work, files, options.front_end, cpus) for files, source in sources.items()]
            repeat_in_turn(flat, options.repeats)
            print_flatness(flat)
            return
        corpus_size = len(sorted(corpus.glob("*.wav")))
        sizes = sorted({corpus_size, options.files})
        series = [one for files in sizes for one in compare(corpus, work, files, options.front_end)]
        repeat_in_turn(series, options.repeats)
        print_comparison(series)
    print_front_ends(corpus, options.repeats)


if __name__ == "__main__":
    main()
