"""The built-in engine: the portrait itself, warped by what is heard. Its only weights are those that find the face."""

from __future__ import annotations

import os
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from sonic.parameters import Caution, RenderParameters
from sonic_runtime.checkpoint import Checkpoint
from sonic_runtime.engines.base import Portrait, Report, Shape, Voice, untold
from sonic_runtime.engines.warp import framing, motion
from sonic_runtime.engines.warp.portrayed import Portrayed
from sonic_runtime.media.videos import frame_count
from sonic_runtime.mouth import MouthModel

_DEFAULTS = RenderParameters()
_OF_DIFFUSION = ("inference_steps", "appearance_guidance", "audio_guidance", "audio_scale")


class WarpEngine:
    """Stateless between takes."""

    name = "warp"
    model_version = "warp-2"
    on_cpu = True
    portrait_parameters: tuple[str, ...] = ("min_resolution", "expand_ratio")

    def __init__(self) -> None:
        self._model = MouthModel()
        cv2.setNumThreads(max((os.cpu_count() or 2) // 2, 1))  # the encoder works on the other cores

    def portray(self, portrait: Portrait, parameters: RenderParameters) -> Portrayed:
        """Cut and scale the picture, and compute what does not change from frame to frame."""
        return Portrayed(framing.frame(portrait, parameters))

    def prepare(
        self, portrayed: Portrayed, voice: Voice, parameters: RenderParameters, report: Report = untold
    ) -> WarpTake:
        """Hear the voice and plan the motion."""
        width, height = portrayed.size
        shape = Shape(width, height, parameters.fps, frame_count(voice.duration_s, parameters.fps))
        plan = motion.plan(self._model.curves_of(_asking(voice.blocks(), report)), shape.frame_count, parameters)
        cautions = list(portrayed.cautions)
        for name in _OF_DIFFUSION:
            if (value := getattr(parameters, name)) != getattr(_DEFAULTS, name):
                message = f"{name} {value:g} is ignored: the warp engine has no denoising steps"
                cautions.append(Caution("PARAMETER_IGNORED", message))
        return WarpTake(portrayed, plan, shape, tuple(cautions))


def _asking(blocks: Iterator[NDArray[np.float32]], report: Report) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        report("", 0, 0)
        yield block


class WarpTake:
    """One portrait with its fields, and the motion it is to make."""

    def __init__(self, portrayed: Portrayed, plan: motion.Motion, shape: Shape, cautions: tuple[Caution, ...]) -> None:
        self.shape, self.cautions = shape, cautions
        self._plan = plan
        self._portrait = portrayed

    def frames(self, report: Report, _checkpoint: Checkpoint | None = None) -> Iterator[NDArray[np.uint8]]:
        """Planar yuv420p; the same memory for every frame."""
        for number in range(self.shape.frame_count):
            report("rendering", number, self.shape.frame_count)
            yield self._portrait.frame(self._plan.pose(number), self._plan.mouth(number), self._plan.blink_at(number))
