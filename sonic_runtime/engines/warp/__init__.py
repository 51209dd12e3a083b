"""The built-in engine: the portrait itself, warped by what is heard. Its only weights are those that find the face."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sonic.parameters import Caution, RenderParameters
from sonic_runtime.engines.base import Portrait, Report, Shape, Voice
from sonic_runtime.engines.warp import framing, motion, planes
from sonic_runtime.engines.warp.eye import LEFT_EYE, RIGHT_EYE, Eye
from sonic_runtime.engines.warp.head import Head
from sonic_runtime.engines.warp.mouth import Mouth
from sonic_runtime.media.videos import frame_count
from sonic_runtime.mouth import MouthModel

_DEFAULT_STEPS = RenderParameters().inference_steps


class WarpEngine:
    """Stateless between takes."""

    name = "warp"
    model_version = "warp-1"

    def __init__(self) -> None:
        self._model = MouthModel()

    def prepare(self, portrait: Portrait, voice: Voice, parameters: RenderParameters) -> WarpTake:
        """Hear the voice, plan the motion, and compute what does not change from frame to frame."""
        framed = framing.frame(portrait, parameters)
        height, width = framed.rgb.shape[:2]
        shape = Shape(width, height, parameters.fps, frame_count(voice.duration_s, parameters.fps))
        plan = motion.plan(self._model.curves(voice.samples), shape.frame_count, parameters)
        cautions = list(framed.cautions)
        if parameters.inference_steps != _DEFAULT_STEPS:
            message = f"inference_steps {parameters.inference_steps} is ignored: the warp engine has no denoising steps"
            cautions.append(Caution("PARAMETER_IGNORED", message))
        return WarpTake(framed, plan, shape, tuple(cautions))


class WarpTake:
    """One portrait with its fields, and the motion it is to make."""

    def __init__(
        self, framed: framing.Framed, plan: motion.Motion, shape: Shape, cautions: tuple[Caution, ...]
    ) -> None:
        self.shape, self.cautions = shape, cautions
        self._plan = plan
        self._picture = planes.from_rgb(framed.rgb)
        self._mouth = Mouth(framed.landmarks, self._picture)
        self._eyes = [Eye(framed.landmarks, lids, self._picture) for lids in (LEFT_EYE, RIGHT_EYE)]
        self._head = Head(framed.landmarks, shape.height, shape.width)

    def frames(self, report: Report) -> Iterator[NDArray[np.uint8]]:
        """Planar yuv420p; the same memory for every frame."""
        out = planes.Planes(self.shape.height, self.shape.width)
        out.write(self._picture, 0, 0)
        canvas = self._picture.copy()
        head = self._head
        for number in range(self.shape.frame_count):
            report("rendering", number, self.shape.frame_count)
            self._pose(canvas, number)
            shift_x, shift_y = float(self._plan.shift_x[number]), float(self._plan.shift_y[number])
            out.write(head.move(canvas, shift_x, shift_y, float(self._plan.roll[number])), head.x0, head.y0)
            yield out.data

    def _pose(self, canvas: NDArray[np.uint8], number: int) -> None:
        """Lay mouth and eyes of one frame into the picture."""
        plan = self._plan
        mouth = self._mouth.render(float(plan.opening[number]), float(plan.width[number]), float(plan.tuck[number]))
        self._mouth.patch.cut(canvas)[:] = mouth
        for eye in self._eyes:
            eye.patch.cut(canvas)[:] = eye.render(float(plan.blink[number]))
