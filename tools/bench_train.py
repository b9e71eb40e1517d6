"""Time what training's input pipeline costs a step, and what trainings on many examples take.

    python tools/bench_train.py path/to/records --recipe functionals --repeats 5
    python tools/bench_train.py path/to/records --recipe seed --repeats 3 --epochs 3
    python tools/bench_train.py path/to/records --recipe functionals --examples 1000,10000,100000 --epochs 5

Each round trains some epochs from the record folder, as `ser-batch train` does, and as many on the same batches held
in memory, in turn; the median epoch counts, without the first of each round, in which the pipeline starts. Examples
must have one shape. What is extracted once and kept is timed by itself.

``--examples`` runs `ser-batch train` on folders of so many examples: the shards of the train split again and again, as
hard links, with other speakers for each time. It prints the seconds of the epochs and the memory of the process.
"""

import argparse
import itertools
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import tempfile
import threading
import time
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from ser_batch.runtime.process import keep_freed_memory

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
keep_freed_memory()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

import ser_batch  # noqa: E402
from ser_batch.models.networks.families import build_learner  # noqa: E402
from ser_batch.records.folder import RecordFolder, open_records  # noqa: E402
from ser_batch.records.manifest import part_path, read_part, shard_facts, write_part  # noqa: E402
from ser_batch.records.reader import split_selection  # noqa: E402
from ser_batch.records.tfds import shard_name  # noqa: E402
from ser_batch.storage.fingerprints import json_fingerprint  # noqa: E402
from ser_batch.training.feature_store import FeatureStore  # noqa: E402
from ser_batch.training.features import ExampleSet, FunctionalSet, LogMelSet  # noqa: E402
from ser_batch.training.input_pipeline import n_batches  # noqa: E402
from ser_batch.training.optimisation import make_optimizer  # noqa: E402
from ser_batch.training.recipes import Recipe, find_recipe  # noqa: E402
from ser_batch.training.trainer import Epoch  # noqa: E402
from tools.measuring import print_machine  # noqa: E402

_MIB = 1 << 20


