"""Make the model that comes with the package, and its card.

    python tools/make_shipped_model.py path/to/emodb/wav work/ --other RAVDESS=ravdess.csv

Cross-validates the recipe, then trains it on all speakers, calibrates it with the mean temperature of the folds, and
copies it into the package. All steps are the product's own; a run that was cut short continues. Other corpora are only
scored, by tools/cross_corpus.py.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ser_batch.audio.frontends import preset_name
from ser_batch.models.bundles import Bundle, Calibration, open_bundle, save_bundle
from ser_batch.models.networks.families import encoder_of
from tools.cross_corpus import table_lines
from tools.measuring import ser_batch

SHIPPED = Path(__file__).parent.parent / "ser_batch" / "shipped"
SEEDS = 3
# Trained on EmoDB, the default recipe with its CRNN is a point better on EmoDB, equal on RAVDESS and slower: see
# docs/accuracy.md.
RECIPE = "functionals"

CARD = """# Model card: the model shipped with ser-batch

It classifies a *German studio* recording as one of seven *acted* emotions.

- **Labels:** {labels}.
- **Data:** EmoDB, the Berlin Database of Emotional Speech (Burkhardt, Paeschke, Rolfes, Sendlmeier, Weiss: "A Database
  of German Emotional Speech", Interspeech 2005; CC0-1.0): {n_train} recordings of 10 actors, 16 kHz, all of them.
- **Licence:** the weights are under Apache-2.0, as the package.
- **Network:** {network},
  {parameters:,} parameters; front end `{front_end}`.
- **Recipe:** `{recipe}`, {epochs} epochs, seed {seed}. Trained on EmoDB, the recipe `default`, which adds a CRNN, is
  a point better on EmoDB, equal on RAVDESS and slower (`docs/accuracy.md`). To train on your own recordings, use
  `default`.
- **Fingerprint:** `{fingerprint}`.

## Score on other corpora

These weights, `infer` on all recordings whose label the model has. Nothing was trained on these corpora; the recipe was
chosen with the mean of scores within and between EmoDB and RAVDESS, and so was the rule that lowers confidence, so
figures on RAVDESS are somewhat optimistic.

{others}

Ten speakers of one studio are the limit: on recordings of another language and other microphones, expect about this.
**Train on your own labelled recordings if you can**, and score the result: `ser-batch train`, then
`ser-batch cross-validate`. Confidence is lowered where a batch is unlike the training data. Adapted to a batch, it is
near the accuracy on RAVDESS; for a recording alone it is too high: compare the two columns.

## Score within EmoDB

Of the recipe; these weights were trained on all ten speakers: {title}, {n_seeds} seeds.

**UAR {uar:.3f}** (95 % interval over speakers {uar_low:.3f} to {uar_high:.3f}), WA {wa:.3f}. Nothing was chosen on a
held-out speaker: no early stopping, no best epoch. The recipe's functionals and values were chosen in experiments on
the same ten speakers and on RAVDESS, so the figures are somewhat optimistic.

Adapted to each held-out speaker's unlabelled recordings (`--adapt speakers`; seeds: {n_adapted_seeds}):
**UAR {adapted_uar:.3f}** ({adapted_low:.3f} to {adapted_high:.3f}), WA {adapted_wa:.3f}.

| emotion | precision | recall | F1 | recordings |
| --- | --- | --- | --- | --- |
{rows}

Confusion, all seeds together (row: the truth, column: the prediction):

{confusion}

Worst speaker {worst}: UAR {worst_uar:.2f}; best speaker {best}: UAR {best_uar:.2f}.

**Calibration:** temperature {temperature:.2f} alone, {adapted_temperature:.2f} adapted. The geometric mean of the
folds', each fitted to the out-of-fold predictions of the other folds, is {mean_temperature:.2f} and
{adapted_mean:.2f}. With it, the expected calibration error (15 bins, all out-of-fold predictions together) is
{ece_after:.3f}, without it {ece_before:.3f}; adapted, {adapted_after:.3f} and {adapted_before:.3f}. It is used where it
lowers this error, but never below 1 for recordings alone, whose confidence on other corpora is too high already.

## What it is not

- Not a detector of felt emotions. Actors played seven named emotions on ten fixed sentences; real speech is mixed, mild
  and mostly none of the seven. It predicts one of them for any recording; `novelty` near 1 means that the
  recording is unlike what it was trained on.
- Not tested on children or illness; on other languages, telephones and rooms its scores are lower and its confidence is
  too high.
- **Not for decisions about people**: hiring, policing, insurance, schooling, health or the like.

Made by `python tools/make_shipped_model.py path/to/emodb/wav work/ --other RAVDESS=ravdess.csv`.
"""

_NETWORKS = {
    "functionals": "functionals of the recording and one softmax layer (`ser_batch.models.networks.functionals`)",
    "seed_crnn": "`ser_batch.models.networks.seed_crnn`",
}


def main() -> None:
    """Build, cross-validate, train, calibrate, copy, describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="EmoDB's wav folder")
    parser.add_argument("work", type=Path, help="folder for records, model and cross-validation")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=CSV", help="a corpus to score it on")
    options = parser.parse_args()
    records, model, validation = (options.work / name for name in ("records", "model", "validation"))
    ser_batch("build-records", options.corpus, "-o", str(records), "--split", "none")
    ser_batch("cross-validate", str(records), "-o", str(validation), "--recipe", RECIPE, "--seeds", str(SEEDS))
    adapted = options.work / "validation-speakers"
    given = ("--adapt", "speakers", "--seeds", str(SEEDS))
    ser_batch("cross-validate", str(records), "-o", str(adapted), "--recipe", RECIPE, *given)
    ser_batch("train", str(records), "-o", str(model), "--recipe", RECIPE)
    scores, adapted_scores = read(validation), read(adapted)
    trained = open_bundle(model)
    calibration = Calibration(
        # Not below 1: alone, predictions on other corpora are too confident without it.
        temperature=max(1.0, temperature_of(scores)),
        fitted_on=scores["recordings"],
        adapted_temperature=temperature_of(adapted_scores),
    )
    content = trained.content.replace(calibration=calibration)
    network = trained.load_network()
    bundle = save_bundle(SHIPPED, network, encoder_of(network), trained.load_arrays(), content)
    others = []
    for name, path in (one.split("=", 1) for one in options.other):
        others += [
            f"**{name}**: {line}" if not number else line
            for number, line in enumerate(table_lines(Path(path), options.work / name, bundle))
        ] + [""]
    confusion = (validation / "confusion_matrix.csv").read_text(encoding="utf-8")
    (SHIPPED / "MODEL_CARD.md").write_text(card(bundle, scores, adapted_scores, confusion, others), encoding="utf-8")
    shutil.copy(validation / "reliability.png", SHIPPED.parent.parent / "docs" / "reliability.png")


