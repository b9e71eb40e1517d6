"""How many recordings a training needs, from nothing and from a bundle that was trained on another corpus.

    python tools/fine_tuning.py path/to/emodb/wav ravdess.csv work/

Trains the recipe on all of the second corpus, a CSV with the columns file, label and speaker. Then draws a few
recordings per label from seven of EmoDB's speakers, trains on them from nothing and with --init, and predicts the other
three speakers with `ser-batch infer`: each recording alone, and adapted to its speaker. Prints the mean UAR of several
draws and their least and greatest. The speakers that are held out are used for nothing but the scores.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import recall_score

from ser_batch.corpus.naming_schemes import CORPORA
from tools.measuring import ser_batch

HELD_OUT = ("03", "11", "16")
SIZES = (5, 10, 20)
HOW = ("none", "speakers")


def main() -> None:
    """Train, draw, train, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="EmoDB's wav folder")
    parser.add_argument("other", type=Path, help="CSV of the other corpus")
    parser.add_argument("work", type=Path, help="folder for records, models and tables")
    parser.add_argument("--recipe", default="functionals")
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    train(str(options.other), options.work / "other", options.recipe)
    paths = sorted(options.corpus.glob("*.wav"))
    test = write_list(options.work / "test.csv", [path for path in paths if path.name[:2] in HELD_OUT])
    known = [path for path in paths if path.name[:2] not in HELD_OUT]
    print("| recordings per label | start | UAR alone (least to greatest) | UAR adapted (least to greatest) |")
    print("| ---: | --- | ---: | ---: |")
    for size in SIZES:
        found: dict[tuple[str, str], list[float]] = {}
        for draw in range(options.draws):
            drawn = write_list(options.work / f"{size}-{draw}.csv", draw_recordings(known, size, draw))
            for start in ("nothing", "the other corpus"):
                bundle = options.work / f"{size}-{draw}-{start.split()[-1]}"
                init = ["--init", str(options.work / "other" / "model")] if start != "nothing" else []
                train(str(drawn), bundle, options.recipe, *init)
                for how in HOW:
                    found.setdefault((start, how), []).append(score(test, bundle, how))
        for start in ("nothing", "the other corpus"):
            cells = [
                f"{np.mean(uars):.3f} ({min(uars):.3f} to {max(uars):.3f})"
                for uars in (found[start, how] for how in HOW)
            ]
            print(f"| {size} | {start} | {' | '.join(cells)} |", flush=True)


def draw_recordings(paths: Sequence[Path], size: int, seed: int) -> list[Path]:
    """Up to so many recordings of each label."""
    random, chosen = np.random.default_rng([size, seed]), []
    for code in CORPORA["emodb"].labels:
        of_label = [path for path in paths if path.name[5] == code]
        numbers = random.choice(len(of_label), min(size, len(of_label)), replace=False)
        chosen += [of_label[number] for number in sorted(numbers)]
    return chosen


def write_list(path: Path, recordings: Sequence[Path]) -> Path:
    """Write a CSV with the labels and speakers of EmoDB's names."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = [[str(one.absolute()), CORPORA["emodb"].labels[one.name[5]], one.name[:2]] for one in recordings]
        csv.writer(file).writerows([["file", "label", "speaker"], *rows])
    return path


def train(source: str, folder: Path, recipe: str, *options: str) -> None:
    """Build records and train on all of them."""
    ser_batch("build-records", source, "-o", str(folder / "records"), "--split", "none", "-q")
    ser_batch("train", str(folder / "records"), "-o", str(folder / "model"), "--recipe", recipe, "-q", *options)


def score(test: Path, folder: Path, how: str) -> float:
    """The UAR of a bundle on the recordings of a list."""
    out = folder / f"{how}.csv"
    ser_batch("infer", str(test), "-o", str(out), "--model", str(folder / "model"), "--adapt", how, "-q", "--restart")
    truth, found = pd.read_csv(test, dtype=str), pd.read_csv(out)
    return float(recall_score(truth.label, found.emotion, average="macro"))


if __name__ == "__main__":
    main()
