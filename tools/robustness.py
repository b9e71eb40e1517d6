"""Score models on perturbed recordings of speakers that they were not trained on.

    python tools/robustness.py path/to/emodb/wav work/ --recipe functionals

Trains a recipe without two of EmoDB's ten speakers at a time (five folds), perturbs the recordings of these
two, and predicts them with `ser-batch infer`: each alone, and adapted to each speaker's recordings of the same
perturbation. Prints the UAR over all recordings, its difference to the unperturbed ones, and the mean confidence.
"""

import argparse
import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import scipy.signal
import soundfile
from librosa.effects import time_stretch
from numpy.typing import NDArray
from sklearn.metrics import recall_score

from ser_batch.corpus.naming_schemes import CORPORA
from tools.measuring import ser_batch

Samples = NDArray[np.floating[Any]]
Audio = tuple[Samples, int]
Perturbation = Callable[[Samples, int, np.random.Generator], Audio]
N_FOLDS = 5
HOW = ("none", "speakers")


def _pink(n: int, random: np.random.Generator) -> Samples:
    spectrum = np.fft.rfft(random.normal(size=n))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, n)
    return np.asarray(noise / noise.std())


def _noise(ratio_db: float) -> Perturbation:
    return lambda samples, rate_hz, random: (
        samples + _pink(len(samples), random) * samples.std() * 10.0 ** (-ratio_db / 20.0),
        rate_hz,
    )


def _around(level: float) -> Perturbation:
    """A second before and after, and noise of a level under all of it."""

    def perturb(samples: Samples, rate_hz: int, random: np.random.Generator) -> Audio:
        longer = np.pad(samples, rate_hz)
        return longer + level * _pink(len(longer), random), rate_hz

    return perturb


def _room(samples: Samples, rate_hz: int, random: np.random.Generator) -> Audio:
    """The direct sound and an exponential decay of .3 s for 60 dB."""
    n = int(0.3 * rate_hz)
    response = random.normal(size=n) * np.exp(-np.log(1000.0) * np.arange(n) / n)
    response *= 0.5 / np.sqrt(np.square(response).sum())
    response[0] = 1.0
    return 0.5 * scipy.signal.fftconvolve(samples, response), rate_hz


def _encoded(rate: int | None, **format_options: Any) -> Perturbation:
    def perturb(samples: Samples, rate_hz: int, random: np.random.Generator) -> Audio:
        used = rate or rate_hz
        file = io.BytesIO()
        soundfile.write(file, scipy.signal.resample_poly(samples, used, rate_hz), used, **format_options)
        file.seek(0)
        decoded, decoded_hz = soundfile.read(file)
        return np.asarray(decoded), int(decoded_hz)

    return perturb


def _tempo(factor: float) -> Perturbation:
    """Another tempo by overlapping segments (WSOLA), FFmpeg's ``atempo``: the sound within a segment is unchanged."""

    def perturb(samples: Samples, rate_hz: int, random: np.random.Generator) -> Audio:
        graph = av.filter.Graph()
        source = graph.add_abuffer(sample_rate=rate_hz, format="flt", layout="mono")
        graph.link_nodes(source, graph.add("atempo", str(factor)), graph.add("abuffersink")).configure()
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate = rate_hz
        graph.push(frame)
        graph.push(None)
        blocks = []
        with suppress(av.FFmpegError):  # at the end
            while True:
                blocks.append(graph.pull().to_ndarray()[0])
        return np.concatenate(blocks), rate_hz

    return perturb


def _vocoder(factor: float) -> Perturbation:
    """Another tempo by librosa's phase vocoder, which also smears the sound."""
    return lambda samples, rate_hz, random: (time_stretch(samples, rate=factor), rate_hz)


