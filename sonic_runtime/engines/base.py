"""What every engine is: it prepares a take from a portrait and a voice, and the take is a stream of frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sonic.parameters import Caution, RenderParameters
from sonic_runtime.checkpoint import Checkpoint

SPEECH_RATE_HZ = 16_000
CURVE_RATE_HZ = 100

Report = Callable[[str, int, int], None]
"""Called as report(stage, done, total) whenever work moves on; raises `errors.Cancelled` when the render must stop.

report("", 0, 0) tells nothing new, and only asks that: several times a second, so that a cancel is felt within one.
"""


def untold(_stage: str, _done: int, _total: int) -> None:
    """A Report for work that nobody follows or stops."""


@dataclass(frozen=True)
class Face:
    """A face in a picture; all coordinates are pixels of that picture, x to the right and y down."""

    landmarks: NDArray[np.float32]  # [478, 3], MediaPipe's mesh; z in the scale of x, smaller is nearer
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 around the landmarks
    confidence: float  # 0 to 1
    yaw_degrees: float  # positive: turned toward the picture's right
    pitch_degrees: float  # positive: looking up
    roll_degrees: float  # positive: clockwise


@dataclass(frozen=True)
class Portrait:
    """A picture that has passed every gate, upright, with its largest face."""

    rgb: NDArray[np.uint8]  # [height, width, 3]
    face: Face
    cautions: tuple[Caution, ...] = ()


@dataclass(frozen=True)
class Voice:
    """A recording as the engines hear it."""

    duration_s: float  # of the original recording, by its own samples
    path: Path  # of the original recording
    blocks: Callable[[], Iterator[NDArray[np.float32]]]  # decodes it anew: parts [n], mono, SPEECH_RATE_HZ, -1 to 1

    @property
    def samples(self) -> NDArray[np.float32]:
        """All of it, [n]: 64 kB a second."""
        return np.concatenate(list(self.blocks()))


@dataclass(frozen=True)
class MouthCurves:
    """What a mouth does while it speaks, CURVE_RATE_HZ values a second, each 0 to 1; all arrays are float32 [n]."""

    aperture: NDArray[np.float32]  # distance of the inner lips; 1 is a wide open vowel
    spread: NDArray[np.float32]  # corners drawn apart, as in "ee"
    rounding: NDArray[np.float32]  # lips pursed, as in "oo"
    closure: NDArray[np.float32]  # lips pressed together, as in m, b, p
    labiodental: NDArray[np.float32]  # lower lip at the upper teeth, as in f, v
    tongue: NDArray[np.float32]  # tongue tip visible, as in l, th
    silence: NDArray[np.float32]  # nobody speaks


@dataclass(frozen=True)
class Shape:
    """What the frames of a take look like."""

    width: int  # pixels, even
    height: int  # pixels, even
    fps: int
    frame_count: int


class Take(Protocol):
    """One prepared render."""

    shape: Shape
    cautions: tuple[Caution, ...]

    def frames(self, report: Report, checkpoint: Checkpoint | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield `shape.frame_count` frames, each planar yuv420p, uint8 [height * 3 // 2, width], BT.709 limited range.

        A frame's memory may be used again for the next one. Work that yields none is reported as a stage of its own.
        """


class Engine(Protocol):
    """A way to render, loaded and ready."""

    name: str
    model_version: str
    on_cpu: bool  # it renders without a GPU
    portrait_parameters: tuple[str, ...]  # the parameters that `portray` goes by

    def portray(self, portrait: Portrait, parameters: RenderParameters) -> Any:
        """Do what is done once per portrait; `prepare` may be given it again and again. Raises errors.RenderError."""

    def prepare(self, portrayed: Any, voice: Voice, parameters: RenderParameters, report: Report = untold) -> Take:
        """Do what is done once per job. Raises errors.RenderError."""
