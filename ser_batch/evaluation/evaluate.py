"""Evaluation of a bundle on a split of a record folder."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pandas import DataFrame, Index, read_csv

from ser_batch.audio.frontends import build_options
from ser_batch.errors import FrontEndError, RecordsError
from ser_batch.evaluation.figures import plot_confusion
from ser_batch.evaluation.metrics import Scores, score
from ser_batch.formatting import format_timestamp, pluralize
from ser_batch.inference.examples import LabelledPrediction, predict_examples
from ser_batch.inference.predictions import Classifier
from ser_batch.models.bundles import Adaptation, Bundle
from ser_batch.records.folder import RecordFolder, check_no_repeats
from ser_batch.records.reader import split_selection
from ser_batch.storage.outputs import OutputKind, open_output, read_own_json
from ser_batch.storage.writing import open_atomically, write_json, write_rows

SCORES = "scores.json"
PREDICTIONS = "predictions.csv"
_FILES = {PREDICTIONS, "report.csv", SCORES, "confusion_matrix.csv", "confusion_matrix.png"}
_KIND = OutputKind(
    "an evaluation", SCORES, ".parts", _FILES.__contains__, lambda folder: read_own_json(folder / SCORES)
)


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        path: its folder.
        scores: UAR, WA, scores of each label, confusion matrix.
        was_finished: whether the folder was already complete before this run.
    """

    path: Path
    scores: Scores
    was_finished: bool = False

    def __repr__(self) -> str:
        recordings = pluralize(int(self.scores.confusion.sum()), "recording")
        return f"<Evaluation {self.path}: {self.scores.uar_text}, WA {self.scores.wa:.3f}, {recordings}>"

    def confusion(self) -> DataFrame:
        """Numbers of recordings: a row for each true label, a column for each predicted one."""
        labels = [one.label for one in self.scores.classes]
        return DataFrame(self.scores.confusion, Index(labels, name="true"), Index(labels, name="predicted"))

    def predictions(self) -> DataFrame:
        """The rows of ``predictions.csv``: a row for each recording, with its true label."""
        texts: Any = dict.fromkeys(("file", "start", "end", "speaker", "label", "emotion"), str)
        return read_csv(self.path / PREDICTIONS, dtype=texts, keep_default_na=False)


def evaluate(
    bundle: Bundle,
    records: RecordFolder,
    split: str,
    folder: Path,
    restart: bool = False,
    adapt: Adaptation = "none",
) -> Evaluation:
    """Score a bundle and write the evaluation folder.

    Recordings whose label the model does not have are predicted, as the others may be adapted to them, and not scored.

    Args:
        bundle: the model.
        records: with the front end of the bundle.
        split: train, validation or test.
        folder: output folder; created if absent.
        restart: discard an earlier evaluation in the folder.
        adapt: what the predictions are adapted to; the batch is the split.

    Returns:
        The finished evaluation.

    Raises:
        FrontEndError: the records were made with another front end.
        RecordsError: no recording of the split has a label of the model, or there is no such split.
        OutputError: the folder is in use, not writable, or contains other files or another evaluation.
    """
    if records.front_end != bundle.front_end:
        raise FrontEndError(
            f"{records.path}: made with another front end ({build_options(records.front_end)}) than the "
            f"model {bundle.path}; build the records again with the model's ({build_options(bundle.front_end)})"
        )
    if not set(records.labels) & set(bundle.labels):
        raise RecordsError(
            f"{records.path}: has no label of the model: it has {', '.join(records.labels)}, and the model has "
            f"{', '.join(bundle.labels)}"
        )
    selection = split_selection(records, split)
    check_no_repeats(records, selection.shards)
    identity = {"model": bundle.fingerprint, "records": records.fingerprint, "split": split, "adapt": adapt}
    with open_output(folder, _KIND, identity, restart) as output:
        if output.is_finished and all((folder / name).exists() for name in _FILES):
            return Evaluation(folder, _read_scores(folder, bundle.labels), was_finished=True)
        predicted = predict_examples(bundle, Classifier.of(bundle), records, selection, adapt)
        evaluated = [one for one in predicted if one.label >= 0]
        if not evaluated:
            raise RecordsError(f"{records.path}: no recording of the split {split} has a label of the model")
        found = [int(np.argmax(one.prediction.probabilities)) for one in evaluated]
        scores = score([one.label for one in evaluated], found, bundle.labels)
        title = (
            f"{split}, --adapt {adapt}: {scores.uar_text}, WA {scores.wa:.3f}, {pluralize(len(evaluated), 'recording')}"
        )
        plot_confusion(scores.confusion, bundle.labels, title, folder / "confusion_matrix.png")
        _write_tables(folder, evaluated, scores, bundle.labels)
        write_json(folder / SCORES, identity | scores.to_json())
        output.finish()
        return Evaluation(folder, scores)


def _write_tables(folder: Path, evaluated: list[LabelledPrediction], scores: Scores, labels: tuple[str, ...]) -> None:
    with open_atomically(folder / PREDICTIONS) as file:
        shown = [f"p_{label}" for label in labels]
        write_rows(file, [["file", "start", "end", "speaker", "label", "emotion", "confidence", "novelty", *shown]])
        for one in evaluated:
            probabilities = one.prediction.probabilities
            best = int(np.argmax(probabilities))
            row = [
                one.prediction.file,
                format_timestamp(one.prediction.start_secs),
                format_timestamp(one.prediction.end_secs),
                one.speaker,
            ]
            row += [labels[one.label], labels[best], f"{probabilities[best]:.6f}", f"{one.prediction.novelty:.6f}"]
            write_rows(file, [row + [f"{probability:.6f}" for probability in probabilities]])
    with open_atomically(folder / "report.csv") as file:
        write_rows(file, [["label", "precision", "recall", "f1", "support"]])
        for one_class in scores.classes:
            figures = (one_class.precision, one_class.recall, one_class.f1)
            write_rows(file, [[one_class.label, *(f"{figure:.6f}" for figure in figures), str(one_class.support)]])
    with open_atomically(folder / "confusion_matrix.csv") as file:
        write_rows(file, [["true", *labels]])
        write_rows(file, [[label, *map(str, row)] for label, row in zip(labels, scores.confusion, strict=True)])


def _read_scores(folder: Path, labels: tuple[str, ...]) -> Scores:
    """The scores of a finished evaluation, from its predictions."""
    with open(folder / PREDICTIONS, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    truth = [labels.index(row["label"]) for row in rows]
    return score(truth, [labels.index(row["emotion"]) for row in rows], labels)
