import contextlib
import json
import math
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from ser_batch.audio.frontends import FrontEnd
from ser_batch.cli.app import main
from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan
from ser_batch.errors import RecordsError
from ser_batch.records.build import build_records
from ser_batch.records.examples import Example, parse, serialize
from ser_batch.records.folder import open_records
from ser_batch.records.manifest import part_path, read_part
from ser_batch.records.plan import BuildOptions, plan_build
from ser_batch.records.tfrecords import read_records, write_record
from ser_batch.records.verification.metadata import Problem
from ser_batch.records.verification.verify import verify_records
from ser_batch.runtime.local import LocalEngine
from ser_batch.storage.fingerprints import file_sha256, json_fingerprint
from tests.conftest import write_tone
from tests.frontends import KEPT, TRUNCATED, WINDOWED
from tests.inline import Dying, Inline
from tests.manifests import edit_part, write_table

SHARD = "recordings-train.tfrecord-00000-of-00002"
PART = f"manifest/{SHARD}.parquet"
REJECTED_PART = "manifest/rejected.parquet"
OTHER = "recordings-train.tfrecord-00001-of-00002"


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(2) as engine:
        yield engine


def build(source: Path, out: Path, engine: LocalEngine, front_end: FrontEnd = TRUNCATED) -> Path:
    options = BuildOptions(front_end, SplitPlan(), num_shards=2)
    build_records(plan_build(label_recordings(list_source(str(source))), options), out, engine)
    return out


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path, engine: LocalEngine) -> Path:
    return build(emodb_sample, tmp_path_factory.mktemp("pristine") / "records", engine)


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "records"))


@pytest.fixture
def check(folder: Path, engine: LocalEngine) -> Callable[[], list[Problem]]:
    return lambda: verify_records(open_records(folder), engine)


Check = Callable[[], list[Problem]]


Row = dict[str, Any]


def rows_of(folder: Path, shard: str = SHARD) -> list[Row]:
    """The rows of a part of the manifest; in the sample, all are of examples."""
    return read_part(part_path(folder, shard)).to_pylist()


