"""How much memory workers hold, and how often the kernel's killer of processes has struck among them."""

from __future__ import annotations

import os
import re
from pathlib import Path


def oom_kills(root: Path = Path("/")) -> int:
    """Processes killed for want of memory so far, in this process' cgroup and in the machine as a whole.

    A worker that dies by SIGKILL while this number grows was, most likely, the victim. Of the files read, cgroup2's
    memory.events, cgroup1's memory.oom_control and /proc/vmstat, any may be absent.
    """
    files = [(root / "proc/vmstat"), *_cgroup_files(root)]
    return sum(_count(file) for file in files)


def _cgroup_files(root: Path) -> list[Path]:
    files = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if not controllers:
            files.append(root / "sys/fs/cgroup" / inside / "memory.events")
        elif "memory" in controllers.split(","):
            files.append(root / "sys/fs/cgroup/memory" / inside / "memory.oom_control")
    return files


def _count(file: Path) -> int:
    found = re.search(r"^oom_kill (\d+)$", _read(file), re.MULTILINE)
    return int(found.group(1)) if found else 0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def resident_bytes(pid: int, root: Path = Path("/")) -> int:
    """Resident memory of a process; 0 when it is gone."""
    fields = _read(root / f"proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0
