"""Score a bundle on a labelled corpus that it was not trained on.

    python tools/cross_corpus.py ravdess.csv work/ [--model BUNDLE]

The CSV has the columns file, label and speaker. Recordings whose label the model does not have are left out. Predicts
with `ser-batch infer` and each adaptation, and prints a Markdown table: UAR and accuracy over all labels of the model,
the mean confidence, and the UAR when choosing among the corpus' own labels only.
"""

import argparse
from pathlib import Path

import pandas as pd
from sklearn.metrics import accuracy_score, recall_score

from ser_batch.models.bundles import Bundle, open_bundle, shipped_bundle
from tools.measuring import ser_batch

HOW = {"none": "each recording alone", "batch": "the batch", "voices": "voices found", "speakers": "speakers given"}


def main() -> None:
    """Predict and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="CSV with the columns file, label and speaker")
    parser.add_argument("work", type=Path, help="folder for tables")
    parser.add_argument("--model", type=Path, help="bundle folder (default: the shipped model)")
    options = parser.parse_args()
    bundle = open_bundle(options.model) if options.model else shipped_bundle()
    print("\n".join(table_lines(options.corpus, options.work, bundle)))


def table_lines(corpus: Path, work: Path, bundle: Bundle) -> list[str]:
    """The table as lines of Markdown."""
    work.mkdir(parents=True, exist_ok=True)
    truth = pd.read_csv(corpus, dtype=str)
    truth = truth[truth.label.isin(bundle.labels)].reset_index(drop=True)
    truth["file"] = [str((corpus.parent / name).absolute()) for name in truth.file]
    own = sorted(truth.label.unique())
    header = "| adapted to | UAR | accuracy | mean confidence | UAR among its own labels |"
    lines = [f"{len(truth):,} recordings; labels {', '.join(own)}", "", header, "| --- | ---: | ---: | ---: | ---: |"]
    for adapt, shown in HOW.items():
        columns = ["file", "speaker"] if adapt == "speakers" else ["file"]
        truth[columns].to_csv(work / f"{adapt}-in.csv", index=False)
        out = work / f"{adapt}.csv"
        source, model = str(work / f"{adapt}-in.csv"), str(bundle.path)
        ser_batch("infer", source, "-o", str(out), "--model", model, "--adapt", adapt, "--restart", "-q")
        found = pd.read_csv(out)
        among_own = found[[f"p_{label}" for label in own]].idxmax(axis=1).str.removeprefix("p_")
        uar, uar_own = (
            recall_score(truth.label, predicted, labels=own, average="macro", zero_division=0)
            for predicted in (found.emotion, among_own)
        )
        accuracy = accuracy_score(truth.label, found.emotion)
        lines.append(f"| {shown} | {uar:.3f} | {accuracy:.3f} | {found.confidence.mean():.3f} | {uar_own:.3f} |")
    return lines


if __name__ == "__main__":
    main()