def test_a_recording_that_is_in_a_folder_twice_is_named(
    tmp_path: Path, emodb_sample: Path, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ser_batch.records.build._remove_repeats", lambda *_: None)  # as folders were built before
    rows = [f"{emodb_sample / path.name},{path.name[5]},0,{end}" for path in emodb_sample.iterdir() for end in (60, 1)]
    whole = emodb_sample / "16b03Ta.wav"
    (tmp_path / "parts.csv").write_text("\n".join(["file,label,start,end", *rows, f"{whole},T,0,"]))
    options = BuildOptions(WINDOWED.replace(length_secs=0.5, window_hop_secs=0.25), SplitPlan("random"), 2)
    plan = plan_build(label_recordings(list_source(str(tmp_path / "parts.csv"))), options)
    records = build_records(plan, tmp_path / "records", engine).records
    (problem,) = verify_records(records, engine)
    split, number = re.findall(r"recordings-(\w+).tfrecord-0000(\d)", problem.shard)[0]
    assert str(problem) == (
        f"manifest/recordings-{split}.tfrecord-0000{number}-of-00002.parquet, {whole}: the part from 0.0 s to "
        "5.975625 s is in the folder twice; build-records --restart keeps one"
    )


def files_of(folder: Path, shard: str) -> list[str]:
    """The source file of each record of a shard."""
    return [row["file"] for row in rows_of(folder, shard)]


def write_rows(folder: Path, rows: list[Row], shard: str = SHARD) -> None:
    edit_part(folder, shard, lambda _: rows)


def frames(path: Path) -> list[tuple[int, int]]:
    """Where each record of a shard begins, and the length of its data."""
    data = path.read_bytes()
    found = []
    begin = 0
    while begin < len(data):
        (length,) = struct.unpack_from("<Q", data, begin)
        found.append((begin, length))
        begin += 16 + length
    return found


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    with open(path, "r+b") as file:
        file.truncate(size)


def rewrite(folder: Path, shard: str, index: int, change: Callable[[Example], bytes]) -> None:
    """Put another record, framed well, in a record's place, and make the checksums true for it."""
    provenance = json.loads((folder / "provenance.json").read_text())
    shape = FrontEnd.from_json(provenance["front_end"]).shape
    with open(folder / shard, "rb") as file:
        records = list(read_records(file))
    records[index] = change(parse(records[index], shape))
    with open(folder / shard, "wb") as file:
        for record in records:
            write_record(file, record)
    for listed in provenance["shards"]:
        if listed["name"] == shard:
            listed.update(sha256=file_sha256(folder / shard), bytes=(folder / shard).stat().st_size)
    names = [(listed["name"], listed["sha256"]) for listed in provenance["shards"]]
    provenance["fingerprint"] = json_fingerprint([provenance["front_end"], provenance["labels"], names])
    (folder / "provenance.json").write_text(json.dumps(provenance))
    info = json.loads((folder / "dataset_info.json").read_text())
    for split in info["splits"]:
        sizes = (listed["bytes"] for listed in provenance["shards"] if listed["split"] == split["name"])
        split["numBytes"] = str(sum(sizes))
    (folder / "dataset_info.json").write_text(json.dumps(info))


def assert_only(problems: list[Problem], *expected: tuple[str, int | None, str, str]) -> None:
    """Each problem is at the expected place and says the expected words; there are no others."""
    lines = [str(problem) for problem in problems]
    assert [(p.shard, p.index, p.file) for p in problems] == [place[:3] for place in expected], lines
    for problem, (*_, words) in zip(problems, expected, strict=True):
        assert words in problem.what


def changed_bytes(shard: str) -> tuple[str, None, str, str]:
    return shard, None, "", "sha256"


# --- sound folders


def test_a_good_folder_has_no_problem(folder: Path, engine: LocalEngine, emodb_sample: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = list_source(str(emodb_sample))
    assert verify_records(open_records(folder), engine, source, lambda *at: seen.append(at)) == []
    assert (seen[0], seen[-1]) == ((0, 28), (28, 28))  # 14 examples and 14 audio files


def test_a_speaker_that_given_splits_divide_is_no_problem(
    tmp_path: Path, emodb_sample: Path, engine: LocalEngine
) -> None:
    names = ["03a01Fa.wav", "03a01Wa.wav", "08a02La.wav", "08b01Fd.wav", "10a07Ad.wav"]
    splits = ["train", "test", "train", "test", ""]
    rows = [f"{emodb_sample / name},{split}" for name, split in zip(names, splits, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["file,split", *rows]))
    folder = build(tmp_path / "table.csv", tmp_path / "out", engine)
    assert verify_records(open_records(folder), engine) == []


def test_windows_parts_and_odd_names_are_no_problem(tmp_path: Path, emodb_sample: Path, engine: LocalEngine) -> None:
    names = sorted(path.name for path in emodb_sample.iterdir())
    lines = ["file,label,start,end"]
    for number, name in enumerate(names):
        odd = f'"a, ""b""\n{name}"' if number == 0 else name
        shutil.copy(emodb_sample / name, tmp_path / (f'a, "b"\n{name}' if number == 0 else name))
        lines += [f"{odd},{'ab'[number % 2]},,", f"{odd},{'ab'[number % 2]},0.1234567,1.0000004"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    hopping = WINDOWED.replace(length_secs=0.7, window_hop_secs=0.3)
    folder = build(tmp_path / "list.csv", tmp_path / "out", engine, hopping)
    assert open_records(folder).n_examples() > 3 * len(names)
    assert verify_records(open_records(folder), engine, list_source(str(tmp_path / "list.csv"))) == []


# --- damaged shards


@pytest.mark.parametrize("where", ["data", "crc"])
def test_a_flipped_bit_in_data_or_their_crc_costs_one_record(folder: Path, check: Check, where: str) -> None:
    begin, length = frames(folder / SHARD)[1]
    flip(folder / SHARD, begin + 12 + (length // 2 if where == "data" else length + 2))
    victim = files_of(folder, SHARD)[1]
    assert_only(check(), changed_bytes(SHARD), (SHARD, 1, victim, "record whose CRC is wrong"))


@pytest.mark.parametrize("offset", [0, 7, 8], ids=["length", "length beyond the file", "crc of the length"])
def test_a_flipped_bit_in_a_length_hides_what_follows(folder: Path, check: Check, offset: int) -> None:
    begin, _ = frames(folder / SHARD)[1]
    flip(folder / SHARD, begin + offset, bit=6)
    files = files_of(folder, SHARD)
    more = f"the same applies to {len(files) - 3} records after it"
    assert_only(
        check(),
        changed_bytes(SHARD),
        (SHARD, 1, files[1], "length whose CRC is wrong"),
        (SHARD, 2, files[2], f"it cannot be located after the damage before it; {more}"),
    )


def test_a_length_beyond_the_file_with_a_good_crc_is_an_end(folder: Path, check: Check) -> None:
    header = struct.pack("<Q", 1 << 62)
    begin, _ = frames(folder / SHARD)[1]
    data = (folder / SHARD).read_bytes()
    crc = google_crc32c.value(header)
    masked = struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
    (folder / SHARD).write_bytes(data[:begin] + header + masked + data[begin + 12 :])
    files = files_of(folder, SHARD)
    problems = check()
    assert (problems[2].index, problems[2].file) == (1, files[1])
    assert "ends in the middle of a record" in problems[2].what


@pytest.mark.parametrize("kept", [5, 12, 100], ids=["in its length", "behind its length", "in its data"])
def test_a_truncated_shard_names_the_record_it_ends_in(folder: Path, check: Check, kept: int) -> None:
    begin, _ = frames(folder / SHARD)[2]
    cut(folder / SHARD, begin + kept)
    files = files_of(folder, SHARD)
    assert_only(
        check(),
        (SHARD, None, "", f"holds 3 records; provenance.json lists {len(files)}"),
        changed_bytes(SHARD),
        (SHARD, 2, files[2], "ends in the middle of a record"),
        (SHARD, 3, files[3], f"in {PART}, but the shard ends before it"),
    )


def test_a_shard_cut_between_records_names_the_first_that_is_gone(folder: Path, check: Check) -> None:
    begin, _ = frames(folder / SHARD)[-1]
    cut(folder / SHARD, begin)
    files = files_of(folder, SHARD)
    last = len(files) - 1
    assert_only(
        check(),
        (SHARD, None, "", f"holds {last} records"),
        changed_bytes(SHARD),
        (SHARD, last, files[last], f"in {PART}, but the shard ends before it"),
    )


def test_a_record_too_many_is_in_no_row(folder: Path, check: Check) -> None:
    with open(folder / OTHER, "rb") as file:
        extra = next(read_records(file))
    with open(folder / SHARD, "ab") as file:
        write_record(file, extra)
    n_records = len(files_of(folder, SHARD))
    assert_only(
        check(),
        (SHARD, None, "", f"holds {n_records + 1} records"),
        changed_bytes(SHARD),
        (SHARD, n_records, files_of(folder, OTHER)[0], f"is in no row of {PART}"),
    )


def test_a_deleted_shard_is_missing(folder: Path, check: Check) -> None:
    (folder / SHARD).unlink()
    n_records = len(files_of(folder, SHARD))
    assert_only(check(), (SHARD, None, "", f"is missing, with its {n_records} examples"))


def test_a_shard_that_cannot_be_read_is_a_problem(folder: Path, check: Check) -> None:
    (folder / SHARD).unlink()
    (folder / SHARD).mkdir()
    assert_only(check(), (SHARD, None, "", "cannot be read (Is a directory)"))


def test_a_shard_too_many_is_named(folder: Path, check: Check) -> None:
    shutil.copy(folder / SHARD, folder / "recordings-train.tfrecord-00002-of-00003")
    assert_only(check(), ("recordings-train.tfrecord-00002-of-00003", None, "", "is not a shard that provenance.json"))


def test_swapped_shards_are_told_as_such(folder: Path, check: Check) -> None:
    (folder / SHARD).rename(folder / "aside")
    (folder / OTHER).rename(folder / SHARD)
    (folder / "aside").rename(folder / OTHER)
    assert_only(
        check(),
        (SHARD, None, "", f"holds the bytes of {OTHER}"),
        (OTHER, None, "", f"holds the bytes of {SHARD}"),
    )


# --- records that are framed well and wrong


def spoiled(example: Example) -> bytes:
    example.log_mel[3, 5:7] = np.nan, np.inf
    return serialize(example)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoiled, "2 of its log-mel values are not finite"),
        (lambda e: serialize(replace(e, label=7)), "its label is 7; there are 7 labels"),
        (lambda e: serialize(replace(e, label=-1)), "its label is -1"),
        (lambda e: serialize(replace(e, label=(e.label + 1) % 7)), "its row's is "),
        (lambda e: serialize(replace(e, log_mel=e.log_mel[:, 1:])), "values in log_mel"),
        (lambda e: serialize(replace(e, file="other.wav")), "the record is of other.wav, its row is of "),
        (lambda e: serialize(replace(e, speaker="99")), "the record's speaker is 99"),
        (lambda e: serialize(replace(e, start=0.25)), "the record's start is 0.250000 s"),
        (lambda e: serialize(replace(e, end=float("nan"))), "the record's end is nan s"),
        (lambda e: serialize(e).replace(b"speaker", b"spooker"), "has the features end, file, label, log_mel, spooker"),
        (lambda e: serialize(replace(e, speaker="ZZ")).replace(b"ZZ", b"\xff\xfe"), "not UTF-8"),
        (lambda e: b"\xff\xff\xff", "is not a tf.train.Example"),
        (lambda e: b"", "has the features none"),
    ],
)
def test_a_wrong_record_is_told(folder: Path, check: Check, change: Callable[[Example], bytes], words: str) -> None:
    rewrite(folder, SHARD, 2, change)
    assert_only(check(), (SHARD, 2, files_of(folder, SHARD)[2], words))


def test_where_lengths_differ_a_log_mel_has_whole_frames(
    tmp_path: Path, emodb_sample: Path, engine: LocalEngine
) -> None:
    folder = build(emodb_sample, tmp_path / "records", engine, KEPT)
    assert verify_records(open_records(folder), engine) == []
    rewrite(folder, SHARD, 2, lambda e: serialize(replace(e, log_mel=e.log_mel.ravel()[1:])))
    words = f"values in log_mel, not a multiple of {KEPT.n_mels}"
    assert_only(verify_records(open_records(folder), engine), (SHARD, 2, files_of(folder, SHARD)[2], words))


# --- a damaged manifest


def test_a_missing_row_leaves_its_record_without(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    gone = rows.pop(1)
    write_rows(folder, rows)
    assert_only(check(), (SHARD, 1, gone["file"], f"is in no row of {PART}"))


def test_a_part_without_rows(folder: Path, check: Check) -> None:
    files = files_of(folder, SHARD)
    write_rows(folder, [])
    problems = check()
    assert {problem.shard for problem in problems} == {SHARD}
    assert [(problem.index, problem.file) for problem in problems] == list(enumerate(files))


def test_a_repeated_row_is_told_with_both_numbers(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    write_rows(folder, [*rows[:2], rows[1], *rows[2:]])
    assert_only(check(), (SHARD, 1, rows[1]["file"], f"has two rows in {PART}: 1 and 2"))


def test_a_row_repeated_at_the_end(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    write_rows(folder, [*rows, rows[1]])
    assert_only(check(), (SHARD, 1, rows[1]["file"], f"has two rows in {PART}: 1 and {len(rows)}"))


def test_exchanged_rows_are_out_of_order(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    rows[0], rows[1] = rows[1], rows[0]
    write_rows(folder, rows)
    assert_only(check(), (SHARD, 0, rows[1]["file"], f"row 1 of {PART} is out of order"))


def test_exchanged_parts(folder: Path, check: Check) -> None:
    ours, theirs = part_path(folder, SHARD), part_path(folder, OTHER)
    first = {shard: rows_of(folder, shard)[0]["file"] for shard in (SHARD, OTHER)}
    n_rows = {shard: len(rows_of(folder, shard)) for shard in (SHARD, OTHER)}
    ours.rename(folder / "aside")
    theirs.rename(ours)
    (folder / "aside").rename(theirs)
    assert_only(
        check(),
        (PART, None, first[OTHER], f"row 0 is of the shard {OTHER}, and so are {n_rows[OTHER] - 1} more"),
        (f"manifest/{OTHER}.parquet", None, first[SHARD], f"row 0 is of the shard {SHARD}, and so are"),
    )


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("file", "other.wav", "its row is of other.wav"),
        ("start", 0.5, "its row's 0.500000 s"),
        ("end", 9.0, "its row's 9.000000 s"),
        ("label", "joy", "its row's is joy"),
        ("speaker", "77", "its row's 77"),
        ("split", "test", "has split test; its shard is of train"),
    ],
)
def test_a_row_that_is_not_its_records(folder: Path, check: Check, column: str, value: Any, words: str) -> None:
    rows = rows_of(folder)
    rows[2][column] = value
    write_rows(folder, rows)
    assert_only(check(), (SHARD, 2, rows[2]["file"], words))


@pytest.mark.parametrize(
    ("column", "value"), [("index", None), ("index", -1), ("start", None), ("end", math.inf), ("end", math.nan)]
)
def test_a_row_that_cannot_be_read(folder: Path, check: Check, column: str, value: float | None) -> None:
    rows = rows_of(folder)
    rows[2][column] = value
    write_rows(folder, rows)
    assert_only(
        check(),
        (PART, None, rows[2]["file"], "row 2 has no usable start, end or index"),
        (SHARD, 2, rows[2]["file"], "is in no row"),
    )


def test_a_row_of_an_unknown_shard_is_told(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    unknown = "recordings-train.tfrecord-00007-of-00008"
    write_rows(folder, [*rows, rows[0] | {"shard": unknown}])
    assert_only(check(), (PART, None, rows[0]["file"], f"row {len(rows)} is of the shard {unknown}"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing"),
        (b"", "cannot be read"),
        (b"PAR1 and no more", "cannot be read"),
        ({"file": ["x.wav"], "label": ["anger"]}, "its columns are file, label, not file, start, end, label"),
    ],
)
@pytest.mark.parametrize("name", [SHARD, "rejected"])
def test_a_part_that_is_none_is_one_problem(folder: Path, check: Check, name: str, content: Any, words: str) -> None:
    path = part_path(folder, name)
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        write_table(path, content)
    if name == "rejected" and content is not None:
        words = "is not the file whose sha256 provenance.json holds"
    assert_only(check(), (f"manifest/{name}.parquet", None, "", words))


def test_a_part_that_is_cut(folder: Path, check: Check) -> None:
    path = part_path(folder, SHARD)
    cut(path, path.stat().st_size - 10)
    assert_only(check(), (PART, None, "", "cannot be read"))


@pytest.mark.parametrize(
    ("column", "value"), [("duration", 99.0), ("sha256", "0" * 64), ("recording", 99), ("window", 1)]
)
def test_a_value_that_no_record_holds(folder: Path, check: Check, column: str, value: Any) -> None:
    rows = rows_of(folder)
    rows[2][column] = value
    write_rows(folder, rows)
    assert_only(check(), (PART, None, "", "is not the file whose sha256 provenance.json holds"))


def test_a_part_too_many_is_named(folder: Path, check: Check) -> None:
    shutil.copy(part_path(folder, SHARD), part_path(folder, "more"))
    assert_only(check(), ("manifest/more.parquet", None, "", "belongs to no shard that provenance.json lists"))


# --- the other metadata


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_shard_lengths_must_agree(folder: Path, check: Check) -> None:
    edit(folder / "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=["1", "2"]))
    stated = " ".join(str(len(files_of(folder, shard))) for shard in (SHARD, OTHER))
    words = f"its shardLengths of train are 1 2; provenance.json has {stated}"
    assert_only(check(), ("dataset_info.json", None, "", words))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("provenance.json", lambda p: p.update(fingerprint="0" * 64), "its fingerprint does not match the front end"),
        ("provenance.json", lambda p: p.update(front_end_fingerprint="0" * 64), "front_end_fingerprint does not match"),
        (
            "provenance.json",
            lambda p: p.update(errors=3),
            "counts 3 unusable recordings; the manifest has 0 such rows",
        ),
        ("features.json", lambda f: f["featuresDict"]["features"].pop("label"), "does not match the labels, front end"),
    ],
)
def test_metadata_that_disagree(
    folder: Path, check: Check, name: str, change: Callable[[Any], object], words: str
) -> None:
    edit(folder / name, change)
    assert_only(check(), (name, None, "", words))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.update(labels="anger"), "labels = 'anger': "),
        (lambda p: p["shards"][0].pop("sha256"), "shards.0.sha256: is missing"),
        (lambda p: p.update(more=1), "more: no such value"),
        (lambda p: p["front_end"].update(n_mels="64"), "front_end.n_mels = '64': "),
        (lambda p: p["front_end"].update(hop_length=0), "front_end = "),
        (lambda p: p["front_end"].pop("hop_length"), "front_end.hop_length: is missing"),
        (lambda p: p.update(front_end=[]), "front_end = []: should be a table of values"),
    ],
)
def test_a_provenance_that_cannot_be_read_is_one_line(
    folder: Path, change: Callable[[Any], object], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(folder / "provenance.json", change)
    assert main(["verify", str(folder), "-j", "1"]) == 1
    said = capfd.readouterr().err
    assert f"{folder}/provenance.json: {words}" in said
    assert "build the folder again with build-records --restart" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "label.labels.txt"])
