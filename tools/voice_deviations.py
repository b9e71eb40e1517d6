"""Score voices with several values of `ser_batch.models.voices.DEVIATIONS`, to choose one.

    python tools/voice_deviations.py work/ EmoDB=tfrecords/emodb:5 RAVDESS=tfrecords/ravdess:6

A logistic regression on the functionals stands for the network: it is fitted in a second. Held out are single speakers,
groups of speakers with neighbouring numbers (in RAVDESS, all of one sex) or at random, and the whole of another corpus.
Prints the UAR without adaptation, and adapted to the batch, to voices, and to the given speakers.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from ser_batch.audio.decoders import Float32s
from ser_batch.inference.adaptation import find_groups
from ser_batch.models import voices
from ser_batch.models.bundles import Adaptation, BundleArrays
from ser_batch.models.heads import Head
from ser_batch.models.normalisation import GroupStatistics, SpeakerScales, scale_to, shrunk, within_speakers
from ser_batch.models.novelty import fit_novelty
from ser_batch.models.voices import fit_voice_space
from ser_batch.records.folder import open_records
from ser_batch.records.reader import manifest_column, row_selection
from ser_batch.training.feature_store import FeatureStore
from ser_batch.training.recipes import find_recipe

DEVIATIONS = (0.4, 0.8, 1.0, 1.2, 1.4, 2.0)
_SHOWN = ["none", "batch", *(f"voices, {one}" for one in DEVIATIONS), "speakers"]


@dataclass(frozen=True)
class Corpus:
    """Functionals ``(n, features)``, labels and speakers ``(n,)`` of a record folder, in the order of its manifest."""

    features: Float32s
    labels: NDArray[np.object_]
    speakers: NDArray[np.object_]

    def of(self, rows: NDArray[np.bool_]) -> "Corpus":
        """Some of its recordings."""
        return Corpus(self.features[rows], self.labels[rows], self.speakers[rows])


def read(path: Path, work: Path) -> Corpus:
    """The functionals of a record folder, kept in ``work``."""
    records = open_records(path)
    everything = row_selection(records, "all", np.ones(records.n_examples(), np.bool_))
    store = FeatureStore(work / records.fingerprint[:12], records, find_recipe("functionals"))
    columns = (manifest_column(records, everything, name).to_pylist() for name in ("label", "speaker"))
    labels, speakers = (np.array(column, dtype=object) for column in columns)
    return Corpus(np.array(store.load(everything)), labels, speakers)


def fitted(corpus: Corpus) -> tuple[BundleArrays, list[str]]:
    """The arrays of a bundle, and its labels."""
    speakers = corpus.speakers.tolist()
    reference = within_speakers(corpus.features, speakers)
    scales = SpeakerScales(corpus.features, speakers, reference).of_speakers(range(len(speakers)))
    nothing = np.zeros((1, 1), np.float32)
    plain = Head(reference.mean, reference.variance, nothing, nothing[0])
    versions = [plain.features(corpus.features), plain.features(corpus.features, scales)]
    names, codes = np.unique(corpus.labels.astype(str), return_inverse=True)
    model = LogisticRegression(C=0.003, max_iter=300, class_weight="balanced")
    model.fit(np.concatenate(versions), np.concatenate([codes, codes]))
    kernel, bias = model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32)
    head = Head(reference.mean, reference.variance, kernel, bias)
    batch = scale_to(shrunk(GroupStatistics().add(corpus.features), reference, 0.0), reference)
    space = fit_voice_space(head.features(corpus.features, batch[None]), speakers)
    return BundleArrays(head, fit_novelty(lambda: [(one, codes) for one in versions]), space), names.tolist()


def predicted(arrays: BundleArrays, labels: Sequence[str], corpus: Corpus, shown: str) -> list[str]:
    """The predicted labels with one of the shown adaptations."""
    how, _, value = shown.partition(", ")
    voices.DEVIATIONS = float(value or 0.0)
    adapt: Adaptation = how  # type: ignore[assignment]
    given = corpus.speakers.tolist() if how == "speakers" else [""] * len(corpus.speakers)
    names = [str(row) for row in range(len(given))]
    scales = find_groups(adapt, lambda: list(corpus.features), given, names, arrays).of(range(len(given)))
    probabilities = arrays.head.probabilities(arrays.head.features(corpus.features, scales))
    return [labels[code] for code in probabilities.argmax(axis=1)]


def print_row(name: str, pairs: Sequence[tuple[Corpus, Corpus]]) -> None:
    """The UAR over all held-out recordings; ``pairs`` are training and held-out ones."""
    truth: list[str] = []
    found: dict[str, list[str]] = {shown: [] for shown in _SHOWN}
    for training, held_out in pairs:
        arrays, labels = fitted(training)
        known = held_out.of(np.isin(held_out.labels, labels))
        truth += known.labels.tolist()
        for shown, so_far in found.items():
            so_far += predicted(arrays, labels, known, shown)
    scores = [recall_score(truth, one, labels=sorted(set(truth)), average="macro") for one in found.values()]
    print(f"| {name} | {' | '.join(f'{one:.3f}' for one in scores)} |", flush=True)


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for functionals")
    parser.add_argument("corpora", nargs="+", metavar="NAME=RECORDS:FOLDS")
    options = parser.parse_args()
    corpora: dict[str, Corpus] = {}
    print(f"| held out | {' | '.join(_SHOWN)} |\n| --- |{' ---: |' * len(_SHOWN)}")
    for one in options.corpora:
        name, _, place = one.partition("=")
        path, _, n_folds = place.rpartition(":")
        corpora[name] = corpus = read(Path(path), options.work)
        splits = {
            "one speaker": LeaveOneGroupOut(),
            "groups of neighbours": GroupKFold(int(n_folds)),
            "random groups": GroupKFold(int(n_folds), shuffle=True, random_state=0),
        }
        for shown, splitter in splits.items():
            folds = [test for _, test in splitter.split(corpus.features, groups=corpus.speakers.astype(str))]
            masks = [np.isin(np.arange(len(corpus.labels)), test) for test in folds]
            print_row(f"{name}, {shown}", [(corpus.of(~mask), corpus.of(mask)) for mask in masks])
    for name, training in corpora.items():
        for other in corpora.keys() - {name}:
            print_row(f"{other}, trained on {name}", [(training, corpora[other])])


if __name__ == "__main__":
    main()
