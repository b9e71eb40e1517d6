"""Score recipes on several corpora, with each adaptation, in cross-validation by groups of speakers.

    python tools/evaluate_recipes.py work/ EmoDB=tfrecords/emodb:5 RAVDESS=tfrecords/ravdess:6

Each corpus is NAME=RECORDS:FOLDS. Every fold and seed is trained once and predicted with each adaptation. Prints a
Markdown table; a run that was cut short continues. Held-out recordings are used for nothing but the scores.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from ser_batch.corpus.folds import make_folds
from ser_batch.evaluation.cross_validate import parallel_folds
from ser_batch.evaluation.fold_predictions import FoldPrediction
from ser_batch.evaluation.fold_scores import write_folds
from ser_batch.evaluation.fold_tasks import fold_rows, predict_fold, train_fold
from ser_batch.evaluation.folders import SCORES
from ser_batch.models.bundles import Adaptation
from ser_batch.records.folder import RecordFolder, open_records
from ser_batch.runtime.local import LocalEngine
from ser_batch.runtime.resources import usable_cpus
from ser_batch.storage.writing import write_json
from ser_batch.training.determinism import one_thread
from ser_batch.training.recipes import find_recipe

HEADER = "| corpus | recipe | adapted to | UAR | 95 % interval | WA | ECE before, after | s a fold |"


@dataclass(frozen=True)
class Task:
    """One fold and seed."""

    records: Path
    folder: Path
    recipe: str
    n_folds: int
    seed: int
    number: int

    @property
    def path(self) -> Path:
        """The file with the predictions of all adaptations."""
        return self.folder / f"seed-{self.seed}-fold-{self.number + 1:02d}.json"


def run_task(task: Task) -> float:
    """Train a fold, predict it with all adaptations, and return the seconds; nothing if it was done before."""
    if not task.path.exists():
        one_thread()
        began, records = time.perf_counter(), open_records(task.records)
        fold = make_folds(fold_rows(records), "speaker", task.n_folds, task.seed)[task.number]
        folder, features = task.path.with_suffix(""), task.folder / "features"
        recipe, sides = find_recipe(task.recipe), {"fold": fold.name}
        bundle = train_fold(records, folder, recipe, task.seed, fold, sides, features=features)
        found = {
            adapt: [asdict(one) for one in predict_fold(bundle, records, task.seed, fold, adapt)]
            for adapt in get_args(Adaptation)
            if adapt in bundle.adaptations
        }
        write_json(task.path, {"secs": time.perf_counter() - began, "predictions": found})
    return float(json.loads(task.path.read_text(encoding="utf-8"))["secs"])


def main() -> None:
    """Train, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for predictions")
    parser.add_argument("corpora", nargs="+", metavar="NAME=RECORDS:FOLDS")
    parser.add_argument("--recipes", nargs="+", default=["functionals", "default"])
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    print(f"{HEADER}\n| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for corpus in options.corpora:
        name, _, place = corpus.partition("=")
        path, _, n_folds = place.rpartition(":")
        records = open_records(Path(path))
        for recipe in options.recipes:
            folder = options.work / name / Path(recipe).stem
            folder.mkdir(parents=True, exist_ok=True)
            tasks = [
                Task(records.path.absolute(), folder.absolute(), recipe, int(n_folds), seed, number)
                for seed in range(options.seeds)
                for number in range(int(n_folds))
            ]
            secs = []
            with LocalEngine(parallel_folds(records, usable_cpus()), worker_bytes=None) as engine:
                for outcome in engine.map(run_task, tasks):
                    if outcome.result is None:
                        raise SystemExit(f"{outcome.task.path}: {outcome.failure}")
                    secs.append(outcome.result)
            print_rows(name, recipe, records, tasks, sum(secs) / len(secs))


def print_rows(name: str, recipe: str, records: RecordFolder, tasks: list[Task], secs: float) -> None:
    """Print the rows of a corpus and recipe, one for each adaptation."""
    stored = [json.loads(task.path.read_text(encoding="utf-8"))["predictions"] for task in tasks]
    for adapt in stored[0]:
        folder = tasks[0].folder / adapt
        folder.mkdir(exist_ok=True)
        predictions = [FoldPrediction(**one) for of_task in stored for one in of_task[adapt]]
        write_folds(folder, predictions, records.labels, f"{name}, recipe {recipe}, --adapt {adapt}", {})
        scores: dict[str, Any] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        uar, ece = scores["uar"], scores["ece"]["pooled"]
        low, high = uar["interval"]
        print(
            f"| {name} | {Path(recipe).stem} | {adapt} | {uar['mean']:.3f} | {low:.3f} to {high:.3f} | "
            f"{scores['wa']['mean']:.3f} | {ece['before']:.3f}, {ece['after']:.3f} | {secs:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
