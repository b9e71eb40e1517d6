"""Compare confidence and accuracy within and between corpora, and on perturbed recordings.

    python -m tools.shift_confidence work/ EmoDB=path/to/emodb/wav:5 RAVDESS=path/to/ravdess:3

Trains the recipe `functionals` without the speakers of each fold, and on all of each corpus. Tests on the held-out
speakers, on the other corpora, and on perturbed versions of both, with each adaptation. Prints two tables: accuracy,
and confidence without and with what lowers it under shift; and the mean over all rows of the absolute difference
of the two and of the calibration error, also with other values of the constants. A run that was cut short continues.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ser_batch.corpus.folds import Fold
from ser_batch.evaluation.fold_tasks import train_fold
from ser_batch.evaluation.metrics import expected_calibration_error
from ser_batch.inference.adaptation import find_groups
from ser_batch.models.bundles import Adaptation, Bundle, open_bundle
from ser_batch.models.calibration import apply_temperature
from ser_batch.models.novelty import UNFAMILIAR
from ser_batch.records.folder import open_records
from ser_batch.training.recipes import find_recipe
from tools.measuring import ser_batch
from tools.robustness import PERTURBATIONS, write_perturbed
from tools.voice_deviations import Corpus, read

KINDS = (
    "none",
    "pink noise, 10 dB",
    "pink noise, 20 dB",
    "reverberation, .3 s",
    "8 kHz, µ-law",
    "GSM 6.10",
    "MP3, lowest quality",
    "Opus, lowest quality",
    "10 % slower",
)


@dataclass(frozen=True)
class Constants:
    """See `ser_batch.models.agreement` and `.calibration`; a slope of None: 1.6 if unfamiliar, else 1."""

    slope: float | None = 7.5
    loss: float = 0.05
    exponent: float = 2.0
    prior: float = 20.0
    unfamiliar: float = 1.6


NOTHING = Constants(slope=None, exponent=0.0, unfamiliar=1.0)
CHOSEN = Constants()
TRIED = {
    "nothing": NOTHING,
    "1.6 for an unfamiliar batch": Constants(slope=None, exponent=0.0),
    "chosen: slope 7.5, loss .05, exponent 2": CHOSEN,
    **{f"slope {one:g}": replace(CHOSEN, slope=one) for one in (5.0, 6.0, 9.0, 11.0)},
    **{f"loss {one:g}": replace(CHOSEN, loss=one) for one in (0.0, 0.03, 0.08)},
    **{f"exponent {one:g}": replace(CHOSEN, exponent=one) for one in (0.0, 1.0, 3.0, 5.0)},
}


@dataclass(frozen=True)
class Tested:
    """The predictions of one model on one set of recordings.

    Attributes:
        row: of the table.
        adapt: what they are adapted to.
        probabilities: ``(n, labels)``, not calibrated.
        truth: int ``(n,)``.
        excess: of the novelty, ``(n,)``.
        loss: of agreement.
        is_unfamiliar: the batch, before adaptation.
    """

    row: str
    adapt: Adaptation
    probabilities: NDArray[np.float64]
    truth: NDArray[np.int64]
    excess: NDArray[np.float64]
    loss: float
    is_unfamiliar: bool

    @property
    def accuracy(self) -> float:
        """The share of correct predictions."""
        return float((self.probabilities.argmax(axis=1) == self.truth).mean())

    def with_constants(self, constants: Constants) -> NDArray[np.float64]:
        """Probabilities at the temperatures that these constants give."""
        log_of_batch = 0.0
        if self.adapt != "none":
            prior = math.log(constants.unfamiliar) if self.is_unfamiliar else 0.0
            if constants.slope is None:
                log_of_batch = prior
            else:
                n, own = len(self.truth), constants.slope * max(0.0, self.loss - constants.loss)
                log_of_batch = (n * own + constants.prior * prior) / (n + constants.prior)
        return apply_temperature(self.probabilities, np.exp(log_of_batch + constants.exponent * self.excess))


def test(row: str, bundle: Bundle, corpus: Corpus) -> list[Tested]:
    """Predict the recordings whose label the model has, with each adaptation."""
    arrays, labels = bundle.load_arrays(), list(bundle.labels)
    known = corpus.of(np.isin(corpus.labels, labels))
    truth = np.array([labels.index(label) for label in known.labels])
    names = [str(number) for number in range(len(truth))]
    alone = arrays.novelty.of(arrays.head.features(known.features))
    found = []
    for adapt in get_args(Adaptation):
        given = known.speakers.tolist() if adapt == "speakers" else [""] * len(truth)
        groups = find_groups(adapt, lambda: list(known.features), given, names, arrays)
        features = arrays.head.features(known.features, groups.of(range(len(truth))))
        assert arrays.agreement is not None
        loss = float(arrays.agreement.expected) - arrays.agreement.of(features)
        probabilities, excess = arrays.head.probabilities(features), arrays.novelty.excess(features)
        found.append(Tested(row, adapt, probabilities, truth, excess, loss, bool(np.median(alone) > UNFAMILIAR)))
    return found


def versions(name: str, folder: Path, work: Path) -> dict[str, Corpus]:
    """The functionals of a corpus, as it is and with each perturbation."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac"))
    kinds = {kind: PERTURBATIONS[kind] for kind in KINDS}
    if not (work / name / KINDS[-1]).exists():
        write_perturbed(paths, work / name, kinds)
    found = {}
    for kind in KINDS:
        records = work / f"{name}-records" / kind
        records.parent.mkdir(parents=True, exist_ok=True)
        ser_batch("build-records", str(work / name / kind), "-o", str(records), "--split", "none", "-q")
        found[kind] = read(records, work / "functionals")
    return found