def main() -> None:
    """Run the selected benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20, help="in each round, the first of which does not count")
    parser.add_argument("--examples", metavar="N,N,…", help="train on folders of so many examples")
    arguments = parser.parse_args()
    if arguments.epochs < 2 or arguments.repeats < 1:
        parser.error("give two epochs or more, and one repeat or more")
    records, recipe = open_records(arguments.records), find_recipe(arguments.recipe)
    if arguments.examples:
        print_large(records, arguments.recipe, [int(one) for one in arguments.examples.split(",")], arguments.epochs)
    else:
        print_cost(records, recipe, arguments.repeats, arguments.epochs)


def print_cost(records: RecordFolder, recipe: Recipe, repeats: int, epochs: int) -> None:
    """Seconds per epoch from the folder and from memory, and their ratio."""
    keras.utils.set_random_seed(0)
    train = split_selection(records, "train")
    with tempfile.TemporaryDirectory(dir=records.path.parent) as folder:
        began = time.perf_counter()
        data: ExampleSet
        if recipe.network == "functionals":
            recipe = recipe.parts[""]
            data = FunctionalSet(FeatureStore(Path(folder), records, recipe), train, recipe)
        else:
            data = LogMelSet(records, train, recipe)
        network = build_learner(records.front_end, len(records.labels), recipe, data.scale)
        network.compile(
            make_optimizer(recipe, n_batches(train.n_examples, recipe.batch_size)), loss="categorical_crossentropy"
        )
        from_folder = data.training_epochs(0, range(1, epochs + 1))
    once_secs = time.perf_counter() - began
    held = list(from_folder.take(n_batches(train.n_examples, recipe.batch_size)))
    in_memory = tf.data.Dataset.from_generator(lambda: itertools.cycle(held), output_signature=from_folder.element_spec)
    secs: dict[str, list[float]] = {"folder": [], "memory": []}
    for number in range(repeats + 1):
        for name in secs:
            of_epochs = epoch_secs(network, in_memory if name == "memory" else from_folder, epochs, len(held))
            secs[name] += of_epochs[1:] if number else []  # the first round traces the graph
    from_records, from_memory = (statistics.median(one) for one in secs.values())
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("| recipe | examples | parameters | epoch from records | epoch from memory | cost | once | largest RSS |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {recipe.name} | {train.n_examples} | {network.count_params():,} | {1000 * from_records:,.1f} ms | "
        f"{1000 * from_memory:,.1f} ms | {100 * (from_records / from_memory - 1):+.1f} % | {once_secs:.1f} s | "
        f"{largest:.0f} MiB |"
    )
    machine = platform.processor() or platform.machine()
    print(f"\n{repeats} rounds of {epochs - 1} in turn, medians; {os.cpu_count()} cores, {machine}")


def epoch_secs(network: keras.Model, batches: tf.data.Dataset, epochs: int, steps: int) -> list[float]:
    """Of every epoch of a training."""
    ends = [time.perf_counter()]
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    network.fit(batches, epochs=epochs, steps_per_epoch=steps, verbose=0, callbacks=[note])
    return [after - before for before, after in itertools.pairwise(ends)]


def print_large(records: RecordFolder, recipe: str, sizes: list[int], epochs: int) -> None:
    """Seconds and memory of whole trainings on folders of several sizes."""
    print(
        "| examples | GB | part | before its first epoch, s | an epoch, s | own memory, MiB | with mapped files, MiB |"
    )
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=records.path.parent) as folder:
            large = enlarged(records, Path(folder) / "records", size)
            gb = sum(shard.bytes for shard in large.shards()) / 1e9
            parts, own, resident = trained(large, Path(folder) / "bundle", recipe, epochs)
        for part, secs in parts.items():
            of_epoch = statistics.median(secs[1:])
            print(
                f"| {large.n_examples():,} | {gb:.1f} | {part or 'first'} | {secs[0] - of_epoch:.1f} | "
                f"{of_epoch:.2f} | {own / _MIB:,.0f} | {resident / _MIB:,.0f} |",
                flush=True,
            )
    print_machine(f"recipe {recipe}, {epochs} epochs")


def trained(records: RecordFolder, out: Path, recipe: str, epochs: int) -> tuple[dict[str, list[float]], int, int]:
    """Train in a process of its own: the seconds of the epochs of each part, and the largest memory of all.

    The memory is first that of the process alone, then with pages of files that are mapped, which the system can take
    back.
    """
    spawn = multiprocessing.get_context("spawn")
    times: SimpleQueue[tuple[str, float]] = spawn.SimpleQueue()
    process = spawn.Process(target=train_and_time, args=(records.path, out, recipe, epochs, times))
    process.start()
    sizes = [(0, 0)]
    assert process.pid is not None
    poll = threading.Thread(target=poll_memory, args=(process.pid, sizes), daemon=True)
    poll.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"exit code {process.exitcode} of a training with {records.n_examples():,} examples")
    own, resident = (max(column) for column in zip(*sizes, strict=True))
    parts: dict[str, list[float]] = {}
    while not times.empty():
        part, secs = times.get()
        parts.setdefault(part, []).append(secs)
    return parts, own, resident


def train_and_time(records: Path, out: Path, recipe: str, epochs: int, times: "SimpleQueue[tuple[str, float]]") -> None:
    """Train, and send the seconds of every epoch."""
    began = time.perf_counter()

    def report(event: object) -> None:
        nonlocal began
        if isinstance(event, Epoch):
            times.put((event.part, time.perf_counter() - began))
            began = time.perf_counter()

    ser_batch.train(records, out, recipe=recipe, epochs=epochs, report=report)


def poll_memory(pid: int, sizes: list[tuple[int, int]]) -> None:
    """Append the anonymous and the resident memory of a process until it ends."""
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        found = dict(line.split(":", 1) for line in status.splitlines())
        if "VmRSS" not in found:
            return
        sizes.append((int(found["RssAnon"].split()[0]) * 1024, int(found["VmRSS"].split()[0]) * 1024))
        time.sleep(0.1)


def enlarged(records: RecordFolder, folder: Path, n_examples: int) -> RecordFolder:
    """A record folder whose train split is the given one's, over and over, with other speakers each time."""
    shards = [shard for shard in records.shards("train") if shard.examples]
    times = max(1, round(n_examples / sum(shard.examples for shard in shards)))
    folder.mkdir()
    part_path(folder, "any").parent.mkdir()
    many = []
    for number in range(times * len(shards)):
        shard = shards[number % len(shards)]
        name = shard_name("train", number, times * len(shards))
        os.link(records.path / shard.name, folder / name)
        part = read_part(part_path(records.path, shard.name))
        again = f"-{number // len(shards)}"
        rows = [row | {"shard": name, "speaker": row["speaker"] + again} for row in part.to_pylist()]
        write_part(part_path(folder, name), rows, shard_facts(part))
        many.append(shard.model_copy(update={"name": name}))
    changes = {"shards": tuple(many), "fingerprint": json_fingerprint(len(many))}
    provenance = records.provenance.model_copy(update=changes)
    shutil.copy(records.path / "features.json", folder)
    (folder / "provenance.json").write_text(provenance.model_dump_json(), encoding="utf-8")
    return RecordFolder(folder, provenance)


if __name__ == "__main__":
    main()
