import io
import random
from pathlib import Path

import numpy as np
import pytest

from ser_batch.errors import RecordsError
from ser_batch.records.examples import FEATURES, Example, parse, parse_tensors, serialize
from ser_batch.records.tfrecords import read_records, write_record

SHAPE = (4, 5)


def example(**changes: object) -> Example:
    values = {
        "log_mel": np.random.default_rng(0).normal(size=SHAPE).astype(np.float32),
        "label": 6,
        "file": "Ärger/aufnahme 1.wav",
        "speaker": "",
        "start": 0.0,
        "end": 2.5,
    }
    return Example(**(values | changes))


def framed(*serialized: bytes) -> bytes:
    file = io.BytesIO()
    for record in serialized:
        write_record(file, record)
    return file.getvalue()


def test_what_was_written_is_read_back() -> None:
    before = example()
    after = parse(serialize(before), SHAPE)
    np.testing.assert_array_equal(after.log_mel, before.log_mel)
    assert (after.label, after.file, after.speaker, after.start, after.end) == (6, before.file, "", 0.0, 2.5)


def test_features_are_in_sorted_order() -> None:
    assert [feature.name for feature in FEATURES] == sorted(feature.name for feature in FEATURES)


def test_the_bytes_are_fixed() -> None:
    tiny = example(log_mel=np.zeros((1, 2), np.float32), file="a.wav", label=1, speaker="s", end=1.0)
    expected = (
        "0a720a0f0a03656e64120812060a040000803f0a110a0466696c6512090a070a05612e7761760a0e0a056c6162656c12051a030a01"
        "010a170a076c6f675f6d656c120c120a0a0800000000000000000a100a07737065616b657212050a030a01730a110a0573746172741208"
        "12060a0400000000"
    )
    assert serialize(tiny).hex() == expected


def test_tensorflow_makes_the_same_bytes(tmp_path: Path) -> None:
    import tensorflow as tf

    ours = example()

    def feature(name: str, kind: str) -> tf.train.Feature:
        value = getattr(ours, name)
        if kind == "bytes":
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        if kind == "int64":
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=np.ravel(value)))

    theirs = tf.train.Example(
        features=tf.train.Features(feature={f.name: feature(f.name, f.kind) for f in FEATURES})
    ).SerializeToString(deterministic=True)
    assert serialize(ours) == theirs

    path = tmp_path / "theirs.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in (theirs, b"", b"x" * 1000):
            writer.write(record)
    assert framed(theirs, b"", b"x" * 1000) == path.read_bytes()
    assert list(read_records(io.BytesIO(path.read_bytes()))) == [theirs, b"", b"x" * 1000]


@pytest.mark.parametrize("shape", [SHAPE, (4, None)])
def test_tensorflow_reads_ours(tmp_path: Path, shape: tuple[int, int | None]) -> None:
    import tensorflow as tf

    path = tmp_path / "ours.tfrecord"
    path.write_bytes(framed(*(serialize(example(label=label)) for label in range(3))))
    parsed = tf.data.TFRecordDataset(str(path)).map(lambda serialized: parse_tensors(serialized, shape))
    assert parsed.element_spec["log_mel"].shape.as_list() == list(shape)
    found = list(parsed.as_numpy_iterator())
    assert [features["label"] for features in found] == [0, 1, 2]
    for features in found:
        np.testing.assert_array_equal(features["log_mel"], example().log_mel)
        assert features["file"].decode() == example().file


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:-1], "ends in the middle of a record"),
        (lambda data: data[:7], "ends in the middle of a record's length"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "length whose CRC is wrong"),
        (lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:], "record whose CRC is wrong"),
    ],
)
def test_damaged_records_are_told(damage, says: str) -> None:
    with pytest.raises(RecordsError, match=says):
        list(read_records(io.BytesIO(damage(framed(serialize(example()))))))


def test_any_flipped_bit_is_noticed() -> None:
    data = bytearray(framed(serialize(example())))
    chance = random.Random(0)
    for _ in range(200):
        at, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        data[at] ^= bit
        with pytest.raises(RecordsError):
            list(read_records(io.BytesIO(bytes(data))))
        data[at] ^= bit


def test_another_schema_is_refused() -> None:
    with pytest.raises(RecordsError, match="is not a tf"):
        parse(b"\xff\xff", SHAPE)
    with pytest.raises(RecordsError, match="features none"):
        parse(b"", SHAPE)
    with pytest.raises(RecordsError, match="20 values in log_mel, not 24"):
        parse(serialize(example()), (4, 6))
    with pytest.raises(RecordsError, match="20 values in log_mel, not a multiple of 3"):
        parse(serialize(example()), (3, None))
    with pytest.raises(RecordsError, match="0 values in log_mel, not a multiple of 4"):
        parse(serialize(example(log_mel=np.zeros((4, 0), np.float32))), (4, None))


def test_each_example_may_have_its_own_number_of_frames() -> None:
    for n_frames in (1, 7, 300):
        log_mel = np.random.default_rng(n_frames).normal(size=(4, n_frames)).astype(np.float32)
        after = parse(serialize(example(log_mel=log_mel)), (4, None))
        np.testing.assert_array_equal(after.log_mel, log_mel)
