"""How many recordings of a speaker normalisation by speaker needs: UAR against 1, 3, 5, 10, 20 and all of them.

    python tools/utterance_curve.py path/to/records work/ --seeds 3

Leaves one speaker out, as `cross-validate --normalise speaker` does. Each held-out recording is predicted with
statistics of so many unlabelled recordings of its speaker: itself, and others drawn at random, anew for each.
"""

import argparse
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}

from ser_batch.corpus.folds import make_folds
from ser_batch.evaluation.cross_validate import parallel_folds
from ser_batch.evaluation.fold_tasks import fold_rows
from ser_batch.evaluation.metrics import score
from ser_batch.inference.predictions import Classifier
from ser_batch.models.normalisation import GroupStatistics, scale_to, shrunk
from ser_batch.records.folder import open_records
from ser_batch.records.reader import TrainValidation, read_examples, row_selection
from ser_batch.runtime.local import LocalEngine
from ser_batch.runtime.resources import usable_cpus
from ser_batch.training.determinism import one_thread
from ser_batch.training.recipes import find_recipe
from ser_batch.training.train import train

COUNTS = (1, 3, 5, 10, 20, None)
_DRAWS = 3


@dataclass(frozen=True)
class Held:
    """A speaker to hold out, and the seed of training and draws."""

    number: int
    seed: int


_PRIOR_RECORDINGS = 10.0

# For each count: the true and the predicted labels.
Outcomes = dict[int | None, list[tuple[int, int]]]


def run(held: Held, records_path: Path, work: Path) -> Outcomes:
    """Train without one speaker, and predict them from ever more of their recordings."""
    one_thread()
    records = open_records(records_path)
    fold = make_folds(fold_rows(records), "speaker", None, held.seed)[held.number]
    recipe = find_recipe("functionals")
    folder = work / f"{fold.name}-{held.seed}"
    sides = TrainValidation(row_selection(records, "all others", fold.train), None, fold.name)
    bundle = train(records, folder, recipe, held.seed, restart=True, sides=sides).bundle
    encoder, classifier = bundle.load_encoder(), Classifier.of(bundle)
    reference = classifier.arrays.head.reference
    examples = list(read_examples(records, row_selection(records, "held out", fold.test)))
    features = np.stack([encoder(example.log_mel) for example in examples])
    outcomes: Outcomes = {}
    random = np.random.default_rng([held.seed, held.number])
    for count in COUNTS:
        for _ in range(1 if count is None else _DRAWS):
            for place, example in enumerate(examples):
                others = np.delete(np.arange(len(examples)), place)
                drawn = others if count is None else random.choice(others, count - 1, replace=False)
                statistics = GroupStatistics().add(features[np.append(drawn, place)])
                scale = scale_to(shrunk(statistics, reference, _PRIOR_RECORDINGS), reference)
                best = int(np.argmax(classifier(features[place : place + 1], scale[None])[0, :-1]))
                outcomes.setdefault(count, []).append((example.label, best))
    shutil.rmtree(folder)
    return outcomes


def uar(pairs: Iterable[tuple[int, int]], labels: tuple[str, ...]) -> float:
    """Of all speakers and draws together."""
    truth, predicted = zip(*pairs, strict=True)
    return score(truth, predicted, labels).uar


def main() -> None:
    """Train, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, help="a record folder, whatever its splits")
    parser.add_argument("work", type=Path, help="folder for the bundles")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    records = open_records(options.records)
    options.work.mkdir(parents=True, exist_ok=True)
    n_speakers = len({row["speaker"] for row in fold_rows(records)})
    tasks = [Held(number, seed) for seed in range(options.seeds) for number in range(n_speakers)]
    pooled: dict[int, Outcomes] = {seed: {} for seed in range(options.seeds)}
    compute = partial(run, records_path=options.records, work=options.work)
    with LocalEngine(parallel_folds(records, usable_cpus()), worker_bytes=None) as engine:
        for outcome in engine.map(compute, tasks):
            if outcome.result is None:
                raise SystemExit(f"{outcome.task}: {outcome.failure}")
            for count, pairs in outcome.result.items():
                pooled[outcome.task.seed].setdefault(count, []).extend(pairs)
    print("| recordings of the speaker | UAR, mean | by seed |\n| ---: | ---: | --- |")
    for count in COUNTS:
        figures = [uar(of_seed[count], records.labels) for of_seed in pooled.values()]
        shown = " ".join(f"{figure:.3f}" for figure in figures)
        print(f"| {count or 'all'} | {np.mean(figures):.3f} | {shown} |")


if __name__ == "__main__":
    main()