def temperature_of(scores: dict[str, Any]) -> float:
    """The mean temperature of the folds; 1 if this has the lower calibration error."""
    errors = scores["ece"]["pooled"]
    return float(scores["temperature"]) if errors["after"] < errors["before"] else 1.0


def read(folder: Path) -> dict[str, Any]:
    """The scores of a cross-validation."""
    scores: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return scores


def card(bundle: Bundle, scores: dict[str, Any], adapted: dict[str, Any], confusion: str, others: Sequence[str]) -> str:
    """The model card.

    Args:
        bundle: the shipped one.
        scores: of the cross-validation.
        adapted: of the cross-validation that adapts to each speaker.
        confusion: the matrix of the first, as CSV.
        others: scores on other corpora, as lines of Markdown.
    """
    recipe = bundle.training["recipe"]
    by_uar = sorted(scores["speakers"].items(), key=lambda item: float(item[1]["uar"]))
    (worst, low), (best, high) = by_uar[0], by_uar[-1]
    header, *lines = (line.split(",") for line in confusion.splitlines())
    table = [header, ["---"] * len(header), *lines]
    return CARD.format(
        others="\n".join(others).strip() or "None was tried.",
        n_adapted_seeds=len(adapted["seeds"]),
        adapted_uar=adapted["uar"]["mean"],
        adapted_low=adapted["uar"]["interval"][0],
        adapted_high=adapted["uar"]["interval"][1],
        adapted_wa=adapted["wa"]["mean"],
        labels=", ".join(bundle.labels),
        n_train=bundle.training["n_examples"]["train"],
        network=_NETWORKS[recipe["network"]],
        parameters=bundle.training["parameters"],
        front_end=preset_name(bundle.front_end),
        recipe=recipe["name"],
        epochs=recipe["epochs"],
        seed=bundle.training["seed"],
        fingerprint=bundle.short_fingerprint,
        title=scores["title"],
        n_seeds=len(scores["seeds"]),
        uar=scores["uar"]["mean"],
        uar_low=scores["uar"]["interval"][0],
        uar_high=scores["uar"]["interval"][1],
        wa=scores["wa"]["mean"],
        rows="\n".join(
            f"| {label} | {one['precision']:.2f} | {one['recall']:.2f} | {one['f1']:.2f} | {one['support']} |"
            for label, one in scores["classes"].items()
        ),
        confusion="\n".join(f"| {' | '.join(cells)} |" for cells in table),
        worst=worst,
        worst_uar=low["uar"],
        best=best,
        best_uar=high["uar"],
        temperature=bundle.temperature,
        mean_temperature=scores["temperature"],
        ece_before=scores["ece"]["pooled"]["before"],
        ece_after=scores["ece"]["pooled"]["after"],
        adapted_temperature=bundle.content.calibration.adapted_temperature,
        adapted_mean=adapted["temperature"],
        adapted_before=adapted["ece"]["pooled"]["before"],
        adapted_after=adapted["ece"]["pooled"]["after"],
    )


if __name__ == "__main__":
    main()
