"""Recordings in an S3 store: listed, read, built and predicted as local ones are."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ser_batch
from ser_batch.cli.app import main
from ser_batch.errors import SerBatchError
from ser_batch.records.folder import open_records
from ser_batch.storage import objects, stores
from ser_batch.storage.filesystems import file_status
from ser_batch.storage.fingerprints import file_sha256
from tests.storage.s3 import CREDENTIALS, Faults, client, proxy, s3_server


@pytest.fixture(scope="module")
def server(emodb_sample: Path) -> Iterator[int]:
    """A server with the sample below ``corpus/wav/``, and more objects that are not audio."""
    with s3_server() as port:
        store = client(port)
        store.create_bucket(Bucket="corpus")
        for path in emodb_sample.glob("*.wav"):
            store.upload_file(str(path), "corpus", f"wav/{path.name[:2]}/{path.name}")
        store.put_object(Bucket="corpus", Key="wav/notes.txt", Body=b"none")
        store.put_object(Bucket="corpus", Key="wav/.hidden/a.wav", Body=b"none")
        store.put_object(Bucket="corpus", Key="other/ü +%41.wav", Body=b"")
        store.put_object(Bucket="corpus", Key="empty/notes.txt", Body=b"none")
        yield port


@pytest.fixture
def faults(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Access to the server through a proxy."""
    faults = Faults()
    with proxy(server, faults) as port:
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        stores._store.cache_clear()
        yield faults
    stores._store.cache_clear()


@pytest.fixture
def local(tmp_path: Path, emodb_sample: Path) -> Path:
    """The same folder on this machine."""
    for path in emodb_sample.glob("*.wav"):
        (tmp_path / "wav" / path.name[:2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "wav" / path.name[:2])
    (tmp_path / "wav" / "notes.txt").write_text("none")
    return tmp_path / "wav"


def test_a_table_is_that_of_local_files(faults: Faults, local: Path, tmp_path: Path, capfd) -> None:
    for source, out in (("s3://corpus/wav", "remote.csv"), (str(local), "local.csv")):
        assert main(["infer", source, "-o", str(tmp_path / out), "-j", "2"]) == 0
        assert "skipped: 1 file in" in capfd.readouterr().err
    assert (tmp_path / "remote.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()
    assert faults.gets >= 14
    faults.gets = 0
    assert main(["infer", "s3://corpus/wav/", "-o", str(tmp_path / "remote.csv"), "-j", "2"]) == 0
    assert "already finished, nothing to do" in capfd.readouterr().err
    assert faults.gets == 0


def test_records_are_those_of_local_files(faults: Faults, local: Path, tmp_path: Path) -> None:
    for source, out in (("s3://corpus/wav", "remote"), (str(local), "local")):
        assert main(["build-records", source, "-o", str(tmp_path / out), "--labels", "emodb", "-q", "-j", "2"]) == 0
    assert open_records(tmp_path / "remote").fingerprint == open_records(tmp_path / "local").fingerprint
    assert main(["verify", str(tmp_path / "remote"), "--source", "s3://corpus/wav"]) == 0


def test_a_list_may_name_objects(faults: Faults, emodb_sample: Path, tmp_path: Path) -> None:
    rows = [
        "s3://corpus/wav/03/03a01Fa.wav,0.5",
        f"{emodb_sample / '03a01Fa.wav'},0.5",
        "s3://corpus/other/ü +%41.wav,",
    ]
    (tmp_path / "list.csv").write_text("\n".join(["file,start", *rows]))
    assert (
        main(["infer", str(tmp_path / "list.csv"), "-o", str(tmp_path / "preds.jsonl"), "-q", "--adapt", "none"]) == 3
    )
    remote, local, empty = map(json.loads, (tmp_path / "preds.jsonl").read_text().splitlines())
    assert remote["file"] == "s3://corpus/wav/03/03a01Fa.wav"
    assert {**remote, "file": ""} == {**local, "file": ""}
    assert empty["error"] == "is empty (0 bytes)"


def test_a_reply_that_is_cut_short_is_read_again(faults: Faults, emodb_sample: Path) -> None:
    faults.cut = 2
    assert file_sha256("s3://corpus/wav/03/03a01Fa.wav") == file_sha256(emodb_sample / "03a01Fa.wav")
    assert (faults.cut, faults.gets >= 3) == (0, True)


@pytest.mark.slow
def test_a_store_that_always_fails_is_an_error_of_each_file(faults: Faults, tmp_path: Path, capfd) -> None:
    faults.cut = 10_000
    source = "s3://corpus/wav/03/03a01Fa.wav"
    assert main(["infer", source, "-o", str(tmp_path / "preds.csv"), "-j", "1"]) == 1
    assert "error: 03a01Fa.wav: cannot be read:" in capfd.readouterr().err
    faults.cut = 0
    assert main(["infer", source, "-o", str(tmp_path / "preds.csv"), "-j", "1", "--restart", "-q"]) == 0


def test_a_slow_store_only_takes_longer(faults: Faults) -> None:
    faults.delay_secs = 1.0
    assert file_status("s3://corpus/wav/03/03a01Fa.wav").size > 10_000


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://nobody/wav", "error: s3://nobody/wav: cannot be listed ("),
        ("s3://corpus/none", "error: s3://corpus/none: cannot be listed (no such object or prefix)"),
        (
            "s3://corpus/empty",
            "error: s3://corpus/empty: no audio below it (it holds 1 other object); give another prefix",
        ),
        ("s3://corpus/wav/notes.txt", "a list; copy it to this machine: the files in it may be remote"),
        (
            "hdfs://corpus/wav",
            "only local files, s3://, gs://, az://, http:// and https:// are supported here;",
        ),
    ],
)
def test_what_cannot_be_listed_is_one_line(faults: Faults, tmp_path: Path, capfd, source: str, message: str) -> None:
    assert main(["infer", source, "-o", str(tmp_path / "preds.csv")]) in (1, 2)
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "preds.csv").exists()


