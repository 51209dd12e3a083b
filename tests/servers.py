"""Real servers for tests and benchmarks: those on PATH, else Debian's, unpacked into .cache without root."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "servers"
_PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
    "victoria-metrics": "victoria-metrics",
    "vmagent": "victoria-metrics",
}


def binary(name: str) -> Path:
    """The program; fetched when it is not installed. Skips the test where there is no apt-get."""
    if found := shutil.which(name):
        return Path(found)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = CACHE / _PACKAGES[name]
        if not root.exists():
            _unpack(_PACKAGES[name], root)
    return root / "usr/bin" / name


def _unpack(package: str, root: Path) -> None:
    if not shutil.which("apt-get"):
        pytest.skip(f"{package} is not installed, and there is no apt-get to fetch it with")
    lists, fresh = CACHE / "lists", root.with_suffix(".new")
    own = ["-o", f"Dir::State::lists={lists}", "-o", "Debug::NoLocking=1", "-o", f"Dir::Cache={CACHE / 'apt'}"]
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (CACHE / "apt/archives/partial").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for command in (["apt-get", *own, "update"], ["apt-get", *own, "download", package]):
        done = subprocess.run([*command, "-q"], cwd=fresh, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)} failed: {done.stderr}"
    for archive in fresh.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, fresh], check=True)
        archive.unlink()
    fresh.rename(root)
