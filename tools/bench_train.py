"""Time what training's input pipeline costs a step, and what a large record folder costs in memory.

    python tools/bench_train.py path/to/records --recipe default --repeats 5
    python tools/bench_train.py path/to/records --recipe seed --repeats 3 --epochs 3
    python tools/bench_train.py path/to/records --large 20

Each round trains some epochs from the record folder, as `ser-batch train` does, and as many on the same batches held
in memory, in turn; the median epoch counts, without the first of each round, in which the pipeline starts. Examples
must have one shape. What is extracted once and kept is timed by itself.
``--large`` reads one epoch of a folder of so many GB (the shards again and again, as hard links) without a network,
and prints the memory this process holds on the way.
"""

import argparse
import itertools
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from ser_batch.runtime.process import keep_freed_memory

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
keep_freed_memory()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from ser_batch.models.networks.families import build_extractor, build_learner  # noqa: E402
from ser_batch.models.normalisation import Scale  # noqa: E402
from ser_batch.records.folder import RecordFolder, open_records  # noqa: E402
from ser_batch.records.reader import split_selection  # noqa: E402
from ser_batch.records.tfds import shard_name  # noqa: E402
from ser_batch.storage.fingerprints import json_fingerprint  # noqa: E402
from ser_batch.training.augmentation import augment, mixup  # noqa: E402
from ser_batch.training.features import traced  # noqa: E402
from ser_batch.training.input_pipeline import EpochOptions, Preparation, TrainingData, n_batches  # noqa: E402
from ser_batch.training.optimisation import make_optimizer  # noqa: E402
from ser_batch.training.recipes import Recipe, find_recipe  # noqa: E402

_MIB = 1 << 20
_REPORTED_EVERY_BYTES = 2_000_000_000


def main() -> None:
    """Run the selected benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20, help="in each round, the first of which does not count")
    parser.add_argument("--large", type=float, metavar="GB", help="read so much, without a network")
    arguments = parser.parse_args()
    if arguments.epochs < 2 or arguments.repeats < 1:
        parser.error("give two epochs or more, and one repeat or more")
    records, recipe = open_records(arguments.records), find_recipe(arguments.recipe)
    if arguments.large:
        print_memory(records, recipe, arguments.large * 1e9)
    else:
        print_cost(records, recipe, arguments.repeats, arguments.epochs)


def preparation(records: RecordFolder, recipe: Recipe) -> Preparation:
    """What the recipe does to examples."""
    extractor = build_extractor(records.front_end, recipe)
    augmentation = augment(recipe.augmentation, records.front_end)
    return Preparation(augmentation, extractor and traced(extractor), recipe.copies)


def print_cost(records: RecordFolder, recipe: Recipe, repeats: int, epochs: int) -> None:
    """Seconds per epoch from the folder and from memory, and their ratio."""
    keras.utils.set_random_seed(0)
    train = split_selection(records, "train")
    extractor = build_extractor(records.front_end, recipe)
    width = records.front_end.n_mels if extractor is None else extractor.output_shape[-1]
    nothing = Scale(np.zeros(width, np.float32), np.ones(width, np.float32))
    network = build_learner(
        records.front_end, len(records.labels), recipe, None if recipe.normalise == "none" else nothing
    )
    network.compile(
        make_optimizer(recipe, n_batches(train.n_examples, recipe.batch_size)), loss="categorical_crossentropy"
    )
    options = EpochOptions(recipe.batch_size, 0, mixup(recipe.augmentation))
    began = time.perf_counter()
    data = TrainingData(records, train, preparation(records, recipe))
    from_folder = data.epochs(options, range(1, epochs + 1))
    once_secs = time.perf_counter() - began
    held = list(from_folder.take(n_batches(train.n_examples, recipe.batch_size)))
    # The same batches, in no order that has to be computed, as the plainest dataset there is.
    in_memory = tf.data.Dataset.from_tensor_slices(tuple(tf.concat(column, 0) for column in zip(*held, strict=True)))
    in_memory = in_memory.batch(recipe.batch_size).repeat()
    if in_memory.element_spec != from_folder.element_spec:  # the same step for both: it depends on known shapes
        in_memory = tf.data.Dataset.from_generator(
            lambda: itertools.cycle(held), output_signature=from_folder.element_spec
        )
    secs: dict[str, list[float]] = {"folder": [], "memory": []}
    for number in range(repeats + 1):
        for name in secs:
            of_epochs = epoch_secs(network, in_memory if name == "memory" else from_folder, epochs, len(held))
            secs[name] += of_epochs[1:] if number else []  # the first round traces the graph
    folder, memory = statistics.median(secs["folder"]), statistics.median(secs["memory"])
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MIB
    print("| recipe | examples | parameters | epoch from records | epoch from memory | cost | once | largest RSS |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {recipe.name} | {train.n_examples} | {network.count_params():,} | {1000 * folder:,.1f} ms | "
        f"{1000 * memory:,.1f} ms | {100 * (folder / memory - 1):+.1f} % | {once_secs:.1f} s | {largest:.0f} MiB |"
    )
    machine = platform.processor() or platform.machine()
    print(f"\n{repeats} rounds of {epochs - 1} in turn, medians; {os.cpu_count()} cores, {machine}")


def epoch_secs(network: keras.Model, batches: tf.data.Dataset, epochs: int, steps: int) -> list[float]:
    """Of every epoch of a training."""
    ends = [time.perf_counter()]
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    network.fit(batches, epochs=epochs, steps_per_epoch=steps, verbose=0, callbacks=[note])
    return [after - before for before, after in itertools.pairwise(ends)]


def print_memory(records: RecordFolder, recipe: Recipe, size_bytes: float) -> None:
    """Resident memory while one epoch of a large folder passes."""
    with tempfile.TemporaryDirectory(dir=records.path.parent) as folder:
        large = enlarged(records, Path(folder), size_bytes)
        size = sum(shard.bytes for shard in large.shards())
        print(f"{large.n_examples():,} examples in {len(large.shards())} shards, {size / 1e9:.1f} GB")
        data = TrainingData(large, split_selection(large, "train"), preparation(large, recipe))
        per_example = size / large.n_examples()
        began, n_read, shown = time.perf_counter(), 0, 0.0
        print("| read | examples/s | resident |\n| --- | --- | --- |")
        for batch in data.epochs(EpochOptions(recipe.batch_size, 0), [1]):
            n_read += len(batch[1])
            if n_read * per_example >= shown:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                resident = pages * os.sysconf("SC_PAGE_SIZE") / _MIB
                rate = n_read / (time.perf_counter() - began)
                print(f"| {n_read * per_example / 1e9:.1f} GB | {rate:.0f} | {resident:.0f} MiB |", flush=True)
                shown += _REPORTED_EVERY_BYTES


def enlarged(records: RecordFolder, folder: Path, size_bytes: float) -> RecordFolder:
    """A record folder whose train split is the given one's, over and over."""
    shards = records.shards("train")
    times = max(1, round(size_bytes / sum(shard.bytes for shard in shards)))
    many = []
    for number in range(times * len(shards)):
        shard = shards[number % len(shards)]
        name = shard_name("train", number, times * len(shards))
        os.link(records.path / shard.name, folder / name)
        many.append(shard.model_copy(update={"name": name}))
    changes = {"shards": tuple(many), "fingerprint": json_fingerprint(len(many))}
    provenance = records.provenance.model_copy(update=changes)
    shutil.copy(records.path / "features.json", folder)
    (folder / "provenance.json").write_text(provenance.model_dump_json(), encoding="utf-8")
    return RecordFolder(folder, provenance)


if __name__ == "__main__":
    main()
