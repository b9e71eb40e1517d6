"""Log-mel spectrogram to serialized tf.train.Example and back: the only schema.

Everything that names a feature is made from `FEATURES`: the writer, both parsers, and the description
that tensorflow-datasets reads. Writing needs the protobuf runtime alone, because importing TensorFlow
costs seconds and hundreds of MB in every worker process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import IO, TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from ser_batch.audio.decoders import Float32s
from ser_batch.errors import RecordsError

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
            # A packed list is its raw little-endian bytes: no detour through 33,000 Python floats.
            raw = np.asarray(value, dtype="<f4").tobytes()
            target.float_list.MergeFromString(b"\x0a" + _varint(len(raw)) + raw)
        elif feature.kind == "int64":
            target.int64_list.value.append(value)
        else:
            target.bytes_list.value.append(value.encode())
    data: bytes = message.SerializeToString(deterministic=True)  # the map in sorted key order
    return data


# Of a log-mel; None where each example has its own number of frames.
Shape = tuple[int, int | None]


def parse(serialized: bytes, shape: Shape) -> Example:
    """The example that `serialize` wrote, without TensorFlow.

    Args:
        serialized: one record.
        shape: ``(n_mels, n_frames)`` of the record folder's front end.

    Raises:
        RecordsError: it is no Example, or not of this schema and shape.
    """
    message = _example_class()()
    try:
        message.ParseFromString(serialized)
    except Exception as error:  # the protobuf runtimes raise different DecodeErrors
        raise RecordsError("is no tf.train.Example") from error
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
    """The features of one serialized Example, in TensorFlow's graph.

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


def tfds_features(shape: Shape, labels: Sequence[str]) -> dict[str, Any]:
    """The content of ``features.json``, from which tensorflow-datasets parses the records."""
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


def write_record(file: IO[bytes], serialized: bytes) -> None:
    """Append one record to a TFRecord file.

    The framing is TensorFlow's (tensorflow/core/lib/io/record_writer.h): length as uint64, its masked
    CRC-32C, the data, their masked CRC-32C, all little-endian.
    """
    length = struct.pack("<Q", len(serialized))
    file.write(length + _masked_crc(length))
    file.write(serialized)
    file.write(_masked_crc(serialized))


def read_records(file: IO[bytes]) -> Iterator[bytes]:
    """The records of a TFRecord file, each checked against its CRCs.

    Raises:
        RecordsError: the file is cut or damaged; the message says how.
    """
    while header := file.read(12):
        if len(header) < 12:
            raise RecordsError("ends in the middle of a record's length")
        if header[8:] != _masked_crc(header[:8]):
            raise RecordsError("has a record length whose CRC is wrong")
        (length,) = struct.unpack("<Q", header[:8])
        data, crc = file.read(length), file.read(4)
        if len(data) < length or len(crc) < 4:
            raise RecordsError("ends in the middle of a record")
        if crc != _masked_crc(data):
            raise RecordsError("has a record whose CRC is wrong")
        yield data


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C, rotated right by 15 bits plus a constant: the mask of tensorflow/core/lib/hash/crc32c.h."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@cache
def _example_class() -> Any:
    """The protobuf class of tf.train.Example, from the field numbers of tensorflow/core/example/*.proto."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="ser_batch/example.proto", package="ser_batch", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, str]) -> Any:
        added = file.message_type.add(name=name)
        for field_name, number, kind, type_name in fields:
            repeated = kind != field.TYPE_MESSAGE
            added.field.add(
                name=field_name,
                number=number,
                type=kind,
                type_name=type_name or None,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )
        return added

    message("BytesList", ("value", 1, field.TYPE_BYTES, ""))
    message("FloatList", ("value", 1, field.TYPE_FLOAT, ""))
    message("Int64List", ("value", 1, field.TYPE_INT64, ""))
    of_feature = message(
        "Feature",
        ("bytes_list", 1, field.TYPE_MESSAGE, ".ser_batch.BytesList"),
        ("float_list", 2, field.TYPE_MESSAGE, ".ser_batch.FloatList"),
        ("int64_list", 3, field.TYPE_MESSAGE, ".ser_batch.Int64List"),
    )
    of_feature.oneof_decl.add(name="kind")
    for kind in of_feature.field:
        kind.oneof_index = 0
    features = message("Features", ("feature", 1, field.TYPE_MESSAGE, ".ser_batch.Features.FeatureEntry"))
    features.field[0].label = field.LABEL_REPEATED
    entry = features.nested_type.add(name="FeatureEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=field.TYPE_MESSAGE,
        type_name=".ser_batch.Feature",
        label=field.LABEL_OPTIONAL,
    )
    message("Example", ("features", 1, field.TYPE_MESSAGE, ".ser_batch.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ser_batch.Example"))
