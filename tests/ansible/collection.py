"""The collection where Ansible looks for it, and Ansible's programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "ansible"
BIN = Path(sys.executable).parent


def place(folder: Path) -> Path:
    """A folder for ANSIBLE_COLLECTIONS_PATH in which sonic.fleet is."""
    namespace = folder / "ansible_collections" / "sonic"
    namespace.mkdir(parents=True)
    (namespace / "fleet").symlink_to(SOURCE)
    return folder


def run(
    program: str,
    *arguments: str,
    collections: Path,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's programs, whose settings are those here and nobody's else."""
    # What people have set for their own Ansible is not meant.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    settings = {
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_FORKS": "10",
        "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0",
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "ANSIBLE_HOME": str(collections / "home"),
        "NO_COLOR": "1",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [str(BIN / program), *arguments],
        cwd=cwd or collections,
        env=inherited | settings | dict(environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