def trained(records: Path, folder: Path, held_out: NDArray[np.bool_]) -> Bundle:
    """The recipe `functionals`, trained on the others."""
    if (folder / "bundle.json").exists():
        return open_bundle(folder)
    fold = Fold(folder.name, ~held_out, held_out)
    features = folder.parent / "features"
    return train_fold(open_records(records), folder, find_recipe("functionals"), 0, fold, {}, features=features)


def mean(tested: Sequence[Tested], figure: Callable[[Tested], float]) -> float:
    """The mean over rows of the mean over the predictions of a row, which may be of several folds and perturbations."""
    rows = dict.fromkeys(one.row for one in tested)
    return float(np.mean([np.mean([figure(one) for one in tested if one.row == row]) for row in rows]))


def gap(one: Tested, constants: Constants) -> float:
    """Mean confidence minus accuracy."""
    return float(one.with_constants(constants).max(axis=1).mean()) - one.accuracy


def main() -> None:
    """Perturb, train, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for sounds, records and models")
    parser.add_argument("corpora", nargs="+", metavar="NAME=FOLDER:FOLDS")
    options = parser.parse_args()
    places = {name: place.rpartition(":") for name, place in (one.split("=", 1) for one in options.corpora)}
    corpora = {name: versions(name, Path(folder), options.work) for name, (folder, _, _) in places.items()}
    tested: list[Tested] = []
    for name, of_kinds in corpora.items():
        speakers = of_kinds["none"].speakers.astype(str)
        records, models = options.work / f"{name}-records" / "none", options.work / f"{name}-models"
        n_folds = int(places[name][2])
        for number in range(n_folds):
            own = np.unique(speakers)[number::n_folds]
            bundle = trained(records, models / str(number), np.isin(speakers, own))
            for kind, corpus in of_kinds.items():
                row = f"{name}, new speakers" + (", perturbed" if kind != "none" else "")
                tested += test(row, bundle, corpus.of(np.isin(corpus.speakers.astype(str), own)))
        whole = trained(records, models / "all", np.zeros(len(speakers), np.bool_))
        for other in corpora.keys() - {name}:
            for kind, corpus in corpora[other].items():
                tested += test(f"{other}, model of {name}" + (", perturbed" if kind != "none" else ""), whole, corpus)
    print_tables(tested)


def print_tables(tested: Sequence[Tested]) -> None:
    """Print both tables as Markdown."""
    adaptations: tuple[Any, ...] = get_args(Adaptation)
    print(f"| recordings | {' | '.join(f'{one}: accuracy | before | after' for one in adaptations)} |")
    print(f"| --- |{' ---: |' * 3 * len(adaptations)}")
    for row in dict.fromkeys(one.row for one in tested):
        cells = []
        for adapt in adaptations:
            of_row = [one for one in tested if (one.row, one.adapt) == (row, adapt)]
            accuracy = mean(of_row, lambda one: one.accuracy)
            gaps = [mean(of_row, lambda one, tried=tried: gap(one, tried)) for tried in (NOTHING, CHOSEN)]  # type: ignore[misc]
            cells += [f"{accuracy:.3f}", *(f"{accuracy + one:.3f}" for one in gaps)]
        print(f"| {row} | {' | '.join(cells)} |")
    print(f"\n| constants | {' | '.join(f'{one}: difference | ECE' for one in adaptations)} |")
    print(f"| --- |{' ---: |' * 2 * len(adaptations)}")
    for name, constants in TRIED.items():
        cells = []
        for adapt in adaptations:
            of_adaptation = [one for one in tested if one.adapt == adapt]
            errors = [
                mean(of_adaptation, lambda one, tried=constants: abs(gap(one, tried))),  # type: ignore[misc]
                mean(
                    of_adaptation,
                    lambda one, tried=constants: expected_calibration_error(one.with_constants(tried), one.truth),  # type: ignore[misc]
                ),
            ]
            cells += [f"{one:.3f}" for one in errors]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
