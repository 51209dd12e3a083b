"""Make the pictures of README.md and docs/engine.md, and the clips and sheets of docs/gallery.md: `make gallery`."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from sonic.parameters import RenderParameters
from sonic.v1 import parameters_pb2
from sonic_runtime import engines, models
from sonic_runtime.engines.base import MouthCurves
from sonic_runtime.engines.warp import framing
from sonic_runtime.engines.warp.grid import Grid
from sonic_runtime.engines.warp.head import Pose
from sonic_runtime.engines.warp.mouth import Mouth, Shape
from sonic_runtime.engines.warp.planes import from_rgb
from sonic_runtime.engines.warp.portrayed import Portrayed
from sonic_runtime.faces import FaceFinder
from sonic_runtime.media import portraits, voices
from sonic_runtime.models.samples import fetch_samples
from sonic_runtime.mouth import NAMES, MouthModel, spectrum
from sonic_runtime.pipeline import Request, Tracker, render
from tests.quality.takes import synthesised

Picture = NDArray[np.uint8]
DOCS = Path(__file__).resolve().parent.parent / "docs"
ENGINE, GALLERY = DOCS / "images" / "engine", DOCS / "gallery"
STILL, SHUT = Pose(0, 0, 0, 0, 0, 0), Shape(0, 0, 0, 0, 0)
COLOURS = ((40, 90, 220), (40, 160, 90), (200, 120, 30), (190, 40, 60), (140, 60, 190), (30, 160, 170), (120, 120, 120))
SIDE = 512


def main() -> None:
    samples = fetch_samples(models.root() / "samples")
    finder = FaceFinder()
    for folder in (ENGINE, GALLERY):
        folder.mkdir(parents=True, exist_ok=True)
    engine_pictures(samples.portrait, samples.voice, finder)
    with tempfile.TemporaryDirectory() as name:
        read = {voice.name: voice.path for voice in synthesised(Path(name))}
        takes = {
            "hopper-english": (samples.portrait, samples.voice),
            "hopper-french": (samples.portrait, read["fr-f4"]),
            "hopper-mandarin": (samples.portrait, read["cmn-m3"]),
            "astronaut-english": (samples.smile, samples.voice),
            "astronaut-spanish": (samples.smile, read["es-m1"]),
            "astronaut-hindi": (samples.smile, read["hi-f1"]),
        }
        for clip, (portrait, voice) in takes.items():
            frames = gallery_clip(GALLERY / f"{clip}.mp4", portrait, voice, finder)
            if clip == "hopper-french":
                save(DOCS / "images" / "result.jpg", sheet(frames, 12, 6, 200))


def gallery_clip(path: Path, portrait: Path, voice: Path, finder: FaceFinder) -> list[Picture]:
    """Render a clip and its sheet; returns its frames."""
    request = Request(portrait, voice, path, parameters_pb2.RenderParameters(min_resolution=SIDE))
    render(request, engines.load("warp"), finder, Tracker(lambda _progress: None, lambda: False))
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    save(path.with_suffix(".jpg"), sheet(frames, 16, 8, 150))
    return frames


def sheet(frames: list[Picture], count: int, columns: int, side: int) -> Picture:
    """Some of the frames, evenly spread, as one picture."""
    chosen = [cv2.resize(frames[int(at)], (side, side)) for at in np.linspace(0, len(frames) - 1, count)]
    rows = [np.hstack(chosen[start : start + columns]) for start in range(0, count, columns)]
    return np.vstack(rows).astype(np.uint8)


def engine_pictures(portrait: Path, voice: Path, finder: FaceFinder) -> None:
    loaded = portraits.load(portrait, finder)
    framed = framing.frame(loaded, RenderParameters(min_resolution=SIDE))
    save(ENGINE / "1-mesh.jpg", np.hstack([whole(loaded.rgb), mesh(framed.rgb, framed.landmarks)]))
    samples = voices.load(voice).samples
    save(ENGINE / "2-curves.jpg", hearing(samples, MouthModel().curves(samples)))
    save(ENGINE / "3-fields.jpg", fields(framed))
    posed = Portrayed(framed)
    shapes = [SHUT, wide(0.25), wide(0.6), wide(1.1), wide(0.35, width=1.0), wide(0.3, width=-1.0), wide(0.1, tuck=1.0)]
    save(ENGINE / "4-mouths.jpg", np.hstack([at_mouth(posed.frame(STILL, shape, 0), framed) for shape in shapes]))
    poses = [
        Pose(0, 0, 0, 0.06, 0, 0),
        Pose(0, 0, 0, -0.06, 0, 0),
        Pose(0, 0, 0, 0, 0.08, 0),
        Pose(0, 0, 0.04, 0, 0, 1),
    ]
    heads = [rgb(posed.frame(pose, SHUT, blink)) for pose, blink in zip(poses, (0, 0, 0, 1), strict=True)]
    save(ENGINE / "5-head.jpg", np.hstack([cv2.resize(head, (280, 280)) for head in heads]))


def wide(opening: float, **about: float) -> Shape:
    return dataclasses.replace(SHUT, opening=opening, **about)


def whole(picture: Picture) -> Picture:
    return cv2.resize(picture, (SIDE * picture.shape[1] // picture.shape[0], SIDE)).astype(np.uint8)


def mesh(picture: Picture, landmarks: NDArray[np.float32]) -> Picture:
    out = picture.copy()
    for x, y in landmarks[:, :2]:
        cv2.circle(out, (round(float(x)), round(float(y))), 1, (60, 255, 120), -1, cv2.LINE_AA)
    return out


def hearing(samples: NDArray[np.float32], curves: MouthCurves) -> Picture:
    """The spectrum, and the curves that the network reads off it."""
    mel = spectrum.normalised(spectrum.log_mel(samples))
    grey = np.clip((mel.T[::-1] + 2.5) / 3.5 * 255, 0, 255).astype(np.uint8)
    width, height = 1000, 34
    parts = [cv2.applyColorMap(cv2.resize(grey, (width, 160)), cv2.COLORMAP_MAGMA)[:, :, ::-1]]
    for name, colour in zip(NAMES, COLOURS, strict=True):
        lane = np.full((height, width, 3), 255, np.uint8)
        values = np.interp(np.linspace(0, 1, width), np.linspace(0, 1, len(mel)), getattr(curves, name))
        line = np.stack([np.arange(width), height - 3 - values * (height - 6)], axis=1).astype(np.int32)
        cv2.polylines(lane, [line], False, colour, 2, cv2.LINE_AA)
        cv2.putText(lane, name, (6, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (60, 60, 60), 1, cv2.LINE_AA)
        parts.append(lane)
    return np.vstack(parts)


def fields(framed: framing.Framed) -> Picture:
    """How far each of the mouth's parts moves what: the lighter, the farther."""
    mouth = Mouth(framed.landmarks, from_rgb(framed.rgb))
    height, width = framed.rgb.shape[:2]
    grid = Grid((0, 0, width, height), 8)
    tiles = []
    for number, name in ((0, "width"), (2, "opening"), (3, "tuck"), (4, "press")):
        scaled, above, below = np.moveaxis(np.abs(mouth.fields(grid)[number]), -1, 0)
        _, v = mouth.level.of(grid.x, grid.y)
        strength = scaled + np.where(v < 0, above, below)
        drawn = grid.drawn(strength / strength.max())
        heat = cv2.applyColorMap(np.clip(drawn * 255, 0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
        tile = cv2.addWeighted(framed.rgb, 0.45, heat, 0.75, 0).astype(np.uint8)
        cv2.putText(tile, name, (16, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (255, 255, 255), 2, cv2.LINE_AA)
        tiles.append(cv2.resize(tile, (280, 280)))
    return np.hstack(tiles).astype(np.uint8)


def rgb(frame: Picture) -> Picture:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_I420))


def at_mouth(frame: Picture, framed: framing.Framed) -> Picture:
    x, y = framed.landmarks[[13, 14], :2].mean(axis=0)
    reach = 0.28 * float(np.ptp(framed.landmarks[:468, 1]))
    part: Any = rgb(frame)[round(y - 0.8 * reach) : round(y + 1.2 * reach), round(x - reach) : round(x + reach)]
    return np.asarray(cv2.resize(part, (160, 160)), np.uint8)


def save(path: Path, picture: Any) -> None:
    cv2.imwrite(str(path), np.ascontiguousarray(picture[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
