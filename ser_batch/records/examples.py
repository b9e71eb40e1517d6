"""Serialize and parse log-mel spectrograms as tf.train.Example: the schema of record folders.

The writer, both parsers and the description for tensorflow-datasets are all derived from `FEATURES`. Writing needs
only the protobuf runtime, because importing TensorFlow costs seconds and hundreds of MB in every worker process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_batch.audio.decoders import Float32s
from ser_batch.errors import RecordsError
from ser_batch.records.example_pb2 import _example_class

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Feature:
    """One feature of an Example.

    Attributes:
        name: its key.
        kind: the list of tf.train.Feature that holds it: ``float``, ``int64`` or ``bytes``.
        tfds_class: the tensorflow-datasets feature that it is read as.
    """

    name: str
    kind: str
    tfds_class: str


FEATURES = (
    Feature("end", "float", "tensor_feature.Tensor"),
    Feature("file", "bytes", "text_feature.Text"),
    Feature("label", "int64", "class_label_feature.ClassLabel"),
    Feature("log_mel", "float", "tensor_feature.Tensor"),
    Feature("speaker", "bytes", "text_feature.Text"),
    Feature("start", "float", "tensor_feature.Tensor"),
)


@dataclass(frozen=True, slots=True)
class Example:
    """One training example.

    Attributes:
        log_mel: float32 ``(n_mels, n_frames)``.
        label: index into the record folder's label names.
        file: the recording's key.
        speaker: empty where unknown.
        start, end: the part of the audio file, in seconds.
    """

    log_mel: Float32s
    label: int
    file: str
    speaker: str
    start: float
    end: float


def serialize(example: Example) -> bytes:
    """The bytes of the tf.train.Example, its map in sorted key order: equal examples give equal bytes."""
    message = _example_class()()
    for feature in FEATURES:
        value = getattr(example, feature.name)
        target = message.features.feature[feature.name]
        if feature.kind == "float":
            # A packed list is its raw little-endian bytes, which avoids conversion to 33,000 Python floats.
            raw = np.asarray(value, dtype="<f4").tobytes()
            target.float_list.MergeFromString(b"\x0a" + _varint(len(raw)) + raw)
        elif feature.kind == "int64":
            target.int64_list.value.append(value)
        else:
            target.bytes_list.value.append(value.encode())
    data: bytes = message.SerializeToString(deterministic=True)  # the map in sorted key order
    return data


# Shape of a log-mel; the second is None if the number of frames differs between examples.
Shape = tuple[int, int | None]


def parse(serialized: bytes, shape: Shape) -> Example:
    """Parse an example from `serialize`, without TensorFlow.

    Args:
        serialized: one record.
        shape: ``(n_mels, n_frames)`` of the record folder's front end.

    Raises:
        RecordsError: the record is not an Example of this schema and shape.
    """
    message = _example_class()()
    try:
        message.ParseFromString(serialized)
    except Exception as error:  # the protobuf runtimes raise different DecodeErrors
        raise RecordsError("is not a tf.train.Example") from error
    stored = message.features.feature
    if sorted(stored) != [feature.name for feature in FEATURES]:
        raise RecordsError(f"has the features {', '.join(sorted(stored)) or 'none'}")
    values: dict[str, Any] = {}
    for feature in FEATURES:
        value = getattr(stored[feature.name], f"{feature.kind}_list").value
        if feature.name == "log_mel":
            if not value or len(value) % shape[0] or shape[1] not in (None, len(value) // shape[0]):
                wanted = f"a multiple of {shape[0]}" if shape[1] is None else shape[0] * shape[1]
                raise RecordsError(f"has {len(value)} values in log_mel, not {wanted}")
            # As in `serialize`: the packed list ends with its raw bytes.
            packed = stored["log_mel"].float_list.SerializeToString()
            values["log_mel"] = np.frombuffer(packed[-4 * len(value) :], "<f4").astype(np.float32).reshape(shape[0], -1)
            continue
        if len(value) != 1:
            raise RecordsError(f"has {len(value)} values in {feature.name}, not 1")
        values[feature.name] = value[0]
        if feature.kind == "bytes":
            values[feature.name] = _decoded(value[0], feature.name)
    return Example(**values)


def _decoded(text: bytes, name: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise RecordsError(f"has a {name} that is not UTF-8") from error


def parse_tensors(serialized: tf.Tensor, shape: Shape) -> dict[str, tf.Tensor]:
    """Parse one serialized Example in a TensorFlow graph.

    Args:
        serialized: a string scalar.
        shape: ``(n_mels, n_frames)`` of the record folder's front end.

    Returns:
        One tensor per feature; ``log_mel`` is float32 ``(n_mels, n_frames)``.
    """
    import tensorflow as tf

    dtypes = {"float": tf.float32, "int64": tf.int64, "bytes": tf.string}
    specification = {
        feature.name: tf.io.FixedLenSequenceFeature((), tf.float32, allow_missing=True)
        if feature.name == "log_mel"
        else tf.io.FixedLenFeature((), dtypes[feature.kind])
        for feature in FEATURES
    }
    tensors: dict[str, tf.Tensor] = tf.io.parse_single_example(serialized, specification)
    log_mel = tf.reshape(tensors["log_mel"], [shape[0], -1 if shape[1] is None else shape[1]])
    return tensors | {"log_mel": log_mel}


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