def test_a_missing_metadata_file_is_a_problem(folder: Path, check: Check, name: str) -> None:
    (folder / name).unlink()
    assert_only(check(), (name, None, "", "is missing"))


def test_labels_of_tensorflow_datasets_must_agree(folder: Path, check: Check) -> None:
    (folder / "label.labels.txt").write_text("anger\n")
    assert_only(check(), ("label.labels.txt", None, "", "does not hold the labels"))


def test_a_speaker_in_two_splits_is_told_once(tmp_path: Path, emodb_sample: Path, engine: LocalEngine) -> None:
    lines = ["file,label,speaker,split"]
    for number, path in enumerate(sorted(emodb_sample.iterdir())):
        split = ("train", "test")[number % 2] if path.name.startswith("03") else "train"
        lines.append(f"{path},{'ab'[number % 2]},{path.name[:2]},{split}")
    (tmp_path / "given.csv").write_text("\n".join(lines))
    folder = build(tmp_path / "given.csv", tmp_path / "out", engine)
    provenance = json.loads((folder / "provenance.json").read_text())
    del provenance["plan"]["given_splits"]  # as if the rule had divided the speakers
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (shared,) = verify_records(open_records(folder), engine)
    assert (shared.shard, shared.index) == ("recordings-test.tfrecord-00000-of-00001", 0)
    assert shared.file.endswith("/03a01Wa.wav")
    assert "its speaker 03 is in the split test, and also in train" in shared.what


