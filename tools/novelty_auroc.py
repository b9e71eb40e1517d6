"""AUROC of novelty: unsuitable sounds against speech of speakers that are not in the training data.

    python tools/novelty_auroc.py path/to/emodb/wav work/ --other RAVDESS=ravdess.csv

Trains the recipe functionals, whose features novelty uses, on seven of EmoDB's speakers (--fractions 0.7,0,0.3), uses
the recordings of the other three as suitable speech, and makes as many sounds of each unsuitable kind: noise, tones,
music, and the same speech reversed, by telephone, in noise, or several voices at once; recordings of other corpora are
one kind each. Prints the area under the ROC curve of each kind, for recordings alone and adapted to the recordings of
the kind as one batch.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ser_batch.records.folder import open_records
from tools.measuring import ser_batch

RATE_HZ = 16_000
Samples = NDArray[np.float64]
HOW = ("none", "batch")


def main() -> None:
    """Train, make, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="EmoDB's wav folder")
    parser.add_argument("work", type=Path, help="folder for records, model, sounds and tables")
    parser.add_argument(
        "--other", action="append", default=[], metavar="NAME=CSV", help="a corpus as a kind of its own"
    )
    options = parser.parse_args()
    records, model = options.work / "records", options.work / "model"
    ser_batch("build-records", str(options.corpus), "-o", str(records), "--fractions", "0.7,0,0.3")
    ser_batch("train", str(records), "-o", str(model), "--recipe", "functionals")
    tables = open_records(records).manifest("file", "speaker", "split")
    rows = [row for table in tables for row in table.to_pylist()]
    held_out = [row["file"] for row in rows if row["split"] == "test"]
    speakers = sorted({row["speaker"] for row in rows if row["split"] == "test"})
    speech = [soundfile.read(options.corpus / name)[0] for name in held_out]
    sounds = options.work / "sounds"
    for kind, make in KINDS.items():
        (sounds / kind).mkdir(parents=True, exist_ok=True)
        for number, samples in enumerate(speech):
            random = np.random.default_rng(number)
            made = make(samples, speech, random)
            soundfile.write(sounds / kind / f"{number:03d}.wav", 0.5 * made / np.abs(made).max(), RATE_HZ)
    known = {how: novelty_of(model, sounds / "held-out speakers", options.work, how) for how in HOW}
    print(f"model {records}: held-out speakers {', '.join(speakers)}, {len(held_out)} recordings, ", end="")
    print(f"median novelty {', '.join(f'{np.median(known[how]):.2f} ({how})' for how in HOW)}\n")
    print(f"| kind | {' | '.join(f'median, {how} | AUROC, {how}' for how in HOW)} |\n| --- |{' ---: |' * 2 * len(HOW)}")
    others = dict(one.split("=", 1) for one in options.other)
    for kind in [*list(KINDS)[1:], *others]:
        cells = []
        for how in HOW:
            new = novelty_of(model, Path(others.get(kind, sounds / kind)), options.work, how)
            area = roc_auc_score([0] * len(known[how]) + [1] * len(new), [*known[how], *new])
            cells.append(f"{np.median(new):.2f} | {area:.3f}")
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def novelty_of(model: Path, source: Path, work: Path, adapt: str) -> list[float]:
    """The column novelty of a folder's table."""
    table = work / f"{source.stem}-{adapt}.csv"
    ser_batch("infer", str(source), "-o", str(table), "--model", str(model), "-q", "--restart", "--adapt", adapt)
    with open(table, encoding="utf-8", newline="") as file:
        return [float(row["novelty"]) for row in csv.DictReader(file)]


# --- kinds of sound, each from a recording, all recordings and a random generator


def _white_noise(samples: Samples, speech: list[Samples], random: np.random.Generator) -> Samples:
    return np.asarray(random.normal(size=len(samples)))


def _pink_noise(samples: Samples, speech: list[Samples], random: np.random.Generator) -> Samples:
    spectrum = np.fft.rfft(random.normal(size=len(samples)))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    return np.asarray(np.fft.irfft(spectrum, len(samples)))


def _tone(samples: Samples, speech: list[Samples], random: np.random.Generator) -> Samples:
    return np.asarray(np.sin(2 * np.pi * random.uniform(100, 2000) * np.arange(len(samples)) / RATE_HZ))


def synthetic_music(samples: Samples, speech: list[Samples], random: np.random.Generator) -> Samples:
    """Plucked chords: three notes with falling harmonics, a new chord four times a second."""
    secs = np.arange(len(samples)) / RATE_HZ
    made = 1e-3 * random.normal(size=len(samples))
    for beat in np.arange(0.0, secs[-1], 0.25):
        for note in random.choice(np.arange(40, 77), size=3, replace=False):
            pitch_hz = 440.0 * 2.0 ** ((note - 69) / 12)
            after = np.clip(secs - beat, 0, None)
            rings = (secs >= beat) * np.exp(-6 * after)
            made += sum(rings * np.sin(2 * np.pi * pitch_hz * k * after) / k**1.5 for k in range(1, 7))
    return made


def _reversed(samples: Samples, speech: list[Samples], random: np.random.Generator) -> Samples:
    return samples[::-1]


def _telephone(samples: Samples, speech: list[Samples], random: np.random.Generator) -> Samples:
    band = scipy.signal.butter(6, (300, 3400), "bandpass", fs=RATE_HZ, output="sos")
    return np.asarray(scipy.signal.sosfilt(band, samples))


def _in_noise(samples: Samples, speech: list[Samples], random: np.random.Generator) -> Samples:
    noise = _pink_noise(samples, speech, random)
    return np.asarray(samples + noise * np.std(samples) / np.std(noise))


def _babble(samples: Samples, speech: list[Samples], random: np.random.Generator) -> Samples:
    made = samples.copy()
    for number in random.choice(len(speech), size=5, replace=False):
        made += np.resize(speech[number], len(samples))
    return made


KINDS: dict[str, Callable[[Samples, list[Samples], np.random.Generator], Samples]] = {
    "held-out speakers": lambda samples, speech, random: samples,
    "white noise": _white_noise,
    "pink noise": _pink_noise,
    "a steady tone": _tone,
    "music (synthetic chords)": synthetic_music,
    "speech reversed": _reversed,
    "speech by telephone (300 to 3400 Hz)": _telephone,
    "speech in pink noise, 0 dB": _in_noise,
    "six voices at once": _babble,
}


if __name__ == "__main__":
    main()
