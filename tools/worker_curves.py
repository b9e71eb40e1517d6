"""Compare the losses of a training by two workers with those of one, on this machine.

    python -m tools.worker_curves tfrecords/emodb work/ --epochs 10

Prints a Markdown table: the training loss and the validation loss after every epoch, of each part of the network.
"""

import argparse
import csv
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from ser_batch.training.recipes import PARTS, history_name


def train(records: Path, out: Path, n_workers: int, options: list[str]) -> float:
    """Train with so many workers; the seconds."""
    sockets = [socket.socket() for _ in range(n_workers)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    command = [sys.executable, "-m", "ser_batch", "train", str(records), "-o", str(out), "-q", *options]
    began = time.perf_counter()
    processes = []
    for index in range(n_workers):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        processes.append(subprocess.Popen(command, env=os.environ | {"TF_CONFIG": json.dumps(task)}))
    if codes := [process.wait() for process in processes if process.wait()]:
        raise SystemExit(f"{out}: exit codes {codes}")
    return time.perf_counter() - began


def main() -> None:
    """Train with one worker and with two, and print the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("work", type=Path, help="folder for the bundles")
    parser.add_argument("--epochs", default="10")
    parser.add_argument("--recipe", default="default")
    options = parser.parse_args()
    chosen = ["--epochs", options.epochs, "--recipe", options.recipe, "--mixed-precision", "off"]
    bundles = {n: options.work / f"workers-{n}" for n in (1, 2)}
    secs = {n: train(options.records, bundle, n, chosen) for n, bundle in bundles.items()}
    print(f"seconds: {secs[1]:.0f} with one worker, {secs[2]:.0f} with two")
    print("| part | epoch | loss, 1 worker | 2 workers | validation loss, 1 worker | 2 workers |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for part in PARTS:
        paths = [bundle / history_name(part) for bundle in bundles.values()]
        if all(path.exists() for path in paths):
            one, two = (list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) for path in paths)
            for a, b in zip(one, two, strict=True):
                figures = (f"{float(row[name]):.4f}" for name in ("loss", "val_loss") for row in (a, b))
                print(f"| {part or 'functionals'} | {a['epoch']} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
