"""The JSON files that tensorflow-datasets needs to open a record folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ser_batch.corpus.splits import SPLITS
from ser_batch.records.examples import FEATURES, Shape

if TYPE_CHECKING:
    from ser_batch.records.folder import Shard


def tfds_features(shape: Shape, labels: Sequence[str]) -> dict[str, Any]:
    """The content of ``features.json``, which describes the records to tensorflow-datasets."""
    prefix = "tensorflow_datasets.core.features."
    described: dict[str, Any] = {}
    for feature in FEATURES:
        described[feature.name] = {"pythonClassName": prefix + feature.tfds_class}
        if feature.name == "label":
            described["label"]["classLabel"] = {"numClasses": str(len(labels))}
        elif feature.kind == "bytes":
            described[feature.name]["text"] = {}
        else:
            dimensions = {"dimensions": [str(size or -1) for size in shape]} if feature.name == "log_mel" else {}
            described[feature.name]["tensor"] = {"dtype": "float32", "encoding": "none", "shape": dimensions}
    return {"pythonClassName": prefix + "features_dict.FeaturesDict", "featuresDict": {"features": described}}


DATASET = "recordings"

DATASET_INFO = "dataset_info.json"
FEATURES_INFO = "features.json"
LABEL_NAMES = "label.labels.txt"


def shard_name(split: str, number: int, of: int) -> str:
    """The file name that tensorflow-datasets requires."""
    return f"{DATASET}-{split}.tfrecord-{number:05d}-of-{of:05d}"


def tfds_files(shape: Shape, labels: Sequence[str], shards: Sequence[Shard]) -> dict[str, object]:
    """The content of the JSON files that tensorflow-datasets needs, by file name."""
    splits = []
    for split in SPLITS:
        of_split = [shard for shard in shards if shard.split == split]
        if of_split:
            splits.append(
                {
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "name": split,
                    "numBytes": str(sum(shard.bytes for shard in of_split)),
                    "shardLengths": [str(shard.examples) for shard in of_split],
                }
            )
    info = {
        "description": "Log-mel spectrograms of recordings with emotion labels, made by ser-batch.",
        "fileFormat": "tfrecord",
        "name": DATASET,
        "splits": splits,
        "version": "1.0.0",
    }
    return {DATASET_INFO: info, FEATURES_INFO: tfds_features(shape, labels)}
