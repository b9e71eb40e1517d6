"""Time `ser-batch infer` against the notebook's loop, and print Markdown tables.

    python tools/bench_infer.py path/to/emodb/wav --files 5000 --repeats 3
    python tools/bench_infer.py path/to/emodb/wav --flat
    python tools/bench_infer.py path/to/emodb/wav --hours 10

The notebook's loop: one process that computes the seed front end with the public calls of librosa and SciPy, and calls
`predict` of the seed network in Keras, file by file. Commands run in turn (A B C A B C …) in fresh processes, start-up
included; medians count. The seed network's weights are arbitrary: they do not change what it costs.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import SEED
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.table import recordings
from ser_batch.inference.embeddings import EmbeddingOptions
from ser_batch.inference.results import complete_results, keys_of
from ser_batch.models.bundles import (
    Bundle,
    BundleArrays,
    BundleContent,
    Calibration,
    open_bundle,
    save_bundle,
    shipped_bundle,
)
from ser_batch.models.novelty import Novelty
from ser_batch.runtime.local import LocalEngine
from tools.measuring import (
    Measured,
    Series,
    measure,
    multiply,
    peaks,
    print_comparison,
    print_flatness,
    print_machine,
    repeat_in_turn,
)

FLAT_FILES = (1_000, 10_000, 100_000)
_NOTEBOOK_FILES = 100
_CORPUS_RATE_HZ = 16_000
_CPUS = len(os.sched_getaffinity(0))


# --- what runs in processes of its own


def notebook_loop(corpus: str, bundle: str) -> None:
    """The loop; prints how long it took without start-up and imports."""
    import soundfile

    from tests.reference import public_log_mel

    network = open_bundle(Path(bundle)).load_network()
    rows = []
    began = time.perf_counter()
    for path in sorted(Path(corpus).glob("*.wav"))[:_NOTEBOOK_FILES]:
        samples, rate_hz = soundfile.read(path, dtype="float32")
        rows.append(network.predict(public_log_mel(samples, rate_hz)[None], verbose=0)[0])
    print(json.dumps(time.perf_counter() - began))


def make_seed_bundle(folder: str) -> None:
    """A bundle of the seed network, not trained."""
    import keras

    from ser_batch.models.networks.families import encoder_of, features_of, head_of
    from ser_batch.models.networks.options import NetworkOptions
    from ser_batch.models.networks.seed_crnn import seed_crnn

    keras.utils.set_random_seed(0)
    options = NetworkOptions(network="seed_crnn", dropout=0.3, norm_momentum=0.99)
    network = seed_crnn(SEED.shape, 7, options)
    n_features = features_of(network).output_shape[-1]
    novelty = Novelty(np.zeros((7, n_features), np.float32), np.ones(n_features, np.float32), scale=1.0, shape=1.0)
    labels = shipped_bundle().labels
    Path(folder).mkdir()
    content = BundleContent(
        labels=labels,
        front_end=SEED,
        calibration=Calibration(temperature=1.0, fitted_on=None),
        speaker_normalised=False,
        training={},
    )
    arrays = BundleArrays(head_of(network, None), novelty, None)
    save_bundle(Path(folder), network, encoder_of(network), arrays, content)


def front_end_alone(source: str, bundle: str, workers: int) -> None:
    """Decode and transform, with a network that costs nothing; prints seconds."""
    options = EmbeddingOptions(partial(_SilentNetwork), open_bundle(Path(bundle)).front_end)
    with LocalEngine(workers) as engine, tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        listing = list_source(source)
        complete_results(listing, keys_of(listing), options, engine, Path(folder))
        print(json.dumps(time.perf_counter() - began))


class _SilentNetwork:
    def __call__(self, log_mel: Float32s) -> Float32s:
        return np.zeros(8, np.float32)


def network_alone(source: str, bundle: str, workers: int) -> None:
    """The network again and again on log-mels in memory, as many as there are files; prints seconds."""
    n_files = len(list_source(source).recordings)
    tasks = [8] * (n_files // 8)
    with LocalEngine(workers) as engine:
        began = time.perf_counter()
        for _ in engine.map(partial(_run_network, source=source, bundle=bundle), tasks):
            pass
        print(json.dumps(time.perf_counter() - began))


def _run_network(n_log_mels: int, source: str, bundle: str) -> None:
    call = _loaded(source, bundle)
    for _ in range(n_log_mels):
        call()


@lru_cache(maxsize=1)
def _loaded(source: str, bundle: str) -> Callable[[], object]:
    """Calls the network on one after another of some log-mels."""
    opened = open_bundle(Path(bundle))
    network = opened.load_encoder()
    table = list_source(source).recordings
    chosen = recordings(table.take(list(range(0, min(len(table), 535), 17))))
    some = [next(iter(LogMelWindows(recording, opened.front_end))).log_mel for recording in chosen]
    turn = iter(range(1 << 60))
    return lambda: network(some[next(turn) % len(some)])


def write_long(corpus: str, path: str, secs: float) -> None:
    """The corpus one after another, over and over, as one recording."""
    import soundfile

    speech = np.concatenate([soundfile.read(wave, dtype="int16")[0] for wave in sorted(Path(corpus).glob("*.wav"))])
    n_left = round(secs * _CORPUS_RATE_HZ)
    with soundfile.SoundFile(path, "w", _CORPUS_RATE_HZ, 1, "PCM_16") as file:
        while n_left:
            file.write(speech[:n_left])
            n_left -= min(n_left, len(speech))


def _function(call: str) -> list[str]:
    return ["-c", f"from tools import bench_infer; bench_infer.{call}"]


# --- what is compared


def run_notebook(corpus: Path, bundle: Path, files: int) -> Measured:
    """The loop over a few files, scaled to as many; start-up counted once."""
    measured = measure(_function(f"notebook_loop({str(corpus)!r}, {str(bundle)!r})"), {"TF_CPP_MIN_LOG_LEVEL": "3"})
    extra_secs = (files / _NOTEBOOK_FILES - 1) * float(measured.output)
    return replace(measured, secs=measured.secs + extra_secs, cpu_secs=measured.cpu_secs + extra_secs)


def run_infer(source: Path, work: Path, bundle: Path, workers: int, *options: str) -> Measured:
    """One inference into a fresh table."""
    out = work / "preds.csv"
    out.unlink(missing_ok=True)
    shutil.rmtree(work / ".preds.csv.parts", ignore_errors=True)
    command = ["-m", "ser_batch", "infer", str(source), "-o", str(out), "-q", "--model", str(bundle)]
    return measure([*command, "-j", str(workers), *options])


def compared(name: str, notebook: Series, source: Path, work: Path, bundle: Path) -> list[Series]:
    """The loop, and inferences with one worker and with all."""
    return [notebook] + [
        Series(
            notebook.files,
            f"infer, {name}, -j {workers}",
            workers,
            partial(run_infer, source, work, bundle, workers),
        )
        for workers in sorted({1, _CPUS})
    ]


def print_parts(names: Sequence[tuple[str, Path]], source: Path, whole: dict[str, float], repeats: int) -> None:
    """What the parts reach alone on all cores, beside the whole."""
    files = len(list_source(str(source)).recordings)
    print("\n| model | front end alone, files/s | network alone, files/s | infer, files/s | of the slower part |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, bundle in names:
        rates = []
        for part in ("front_end_alone", "network_alone"):
            call = _function(f"{part}({str(source)!r}, {str(bundle)!r}, {_CPUS})")
            rates.append(files / statistics.median(float(measure(call).output) for _ in range(repeats)))
        both = files / whole[name]
        print(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} | {both:,.0f} | {both / min(rates):.0%} |")


def print_start(corpus: Path, repeats: int) -> None:
    """How long one file takes to its row, and TensorFlow to its import."""
    one = str(sorted(corpus.glob("*.wav"))[0])
    commands = {
        "infer, one file, to its row": ["-m", "ser_batch", "infer", one, "-o", "-", "-q"],
        "import tensorflow": ["-c", "import tensorflow"],
    }
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    print("\n| command | seconds |")
    print("| --- | ---: |")
    for name, command in commands.items():
        print(f"| {name} | {statistics.median(measure(command, quiet).secs for _ in range(repeats)):.2f} |")


def print_long(corpus: Path, work: Path, bundle: Path, hours: Sequence[float]) -> None:
    """One row a recording of so many hours, predicted window by window: memory must not grow with it."""
    print("| hours | rows | seconds | times real time | peak MiB: largest, sum |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for length in hours:
        long = work / "long.wav"
        measure(_function(f"write_long({str(corpus)!r}, {str(long)!r}, {length * 3600})"))  # not here: memory counts
        run = run_infer(long, work, bundle, _CPUS, "--windows")
        n_rows = (work / "preds.csv").read_bytes().count(b"\n") - 1
        one = Series(1, "", 1, partial(measure, []), [run])
        print(f"| {length:g} | {n_rows:,} | {run.secs:.1f} | {length * 3600 / run.secs:,.0f} | {peaks(one)} |")


def print_adaptations(source: Path, work: Path, files: int, repeats: int) -> None:
    """One row an adaptation of the shipped model: what the second pass costs."""
    bundle = shipped_bundle().path
    series = [
        Series(files, how, _CPUS, partial(run_infer, source, work, bundle, _CPUS, "--adapt", how))
        for how in ("none", "batch", "voices")
    ]
    repeat_in_turn(series, repeats)
    print(f"| {files:,} files, --adapt | seconds (least to most) | times none | peak MiB: largest, sum |")
    print("| --- | ---: | ---: | ---: |")
    for one in series:
        spread = f"{min(run.secs for run in one.runs):.1f} to {max(run.secs for run in one.runs):.1f}"
        print(
            f"| {one.name} | {one.secs:.1f} ({spread}) | {one.secs / series[0].secs:.2f} | {peaks(one)} |", flush=True
        )


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="EmoDB's wav folder")
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=3)
    flat_help = "instead: what a file costs among " + ", ".join(f"{files:,}" for files in FLAT_FILES)
    parser.add_argument("--flat", type=int, nargs="*", metavar="FILES", help=flat_help)
    hours_help = "instead: recordings of so many hours, window by window"
    parser.add_argument("--hours", type=float, nargs="+", help=hours_help)
    adapt_help = "instead: each adaptation over so many files"
    parser.add_argument("--adapt", type=int, nargs="+", metavar="FILES", help=adapt_help)
    parser.add_argument("--work", type=Path, help="where sources and tables go for the time being")
    options = parser.parse_args()
    corpus = options.corpus.absolute()
    print_machine("one run each" if options.hours else f"median of {options.repeats}")
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    shipped: Bundle = shipped_bundle()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder).absolute()
        if options.hours:
            print_long(corpus, work, shipped.path, options.hours)
            return
        if options.adapt:
            for files in options.adapt:
                source = multiply(corpus, work / f"source-{files}", files)
                print_adaptations(source, work, files, options.repeats)
            return
        if options.flat is not None:
            flat = []
            for files in options.flat or FLAT_FILES:
                source = multiply(corpus, work / f"source-{files}", files)
                run = partial(run_infer, source, work, shipped.path, _CPUS)
                flat.append(Series(files, f"infer -j {_CPUS}", _CPUS, run))
            repeat_in_turn(flat, options.repeats)
            print_flatness(flat)
            return
        seed = work / "seed"
        measure(_function(f"make_seed_bundle({str(seed)!r})"), {"TF_CPP_MIN_LOG_LEVEL": "3"})
        source = multiply(corpus, work / "source", options.files)
        notebook = Series(
            options.files,
            f"notebook's loop (scaled from {_NOTEBOOK_FILES})",
            1,
            partial(run_notebook, corpus, seed, options.files),
        )
        models = [("seed", seed), ("default", shipped.path)]
        tables = [compared(name, notebook, source, work, bundle) for name, bundle in models]
        repeat_in_turn([notebook, *(one for table in tables for one in table[1:])], options.repeats)
        for table in tables:
            print_comparison(table)
            print()
        whole = {name: table[-1].secs for (name, _), table in zip(models, tables, strict=True)}
        print_parts(models, source, whole, options.repeats)
        print_start(corpus, options.repeats)


if __name__ == "__main__":
    main()
