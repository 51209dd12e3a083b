"""A disk that takes no byte more ends a render with the reason, and never its worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .sounds import record

RECORD = """
import resource, sys
from pathlib import Path
import numpy as np
from sonic_runtime import errors
from sonic_runtime.engines.base import Shape
from sonic_runtime.media import videos

def full(room_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, resource.RLIM_INFINITY))

picture, room_bytes, at = np.full((96, 64), 100, np.uint8), int(sys.argv[3]), int(sys.argv[4])
try:
    if at < 0:
        full(room_bytes)
    with videos.recording(Path(sys.argv[1]), Shape(64, 64, 25, 50), Path(sys.argv[2])) as recorder:
        for number in range(50):
            if number == at:
                full(room_bytes)
            recorder.add(picture)
except errors.OutputUnwritable as error:
    print("told:", error)
"""


@pytest.mark.parametrize("at", [-1, 0, 40])
@pytest.mark.parametrize("room_bytes", [0, 100])
def test_a_full_disk_is_told(tmp_path: Path, room_bytes: int, at: int) -> None:
    """Before the first byte, after the first, and in the end."""
    command = [
        sys.executable,
        "-c",
        RECORD,
        tmp_path / "video.mp4",
        record(tmp_path / "voice.wav", 2.0),
        room_bytes,
        at,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.stdout.startswith("told:"), (done.returncode, done.stdout, done.stderr)
    assert not list(tmp_path.glob("*video*"))
