"""Edge boxes for tests: systemd as PID 1 on a bootstrapped Debian, with a network and an sshd of their own.

A box is a clone of one root file system, which is made once and kept under .cache. Its cable is a pair of interfaces of
which one end is in the box's network namespace and the other on a bridge of this machine, so a test can pull it. Boxes
reach each other and this machine, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "rollout"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "iproute2"),
    *("python3", "python3-venv", "ca-certificates"),
)
TOOLS = ("systemd-nspawn", "mmdebstrap", "ssh", "ssh-keygen", "ip")
_CGROUPS = Path("/sys/fs/cgroup")
_BOOT_TIMEOUT_S = 90.0


def why_not() -> str:
    """Why no box can be made here; empty when one can."""
    if os.geteuid() != 0:
        return "boxes need root: namespaces, mounts and interfaces are made"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"{', '.join(missing)} missing: apt install systemd-container mmdebstrap openssh-client iproute2"
    return ""


def root_file_system() -> Path:
    """The one that all boxes are clones of. Made when it is not there, in a minute or three."""
    made = CACHE / "bookworm"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        arriving = CACHE / "bookworm.arriving"
        shutil.rmtree(arriving, ignore_errors=True)
        _run("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", str(arriving))
        for path in arriving.glob("etc/ssh/ssh_host_*"):
            path.unlink()
        (arriving / "etc/machine-id").write_text("")
        arriving.rename(made)
    return made


@dataclass
class Box:
    """One machine that can be cut off, killed and started again; its files stay."""

    name: str
    address: str
    folder: Path
    key: Path
    cable: str
    running: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def root(self) -> Path:
        """Its file system, as seen from here."""
        return self.folder / "root"

    def start(self) -> None:
        """Boot, and wait until it can be logged in to."""
        command = ["systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit", "--link-journal=no"]
        command += [f"--directory={self.root}", f"--machine={self.name}", "--resolv-conf=off", "--timezone=off"]
        command += [f"--network-namespace-path=/run/netns/{self.name}", "--console=pipe"]
        groups = _cgroups_of(self.name)
        for group in groups:
            group.mkdir(exist_ok=True)
        # Each box needs control groups of its own, else their systemds fight over one.
        join = "; ".join(f"echo $$ > {group}/cgroup.procs" for group in groups)
        with (self.folder / "console").open("ab") as console:
            self.running = subprocess.Popen(
                ["sh", "-c", f'{join}; exec "$@"', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        until = time.monotonic() + _BOOT_TIMEOUT_S
        while self.ssh("true", check=False).returncode:
            assert self.running.poll() is None, f"{self.name} did not boot:\n{(self.folder / 'console').read_text()}"
            assert time.monotonic() < until, f"{self.name} cannot be logged in to"
            time.sleep(0.3)

    def ssh(self, command: str, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command line as root."""
        options = [*ssh_options(self.key), "-o", "ConnectTimeout=3"]
        done = subprocess.run(
            ["ssh", *options, f"root@{self.address}", command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{self.name}: {command}\n{done.stdout}{done.stderr}"
        return done

    def cut(self) -> None:
        """Pull its cable."""
        _run("ip", "link", "set", self.cable, "down")

    def mend(self) -> None:
        """Plug it in again."""
        _run("ip", "link", "set", self.cable, "up")

    def power_off(self) -> None:
        """At once, without a word to what runs."""
        for group in _cgroups_of(self.name):
            _kill_all(group)
        if self.running:
            self.running.wait(30)
            self.running = None


def ssh_options(key: Path) -> list[str]:
    """For boxes that are made anew under the same address."""
    quiet = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes")
    return ["-i", str(key), *(part for option in quiet for part in ("-o", option))]


@contextlib.contextmanager
def fleet(names: Sequence[str], folder: Path, prefix: str = "10.97.31") -> Iterator[dict[str, Box]]:
    """Boxes by name, running and reachable; this machine is `prefix`.1 to them. All is gone afterwards."""
    base, bridge = root_file_system(), "sonic-rollout"
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    with contextlib.ExitStack() as made:
        _run("ip", "link", "add", bridge, "type", "bridge")
        made.callback(_run, "ip", "link", "del", bridge)
        _run("ip", "address", "add", f"{prefix}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        boxes = {}
        for number, name in enumerate(names):
            cable = f"srb-{number}"
            box = Box(name, f"{prefix}.{10 + number}", folder / name, key, cable)
            _plug_in(made, box, bridge)
            _clone(made, box, base)
            made.callback(_clean_up, box)
            box.start()
            boxes[name] = box
        yield boxes


def _plug_in(made: contextlib.ExitStack, box: Box, bridge: str) -> None:
    _run("ip", "netns", "add", box.name)
    made.callback(_run, "ip", "netns", "del", box.name)
    _run("ip", "link", "add", box.cable, "type", "veth", "peer", "name", "host0", "netns", box.name)
    made.callback(_run, "ip", "link", "del", box.cable)  # a namespace may outlive its name, and keep its cable
    _run("ip", "link", "set", box.cable, "master", bridge, "up")
    for arguments in (
        ("address", "add", f"{box.address}/24", "dev", "host0"),
        ("link", "set", "host0", "up"),
        ("link", "set", "lo", "up"),
    ):
        _run("ip", "-n", box.name, *arguments)


def _clone(made: contextlib.ExitStack, box: Box, base: Path) -> None:
    upper, work = box.folder / "upper", box.folder / "work"
    for path in (upper, work, box.root):
        path.mkdir(parents=True)
    _run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={base},upperdir={upper},workdir={work}", str(box.root))
    made.callback(_run, "umount", "--lazy", str(box.root))
    authorized = box.root / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    authorized.write_text(box.key.with_suffix(".pub").read_text())
    (box.root / "etc/hostname").write_text(f"{box.name}\n")
    (box.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{box.address} {box.name}\n")
    _run("chroot", str(box.root), "ssh-keygen", "-A")


def _clean_up(box: Box) -> None:
    box.power_off()
    for group in _cgroups_of(box.name):
        for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            path.rmdir()
        if group.exists():
            group.rmdir()


def _cgroups_of(name: str) -> list[Path]:
    """Of every hierarchy of this machine; with one alone, that."""
    if (_CGROUPS / "cgroup.procs").exists():
        return [_CGROUPS / f"sonic-{name}"]
    found = [path for path in _CGROUPS.iterdir() if not path.is_symlink() and path.name != "cpuset"]
    return [path / f"sonic-{name}" for path in found if (path / "cgroup.procs").exists()]


def _kill_all(group: Path) -> None:
    """Until nothing is left: who forks is killed in the next round."""
    for _ in range(100):
        processes = [pid for path in group.rglob("cgroup.procs") for pid in path.read_text().split()]
        if not processes:
            return
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.05)
    raise AssertionError(f"{group} does not become empty")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
