import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from ser_batch.cli.app import main
from ser_batch.corpus.duplicates import Duplicates, duplicate_warnings, find_duplicates
from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan, assign_splits
from ser_batch.corpus.table import Recording, make_table, recordings
from ser_batch.records.folder import open_records
from ser_batch.records.reader import manifest_column, split_train_validation
from ser_batch.runtime.local import LocalEngine


def duplicates_of(table: pa.Table) -> dict[str, str]:
    with LocalEngine(2) as engine:
        same = find_duplicates(table, engine)
    files = table["file"].to_pylist()
    return {files[copy]: files[same.duplicate_of[copy]] for copy in same.copies}


def listed(folder: Path) -> pa.Table:
    return list_source(str(folder)).recordings


def test_the_sample_holds_none(emodb_sample: Path) -> None:
    assert not duplicates_of(listed(emodb_sample))


def test_the_same_bytes_under_other_names_are_found(tmp_path: Path, emodb_sample: Path) -> None:
    shutil.copy(emodb_sample / "16b03Ta.wav", tmp_path / "a.wav")
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    (tmp_path / "c.wav").hardlink_to(tmp_path / "a.wav")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[-1] ^= 1
    (tmp_path / "same size and head.wav").write_bytes(data)
    for name in ("d.wav", "e.wav"):
        (tmp_path / name).write_bytes(bytes(data[:-2]) + b"xy")
    for name in ("short1.wav", "short2.wav"):
        shutil.copy(emodb_sample / "03a01Wa.wav", tmp_path / name)
    (tmp_path / "empty1.wav").touch()
    (tmp_path / "empty2.wav").touch()
    assert duplicates_of(listed(tmp_path)) == {
        "b.wav": "a.wav",
        "c.wav": "a.wav",
        "e.wav": "d.wav",
        "short2.wav": "short1.wav",
    }


def test_parts_of_one_file_are_not_duplicates(tmp_path: Path, emodb_sample: Path) -> None:
    path = str(emodb_sample / "16b03Ta.wav")
    parts = [Recording("x", path, "a", end_secs=1.0), Recording("x", path, "a", start_secs=1.0)]
    assert not duplicates_of(make_table(parts))


def test_copies_stay_in_one_split_for_any_seed() -> None:
    everyone = [
        Recording(f"{speaker}{number}.wav", f"/{speaker}{number}.wav", "anger", f"s{speaker}")
        for speaker in range(10)
        for number in range(10)
    ]
    pairs = {30: 20, 40: 20, 80: 70}
    duplicate_of = np.arange(100)
    duplicate_of[list(pairs)] = list(pairs.values())
    anonymous = [recording._replace(speaker=None) for recording in everyone]
    for seed in range(20):
        mixed = [one if number % 3 else anonymous[number] for number, one in enumerate(everyone)]
        for some in (everyone, anonymous, mixed):
            assigned = list(recordings(assign_splits(make_table(some), SplitPlan(seed=seed), duplicate_of)))
            assert all(assigned[copy].split == assigned[first].split for copy, first in pairs.items())
        splits = defaultdict(set)
        for recording in recordings(assign_splits(make_table(everyone), SplitPlan(seed=seed), duplicate_of)):
            splits[recording.speaker].add(recording.split)
        assert all(len(of_speaker) == 1 for of_speaker in splits.values())


def test_copies_with_another_label_are_said(emodb_sample: Path) -> None:
    labelled = label_recordings(list_source(str(emodb_sample))).recordings
    duplicate_of = np.arange(len(labelled))
    duplicate_of[1] = 0
    (_, line) = duplicate_warnings(labelled, Duplicates(np.arange(len(labelled)), duplicate_of))
    assert line == ("copies with a different label: 1 (03a01Wa.wav: anger, 03a01Fa.wav: happiness)")


def test_copies_in_two_given_splits_are_said_and_not_trained_on(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    names = sorted(path.name for path in emodb_sample.iterdir())
    splits = ["train", "train", "train", "validation", "test"]
    rows = [f"{name},{name[5]},{name[:2]},{split},," for name, split in zip(names, splits, strict=False)]
    for copy, (of, split) in {"v.wav": (3, "train"), "t.wav": (4, "train"), "0.wav": (0, "train")}.items():
        shutil.copy(emodb_sample / names[of], tmp_path / copy)
        rows.append(f"{copy},{names[of][5]},{copy},{split},,")
    rows.append(f"{names[4]},{names[4][5]},{names[4][:2]},train,0,0.5")  # another part
    for name in names:
        shutil.copy(emodb_sample / name, tmp_path)
    (tmp_path / "list.csv").write_text("\n".join(["file,label,speaker,split,start,end", *rows]))
    assert main(["build-records", str(tmp_path / "list.csv"), "-o", str(tmp_path / "out"), "-j", "1"]) == 0
    said = capfd.readouterr().err
    assert "same bytes as another: 3 files (v.wav as " in said
    assert f"copies with a different given split: 2 (v.wav: train, {names[3]}: " in said
    sides = split_train_validation(open_records(tmp_path / "out"))
    assert sides.n_copies == 2
    trained = manifest_column(open_records(tmp_path / "out"), sides.train, "file").to_pylist()
    assert sorted(trained) == sorted([*names[:3], "0.wav", names[4]])


def test_the_command_reports_them(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    shutil.copytree(emodb_sample, tmp_path / "in")
    shutil.copy(emodb_sample / "03a01Wa.wav", tmp_path / "in" / "08a01Wa.wav")
    assert main(["build-records", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--front-end", "speech"]) == 0
    assert "same bytes as another: 1 file (08a01Wa.wav as 03a01Wa.wav)" in capfd.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    assert main(["build-records", str(emodb_sample), "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "14 recordings; cannot be used: 0 inputs" in said
    assert "expected, from 14 recordings: 14 examples, 1.6 MB" in said
    assert not (tmp_path / "out").exists()
    assert main(["build-records", str(emodb_sample), "-o", str(tmp_path / "out")]) == 0
    capfd.readouterr()
    assert main(["info", str(tmp_path / "out")]) == 0
    table = said[said.index("anger") :]
    assert capfd.readouterr().out.endswith(table)
