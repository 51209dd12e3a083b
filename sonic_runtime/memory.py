"""How much memory this process has had at most, as Linux counts it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path


def forget_peak() -> None:
    """Count anew from what is held now, where that is allowed."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Resident memory at its most, since the last `forget_peak`."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
