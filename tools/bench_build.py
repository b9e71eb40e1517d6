"""Time `ser-batch build-records` against a simple loop (the naive loop), and print a Markdown table.

    python tools/bench_build.py path/to/emodb/wav --files 10000 --repeats 5
    python tools/bench_build.py path/to/emodb/wav --flat --front-end speech

The loop: one process that reads each file with soundfile, computes the front end with the public calls of librosa and
SciPy, and writes nothing. Commands run in turn (A B C A B C …) in fresh processes, start-up included; medians count.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tools.measuring import (
    Measured,
    Series,
    measure,
    multiply,
    print_comparison,
    print_flatness,
    print_machine,
    repeat_in_turn,
)

FLAT_FILES = (1_000, 10_000, 100_000)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


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

    from ser_batch.audio.frontends import SEED
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
    print_machine(f"front end {options.front_end}, median of {options.repeats}")
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
