"""Functionals for training: extracted once, in files that all folds share, and batches made from them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ser_batch.errors import RecordsError, UsageError
from ser_batch.models.normalisation import SpeakerScales, within_speakers
from ser_batch.records.folder import RecordFolder, open_records
from ser_batch.records.reader import Selection, manifest_column, row_selection, split_selection
from ser_batch.training.feature_store import FeatureStore, copy_seeds
from ser_batch.training.features import FunctionalSet, example_labels
from ser_batch.training.recipes import Augmentation, Recipe, find_recipe
from tests.recipes import PLAIN

VARIED = PLAIN.replace(normalise="speaker", augmentation=Augmentation(channel_share=1.0), copies=2, batch_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def some(records: RecordFolder, *left_out: int) -> Selection:
    chosen = np.ones(14, dtype=bool)
    chosen[list(left_out)] = False
    return row_selection(records, "some", chosen)


def epochs(data: FunctionalSet, numbers: Sequence[int], seed: int = 0) -> list[tuple[Any, ...]]:
    """Features, scales, one-hot labels and weights of every example, in the order of the epochs."""
    columns = [(*inputs, labels, weights) for inputs, labels, weights in data.training_epochs(seed, numbers)]
    return [np.concatenate(column) for column in zip(*columns, strict=True)]  # type: ignore[return-value]


def rows_of(found: np.ndarray, stored: np.ndarray) -> list[int]:
    """The places of features in a file."""
    return [int(np.flatnonzero((stored == one).all(axis=1))[0]) for one in found]


def test_an_epoch_has_every_example_once_with_its_label_and_its_copy(records: RecordFolder, folder: Path) -> None:
    store, selection = FeatureStore(folder, records, VARIED), some(records, 3, 9)
    data = FunctionalSet(store, selection, VARIED)
    labels, seeds = example_labels(records, some(records)), copy_seeds(VARIED, 0, range(1, 5))
    assert seeds[0] == seeds[2] != seeds[1] == seeds[3]
    features, scales, one_hot, weights = epochs(data, range(1, 5))
    orders = []
    for place, seed in enumerate(seeds):
        of_epoch = slice(12 * place, 12 * place + 12)
        rows = rows_of(features[of_epoch], store.load(selection, seed))
        assert sorted(rows) == [row for row in range(14) if row not in (3, 9)]
        assert one_hot[of_epoch].argmax(axis=1).tolist() == labels[rows].tolist()
        orders.append(tuple(rows))
    assert len(set(orders)) == 4
    assert (weights == 1).all()
    assert scales.shape == (48, 2, features.shape[1])
    again = epochs(data, [3])  # a resumed training gets the same batches
    np.testing.assert_array_equal(again[0], features[24:36])
    np.testing.assert_array_equal(again[1], scales[24:36])
    assert np.abs(epochs(data, [3], seed=1)[1] - again[1]).max() > 0


def test_scales_are_of_the_speaker_of_the_example(records: RecordFolder, folder: Path) -> None:
    store, selection = FeatureStore(folder, records, VARIED), some(records, 3, 9)
    data = FunctionalSet(store, selection, VARIED)
    stored = store.load(selection)[selection.chosen]
    speakers = manifest_column(records, selection, "speaker").to_pylist()
    reference = within_speakers(stored, speakers)
    expected = SpeakerScales(stored, speakers, reference).of_speakers(range(12))
    batches = list(data.validation_epoch(0))
    features = np.concatenate([inputs[0] for inputs, *_ in batches])
    np.testing.assert_array_equal(features, stored)
    np.testing.assert_allclose(np.concatenate([inputs[1] for inputs, *_ in batches]), expected, rtol=1e-6)
    assert len({one.tobytes() for one in expected}) == len(set(speakers)) > 1


def test_balanced_weights_make_labels_count_alike(records: RecordFolder, folder: Path) -> None:
    recipe, selection = VARIED.replace(class_weight="balanced"), some(records, 3)
    _, _, one_hot, weights = epochs(FunctionalSet(FeatureStore(folder, records, recipe), selection, recipe), [1])
    counts, sums = one_hot.sum(axis=0), weights @ one_hot
    assert len(set(counts[counts > 0])) > 1
    np.testing.assert_allclose(sums[counts > 0], 13 / np.count_nonzero(counts), rtol=1e-6)


def test_folds_share_the_files_and_no_epoch_extracts_again(
    records: RecordFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = some(records, 0, 1), some(records, 12, 13)
    store = FeatureStore(tmp_path, records, VARIED)
    FunctionalSet(store, first, VARIED).training_epochs(0, range(1, 9))
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 3  # as stored, and two copies
    monkeypatch.setattr(FeatureStore, "_write", lambda *_: pytest.fail("extracted again"))
    again = FeatureStore(tmp_path, records, VARIED)
    assert len(epochs(FunctionalSet(again, second, VARIED), [1, 2])[0]) == 24
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


def test_splits_have_files_of_their_own(records: RecordFolder, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, records, VARIED)
    whole = store.load(some(records))
    shards = [shard for shard in records.shards() if shard.examples]
    begin = 0
    for split in dict.fromkeys(shard.split for shard in shards):
        of_split = store.load(split_selection(records, split))
        assert len(of_split) == records.n_examples(split)
        np.testing.assert_allclose(of_split, whole[begin : begin + len(of_split)], rtol=1e-3, atol=1e-3)
        begin += len(of_split)
    assert begin == 14
    assert len(list(tmp_path.iterdir())) == 4


def test_damage_is_named_and_leaves_no_file(records: RecordFolder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(records.path, tmp_path / "damaged"))
    shard = max(copy.glob("recordings-train*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    damaged = open_records(copy)
    with pytest.raises(RecordsError, match=rf"{copy}: is damaged \(.*run ser-batch verify to list all problems"):
        FeatureStore(tmp_path / "features", damaged, VARIED).load(some(damaged))
    assert list((tmp_path / "features").iterdir()) == []


def test_mixtures_of_functionals_are_refused() -> None:
    mixed: dict[str, Any] = {"augmentation": {"mixup": 0.2}}
    with pytest.raises(UsageError, match=r"augmentation.mixup mixes log-mels"):
        find_recipe("functionals", **mixed)
    assert Recipe.parse({**find_recipe("seed").to_json(), **mixed}, "test", UsageError).augmentation.mixup == 0.2
