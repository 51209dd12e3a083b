"""The engine sets how torch's threads wait before it loads torch: so it comes first here, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from sonic_runtime.engines.sonic import SonicEngine
from sonic_runtime.engines.sonic.options import Options
from sonic_runtime.models import tiny

SMALL = Options(device="cpu", window_frames=4)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with drawn weights."""
    made = tmp_path_factory.mktemp("models") / "sonic-tiny"
    made.mkdir()
    tiny.write(made)
    return made


@pytest.fixture(scope="session")
def engine(folder: Path) -> SonicEngine:
    return SonicEngine(folder, SMALL)
