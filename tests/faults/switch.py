"""A switch between network namespaces, in user space: it cuts, delays, loses and throttles what goes over a port.

`python -m tests.faults.switch SEED PORT…` forwards Ethernet frames between interfaces of its namespace. Orders come as
JSON lines on standard input: {"port": "p2", "delay_s": 0.1, "loss": 0.05, "bytes_per_s": 50000, "cut": false}; an empty
line asks for the counts, which are answered as a JSON line. It needs no kernel module and no root.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import socket
import struct
import sys
from collections import Counter
from dataclasses import dataclass

_EVERY_PROTOCOL = 0x0003
_SOL_PACKET, _IGNORE_OUTGOING = 263, 23
_LONGEST_QUEUE_S = 1.0  # what waits longer for a slow port is dropped


@dataclass
class Line:
    """How a port is, in both directions."""

    cut: bool = False
    delay_s: float = 0.0
    loss: float = 0.0
    bytes_per_s: float = 0.0  # 0: as fast as it goes
    free_at_s: float = 0.0

    def queue_s(self, size_bytes: int, now: float) -> float:
        """How long a frame of this size waits until it has gone over the port."""
        if not self.bytes_per_s:
            return 0.0
        self.free_at_s = max(self.free_at_s, now) + size_bytes / self.bytes_per_s
        return self.free_at_s - now


class Switch:
    """The ports by name, and who is behind which."""

    def __init__(self, names: list[str], seed: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._chance = random.Random(seed)
        self.lines = {name: Line() for name in names}
        self._behind: dict[bytes, str] = {}
        self.counts: Counter[str] = Counter()
        self._sockets = {name: self._open(name) for name in names}

    def _open(self, name: str) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
        made.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.bind((name, 0))
        made.setblocking(False)
        self._loop.add_reader(made, self._take, name, made)
        return made

    def _take(self, name: str, port: socket.socket) -> None:
        for _ in range(64):
            try:
                frame = port.recv(65_536)
            except (BlockingIOError, OSError):
                return
            self._behind[frame[6:12]] = name
            target = self._behind.get(frame[:6])
            for other in [target] if target else [other for other in self._sockets if other != name]:
                self._forward(name, other, frame)

    def _forward(self, source: str, target: str, frame: bytes) -> None:
        now, delay_s = self._loop.time(), 0.0
        for name in (source, target):
            line = self.lines[name]
            if line.cut:
                self.counts[f"{name} cut"] += 1
                return
            if line.loss and self._chance.random() < line.loss:
                self.counts[f"{name} lost"] += 1
                return
            queue_s = line.queue_s(len(frame), now)
            if queue_s > _LONGEST_QUEUE_S:
                line.free_at_s -= len(frame) / line.bytes_per_s
                self.counts[f"{name} overrun"] += 1
                return
            delay_s += line.delay_s + queue_s
            if line.delay_s or line.bytes_per_s:
                self.counts[f"{name} delayed"] += 1
        if delay_s:
            self._loop.call_later(delay_s, self._send, target, frame)
        else:
            self._send(target, frame)

    def _send(self, target: str, frame: bytes) -> None:
        try:
            self._sockets[target].send(frame)
        except OSError:
            self.counts[f"{target} overrun"] += 1


def mac_of(number: int) -> str:
    """The address that the machine with this number has on the wire."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x00\x00\x00" + struct.pack(">H", number))


async def run(names: list[str], seed: int) -> None:
    switch = Switch(names, seed)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print(json.dumps({"ports": names}), flush=True)
    while line := await orders.readline():
        if order := line.strip() and json.loads(line):
            name = order.pop("port")
            switch.lines[name] = dataclasses.replace(Line(), **order)
        else:
            print(json.dumps(switch.counts), flush=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[2:], int(sys.argv[1])))
