"""The box itself, as Linux describes it in /proc."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sonic.v1 import nodes_pb2


class HostProbe:
    """Processor, memory and the disk under a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = _cpu_times()

    def measure(self) -> nodes_pb2.NodeHealth:
        """As of now; the processor since the last call. Raises OSError."""
        busy_before, all_before = self._before
        self._before = busy, everything = _cpu_times()
        passed = everything - all_before
        return nodes_pb2.NodeHealth(
            cpu_percent=100.0 * (busy - busy_before) / passed if passed else 0.0,
            memory_available_bytes=_memory_available_bytes(),
            disk_free_bytes=shutil.disk_usage(self._folder).free,
        )


def _cpu_times() -> tuple[int, int]:
    """Ticks in which the processors worked, and all ticks."""
    user, nice, system, idle, iowait, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    busy = user + nice + system + sum(rest)
    return busy, busy + idle + iowait


def _memory_available_bytes() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
