"""The agent's folder: claimed by one agent, private to its user.

inputs/    portraits and voices, by hash, while their jobs run
scratch/   one folder per attempt that runs; wiped at start
workers/   one folder per worker, for what it calls temporary; wiped at start
compiled/  networks that workers have compiled, which hold nothing of any job
outbox/    one folder per result that the hub has not acknowledged
metrics/   samples that the hub has not acknowledged
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from agent.config import InvalidConfig
from agent.core.attempts import Ref


class Folders:
    """Where things lie under `data_dir`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.inputs = data_dir / "inputs"
        self.outbox = data_dir / "outbox"
        self.metrics = data_dir / "metrics"
        self.compiled = data_dir / "compiled"
        self._scratch = data_dir / "scratch"
        self._workers = data_dir / "workers"

    def scratch(self, ref: Ref) -> Path:
        """The folder of an attempt while it runs."""
        return self._scratch / name_of(ref)

    def temporary(self, worker: str) -> Path:
        """Where a worker keeps what it calls temporary."""
        return self._workers / worker

    def video(self, ref: Ref) -> Path:
        """Where the worker leaves the video of an attempt."""
        return self.scratch(ref) / "video.mp4"

    def checkpoint(self, ref: Ref) -> Path:
        """Where the worker keeps the state of an attempt, and where it finds an earlier one's."""
        return self.scratch(ref) / "state"

    def make(self) -> None:
        """Make what is missing, and wipe what an earlier life left half done."""
        for folder in (self._scratch, self._workers):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.inputs, self.outbox, self.compiled, self._scratch, self._workers):
            folder.mkdir(mode=0o700, exist_ok=True)


def name_of(ref: Ref) -> str:
    """A file name for an attempt, whatever the hub calls its jobs; it never begins with a dot."""
    return f"{quote(ref.job_id, safe='').replace('.', '%2E')}-{ref.attempt}"


@contextlib.contextmanager
def claimed(data_dir: Path) -> Iterator[Folders]:
    """The folder, for one agent at a time, even after a kill -9. Raises InvalidConfig."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(data_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidConfig(f"data_dir is {str(data_dir)!r}, which cannot be used: {error.strerror}") from error
    try:
        _lock(lock, data_dir)
        folders = Folders(data_dir)
        folders.make()
        yield folders
    finally:
        os.close(lock)


def _lock(lock: int, data_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        other = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise InvalidConfig(
            f"data_dir is {str(data_dir)!r}, which another agent (process {other}) is using; "
            "give each agent a folder of its own, or stop the other one"
        ) from None
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
