"""What training and evaluation see of a record folder: which examples, in which order, made into which batches."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ser_batch.audio.logmels import PADDING_DB
from ser_batch.errors import RecordsError
from ser_batch.records.examples import Example, parse
from ser_batch.records.folder import RecordFolder, open_records
from ser_batch.records.reader import row_selection, split_selection
from ser_batch.records.tfrecords import read_records
from ser_batch.training.input_pipeline import EpochOptions, TrainingData, n_batches, read_batches
from tests.batches import stack
from tests.frontends import KEPT
from tests.manifests import example_rows


@pytest.fixture(scope="module")
def stored(records: RecordFolder) -> dict[str, Example]:
    """Every example by its file, read without TensorFlow."""
    found = {}
    for shard in records.shards():
        with open(records.path / shard.name, "rb") as file:
            for example in (parse(serialized, KEPT.shape) for serialized in read_records(file)):
                found[example.file] = example
    assert len(found) == 14
    return found


@pytest.fixture(scope="module")
def everything(records: RecordFolder) -> Any:
    return row_selection(records, "all", np.ones(14, dtype=bool))


def files(records: RecordFolder, selection: Any) -> list[str]:
    return [row["file"] for row in example_rows(records, selection)]


def unpadded(batch: Any) -> Iterator[np.ndarray]:
    for row in np.asarray(batch):
        n_frames = int((row[0] != PADDING_DB).sum())
        assert (row[:, n_frames:] == PADDING_DB).all()
        yield row[:, :n_frames]


def named(stored: dict[str, Example], log_mel: np.ndarray) -> str:
    """The file whose log-mel it is."""
    (found,) = [file for file, example in stored.items() if np.array_equal(example.log_mel, log_mel)]
    return found


def order(stored: dict[str, Example], data: TrainingData, options: EpochOptions, number: int) -> list[str]:
    return [named(stored, one) for batch, *_ in data.epochs(options, [number]) for one in unpadded(batch)]


# --- selections


def test_a_split_is_its_rows(records: RecordFolder) -> None:
    for split in ("train", "validation", "test"):
        selection = split_selection(records, split)
        rows = example_rows(records, selection)
        assert selection.n_examples == len(rows) == records.n_examples(split)
        assert {row["split"] for row in rows} == {split}


def test_a_split_without_examples_is_refused(records: RecordFolder) -> None:
    with pytest.raises(RecordsError, match="no examples in the split 'dev'; it has test, train, validation"):
        split_selection(records, "dev")


def test_rows_are_chosen_whatever_their_split(records: RecordFolder, stored: dict[str, Example]) -> None:
    rows = example_rows(records)
    chosen = np.array([row["label"] in ("anger", "fear") or row["speaker"] == "16" for row in rows])
    assert len({row["split"] for row, one in zip(rows, chosen, strict=True) if one}) > 1
    selection = row_selection(records, "some", chosen)
    assert selection.n_examples == chosen.sum()
    wanted = [row["file"] for row, one in zip(rows, chosen, strict=True) if one]
    assert files(records, selection) == wanted
    batches = list(read_batches(records, selection, batch_size=4))
    assert [named(stored, one) for batch in batches for one in unpadded(batch.log_mels)] == wanted
    assert [int(label) for batch in batches for label in batch.labels] == [stored[file].label for file in wanted]
    assert sorted(order(stored, TrainingData(records, selection), EpochOptions(3, 0), 1)) == sorted(wanted)


def test_nothing_chosen_is_refused_by_its_name(records: RecordFolder) -> None:
    nothing = row_selection(records, "fold 07", np.zeros(14, dtype=bool))
    with pytest.raises(RecordsError, match="no examples in fold 07"):
        next(read_batches(records, nothing, 4))


# --- batches as they are stored


@pytest.mark.parametrize("batch_size", [1, 3, 14, 100])
def test_evaluation_sees_what_is_stored(
    records: RecordFolder, stored: dict[str, Example], everything: Any, batch_size: int
) -> None:
    batches = list(read_batches(records, everything, batch_size))
    assert [len(batch.labels) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    expected = files(records, everything)
    for number, batch in enumerate(batches):
        of_batch = expected[number * batch_size : (number + 1) * batch_size]
        np.testing.assert_array_equal(batch.log_mels, stack([stored[file].log_mel for file in of_batch]))
        assert batch.log_mels.dtype == np.float32
        assert batch.labels.tolist() == [stored[file].label for file in of_batch]


# --- epochs


def test_an_epoch_has_every_example_once_with_its_label(
    records: RecordFolder, stored: dict[str, Example], everything: Any
) -> None:
    data = TrainingData(records, everything)
    seen = []
    for log_mels, labels, weights in data.epochs(EpochOptions(4, 0), [1]):
        assert (weights.numpy() == 1).all()
        for log_mel, label in zip(unpadded(log_mels), labels.numpy(), strict=True):
            file = named(stored, log_mel)
            assert label.tolist() == np.eye(7)[stored[file].label].tolist()
            seen.append(file)
    assert sorted(seen) == sorted(stored)


def test_epochs_differ_and_runs_do_not(records: RecordFolder, stored: dict[str, Example], everything: Any) -> None:
    data, again = (TrainingData(records, everything) for _ in range(2))
    first = {epoch: order(stored, data, EpochOptions(4, 0), epoch) for epoch in (1, 2, 3)}
    assert len({tuple(files) for files in first.values()}) == 3
    assert order(stored, again, EpochOptions(5, 0), 3) == first[3]  # without the epochs before it
    assert order(stored, data, EpochOptions(4, 0), 1) == first[1]
    assert order(stored, data, EpochOptions(4, 1), 1) != first[1]


def test_epochs_follow_each_other_without_sharing_a_batch(
    records: RecordFolder, stored: dict[str, Example], everything: Any
) -> None:
    data = TrainingData(records, everything)
    batches = [
        [named(stored, one) for one in unpadded(log_mels)]
        for log_mels, *_ in data.epochs(EpochOptions(4, 0), range(2, 5))
    ]
    assert [len(batch) for batch in batches] == 3 * [4, 4, 4, 2]
    assert n_batches(14, 4) == 4
    for place, number in enumerate(range(2, 5)):
        of_epoch = batches[4 * place : 4 * place + 4]
        assert [file for batch in of_epoch for file in batch] == order(stored, data, EpochOptions(4, 0), number)


def test_label_weights_are_those_of_the_label(records: RecordFolder, everything: Any) -> None:
    weights = np.arange(1, 8, dtype=np.float32)
    for _, labels, found in TrainingData(records, everything).epochs(EpochOptions(4, 0, label_weights=weights), [1]):
        np.testing.assert_allclose(found.numpy(), weights[labels.numpy().argmax(axis=1)])


def test_what_is_mixed_weighs_what_its_labels_do(records: RecordFolder, everything: Any) -> None:
    import tensorflow as tf

    seeds = []

    def mix(examples: Any, labels: Any, seed: Any) -> Any:
        tf.py_function(lambda one: seeds.append(tuple(one.numpy())), [seed], [])
        return examples, 0.75 * labels + 0.25 * tf.reverse(labels, [0])

    weights = np.arange(1, 8, dtype=np.float32)
    options = EpochOptions(5, 0, mix=mix, label_weights=weights)
    data = TrainingData(records, everything)
    for _, labels, found in data.epochs(options, [1, 2]):
        np.testing.assert_allclose(labels.numpy().sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(found.numpy(), labels.numpy() @ weights, rtol=1e-6)
    both = set(seeds)
    assert len(both) == 6
    seeds.clear()
    assert len(list(data.epochs(options, [2]))) == 3
    assert len(set(seeds)) == 3
    assert set(seeds) < both


def tagged(log_mel: Any, seed: Any) -> Any:
    """An augmentation that writes its seed into the first band; the others are as they were."""
    import tensorflow as tf

    tag = tf.cast(seed[0] % 65_536, tf.float32) + tf.cast(seed[1], tf.float32) / 64.0
    return tf.concat([tf.ones_like(log_mel[:1]) * tag, log_mel[1:]], axis=0)


def tags(stored: dict[str, Example], data: TrainingData, options: EpochOptions, number: int) -> dict[str, float]:
    """What each example was varied with."""
    found = {}
    for batch, *_ in data.epochs(options, [number]):
        for row in np.asarray(batch):
            n_frames = int((row[1] != PADDING_DB).sum())
            (file,) = [name for name, one in stored.items() if np.array_equal(one.log_mel[1:], row[1:, :n_frames])]
            found[file] = float(row[0, 0])
    return found


def test_every_example_is_varied_anew_in_every_epoch(
    records: RecordFolder, stored: dict[str, Example], everything: Any
) -> None:
    data = TrainingData(records, everything, tagged)
    first, second = (tags(stored, data, EpochOptions(4, 0), epoch) for epoch in (1, 2))
    assert len(set(first.values()) | set(second.values())) == 28
    again = TrainingData(records, everything, tagged)
    assert tags(stored, again, EpochOptions(5, 0), 2) == second
    assert tags(stored, again, EpochOptions(4, 1), 2) != second


# --- damage


def test_a_damaged_shard_is_named(records: RecordFolder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(records.path, tmp_path / "flipped"))
    shard = min(copy.glob("recordings-train*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    damaged = open_records(copy)
    with pytest.raises(
        RecordsError, match=rf"{copy}: is damaged \(.*corrupted record.*run ser-batch verify to list all problems"
    ):
        list(read_batches(damaged, split_selection(damaged, "train"), 4))
    shard.write_bytes(data[:-7])
    with pytest.raises(RecordsError, match=rf"{shard}: is not the shard of {len(data)} bytes that was written"):
        TrainingData(damaged, split_selection(damaged, "train"))
    shard.unlink()
    with pytest.raises(RecordsError, match=f"{shard}: is missing"):
        next(read_batches(damaged, split_selection(damaged, "train"), 4))
