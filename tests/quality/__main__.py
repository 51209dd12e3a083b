"""`make quality`: every portrait with every voice, a table of what was measured, and contact sheets to look at."""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sonic_runtime import engines, models
from sonic_runtime.faces import FaceFinder
from tests.conftest import MATERIAL
from tests.quality import landmarks, measure, takes
from tests.quality.measure import BOUNDS, MEDIAN_BOUNDS, Figures

OUT = Path("out/quality")
TILES = 12


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    beside = MATERIAL if MATERIAL.exists() else None
    faces = takes.portraits(models.root() / "samples", beside / "portraits" if beside else None)
    voices = takes.synthesised(OUT) + (takes.labelled(beside / "speech") if beside else [])
    engine, finder = engines.load("warp"), FaceFinder()
    mesh = landmarks.fetched(models.root() / "samples")
    every = [(name, path, voice) for name, path in faces.items() for voice in voices]
    made: dict[str, Figures] = {}
    console = Console(stderr=True)
    for name, portrait, voice in track(every, "rendering and measuring", console=console):
        video = OUT / f"{name}-{voice.name}.mp4"
        made[video.stem] = takes.judged(portrait, voice, video, engine, finder, mesh)
        contact_sheet(video)
    bad = show(made)
    print(json.dumps({"videos": len(made), "out_of_bounds": bad, "medians": medians(made), "folder": str(OUT)}))
    sys.exit(1 if bad else 0)


def medians(made: dict[str, Figures]) -> dict[str, float]:
    names = [field.name for field in dataclasses.fields(Figures)]
    return {name: round(statistics.median(getattr(one, name) for one in made.values()), 4) for name in names}


def show(made: dict[str, Figures]) -> list[str]:
    """Print the table; returns what is out of its bounds."""
    table = Table("video", *BOUNDS)
    bad = []
    for video, one in made.items():
        row = []
        for name, (low, high) in BOUNDS.items():
            value = getattr(one, name)
            row.append(f"{value:.3g}")
            if not low <= value <= high:
                bad.append(f"{video}: {name} is {value:.3g}, not {low} to {high}")
                row[-1] = f"[red]{row[-1]}[/]"
        table.add_row(video, *row)
    middle = medians(made)
    for name, (low, high) in MEDIAN_BOUNDS.items():
        if not low <= middle[name] <= high:
            bad.append(f"median of {name} is {middle[name]}, not {low} to {high}")
    table.add_section()
    table.add_row("median", *(f"{middle[name]:.3g}" for name in BOUNDS))
    Console(width=200).print(table)
    return bad


def contact_sheet(video: Path) -> None:
    """Frames of a video, evenly spread, whole and at the mouth, as one picture."""
    frames = list(measure.frames_of(video))
    chosen = [frames[int(at)] for at in np.linspace(0, len(frames) - 1, TILES)]
    height, width = chosen[0].shape[:2]
    lower = np.s_[int(0.5 * height) : int(0.9 * height), int(0.25 * width) : int(0.75 * width)]
    rows = [np.hstack([cv2.resize(frame, (200, 200)) for frame in chosen])]
    rows.append(np.hstack([cv2.resize(frame[lower], (200, 160)) for frame in chosen]))
    cv2.imwrite(str(video.with_suffix(".jpg")), np.vstack(rows)[:, :, ::-1])


if __name__ == "__main__":
    main()
