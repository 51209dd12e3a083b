"""Writes down how the probe clip of each engine looks on this box, for the other boxes to be compared with.

To be run on a box that is known to be sound, whenever an engine's model version changes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sonic_runtime import engines, probe
from sonic_runtime.faces import FaceFinder

FOLDER = Path(__file__).resolve().parent.parent / "sonic_runtime" / "probe_clips"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in engines.names():
        engine = engines.load(name)
        np.save(FOLDER / f"{engine.model_version}.npy", probe.rendered_blocks(engine, FaceFinder()))


if __name__ == "__main__":
    main()