# --- the audio


def test_audio_that_changed_or_went(folder: Path, tmp_path: Path, emodb_sample: Path, engine: LocalEngine) -> None:
    source = Path(shutil.copytree(emodb_sample, tmp_path / "source"))
    files = files_of(folder, SHARD)
    listing = list_source(str(source))
    flip(source / files[0], 1000)
    (source / files[1]).unlink()
    problems = verify_records(open_records(folder), engine, listing)
    assert_only(problems, (SHARD, 0, files[0], "audio has changed"), (SHARD, 1, files[1], "its audio is missing"))
    problems = verify_records(open_records(folder), engine, list_source(str(source)))
    assert_only(problems, (SHARD, 0, files[0], "audio has changed"), (SHARD, 1, files[1], "is not in SOURCE"))


# --- whatever the damage


def test_random_damage_to_shards_is_always_found(folder: Path, pristine: Path) -> None:
    at_random = random.Random(0)
    for _ in range(150):
        path = folder / at_random.choice([SHARD, OTHER])
        size = path.stat().st_size
        if at_random.random() < 0.7:
            flip(path, at_random.randrange(size), at_random.randrange(8))
        else:
            cut(path, at_random.randrange(size))
        problems = verify_records(open_records(folder), Inline())
        assert {problem.shard for problem in problems} == {path.name}
        assert not any("\n" in str(problem) for problem in problems)
        shutil.copy(pristine / path.name, path)


