"""Everything that can go wrong with a render, one class per situation; the docstring is what the user is told.

RenderError
├── BadInput                    the caller's: never retried, never held against a node
│   ├── BadPortrait
│   │   ├── PortraitUnreadable, PortraitTruncated, PortraitAnimated, PortraitTooLarge, PortraitTooSmall
│   │   └── NoFace, FaceTooSmall, FaceCutOff, FaceTurned, FaceUntrusted
│   ├── BadVoice
│   │   └── VoiceUnreadable, VoiceTooLong, VoiceTooShort
│   ├── BadParameters
│   └── DurationMismatch
├── Cancelled
├── ModelMissing
├── ModelBroken
├── WouldNotFit                 nothing was started: not held against the node
├── OutOfMemory
├── DeviceFailed
├── OutputUnwritable
└── OutputBroken

The `reason` of an error is its class name in UPPER_SNAKE_CASE (NO_FACE): stable, for programs; see docs/errors.md.
"""

from __future__ import annotations

import inspect
import re
from typing import ClassVar

from sonic.parameters import Problem
from sonic.v1 import jobs_pb2


class RenderError(Exception):
    """The render failed."""

    fault: ClassVar[jobs_pb2.FaultKind.ValueType] = jobs_pb2.FAULT_KIND_INTERNAL
    field: ClassVar[str] = ""

    def __init__(self, detail: str = "", problems: tuple[Problem, ...] = ()) -> None:
        """`detail` continues the docstring's sentence with the value, the limit and what to do."""
        summary = inspect.cleandoc(type(self).__doc__ or "").split("\n\n")[0].replace("\n", " ")
        self.message = f"{summary.rstrip('.')}: {detail}" if detail else summary
        self.problems = problems or ((Problem(self.field, self.message),) if self.field else ())
        super().__init__(self.message)

    @property
    def reason(self) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).upper()

    def to_wire(self) -> jobs_pb2.JobFailure:
        """The error as the wire carries it."""
        problems = [jobs_pb2.FieldProblem(field=p.field, description=p.description) for p in self.problems]
        return jobs_pb2.JobFailure(fault=self.fault, reason=self.reason, message=self.message, problems=problems)


class BadInput(RenderError):
    """The input cannot be rendered."""

    fault = jobs_pb2.FAULT_KIND_BAD_INPUT


class BadPortrait(BadInput):
    """The portrait cannot be used."""

    field = "portrait"


class PortraitUnreadable(BadPortrait):
    """The portrait is not a picture that can be read."""


class PortraitTruncated(BadPortrait):
    """The portrait's file ends too early."""


class PortraitAnimated(BadPortrait):
    """The portrait is an animation; a still picture is wanted."""


class PortraitTooLarge(BadPortrait):
    """The portrait has too many pixels."""


class PortraitTooSmall(BadPortrait):
    """The portrait has too few pixels."""


class NoFace(BadPortrait):
    """No face was found in the portrait."""


class FaceTooSmall(BadPortrait):
    """The face in the portrait is too small."""


class FaceCutOff(BadPortrait):
    """The eyes or the mouth in the portrait lie beyond its edge."""


class FaceTurned(BadPortrait):
    """The face in the portrait is turned too far from the camera."""


class FaceUntrusted(BadPortrait):
    """The mouth in the portrait could not be located reliably."""


class BadVoice(BadInput):
    """The voice recording cannot be used."""

    field = "voice"


class VoiceUnreadable(BadVoice):
    """The voice recording is not audio that can be decoded."""


class VoiceTooLong(BadVoice):
    """The voice recording is too long."""


class VoiceTooShort(BadVoice):
    """The voice recording is too short."""


class BadParameters(BadInput):
    """The parameters cannot be rendered."""


class DurationMismatch(BadInput):
    """The given duration is not that of the voice recording."""

    field = "parameters.duration"


class Cancelled(RenderError):
    """The render was cancelled."""


class ModelMissing(RenderError):
    """A model that the engine needs is not in the model folder."""


class ModelBroken(RenderError):
    """A file of a model is not what it should be."""


class WouldNotFit(RenderError):
    """The render would not fit the node's memory."""

    fault = jobs_pb2.FAULT_KIND_WOULD_NOT_FIT


class OutOfMemory(RenderError):
    """The render ran out of memory."""

    fault = jobs_pb2.FAULT_KIND_OUT_OF_MEMORY


class DeviceFailed(RenderError):
    """The GPU or its driver failed."""

    fault = jobs_pb2.FAULT_KIND_DEVICE


class OutputUnwritable(RenderError):
    """The video could not be written."""


class OutputBroken(RenderError):
    """The video did not pass its check."""

    fault = jobs_pb2.FAULT_KIND_BROKEN_OUTPUT
