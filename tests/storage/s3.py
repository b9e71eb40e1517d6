"""An S3 server on loopback, and a proxy before it that fails as networks do."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import boto3

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[int]:
    """A server in a process of its own; its port."""
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with served([sys.executable, "-c", code], port):
        yield port


@contextmanager
def served(command: list[str], port: int, **variables: str) -> Iterator[None]:
    """Run a server, from the time when it listens."""
    environment = os.environ | variables
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            assert process.poll() is None
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def client(port: int):  # boto3 makes its classes at run time
    names = {"aws_access_key_id": "someone", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **names)


@dataclass
class Faults:
    """What the proxy does to the next replies.

    Attributes:
        cut: number of replies to GET that end after 5,000 bytes.
        delay_secs: pause before every reply.
        gets: number of GETs so far.
        chunked: number of requests so far whose body is in the form of AWS for additional checksums.
        no_folders: empty objects with the name of a folder are refused.
    """

    cut: int = 0
    delay_secs: float = 0.0
    gets: int = 0
    chunked: int = 0
    no_folders: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def proxy(port: int, faults: Faults) -> Iterator[int]:
    """A TCP proxy before a server; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, port, faults), daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()


def _accept(listener: socket.socket, port: int, faults: Faults) -> None:
    while True:
        try:
            one, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(one, port, faults), daemon=True).start()


def _serve(one: socket.socket, port: int, faults: Faults) -> None:
    """One request of a connection, then its reply, which may be cut short; the connection then ends."""
    with one, socket.create_connection(("127.0.0.1", port)) as server:
        request = b""
        while b"\r\n\r\n" not in request:
            part = one.recv(65536)
            if not part:
                return
            request += part
        head, _, rest = request.partition(b"\r\n\r\n")
        faults.chunked += b"aws-chunked" in head.lower()
        if faults.no_folders and head.startswith(b"PUT ") and head.split(b" ")[1].endswith(b"/"):
            one.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        server.sendall(head + b"\r\nConnection: close\r\n\r\n" + rest)
        threading.Thread(target=_forward, args=(one, server), daemon=True).start()  # the rest of a PUT
        left = -1
        with faults.lock:
            if head.startswith(b"GET ") and b"list-type" not in head:
                faults.gets += 1
                if faults.cut:
                    faults.cut -= 1
                    left = 5_000
        time.sleep(faults.delay_secs)
        while part := server.recv(65536):
            if left >= 0:
                part, left = part[:left], left - len(part[:left])
            one.sendall(part)
            if left == 0:
                break
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)  # the other thread still reads from it


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