PERTURBATIONS: dict[str, Perturbation] = {
    "none": lambda samples, rate_hz, random: (samples, rate_hz),
    "a second of zeros before and after": _around(0.0),
    "a second of room noise before and after": _around(1e-3),
    "pink noise, 20 dB": _noise(20.0),
    "pink noise, 10 dB": _noise(10.0),
    "reverberation, .3 s": _room,
    "8 kHz, µ-law": _encoded(8_000, format="WAV", subtype="ULAW"),
    "GSM 6.10": _encoded(8_000, format="WAV", subtype="GSM610"),
    "MP3, lowest quality": _encoded(None, format="MP3", compression_level=0.99),
    "Opus, lowest quality": _encoded(None, format="OGG", subtype="OPUS", compression_level=0.99),
    "-30 dB": lambda samples, rate_hz, random: (samples * 10.0**-1.5, rate_hz),
    "10 % faster": _tempo(1.1),
    "10 % slower": _tempo(0.9),
    "10 % faster, phase vocoder": _vocoder(1.1),
    "10 % slower, phase vocoder": _vocoder(0.9),
    "44.1 kHz": lambda samples, rate_hz, random: (scipy.signal.resample_poly(samples, 441, 160), 44_100),
    "clipped, 10 dB over": lambda samples, rate_hz, random: (
        np.clip(samples / np.abs(samples).max() * 10.0**0.5, -1, 1),
        rate_hz,
    ),
}


def main() -> None:
    """Perturb, train, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="EmoDB's wav folder")
    parser.add_argument("work", type=Path, help="folder for sounds, records, models and tables")
    parser.add_argument("--recipe", default="default")
    options = parser.parse_args()
    paths = sorted(options.corpus.glob("*.wav"))
    speakers = sorted({path.name[:2] for path in paths})
    found: dict[tuple[str, str], list[pd.DataFrame]] = {(kind, how): [] for kind in PERTURBATIONS for how in HOW}
    for fold in range(N_FOLDS):
        folder = options.work / f"fold-{fold + 1}"
        held_out = [path for path in paths if path.name[:2] in speakers[fold::N_FOLDS]]
        write_perturbed(held_out, folder)
        train_on([path for path in paths if path not in held_out], folder, options.recipe)
        for kind, how in found:
            out = folder / f"{kind}-{how}.csv"
            arguments = ["--model", str(folder / "model"), "--speaker-from", "regex:^(?P<speaker>..)"]
            ser_batch("infer", str(folder / kind), "-o", str(out), "--adapt", how, *arguments, "-q")
            found[kind, how].append(pd.read_csv(out))
    print("| perturbation | UAR alone | difference | confidence | UAR adapted | difference | confidence |")
    print(f"| --- |{' ---: |' * 6}")
    clean = {how: _scores(found["none", how])[0] for how in HOW}
    for kind in PERTURBATIONS:
        cells = []
        for how in HOW:
            uar, confidence = _scores(found[kind, how])
            cells += [f"{uar:.3f}", f"{uar - clean[how]:+.3f}", f"{confidence:.3f}"]
        print(f"| {kind} | {' | '.join(cells)} |")


def write_perturbed(paths: Sequence[Path], folder: Path, kinds: Mapping[str, Perturbation] = PERTURBATIONS) -> None:
    """Write the recordings with each perturbation, in a folder for each."""
    for kind, perturb in kinds.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for path in paths:
            samples, rate_hz = soundfile.read(path)
            changed, changed_hz = perturb(samples, rate_hz, np.random.default_rng(zlib.crc32(path.name.encode())))
            soundfile.write(folder / kind / path.name, np.clip(changed, -1, 1), changed_hz)


def train_on(paths: Sequence[Path], folder: Path, recipe: str) -> None:
    """Train a recipe on recordings of EmoDB."""
    (folder / "training.txt").write_text("\n".join(map(str, paths)), encoding="utf-8")
    source = f"@{folder / 'training.txt'}"
    ser_batch("build-records", source, "-o", str(folder / "records"), "--labels", "emodb", "--split", "none", "-q")
    ser_batch("train", str(folder / "records"), "-o", str(folder / "model"), "--recipe", recipe, "-q")


def _scores(tables: list[pd.DataFrame]) -> tuple[float, float]:
    """UAR and mean confidence of all rows."""
    table = pd.concat(tables)
    truth = table.file.map(lambda name: CORPORA["emodb"].labels[name[5]])
    return float(recall_score(truth, table.emotion, average="macro")), float(table.confidence.mean())


if __name__ == "__main__":
    main()
