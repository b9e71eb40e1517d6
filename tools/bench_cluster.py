"""Time `build-records` and `infer` on a Ray cluster against local workers, and print a Markdown table.

    python tools/bench_cluster.py path/to/emodb/wav --files 20000 --repeats 3

The cluster is on this machine: one node with all CPUs, then two nodes with half of them each. A task has 64 files.
Commands run in turn in fresh processes, start-up included; medians count.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.ray_cluster import Cluster
from tools.measuring import Measured, Series, measure, multiply, print_machine

FILES_PER_TASK = 64


@contextmanager
def cluster(cpus: int, n_nodes: int) -> Iterator[list[str]]:
    """A cluster with so many CPUs in all; the options that choose it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket needs a short path
    started = Cluster(folder, cpus // n_nodes)
    try:
        if n_nodes == 2:
            started.add()
        yield ["--engine", "ray", "--ray-address", started.address]
    finally:
        started.end()
        shutil.rmtree(folder, ignore_errors=True)


def run(command: list[str], out: Path, cpus: int, n_nodes: int) -> Measured:
    """One run of a command; ``n_nodes`` is 0 for local workers. The start of the cluster does not count."""
    try:
        if not n_nodes:
            return measure(["-m", "ser_batch", *command, "-o", str(out), "-q", "-j", str(cpus)])
        with cluster(cpus, n_nodes) as options:
            return measure(["-m", "ser_batch", *command, "-o", str(out), "-q", *options])
    finally:
        for path in (out, out.with_name(f".{out.name}.parts")):
            shutil.rmtree(path, ignore_errors=True)
        out.unlink(missing_ok=True)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="EmoDB's wav folder")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cpus = len(os.sched_getaffinity(0))
    print_machine(f"{options.files:,} files, median of {options.repeats}")
    with tempfile.TemporaryDirectory() as folder:
        source = multiply(options.corpus.absolute(), Path(folder) / "source", options.files)
        n_shards = str(-(-options.files // FILES_PER_TASK))
        commands = {
            "build-records": (["build-records", str(source), "--num-shards", n_shards], Path(folder) / "records"),
            "infer": (["infer", str(source)], Path(folder) / "preds.csv"),
        }
        places = {f"local, {cpus} workers": 0, f"Ray, 1 node of {cpus} CPUs": 1, f"Ray, 2 nodes of {cpus // 2}": 2}
        print("| command | where | seconds (least to most) | times local |")
        print("| --- | --- | ---: | ---: |")
        for name, (command, out) in commands.items():
            runs: dict[str, Callable[[], Measured]] = {
                place: partial(run, command, out, cpus, n_nodes) for place, n_nodes in places.items()
            }
            series = [Series(options.files, place, cpus, one) for place, one in runs.items()]
            for _ in range(options.repeats):
                for one in series:
                    one.runs.append(one.run())
            for one in series:
                spread = f"{min(run.secs for run in one.runs):.1f} to {max(run.secs for run in one.runs):.1f}"
                print(
                    f"| `{name}` | {one.name} | {one.secs:.1f} ({spread}) | {one.secs / series[0].secs:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
