"""The protobuf message tf.train.Example."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


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
