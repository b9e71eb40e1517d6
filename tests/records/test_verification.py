import contextlib
import csv
import json
import random
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
from ser_batch.records.plan import BuildOptions, plan_build
from ser_batch.records.tfrecords import read_records, write_record
from ser_batch.records.verification.metadata import Problem
from ser_batch.records.verification.verify import verify_records
from ser_batch.runtime.local import LocalEngine
from ser_batch.storage.fingerprints import file_sha256, json_fingerprint
from tests.frontends import KEPT, TRUNCATED, WINDOWED
from tests.inline import Dying, Inline

SHARD = "recordings-train.tfrecord-00000-of-00002"
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


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_recording_that_is_in_a_folder_twice_is_named(
    tmp_path: Path, emodb_sample: Path, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ser_batch.records.build._refuse_repeats", lambda *_: None)  # as folders were built before
    rows = [f"{emodb_sample / path.name},{path.name[5]},0,{end}" for path in emodb_sample.iterdir() for end in (60, 1)]
    whole = emodb_sample / "16b03Ta.wav"
    (tmp_path / "parts.csv").write_text("\n".join(["file,label,start,end", *rows, f"{whole},T,0,"]))
    options = BuildOptions(WINDOWED.replace(length_secs=0.5, window_hop_secs=0.25), SplitPlan("random"), 2)
    plan = plan_build(label_recordings(list_source(str(tmp_path / "parts.csv"))), options)
    records = build_records(plan, tmp_path / "records", engine).records
    (problem,) = verify_records(records, engine)
    assert str(problem) == (
        f"manifest.csv, {whole}: the part from 0.0 s to 5.975625 s is in it twice; build-records --restart keeps one"
    )


def files_of(folder: Path, shard: str) -> list[str]:
    """The source file of each record of a shard."""
    return [row["file"] for row in rows_of(folder) if row["shard"] == shard]


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


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
    assert len(rows_of(folder)) > 3 * len(names)
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
    more = f"so it is with {len(files) - 3} records after it"
    assert_only(
        check(),
        changed_bytes(SHARD),
        (SHARD, 1, files[1], "length whose CRC is wrong"),
        (SHARD, 2, files[2], f"the damage before it hides where it begins; {more}"),
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
        (SHARD, None, "", f"holds 3 records; provenance.json says {len(files)}"),
        changed_bytes(SHARD),
        (SHARD, 2, files[2], "ends in the middle of a record"),
        (SHARD, 3, files[3], "in manifest.csv, but the shard ends before it"),
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
        (SHARD, last, files[last], "in manifest.csv, but the shard ends before it"),
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
        (SHARD, n_records, files_of(folder, OTHER)[0], "is in no row of manifest.csv"),
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
        (lambda e: b"\xff\xff\xff", "is no tf.train.Example"),
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
    (at,) = (number for number, row in enumerate(rows) if (row["shard"], row["index"]) == (SHARD, "1"))
    gone = rows.pop(at)
    write_rows(folder, rows)
    assert_only(check(), (SHARD, 1, gone["file"], "is in no row of manifest.csv"))


def test_a_missing_row_that_is_the_only_one_of_its_shard(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    of_test = [row for row in rows if row["split"] == "test"]
    write_rows(folder, [row for row in rows if row["shard"] != of_test[0]["shard"]])
    problems = check()
    assert {problem.shard for problem in problems} == {of_test[0]["shard"]}
    assert (problems[0].index, problems[0].file) == (0, of_test[0]["file"])


def test_a_repeated_row_is_told_with_its_lines(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    assert (rows[1]["shard"], rows[1]["index"]) == (SHARD, "1")
    write_rows(folder, [*rows[:2], rows[1], *rows[2:]])
    assert_only(check(), (SHARD, 1, rows[1]["file"], "has two rows in manifest.csv: lines 3 and 4"))


def test_a_row_repeated_at_the_end_stands_apart(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    write_rows(folder, [*rows, rows[1]])
    line = len(rows) + 2
    assert_only(
        check(),
        (SHARD, 1, rows[1]["file"], f"line {line} of manifest.csv stands apart from the other rows of its shard"),
        (SHARD, 1, rows[1]["file"], f"has two rows in manifest.csv: lines 3 and {line}"),
    )


def test_exchanged_rows_are_out_of_order(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    rows[0], rows[1] = rows[1], rows[0]
    write_rows(folder, rows)
    assert_only(check(), (SHARD, 0, rows[1]["file"], "line 3 of manifest.csv is out of order"))


def test_shards_of_the_manifest_in_another_order(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    write_rows(folder, [row for row in rows if row["shard"] != SHARD] + [row for row in rows if row["shard"] == SHARD])
    assert_only(check(), (SHARD, 0, rows[0]["file"], "stand behind the rows of a later shard"))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("file", "other.wav", "its row is of other.wav"),
        ("start", "0.5", "its row's 0.500000 s"),
        ("end", "9.0", "its row's 9.000000 s"),
        ("label", "joy", "its row's is joy"),
        ("speaker", "77", "its row's 77"),
        ("split", "test", "says split test; its shard is of train"),
    ],
)
def test_a_row_that_is_not_its_records(folder: Path, check: Check, column: str, value: str, words: str) -> None:
    rows = rows_of(folder)
    rows[2][column] = value
    write_rows(folder, rows)
    found = [problem for problem in check() if "speaker 0" not in problem.what and "speaker 1" not in problem.what]
    assert_only(found, (SHARD, 2, rows[2]["file"], words))


@pytest.mark.parametrize(("column", "value"), [("index", "x"), ("index", "-1"), ("start", ""), ("end", "inf")])
def test_a_row_that_cannot_be_read(folder: Path, check: Check, column: str, value: str) -> None:
    rows = rows_of(folder)
    rows[2][column] = value
    write_rows(folder, rows)
    assert_only(
        check(),
        ("manifest.csv", None, rows[2]["file"], "line 4 has no usable start, end or index"),
        (SHARD, 2, rows[2]["file"], "is in no row"),
    )


def test_a_row_of_an_unknown_shard_is_told(folder: Path, check: Check) -> None:
    rows = rows_of(folder)
    write_rows(folder, [*rows, rows[0] | {"shard": "recordings-train.tfrecord-00007-of-00008"}])
    problems = check()
    assert_only(problems, ("recordings-train.tfrecord-00007-of-00008", 0, rows[0]["file"], "does not list"))


@pytest.mark.parametrize("content", [None, "", "file,label\nx.wav,anger\n", 'file,start\n"' + "x" * 200_000])
def test_a_manifest_that_is_none_is_one_problem(folder: Path, check: Check, content: str | None) -> None:
    (folder / "manifest.csv").unlink()
    if content is not None:
        (folder / "manifest.csv").write_text(content)
    words = "is missing" if content is None else "its columns are"
    assert_only(check(), ("manifest.csv", None, "", words))


def test_a_manifest_cut_in_a_row(folder: Path, check: Check) -> None:
    text = (folder / "manifest.csv").read_text()
    last = rows_of(folder)[-1]
    cut(folder / "manifest.csv", text.rindex(last["file"]) + len(last["file"]) + 2)
    assert_only(
        check(),
        ("manifest.csv", None, last["file"], "has 2 cells, not 10"),
        (last["shard"], int(last["index"]), last["file"], "is in no row"),
    )


# --- the other metadata


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_shard_lengths_must_agree(folder: Path, check: Check) -> None:
    edit(folder / "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=["1", "2"]))
    stated = " ".join(str(len(files_of(folder, shard))) for shard in (SHARD, OTHER))
    words = f"its shardLengths of train are 1 2; provenance.json says {stated}"
    assert_only(check(), ("dataset_info.json", None, "", words))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("provenance.json", lambda p: p.update(fingerprint="0" * 64), "its fingerprint is not that of"),
        ("provenance.json", lambda p: p.update(front_end_fingerprint="0" * 64), "front_end_fingerprint is not"),
        ("provenance.json", lambda p: p.update(labels="anger"), "has no usable labels"),
        ("provenance.json", lambda p: p["shards"][0].pop("sha256"), "a shard without a usable sha256"),
        ("provenance.json", lambda p: p["front_end"].update(n_mels="64"), "has no usable front_end"),
        ("provenance.json", lambda p: p["front_end"].update(hop_length=0), "has no usable front_end"),
        ("errors.csv", lambda p: None, "has 0 rows, not the 3 of provenance.json"),
        ("features.json", lambda f: f["featuresDict"]["features"].pop("label"), "is not what the labels, front end"),
    ],
)
def test_metadata_that_disagree(
    folder: Path, check: Check, name: str, change: Callable[[Any], object], words: str
) -> None:
    if name == "errors.csv":
        edit(folder / "provenance.json", lambda p: p.update(errors=3))
    else:
        edit(folder / name, change)
    assert_only(check(), (name, None, "", words))


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "label.labels.txt", "errors.csv"])
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
        name = at_random.choice(["manifest.csv", "provenance.json", "dataset_info.json", "features.json", "errors.csv"])
        data = bytearray((pristine / name).read_bytes())
        for _ in range(3):
            data[at_random.randrange(len(data))] = at_random.randrange(256)
        (folder / name).write_bytes(data[: at_random.randrange(len(data))] if at_random.random() < 0.3 else data)
        with contextlib.suppress(RecordsError):  # a provenance that is no JSON any more
            records = open_records(folder)
            assert isinstance(verify_records(records, Inline()), list)
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
    write_rows(folder, [row | {"speaker": "77", "label": "joy", "split": "train"} for row in rows_of(folder)])
    assert main(["verify", str(folder), "-j", "1", "-q"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1].startswith("error: and ")


def test_verify_of_what_is_no_record_folder_exits_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert "not a record folder" in capfd.readouterr().err
