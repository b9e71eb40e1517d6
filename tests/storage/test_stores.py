"""Object stores of several kinds and makers: the commands give what they give for local files."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ser_batch.cli.app import main
from ser_batch.records.folder import open_records
from ser_batch.storage import objects, stores
from tests.storage.s3 import CREDENTIALS, client, free_port, s3_server, served

# The account and key of Azure's emulator, which its documentation names.
AZURE = {
    "AZURE_STORAGE_ACCOUNT": "devstoreaccount1",
    "AZURE_STORAGE_KEY": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
}


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (npm install {name.removesuffix('-blob')})")
    return found


def moto(stack: ExitStack, folder: Path) -> tuple[str, dict[str, str]]:
    port = stack.enter_context(s3_server())
    client(port).create_bucket(Bucket="bucket")
    return "s3", CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


def s3rver(stack: ExitStack, folder: Path) -> tuple[str, dict[str, str]]:
    port = free_port()
    command = [program("s3rver"), "-a", "127.0.0.1", "-p", str(port), "-d", str(folder), "--no-vhost-buckets"]
    # It encrypts its tokens with a cipher that newer versions of OpenSSL have only on demand.
    legacy = {"NODE_OPTIONS": "--openssl-legacy-provider"}
    stack.enter_context(served([*command, "--configure-bucket", "bucket"], port, **legacy))
    keys = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER", "AWS_REGION": "us-east-1"}
    return "s3", keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


def google_cloud(stack: ExitStack, folder: Path) -> tuple[str, dict[str, str]]:
    port = free_port()
    options = ["start", "--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=bucket"]
    stack.enter_context(served([sys.executable, "-m", "gcp_storage_emulator", *options], port))
    return "gs", {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}


def azurite(stack: ExitStack, folder: Path) -> tuple[str, dict[str, str]]:
    port = free_port()
    options = ["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    stack.enter_context(served([program("azurite-blob"), *options, *where], port))
    return "az", AZURE | {"AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}"}


@pytest.fixture(params=[moto, s3rver, google_cloud, azurite], ids=lambda start: start.__name__)
def bucket(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emodb_sample: Path
) -> Iterator[str]:
    """The URL of a bucket with the sample below ``wav/``."""
    start: Callable[[ExitStack, Path], tuple[str, dict[str, str]]] = request.param
    with ExitStack() as stack:
        scheme, variables = start(stack, tmp_path / "server")
        for name, value in (variables | {"SER_BATCH_CACHE": str(tmp_path / "cache")}).items():
            monkeypatch.setenv(name, value)
        stores._store.cache_clear()
        if scheme == "az":
            stores.store_of("az://").create_dir("bucket")
        for path in emodb_sample.glob("*.wav"):
            objects.send(path, f"{scheme}://bucket/wav/{path.name}")
        yield f"{scheme}://bucket"
    stores._store.cache_clear()


@pytest.mark.parametrize(
    "bucket",
    [pytest.param(moto, marks=pytest.mark.slow), s3rver, google_cloud, azurite],
    indirect=True,
    ids=lambda start: start.__name__,
)
def test_outputs_are_those_of_local_files(bucket: str, emodb_sample: Path, tmp_path: Path, capfd) -> None:
    build = ["--labels", "emodb", "-q", "-j", "1"]
    assert main(["build-records", f"{bucket}/wav", "-o", f"{bucket}/made/records", *build]) == 0
    assert main(["build-records", str(emodb_sample), "-o", str(tmp_path / "records"), *build]) == 0
    for path in (tmp_path / "records").glob("*.tfrecord*"):
        assert objects.ObjectFile(f"{bucket}/made/records/{path.name}").readall() == path.read_bytes()
    assert main(["verify", f"{bucket}/made/records", "--source", f"{bucket}/wav"]) == 0
    assert "no problem found: 14 examples" in capfd.readouterr().err
    assert main(["infer", f"{bucket}/wav", "-o", f"{bucket}/made/preds.csv", "-q", "-j", "1"]) == 0
    assert main(["infer", str(emodb_sample), "-o", str(tmp_path / "preds.csv"), "-q", "-j", "1"]) == 0
    assert objects.ObjectFile(f"{bucket}/made/preds.csv").readall() == (tmp_path / "preds.csv").read_bytes()
    assert not [key for key in objects.list_objects(f"{bucket}/made") if key.endswith(".lease")]
    # Another seed gives other splits: the shards are replaced, and the old ones removed.
    build += ["--seed", "1", "--restart"]
    assert main(["build-records", f"{bucket}/wav", "-o", f"{bucket}/made/records", *build]) == 0
    assert main(["build-records", str(emodb_sample), "-o", str(tmp_path / "records"), *build]) == 0
    found = {key for key in objects.list_objects(f"{bucket}/made/records") if "tfrecord" in key}
    local = (path for path in (tmp_path / "records").rglob("*tfrecord*") if path.is_file())
    assert found == {path.relative_to(tmp_path / "records").as_posix() for path in local}
    assert main(["info", f"{bucket}/made/records"]) == 0
    assert open_records(tmp_path / "records").fingerprint[:12] in capfd.readouterr().out


def test_what_is_missing_is_one_line(bucket: str, tmp_path: Path, capfd) -> None:
    for source in (f"{bucket}/none", f"{bucket}-none/wav"):
        assert main(["infer", source, "-o", str(tmp_path / "preds.csv")]) == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"error: {source}: cannot be listed (")
    assert main(["info", f"{bucket}/none"]) == 1
    assert capfd.readouterr().err == f"error: {bucket}/none: no such object or prefix\n"


@pytest.mark.parametrize(
    ("source", "variables", "message"),
    [
        ("az://bucket/wav", {}, "AZURE_STORAGE_ACCOUNT is not set; set it to the name of the storage account"),
        ("az://bucket/wav", {"AZURE_STORAGE_ACCOUNT": "nobody"}, "Failed to get token from DefaultAzureCredential"),
        ("s3://bucket/wav", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Could not connect to server"),
    ],
)
def test_without_credentials_there_is_one_line(
    tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch, source: str, variables: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [*AZURE, *CREDENTIALS]:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stores._store.cache_clear()
    assert main(["infer", source, "-o", str(tmp_path / "preds.csv")]) == 1
    (line,) = [one for one in capfd.readouterr().err.splitlines() if one.startswith("error")]
    assert message in line
    assert "check the URL, the credentials and the address of the store" in line
    stores._store.cache_clear()
