"""A Ray cluster of one or two nodes on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent

# A process namespace (Linux): it ends with its first process, and that one with this command.
APART = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]


def kill_family(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all that it started."""
    for pid in [*family(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield from family(int(child))


class Cluster:
    """A head on 127.0.0.1 and, between `add` and `kill`, a second node on 127.0.0.2.

    Where the system allows it, the second node has its own numbers of processes, like another machine.

    Args:
        folder: for the cluster's files; the path of a socket may have 107 bytes.
        cpus: of each node.
    """

    def __init__(self, folder: Path, cpus: int = 1) -> None:
        self._folder, self._cpus = folder, cpus
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        port = self.address.split(":")[1]
        self._head = self._started(
            "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"
        )
        self._second: subprocess.Popen[bytes] | None = None
        self._wait(lambda: self.n_nodes() == 1)

    def _started(self, *options: str, apart: bool = False) -> "subprocess.Popen[bytes]":
        command = [str(Path(sys.executable).with_name("ray")), "start", *options, f"--num-cpus={self._cpus}"]
        if apart and subprocess.run([*APART, "true"], capture_output=True).returncode == 0:
            command = [*APART, *command]
        command += ["--disable-usage-stats", "--block"]
        if "--head" in options:
            command.append(f"--temp-dir={self._folder}")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def n_nodes(self) -> int:
        code = f"import ray; ray.init('{self.address}', logging_level=40); print(sum(n['Alive'] for n in ray.nodes()))"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        return int(result.stdout.split()[-1]) if result.returncode == 0 else 0

    def add(self) -> None:
        """Add the second node, if there is none."""
        if self._second is None:
            self._second = self._started(f"--address={self.address}", "--node-ip-address=127.0.0.2", apart=True)
            self._wait(lambda: self.n_nodes() == 2)

    def kill(self) -> None:
        """Kill all processes of the second node."""
        if self._second is not None:
            kill_family(self._second)
            self._second = None

    def end(self) -> None:
        self.kill()
        kill_family(self._head)

    def _wait(self, holds: Callable[[], bool]) -> None:
        for _ in range(30):
            if holds():
                return
            time.sleep(1.0)
        raise RuntimeError((self._folder / "log").read_text())
