"""What systemd is told of a hub."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.processes import free_port, process, python

from .test_kill import HUB


def test_systemd_is_told_of_readiness_life_and_stopping(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    program = python(HUB.format(grpc=free_port(), http=free_port(), data=str(tmp_path / "hub")))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(60)
        settings = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "500000"}

        def until(word: str) -> None:
            while word not in systemd.recv(4096).decode().split("\n"):
                pass

        with process(program, tmp_path / "log", **settings) as hub:
            until("READY=1")
            until("STATUS=serving")
            until("WATCHDOG=1")
            until("WATCHDOG=1")
            assert hub.stop() == 0
            until("STOPPING=1")
