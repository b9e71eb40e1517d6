"""Recordings on a web server: read and predicted as local ones are."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from ser_batch.cli.app import main
from ser_batch.storage import stores, web
from ser_batch.storage.filesystems import file_status, open_raw
from ser_batch.storage.fingerprints import file_sha256


@dataclass
class WebServer:
    """What the server has, how it replies, and what it was asked for.

    Attributes:
        url: of the server.
        files: content by path.
        sends_parts: it knows ``Range``.
        sends_length: replies with whole files have ``Content-Length``.
        changed: ``Last-Modified`` of all replies.
        shift: of the parts that it sends, in bytes.
        status: of the next replies, before the usual ones.
        cut: number of the next replies that end after 5,000 bytes.
        gets: the requested paths.
    """

    url: str
    files: dict[str, bytes]
    sends_parts: bool = True
    sends_length: bool = True
    changed: str = "Tue, 03 Nov 2026 10:00:00 GMT"
    shift: int = 0
    status: list[int] = field(default_factory=list)
    cut: int = 0
    gets: list[str] = field(default_factory=list)


def handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            server.gets.append(self.path)
            if server.status and (status := server.status.pop(0)) != 200:
                self.answer(status, b"", {})
            elif self.path.startswith("/moved/"):
                self.answer(302, b"", {"Location": self.path.removeprefix("/moved")})
            elif (content := server.files.get(unquote(self.path.partition("?")[0]))) is None:
                self.answer(404, b"<html>", {})
            elif not server.sends_parts:
                self.answer(200, content, {})
            elif not content:
                self.answer(416, b"", {"Content-Range": "bytes */0"})
            else:
                first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                first += server.shift if first else 0
                part = content[first : last + 1]
                place = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
                self.answer(206, part, {"Content-Range": place})

        def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Last-Modified", server.changed)
            if server.sends_length or status != 200:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if server.cut and len(content) > 5000:
                server.cut -= 1
                content = content[:5000]
            self.wfile.write(content)

    return Handler


@pytest.fixture
def server(emodb_sample: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    files = {f"/wav/{path.name}": path.read_bytes() for path in emodb_sample.glob("*.wav")}
    files |= {"/empty.wav": b"", "/page.wav": b"<html></html>", "/ü a.wav": files["/wav/03a01Fa.wav"]}
    found = WebServer("", files)
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    found.url = f"http://127.0.0.1:{listener.server_port}"
    threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setattr(web, "_FIRST_BYTES", 20_000)
    stores._store.cache_clear()
    yield found
    listener.shutdown()
    listener.server_close()
    stores._store.cache_clear()


def write_list(path: Path, places: list[str]) -> str:
    path.write_text("\n".join(["file", *places]))
    return str(path)


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_table_is_that_of_local_files(server: WebServer, emodb_sample: Path, tmp_path: Path, capfd) -> None:
    names = sorted(path.name for path in emodb_sample.glob("*.wav"))
    source = write_list(tmp_path / "urls.csv", [f"{server.url}/wav/{name}" for name in names])
    out = tmp_path / "remote.jsonl"
    assert main(["infer", source, "-o", str(out), "-j", "2"]) == 0
    assert main(["infer", str(emodb_sample), "-o", str(tmp_path / "local.jsonl"), "-j", "2"]) == 0
    remote, local = rows(out), rows(tmp_path / "local.jsonl")
    assert [row["file"] for row in remote] == [f"{server.url}/wav/{name}" for name in names]
    assert [{**row, "file": ""} for row in remote] == [{**row, "file": ""} for row in local]
    capfd.readouterr()
    assert main(["infer", source, "-o", str(out), "-j", "2"]) == 0
    assert "already finished, nothing to do" in capfd.readouterr().err
    server.files[f"/wav/{names[0]}"] = server.files[f"/wav/{names[1]}"]
    assert main(["infer", source, "-o", str(out), "-j", "2", "--update"]) == 0
    assert f"{len(names) - 1} recordings already predicted, 1 new" in capfd.readouterr().err


@pytest.mark.parametrize("sends_parts", [True, False])
@pytest.mark.parametrize("sends_length", [True, False])
def test_every_server_gives_the_same_bytes(
    server: WebServer, emodb_sample: Path, sends_parts: bool, sends_length: bool
) -> None:
    server.sends_parts, server.sends_length = sends_parts, sends_length
    url, path = f"{server.url}/moved/wav/03a01Fa.wav", emodb_sample / "03a01Fa.wav"
    assert file_sha256(url) == file_sha256(path)
    assert file_status(url).size == path.stat().st_size
    with open_raw(url) as file:
        content = path.read_bytes()
        for offset in (60_000, 10, 19_990):
            file.seek(offset)
            assert file.read(100) == content[offset : offset + 100]
        file.seek(-10, 2)
        assert file.read(100) == content[-10:]
    with open_raw(f"{server.url}/empty.wav") as file:
        assert file.read(100) == b""


def test_records_are_those_of_local_files(server: WebServer, emodb_sample: Path, tmp_path: Path) -> None:
    urls = [f"{server.url}/wav/{path.name}" for path in sorted(emodb_sample.glob("*.wav"))]
    source = write_list(tmp_path / "urls.csv", urls)
    out = str(tmp_path / "records")
    assert main(["build-records", source, "-o", out, "--labels", "emodb", "-q", "-j", "2"]) == 0
    assert main(["verify", out, "--source", source, "-q"]) == 0


def test_one_url_is_a_source(server: WebServer, tmp_path: Path) -> None:
    out = tmp_path / "preds.jsonl"
    assert main(["infer", f"{server.url}/wav/03a01Fa.wav?key=a/b", "-o", str(out), "-q"]) == 0
    assert [row["file"] for row in rows(out)] == ["03a01Fa.wav"]
    assert main(["infer", f"{server.url}/%C3%BC%20a.wav", "-o", str(out), "-q", "--restart"]) == 0


def test_unusable_files_are_rows_with_the_reason(server: WebServer, emodb_sample: Path, tmp_path: Path, capfd) -> None:
    names = ["none.wav", "empty.wav", "page.wav", "wav/03a01Fa.wav"]
    source = write_list(
        tmp_path / "urls.csv", [*(f"{server.url}/{name}" for name in names), "http://127.0.0.1:9/a.wav"]
    )
    out = tmp_path / "preds.jsonl"
    assert main(["infer", source, "-o", str(out), "-j", "1", "--adapt", "none"]) == 3
    none, empty, page, good, closed = (row["error"] for row in rows(out))
    assert none == "cannot be read: no such file (HTTP 404)"
    assert empty == "is empty (0 bytes)"
    assert "not audio" in str(page)
    assert not good
    assert closed == "cannot be read: Failed to establish a new connection: [Errno 111] Connection refused"


@pytest.mark.parametrize("changed", ["", "yesterday", "Tue, 99 Nov 2026 10:00:00 GMT"])
def test_a_time_that_is_no_date_is_none(server: WebServer, emodb_sample: Path, changed: str) -> None:
    server.changed = changed
    status = file_status(f"{server.url}/wav/03a01Fa.wav")
    assert (status.size, status.mtime_ns) == ((emodb_sample / "03a01Fa.wav").stat().st_size, 0)


def test_another_part_than_was_requested_is_an_error(server: WebServer) -> None:
    server.shift = 7
    with open_raw(f"{server.url}/wav/03a01Fa.wav") as file:
        file.seek(30_000)
        with pytest.raises(OSError, match="the server sent another part of the file than was requested"):
            file.read(100)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(server: WebServer, emodb_sample: Path, status: int) -> None:
    server.status = [status, status]
    assert file_sha256(f"{server.url}/wav/03a01Fa.wav") == file_sha256(emodb_sample / "03a01Fa.wav")
    assert server.status == []


def test_a_server_that_refuses_is_asked_once(server: WebServer, tmp_path: Path, capfd) -> None:
    server.status = [403] * 50
    assert main(["infer", f"{server.url}/wav/03a01Fa.wav", "-o", str(tmp_path / "preds.csv")]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "the server replied HTTP 403 Forbidden" in line
    assert len(server.gets) == 1


@pytest.mark.parametrize("sends_parts", [True, False])
def test_a_reply_that_is_cut_short_is_read_again(server: WebServer, emodb_sample: Path, sends_parts: bool) -> None:
    server.sends_parts, server.cut = sends_parts, 2
    assert file_sha256(f"{server.url}/wav/03a01Fa.wav") == file_sha256(emodb_sample / "03a01Fa.wav")
    assert server.cut == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/wav/", "web servers list no files; give a CSV or @list.txt with the URL of every file"),
        (":99999/a.wav", "cannot be listed (Failed to parse: "),
        ("/none.wav", "cannot be listed (no such object or prefix)"),
        ("/list.csv", "a list; copy it to this machine: the files in it may be remote"),
    ],
)
def test_what_cannot_be_listed_is_one_line(server: WebServer, tmp_path: Path, capfd, source: str, message: str) -> None:
    server.files["/list.csv"] = b"file\n"
    assert main(["infer", server.url + source, "-o", str(tmp_path / "preds.csv")]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line


def test_a_silent_server_is_given_up(server: WebServer, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(web, "REQUEST_SECS", 0.2)
    monkeypatch.setattr(BaseHTTPRequestHandler, "parse_request", lambda self: time.sleep(3))
    assert main(["infer", f"{server.url}/wav/03a01Fa.wav", "-o", str(tmp_path / "preds.csv")]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "no reply within 0.2 seconds" in line
