"""A server that plays the Hugging Face hub: metadata at one address, large files behind a redirect to another."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "1" * 40
LARGE_BYTES = 10_000  # from here on a file is large, as under Git LFS


@dataclass
class Hub:
    """What it serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]  # by repository/file
    damaged: set[str] = field(default_factory=set)  # their bytes differ from what the hub says of them
    gated: set[str] = field(default_factory=set)  # repositories
    etag: str = ""  # what it says of large files, in place of their SHA-256
    stall_after: int = 0  # a large file stops arriving after so many bytes, while the connection stays
    cut_after: int = 0  # a large file is cut after so many bytes, once
    stalled: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str, str, str]] = field(default_factory=list)  # method, path, Range, Authorization
    endpoint: str = ""
    elsewhere: str = ""

    def downloads(self, name: str) -> list[str]:
        """The Range of every request for a file's bytes."""
        return [about for method, path, about, _ in self.asked if method == "GET" and path.endswith(name)]


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(files)
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) for _ in range(2)]
    hub.endpoint, hub.elsewhere = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = unquote(self.path)
            hub.asked.append((self.command, path, self.headers["Range"] or "", self.headers["Authorization"] or ""))
            if path.startswith("/elsewhere/"):
                self._bytes(path.removeprefix("/elsewhere/"), body)
                return
            if path.count("/resolve/") != 1:
                self._end(404, {})
                return
            owner, repository, _, _, *rest = path.strip("/").split("/")
            name = "/".join((owner, repository, *rest))
            if f"{owner}/{repository}" in hub.gated and not self.headers["Authorization"]:
                self._end(401, {"X-Error-Code": "GatedRepo"})
            elif name not in hub.files:
                self._end(404, {"X-Error-Code": "EntryNotFound"})
            elif len(hub.files[name]) < LARGE_BYTES:
                self._bytes(name, body)
            else:
                digest = hub.etag or hashlib.sha256(hub.files[name]).hexdigest()
                told = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(hub.files[name]))}
                self._end(302, told | {"X-Repo-Commit": COMMIT, "Location": f"{hub.elsewhere}/elsewhere/{name}"})

        def _end(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": "0"}).items():
                self.send_header(key, value)
            self.end_headers()

        def _bytes(self, name: str, body: bool) -> None:
            data = hub.files[name]
            git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            if name in hub.damaged:
                data = data[:-1] + bytes([data[-1] ^ 1])
            start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{git}"')
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if body:
                with contextlib.suppress(OSError):
                    self._send(data[start:])

        def _send(self, data: bytes) -> None:
            stop = (hub.stall_after or hub.cut_after) if len(data) >= LARGE_BYTES else 0
            self.wfile.write(data[: stop or None])
            if hub.stall_after and stop:
                self.wfile.flush()
                hub.stalled.set()
                with contextlib.suppress(OSError):
                    self.connection.recv(1)  # until the other side goes
            elif stop:
                hub.cut_after = 0
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