def test_random_damage_to_metadata_never_raises(folder: Path, pristine: Path) -> None:
    at_random = random.Random(0)
    for _ in range(150):
        name = at_random.choice([PART, "provenance.json", "dataset_info.json", "features.json", REJECTED_PART])
        data = bytearray((pristine / name).read_bytes())
        for _ in range(3):
            data[at_random.randrange(len(data))] = at_random.randrange(256)
        (folder / name).write_bytes(data[: at_random.randrange(len(data))] if at_random.random() < 0.3 else data)
        with contextlib.suppress(RecordsError):  # a provenance that is no JSON any more
            records = open_records(folder)
            problems = verify_records(records, Inline())
            # Of the provenance, the version for one is nothing that can be checked.
            assert (
                problems or name == "provenance.json" or (folder / name).read_bytes() == (pristine / name).read_bytes()
            )
        shutil.copy(pristine / name, folder / name)


def test_problems_do_not_depend_on_workers(folder: Path, engine: LocalEngine) -> None:
    for shard in (SHARD, OTHER):
        flip(folder / shard, 100)
        flip(folder / shard, frames(folder / shard)[-1][0] + 100)
    with LocalEngine(1) as alone:
        problems = verify_records(open_records(folder), alone)
    assert len(problems) == 6
    assert problems == verify_records(open_records(folder), engine)


