"""A real S3 server for tests and benchmarks, from PyPI. No pytest needed.

with s3.server(folder) as store:
    url = store.bucket("videos")
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.folders import files_below
from tests.processes import Process, free_port, process

ACCESS_KEY, SECRET_KEY, REGION = "sonic-tests", "not-a-secret-of-anybody", "us-east-1"
START_TIMEOUT_S = 60.0


@dataclass
class Server:
    """One server; it can be killed and started again, and its objects are files under `folder`."""

    folder: Path
    port: int
    program: Process

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a hub needs to know; plain HTTP is for loopback."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_ALLOW_HTTP": "true",
        }

    def bucket(self, name: str) -> str:
        """Make an empty bucket; the answer is its URL."""
        (self.folder / name).mkdir()
        return f"s3://{name}"

    def objects(self, bucket: str) -> list[str]:
        """The keys in a bucket, but for what the server keeps for itself."""
        root = self.folder / bucket
        found = [path.relative_to(root) for path in files_below(root)]
        return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))

    def wait_until_listening(self) -> None:
        """Fails with the log when it ends instead."""
        until = time.monotonic() + START_TIMEOUT_S
        while self.program.running and self.program.running.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2):
                return
            time.sleep(0.05)
        raise AssertionError(f"the S3 server does not listen:\n{self.program.log.read_text()}")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A running server with its data under `folder`."""
    port, data = free_port(), folder / "objects"
    data.mkdir(parents=True)
    command = [sys.executable, "-m", "nanio", "serve", "--data-dir", str(data), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--region", REGION, "--no-access-log"]
    keys = {"NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}
    with process(command, folder / "s3.log", **keys) as program:
        made = Server(data, port, program)
        made.wait_until_listening()
        yield made
