"""The Ray engine on two real nodes, one of which is killed."""

import csv
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ser_batch
from ser_batch.cli.app import main
from ser_batch.events import Progress
from ser_batch.records.folder import open_records
from ser_batch.records.manifest import part_path
from ser_batch.runtime.ray_engine import RayEngine
from tests import ray_tasks
from tests.ray_cluster import Cluster

ray = pytest.importorskip("ray", reason='install Ray to run this: pip install "ser-batch[ray]"')

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the path of a socket may have 107 bytes
    started = Cluster(folder)
    yield started
    started.end()
    shutil.rmtree(folder, ignore_errors=True)


def on_ray(cluster: Cluster, *arguments: str) -> list[str]:
    return [*arguments, "--engine", "ray", "--ray-address", cluster.address, "-q"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished_shards(folder: Path) -> int:
    return len(shards(folder))


def shards(folder: Path) -> list[Path]:
    """The finished ones: the part of the manifest is written after the shard."""
    found = [path for path in folder.glob("*.tfrecord-*") if not path.name.startswith(".")]
    return [path for path in found if part_path(folder, path.name).exists()]


def wait_for(holds: Callable[[], bool], process: "subprocess.Popen[Any]") -> None:
    while not holds():
        assert process.poll() is None, "ended too early"
        time.sleep(0.02)


def test_outcomes_are_those_of_the_local_engine(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    n_read = 0

    def tasks() -> Iterator[int]:
        nonlocal n_read
        while n_read < 100_000:
            yield n_read
            n_read += 1

    with RayEngine(None, cluster.address) as engine:
        assert sorted(one.result for one in engine.map(ray_tasks.square, range(50))) == [n * n for n in range(50)]
        outcomes = {one.task: one for one in engine.map(ray_tasks.deadly_for_three, range(6))}
        assert {task: one.result for task, one in outcomes.items()} == {0: 0, 1: 1, 2: 2, 3: None, 4: 4, 5: 5}
        assert outcomes[3].failure == "the worker crashed"
        with pytest.raises(ValueError, match="three is wrong"):
            list(engine.map(ray_tasks.wrong_for_three, range(6)))
        assert {one.result for one in engine.map(ray_tasks.folder_of, [0])} == {str(tmp_path)}
        for number, _ in enumerate(engine.map(ray_tasks.square, tasks())):
            assert n_read <= number + 2 * engine.workers + 1  # the rest waits here, not in the cluster
            if number == 30:
                break


def test_a_lost_node_costs_no_task(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add()
    with RayEngine(None, cluster.address) as engine:
        assert engine.workers == 2
        head = ray.get_runtime_context().get_node_id()
        outcomes = engine.map(ray_tasks.slow_square, [(number, str(tmp_path)) for number in range(8)])
        results = [next(outcomes)]

        def attempts() -> dict[str, str]:
            return {path.name: path.read_text() for path in tmp_path.iterdir()}

        def runs_on_second() -> bool:
            known = {str(one.task[0]) for one in results}
            running = (node for name, node in attempts().items() if name.split("-")[0] not in known)
            return any(node not in ("", head) for node in running)

        while not runs_on_second():
            results.append(next(outcomes))
        cluster.kill()
        results += list(outcomes)
    assert sorted((one.task[0], one.result) for one in results) == [(n, n * n) for n in range(8)]
    assert all(one.failure is None for one in results)
    again = Counter(name.split("-")[0] for name in attempts())
    print(f"attempts of each task: {dict(again)}")
    assert max(again.values()) == 2
    assert set(again) == {str(number) for number in range(8)}


def test_a_build_on_two_nodes_one_of_which_is_killed(cluster: Cluster, emodb: Path, tmp_path: Path) -> None:
    local, out = tmp_path / "local", tmp_path / "ray"
    build = ["build-records", str(emodb), "--num-shards", "40"]
    assert main([*build, "-o", str(local), "-q"]) == 0
    cluster.add()
    command = [sys.executable, "-m", "ser_batch", *on_ray(cluster, *build, "-o", str(out))]
    with subprocess.Popen(command) as process:
        wait_for(lambda: finished_shards(out) >= 4, process)
        cluster.kill()
    assert process.returncode == 0
    assert content(out) == content(local)
    files = [file for table in open_records(out).manifest("file") for file in table["file"].to_pylist()]
    assert sorted(files) == sorted(path.name for path in emodb.glob("*.wav"))
    assert main(on_ray(cluster, "verify", str(out), "--source", str(emodb))) == 0


def test_a_killed_command_continues(cluster: Cluster, emodb: Path, tmp_path: Path) -> None:
    out, table, expected = tmp_path / "ray", tmp_path / "preds.csv", tmp_path / "local.csv"
    build = ["build-records", str(emodb), "--num-shards", "40", "-o"]
    command = [sys.executable, "-m", "ser_batch", *on_ray(cluster, *build, str(out))]
    with subprocess.Popen(command) as process:
        wait_for(lambda: finished_shards(out) >= 3, process)
        process.kill()
    done = {path.name: path.stat().st_mtime_ns for path in shards(out)}
    assert subprocess.run(command).returncode == 0
    assert len(done) >= 3
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done  # they are not written again
    assert main([*build, str(tmp_path / "local"), "-q"]) == 0
    assert content(out) == content(tmp_path / "local")
    assert main(on_ray(cluster, "infer", str(emodb), "-o", str(table))) == 0
    assert main(["infer", str(emodb), "-o", str(expected), "-q"]) == 0
    assert table.read_bytes() == expected.read_bytes()


def test_predictions_on_two_nodes_one_of_which_is_killed(cluster: Cluster, emodb: Path, tmp_path: Path) -> None:
    source = tmp_path / "wav"  # 2,140 recordings, so that there are enough blocks
    for number in range(4):
        shutil.copytree(emodb, source / str(number))
    out, expected = tmp_path / "preds.csv", tmp_path / "local.csv"
    assert main(["infer", str(source), "-o", str(expected), "-q"]) == 0
    cluster.add()
    command = [sys.executable, "-m", "ser_batch", *on_ray(cluster, "infer", str(source), "-o", str(out))]
    with subprocess.Popen(command) as process:
        wait_for(lambda: len(finished_blocks(out)) >= 3, process)
        done = len(finished_blocks(out))
        cluster.kill()
    assert process.returncode == 0
    print(f"{done} of {len(finished_blocks(out))} blocks were done when the node was killed")
    assert done < len(finished_blocks(out))
    with open(out, encoding="utf-8", newline="") as file:
        files = [row["file"] for row in csv.DictReader(file)]
    assert sorted(files) == sorted(path.relative_to(source).as_posix() for path in source.rglob("*.wav"))
    assert out.read_bytes() == expected.read_bytes()


def finished_blocks(table: Path) -> list[Path]:
    found = (table.parent / f".{table.name}.parts").rglob("*.parquet")
    return [path for path in found if not path.name.startswith(".") and path.name != "plan.parquet"]


def test_progress_has_tasks_and_nodes(cluster: Cluster, emodb: Path, tmp_path: Path) -> None:
    events: list[object] = []
    options = {"engine": "ray", "ray_address": cluster.address}
    ser_batch.build_records(emodb, tmp_path / "out", num_shards=8, report=events.append, **options)
    where = [event.where for event in events if isinstance(event, Progress)]
    assert any(re.fullmatch(r"[1-9]\d* tasks? on [12] nodes?", one) for one in where)


def test_a_cross_validation_has_the_local_figures(cluster: Cluster, emodb_sample: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    assert main(["build-records", str(emodb_sample), "-o", str(records), "-q"]) == 0
    command = ["cross-validate", str(records), "--recipe", "functionals", "--folds", "2", "--epochs", "2", "-o"]
    assert subprocess.run([sys.executable, "-m", "ser_batch", *command, str(tmp_path / "local"), "-q"]).returncode == 0
    assert main(on_ray(cluster, *command, str(tmp_path / "ray"))) == 0
    assert content(tmp_path / "ray") == content(tmp_path / "local")


def test_options_that_do_not_fit_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.wav").write_text("")
    for options, expected in (
        (["--engine", "spark"], "--engine spark: no such engine; choose one of local, ray"),
        (["--ray-address", "x:1"], "--ray-address x:1: is for --engine ray"),
    ):
        assert main(["infer", str(tmp_path), "-o", str(tmp_path / "p.csv"), *options]) == 2
        assert capfd.readouterr().err.strip() == f"error: {expected}"


def test_without_a_cluster_the_error_names_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["infer", str(tmp_path), "-o", str(tmp_path / "p.csv"), "--engine", "ray"]) == 1
    assert "no Ray cluster at this machine; start one with ray start --head" in capfd.readouterr().err
