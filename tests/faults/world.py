"""A small world in namespaces: machines with addresses of their own behind a switch, and disks that can be full.

No root is needed: the world is entered by `unshare`, as root of a user namespace of its own. Everything in it ends with
the process that has built it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.switch import mac_of

_ENTER = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--propagation", "private")
_SIOCETHTOOL, _SET_TX_CHECKSUM = 0x8946, 0x17
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_INSIDE = "FAULTS_WORLD"


def why_not() -> str:
    """Why no world can be made here; empty when one can."""
    trial = "ip link add p9 type veth peer name e9 && mount -t tmpfs -o size=1m none /mnt"
    try:
        done = subprocess.run([*_ENTER, "sh", "-c", trial], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"unshare of util-linux is not installed: {error.strerror}"
    return f"namespaces cannot be made here: {done.stderr.strip()}" if done.returncode else ""


def enter(arguments: list[str]) -> list[str]:
    """The command that runs this package inside a new world."""
    quiet = ("GRPC_ENABLE_FORK_SUPPORT=0", "GRPC_VERBOSITY=ERROR")
    return [*_ENTER, "env", f"{_INSIDE}=1", *quiet, sys.executable, "-m", "tests.faults", *arguments]


def entered() -> bool:
    return _INSIDE in os.environ


def end_with_parent() -> None:
    """For a process that is about to be started: the end of the thread that starts it ends it too."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Machine:
    """A network namespace behind a port of the switch; `prefix` goes before the commands that run on it."""

    name: str
    number: int
    holder: subprocess.Popen[bytes] | None = None  # None: the world's own namespace

    @property
    def port(self) -> str:
        return f"p{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"] if self.holder else []


@dataclass
class World:
    """Machines and the switch between them; inside of `enter`."""

    machines: list[Machine] = field(default_factory=list)
    _switch: subprocess.Popen[str] | None = None

    def build(self, names: list[str], seed: int) -> dict[str, Machine]:
        """One machine for each name; the first is this one."""
        _run("ip", "link", "set", "lo", "up")
        for number, name in enumerate(names, start=1):
            self.machines.append(self._machine(name, number, own=number == 1))
        command = [sys.executable, "-m", "tests.faults.switch", str(seed), *(one.port for one in self.machines)]
        self._switch = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent
        )
        self._answer()
        return {machine.name: machine for machine in self.machines}

    def line(self, machine: Machine, **how: Any) -> None:
        """How a machine's line is from now on: cut, delay_s, loss, bytes_per_s; without any, it is sound."""
        self._order(json.dumps({"port": machine.port} | how))

    def counts(self) -> dict[str, int]:
        """Frames that were cut, lost, delayed or overrun, by port."""
        self._order("")
        return self._answer()

    def close(self) -> None:
        for process in (self._switch, *(machine.holder for machine in self.machines)):
            if process:
                process.kill()
                process.wait()

    def _machine(self, name: str, number: int, own: bool) -> Machine:
        inner, made = f"e{number}", Machine(name, number)
        _run("ip", "link", "add", made.port, "type", "veth", "peer", "name", inner, "address", mac_of(number))
        _check_sums_early(inner)
        _run("ip", "link", "set", made.port, "addrgenmode", "none", "up")
        if not own:
            made.holder = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"],
                stdout=subprocess.PIPE,
                preexec_fn=end_with_parent,
            )
            assert made.holder.stdout
            made.holder.stdout.readline()
            _run("ip", "link", "set", inner, "netns", str(made.holder.pid))
        for command in (
            ("link", "set", "lo", "up"),
            ("link", "set", inner, "addrgenmode", "none", "up"),
            ("addr", "add", f"{made.address}/24", "dev", inner),
        ):
            _run(*made.prefix, "ip", *command)
        return made

    def _order(self, line: str) -> None:
        assert self._switch
        assert self._switch.stdin
        self._switch.stdin.write(line + "\n")
        self._switch.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._switch
        assert self._switch.stdout
        answer: dict[str, Any] = json.loads(self._switch.stdout.readline())
        return answer


def on_small_disk(folder: Path, size_bytes: int, command: list[str]) -> list[str]:
    """The command that runs another one which alone sees a disk of that size at `folder`."""
    mount = f'mount -t tmpfs -o size={size_bytes},mode=700 none "$0" && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder), *command]


class Disk:
    """A small disk, which can be filled."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    @classmethod
    def mounted(cls, folder: Path, size_bytes: int) -> Disk:
        """A new one; inside of `enter`."""
        folder.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "none", str(folder))
        return cls(folder)

    def fill(self) -> None:
        """Until not a byte is left."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def clear(self) -> None:
        self._ballast.unlink(missing_ok=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _check_sums_early(interface: str) -> None:
    """What leaves it has its checksum, and is no longer than a frame: the switch passes on what it sees."""
    value = ctypes.create_string_buffer(struct.pack("II", _SET_TX_CHECKSUM, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