def test_a_store_that_is_not_there_is_one_line(tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    stores._store.cache_clear()
    assert main(["infer", "s3://corpus/wav", "-o", str(tmp_path / "preds.csv")]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: s3://corpus/wav: cannot be listed (")
    stores._store.cache_clear()


@pytest.fixture
def bucket(faults: Faults, server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """An empty bucket ``out``, and an empty folder of local copies."""
    store = client(server)
    store.create_bucket(Bucket="out")
    for one in store.list_objects_v2(Bucket="out").get("Contents", []):
        store.delete_object(Bucket="out", Key=one["Key"])
    monkeypatch.setenv("SER_BATCH_CACHE", str(tmp_path / "cache"))
    return faults


def keys(server: int) -> list[str]:
    return [one["Key"] for one in client(server).list_objects_v2(Bucket="out").get("Contents", [])]


@pytest.mark.slow
def test_all_commands_work_in_a_store(bucket: Faults, server: int, tmp_path: Path, capfd, monkeypatch) -> None:
    commands = [
        "build-records s3://corpus/wav -o s3://out/records --labels emodb -q",
        "verify s3://out/records --source s3://corpus/wav",
        "train s3://out/records -o s3://out/model --recipe functionals --epochs 2 -q",
        "evaluate s3://out/model s3://out/records -o s3://out/eval --split train -q",
        "infer s3://corpus/wav -o s3://out/tables/preds.csv --model s3://out/model -q",
        "report s3://out/tables/preds.csv -o s3://out/report.html -q",
        "info s3://out/model",
    ]
    for machine in ("one", "another"):  # the second machine has no copies
        monkeypatch.setenv("SER_BATCH_CACHE", str(tmp_path / machine))
        for command in commands:
            again = ["--restart"] if machine == "another" and command.startswith("infer") else []
            assert main([*command.split(), *again]) == 0, (machine, command)
        output = capfd.readouterr()
        assert "s3://out/records: no problem found: 14 examples" in output.err
        assert "functionals" in output.out
        assert str(tmp_path) not in output.err
    assert main([*commands[4].split()]) == 0  # complete, with its parts on this machine
    monkeypatch.setenv("SER_BATCH_CACHE", str(tmp_path / "third"))
    assert main([*commands[4].split()]) == 1
    expected = "error: s3://out/tables/preds.csv: exists without its folder .preds.csv.parts, so its inputs and"
    assert capfd.readouterr().err.startswith(expected)
    found = keys(server)
    assert {"records/provenance.json", "model/bundle.json", "eval/scores.json", "report.html"} < {*found}
    assert "tables/preds.csv" in found
    assert not [key for key in found if ".lease" in key or "/." in key]
    local = tmp_path / "local"
    assert main(["build-records", "s3://corpus/wav", "-o", str(local), "--labels", "emodb", "-q"]) == 0
    for path in local.rglob("*.tfrecord*"):
        body = client(server).get_object(Bucket="out", Key=f"records/{path.relative_to(local)}")["Body"].read()
        assert body == path.read_bytes()


def test_notebooks_read_a_store(bucket: Faults, tmp_path: Path) -> None:
    build = ["build-records", "s3://corpus/wav", "--labels", "emodb", "-q", "-j", "1", "-o"]
    assert main([*build, "s3://out/records"]) == 0
    assert main(["infer", "s3://corpus/wav", "-o", "s3://out/preds.csv", "-q", "-j", "1"]) == 0
    records = ser_batch.load_records("s3://out/records")
    assert len(records.manifest()) == 14
    assert sum(1 for _ in records.to_dataset("train")) == open_records(records.path).n_examples("train")
    assert len(ser_batch.read_predictions("s3://out/preds.csv")) == 14
    with pytest.raises(SerBatchError, match=r"s3://out/none: no such object or prefix"):
        ser_batch.load_bundle("s3://out/none")


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="tensorflow-io has no version for this Python")
def test_tensorflow_streams_shards(bucket: Faults, server: int, tmp_path: Path) -> None:
    assert main(["build-records", "s3://corpus/wav", "-o", "s3://out/records", "--labels", "emodb", "-q"]) == 0
    code = """
import os
import ser_batch as sb

records = sb.load_records("s3://out/records", stream=True)
streamed = [(label.numpy(), log_mel.shape[1]) for log_mel, label in records.to_dataset("train")]
copied = [(label.numpy(), log_mel.shape[1]) for log_mel, label in sb.load_records("s3://out/records").to_dataset("train")]
print(streamed == copied, len(streamed), flush=True)
os._exit(0)  # tensorflow-io aborts at exit
"""
    # The proxy ends every connection, which this client does not expect.
    address = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server}", "SER_BATCH_CACHE": str(tmp_path / "another")}
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | address, capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("True 10\n", 0), result.stderr
    (copied,) = (tmp_path / "another" / "parts").glob("*/records")
    assert not list(copied.glob("*.tfrecord-*"))
    with pytest.raises(SerBatchError, match=r"stream=True is for record folders at s3://"):
        ser_batch.load_records(tmp_path, stream=True)


def test_a_run_that_cannot_send_continues(bucket: Faults, server: int, tmp_path: Path, capfd) -> None:
    command = ["infer", "s3://corpus/wav", "-o", "s3://gone/preds.csv", "-q"]
    assert main(command) == 1
    assert capfd.readouterr().err.startswith("error: s3://gone/preds.csv")
    client(server).create_bucket(Bucket="gone")
    bucket.gets = 0
    assert main(command) == 0
    assert bucket.gets == 0  # everything was predicted before
    assert client(server).head_object(Bucket="gone", Key="preds.csv")["ContentLength"] > 1000


def test_stores_that_accept_less_than_amazons(bucket: Faults, server: int) -> None:
    bucket.no_folders = True
    command = ["infer", "s3://corpus/wav/03", "-o", "s3://out/tables/preds.csv", "-q", "--adapt", "none"]
    assert main(command) == 0
    assert keys(server) == ["tables/preds.csv"]
    assert bucket.chunked == 0


def test_a_killed_build_continues_to_the_same_bytes(bucket: Faults, server: int, tmp_path: Path) -> None:
    bucket.delay_secs = 0.1
    build = ["build-records", "s3://corpus/wav", "--labels", "emodb", "-q", "-j", "1", "-o"]
    process = subprocess.Popen([sys.executable, "-m", "ser_batch", *build, "s3://out/records"])
    while not list((tmp_path / "cache").rglob("manifest/recordings-*.parquet")):  # a shard is done, with its part
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    bucket.delay_secs = 0.0
    assert keys(server) == []
    bucket.gets = 0
    assert main([*build, "s3://out/records"]) == 0
    gets, bucket.gets = bucket.gets, 0
    assert main([*build, str(tmp_path / "local")]) == 0
    assert gets < bucket.gets  # what was built is not read again
    for path in (tmp_path / "local").glob("*.tfrecord*"):
        assert client(server).get_object(Bucket="out", Key=f"records/{path.name}")["Body"].read() == path.read_bytes()


def test_the_marker_is_sent_last_and_removed_first(bucket: Faults, server: int, monkeypatch, capfd) -> None:
    done: list[str] = []

    def noted(name: str) -> Callable[..., None]:
        plain = getattr(objects, name)

        def called(*of: object) -> None:
            done.append(f"{name} {of[-1]}")
            plain(*of)

        return called

    for name in ("send", "remove"):
        monkeypatch.setattr(objects, name, noted(name))
    build = ["build-records", "s3://corpus/wav", "-o", "s3://out/records", "--labels", "emodb", "-q", "-j", "1"]
    assert main(build) == 0
    assert done[-2:] == ["send s3://out/records/provenance.json", "remove s3://out/records.lease"]
    done.clear()
    assert main([*build, "--seed", "1"]) == 1  # other settings, and no --restart
    assert "other inputs or settings" in capfd.readouterr().err
    assert done == []
    assert main([*build, "--seed", "1", "--restart"]) == 0
    assert done[0] == "remove s3://out/records/provenance.json"
    assert done[-2:] == ["send s3://out/records/provenance.json", "remove s3://out/records.lease"]


def test_two_runs_to_one_output_are_told_apart(bucket: Faults, server: int, tmp_path: Path, monkeypatch, capfd) -> None:
    command = ["infer", "s3://corpus/wav/03", "-o", "s3://out/preds.csv", "-q", "--adapt", "none"]
    client(server).put_object(Bucket="out", Key="preds.csv.lease", Body=b"")
    assert main(command) == 1
    assert "s3://out/preds.csv: another run is sending to it" in capfd.readouterr().err
    client(server).delete_object(Bucket="out", Key="preds.csv.lease")
    monkeypatch.setenv("SER_BATCH_CACHE", str(tmp_path / "another"))
    assert main(command) == 0
    monkeypatch.setenv("SER_BATCH_CACHE", str(tmp_path / "cache"))
    assert main(command) == 1  # this machine has a table that was never sent
    assert "was changed by another run since the one on this machine; remove" in capfd.readouterr().err
    assert keys(server) == ["preds.csv"]


def test_reading_an_output_does_not_touch_one_that_was_not_sent(bucket: Faults, server: int) -> None:
    build = ["build-records", "s3://corpus/wav", "-o", "s3://out/records", "--labels", "emodb", "-q", "-j", "1"]
    assert main(build) == 0
    client(server).put_object(Bucket="out", Key="records.lease", Body=b"")
    assert main([*build, "--seed", "1", "--restart"]) == 1  # it is made, and cannot be sent
    assert main(["info", "s3://out/records"]) == 0
    client(server).delete_object(Bucket="out", Key="records.lease")
    assert main([*build, "--seed", "1"]) == 0
    remote = client(server).get_object(Bucket="out", Key="records/provenance.json")["Body"].read()
    assert '"seed": 1' in remote.decode()
