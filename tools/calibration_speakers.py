"""How many validation speakers a temperature needs: fitted on a few held-out speakers, scored on the others.

    python tools/calibration_speakers.py work/EmoDB/functionals work/RAVDESS/functionals

Each folder is one of `tools/evaluate_recipes.py`, with the predictions of all folds and seeds. For random draws of 1,
2, 3 and 5 speakers, the temperature is fitted on their predictions (each recording alone) and scored on those of all
others. Prints a Markdown table: mean negative log-likelihood (NLL) and ECE with T = 1, with the fitted temperature, and
with the one that `train` uses, whose logarithm is multiplied by n / (n + 3).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_batch.evaluation.metrics import expected_calibration_error
from ser_batch.models.calibration import apply_temperature, fit_temperature

_DRAWS = 200


def read(folder: Path) -> list[tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.str_]]]:
    """Of each seed: probabilities ``(n, labels)``, labels and speakers ``(n,)``."""
    seeds: dict[int, list[dict[str, object]]] = {}
    for path in sorted(folder.glob("seed-*-fold-*.json")):
        for one in json.loads(path.read_text(encoding="utf-8"))["predictions"]["none"]:
            seeds.setdefault(one["seed"], []).append(one)
    return [
        (
            np.array([one["probabilities"] for one in rows]),
            np.array([one["label"] for one in rows]),
            np.array([one["speaker"] for one in rows]),
        )
        for rows in seeds.values()
    ]


def likelihood(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of the labels."""
    return -float(np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def main() -> None:
    """Draw, fit, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args()
    print("| predictions | speakers | NLL, T = 1 | fitted | nearer to 1 | ECE, T = 1 | fitted | nearer to 1 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for folder in options.folders:
        seeds = read(folder)
        for number in (1, 2, 3, 5):
            dice, rows = np.random.default_rng(0), []
            for draw in range(_DRAWS):
                probabilities, labels, speakers = seeds[draw % len(seeds)]
                chosen = np.isin(speakers, dice.choice(np.unique(speakers), number, replace=False))
                given = probabilities[chosen], labels[chosen]
                found = (1.0, fit_temperature(*given) or 1.0, fit_temperature(*given, speakers[chosen].tolist()) or 1.0)
                rest, truth = probabilities[~chosen], labels[~chosen]
                scaled = [apply_temperature(rest, one) for one in found]
                errors = [expected_calibration_error(one, truth) for one in scaled]
                rows.append([likelihood(one, truth) for one in scaled] + errors)
            means = " | ".join(f"{mean:.3f}" for mean in np.mean(rows, axis=0))
            print(f"| {folder.parent.name}, `{folder.name}` | {number} | {means} |", flush=True)


if __name__ == "__main__":
    main()
