"""Train recipes on one speaker-disjoint split of EmoDB, several seeds each, and print a table of test scores.

    python tools/compare_recipes.py path/to/emodb/wav work/

Everything goes through the product's own commands, so a run that was cut short continues.
The split: `build-records --fractions 0.7,0,0.3 --seed 0` (7 speakers to train, 3 to test, none to choose by).
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def ser_batch(*arguments: str) -> None:
    """Run a command of the product; its errors are ours."""
    subprocess.run([sys.executable, "-m", "ser_batch", *arguments], check=True)


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="EmoDB's wav folder")
    parser.add_argument("work", type=Path, help="folder for records, models and evaluations")
    parser.add_argument("--recipes", nargs="+", default=["default", "seed"])
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    options = parser.parse_args()
    records = str(options.work / "records")
    ser_batch("build-records", options.corpus, "-o", records, "--fractions", "0.7,0,0.3", "--seed", "0")
    scores: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in options.recipes}
    for seed in options.seeds:
        for recipe in options.recipes:
            name = f"{recipe}-{seed}"
            model, evaluation = str(options.work / "models" / name), str(options.work / "eval" / name)
            ser_batch("train", records, "-o", model, "--recipe", recipe, "--seed", seed)
            ser_batch("evaluate", model, records, "-o", evaluation)
            scores[recipe].append(json.loads((Path(evaluation) / "scores.json").read_text()))
    print("| recipe | UAR of each seed | mean | WA of each seed | mean |")
    print("| --- | --- | --- | --- | --- |")
    for recipe, of_seeds in scores.items():
        cells = []
        for figure in ("uar", "wa"):
            values = [one[figure] for one in of_seeds]
            cells += [", ".join(f"{value:.3f}" for value in values), f"{statistics.mean(values):.3f}"]
        print(f"| {recipe} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
