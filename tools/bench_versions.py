"""Time the commands of this checkout against those of another one, in turn, and print a Markdown table.

    git worktree add ../before COMMIT
    python -m tools.bench_versions path/to/emodb/wav ../before --files 10000 --repeats 5

Both run with the packages of this Python, each command in a fresh process, start-up included; medians count.
``train`` is of the corpus itself, 3 epochs of the recipe of the notebook.
"""

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path

from tools.measuring import ROOT, Measured, Series, measure, multiply, print_machine, repeat_in_turn


def run(checkout: Path, command: list[str], out: Path | None) -> Measured:
    """Run a command of a checkout; its output is removed before."""
    if out is not None:
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)
        shutil.rmtree(out.with_name(f".{out.name}.parts"), ignore_errors=True)
        out.with_name(f".{out.name}.lock").unlink(missing_ok=True)
    output = [] if out is None else ["--out", str(out), "--quiet"]
    return measure(["-m", "ser_batch", *command, *output], root=checkout)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="EmoDB's wav folder")
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--infer-options", default="--adapt none", help="of infer of this checkout only")
    options = parser.parse_args()
    print_machine(f"{options.files:,} files, median of {options.repeats}")
    print("| command | other checkout, seconds (least to most) | this one | ratio |")
    print("| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, corpus = str(multiply(options.corpus.absolute(), folder / "source", options.files)), options.corpus
        one_file = str(min(corpus.glob("*.wav")))
        labels = ["--labels", "emodb"]
        checkouts = {"other": options.other.absolute(), "this": ROOT}
        for side, checkout in checkouts.items():
            run(checkout, ["build-records", str(corpus), *labels], folder / side / "corpus")
        commands: dict[str, tuple[list[str], str | None]] = {
            "--help": (["--help"], None),
            "infer, one file": (["infer", one_file], "one.csv"),
            "build-records": (["build-records", source, *labels], "records"),
            "infer": (["infer", source], "preds.csv"),
            "train": (["train", "CORPUS", "--recipe", "seed", "--epochs", "3"], "bundle"),
        }
        for title, (command, out) in commands.items():
            series = []
            for side, checkout in checkouts.items():
                here = [str(folder / side / "corpus") if word == "CORPUS" else word for word in command]
                here += options.infer_options.split() if command[0] == "infer" and side == "this" else []
                place = folder / side / out if out else None
                series.append(Series(options.files, f"{title}, {side}", 0, partial(run, checkout, here, place)))
            repeat_in_turn(series, options.repeats)
            texts = [
                f"{one.secs:.2f} ({min(r.secs for r in one.runs):.2f} to {max(r.secs for r in one.runs):.2f})"
                for one in series
            ]
            print(f"| `{title}` | {texts[0]} | {texts[1]} | {series[1].secs / series[0].secs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