def test_a_worker_that_dies_is_a_problem(folder: Path) -> None:
    problems = verify_records(open_records(folder), Dying())
    assert problems[0] == Problem(SHARD, None, "", "could not be checked: the worker was killed")


def test_a_problem_is_one_line() -> None:
    assert str(Problem("s", 3, "a\nb.wav", "is wrong")) == "s, record 3, a\\nb.wav: is wrong"
    assert str(Problem("s", None, "", "is wrong")) == "s: is wrong"


# --- the command


def test_verify_exits_0_on_a_sound_folder(folder: Path, emodb_sample: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "--source", str(emodb_sample), "-j", "1"]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"{folder}: no problem found: 14 examples")
    assert main(["verify", str(folder), "-j", "1", "-q"]) == 0
    assert capfd.readouterr() == ("", "")


def test_verify_exits_1_on_damage_and_says_where(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    begin, _ = frames(folder / SHARD)[1]
    flip(folder / SHARD, begin + 500)
    assert main(["verify", str(folder), "-j", "1"]) == 1
    lines = capfd.readouterr().err.splitlines()
    victim = files_of(folder, SHARD)[1]
    assert f"error: {SHARD}, record 1, {victim}: the shard has a record whose CRC is wrong" in lines
    assert lines[-1].startswith(f"{folder}: 2 problems found")


def test_verify_lists_the_first_20_and_counts_the_rest(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for shard in open_records(folder).shards():
        wrong = {"speaker": "77", "label": "joy", "split": "train"}
        write_rows(folder, [row | wrong for row in rows_of(folder, shard.name)], shard.name)
    assert main(["verify", str(folder), "-j", "1", "-q"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1].startswith("error: and ")


def test_verify_of_what_is_no_record_folder_exits_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert "not a record folder" in capfd.readouterr().err


def test_many_problems_of_one_task_are_cut_and_counted(tmp_path: Path, engine: LocalEngine) -> None:
    """What a worker may return is limited; the list shows that there is more."""
    files = [tmp_path / "in" / ("anger", "fear")[n % 2] / f"{n:02d}-{'x' * 200}.wav" for n in range(60)]
    for number, path in enumerate(files):
        write_tone(path, secs=0.1 + number / 1000)
    folder = build(tmp_path / "in", tmp_path / "records", engine)
    for path in files:
        write_tone(path, secs=0.5)
    problems = verify_records(open_records(folder), engine, list_source(str(tmp_path / "in")))
    (cut,) = (str(problem) for problem in problems if "more problems" in problem.what)
    assert len(problems) + int(re.search(r"and (\d+) more problems", cut)[1]) == 60  # type: ignore[index]
