"""Where the state of a render is kept while it is made, so that a killed one need not begin anew."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _untold(_done: int, _total: int) -> None:
    pass


@dataclass
class Checkpoint:
    """A file that a render goes on from, if it is of the same render, and replaces as it gets further.

    Only engines that work for long before their first frame use it.
    """

    path: Path
    inputs: tuple[Path, ...]  # portrait and voice
    kept: Callable[[int, int], None] = _untold  # told done and total, by another thread, when a state is on the disk
    resumed_from: int = 0  # units of work that were taken from the file

    @property
    def part(self) -> Path:
        """Where the next state is written before it takes the place of the last."""
        return self.path.with_name(f"{self.path.name}.part")

    def inputs_sha256(self) -> list[str]:
        """64 hexadecimal digits for each input. Raises OSError."""
        found = []
        for path in self.inputs:
            with path.open("rb") as file:
                found.append(hashlib.file_digest(file, "sha256").hexdigest())
        return found

    def forget(self) -> None:
        """The render is complete."""
        for path in (self.path, self.part):
            path.unlink(missing_ok=True)
