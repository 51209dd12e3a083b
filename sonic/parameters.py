"""The parameters of a render: names, units, ranges and defaults, in one place.

The command line, the hub, the workers and docs/parameters.md all read the table below. A value outside its hard
range is refused, with every problem named at once; a value outside its recommended range is used, with a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sonic.v1 import parameters_pb2


@dataclass(frozen=True)
class Problem:
    """A field of a request and what is wrong with it: the value, the limit and what to do."""

    field: str
    description: str


@dataclass(frozen=True)
class Caution:
    """Something worth knowing about a request that is carried out all the same."""

    reason: str
    message: str


class InvalidParameters(ValueError):
    """One or more parameters are outside what can be rendered."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__(told(problems))


def told(problems: Iterable[Problem]) -> str:
    """Problems for a person, one a line, with the fields as callers give them."""
    return "\n".join(f"{problem.field.removeprefix('parameters.')} {problem.description}" for problem in problems)


@dataclass(frozen=True)
class Spec:
    """What one parameter may be. `low` and `high` are hard and inclusive; `recommended` is a softer, inner range."""

    name: str
    kind: type
    default: float | bool | None
    help: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    recommended: tuple[float, float] | None = None
    multiple_of: int = 0  # 0: any

    @property
    def wanted(self) -> str:
        """What a value must be, in words."""
        if self.kind is bool:
            return "true or false"
        return f"a {'whole number' if self.kind is int else 'number'} from {self.range}"

    @property
    def range(self) -> str:
        """The hard limits, in words."""
        return f"{plain(self.low)} to {plain(self.high)}{' ' + self.unit if self.unit else ''}"


def plain(number: float) -> str:
    """Whole numbers with all their digits."""
    return str(int(number)) if number == int(number) else f"{number:g}"


SPECS: tuple[Spec, ...] = (
    Spec(
        "duration",
        float,
        None,
        "Length of the video; when given it must match the audio within one video frame.",
        unit="seconds",
        low=0.1,
        high=600.0,
    ),
    Spec(
        "min_resolution",
        int,
        1024,
        "Short side of the video. The long side follows the picture; both are rounded to multiples of 64.",
        unit="pixels",
        low=256,
        high=2048,
        recommended=(512, 1024),
        multiple_of=64,
    ),
    Spec(
        "expand_ratio",
        float,
        0.18,
        "Room kept around the face, as a share of the face's box.",
        low=0.0,
        high=1.0,
        recommended=(0.15, 0.2),
    ),
    Spec(
        "inference_steps",
        int,
        25,
        "Denoising steps of the diffusion engine; the warp engine has none and says that it ignores them.",
        low=1,
        high=100,
        recommended=(20, 30),
    ),
    Spec("dynamic_scale", float, 1.1, "Mouth amplitude.", low=0.0, high=2.0, recommended=(1.0, 1.2)),
    Spec("motion_scale", float, 1.05, "Head motion.", low=0.0, high=2.0, recommended=(1.0, 1.1)),
    Spec("lip_sync_correction", bool, True, "Remove any constant offset and drift between audio and mouth."),
    Spec("smooth_motion", bool, True, "Smooth motion over time without delaying it."),
    Spec("fps", int, 25, "Frame rate of the video.", unit="frames per second", low=10, high=60, recommended=(24, 30)),
    Spec("seed", int, 0, "Seed of everything random: same seed and inputs, same frames.", low=0, high=2**63 - 1),
    Spec(
        "appearance_guidance",
        float,
        2.0,
        "How strongly the diffusion engine keeps to the portrait.",
        low=0.0,
        high=10.0,
        recommended=(1.0, 3.0),
    ),
    Spec(
        "audio_guidance",
        float,
        7.5,
        "How strongly the diffusion engine follows the voice.",
        low=0.0,
        high=20.0,
        recommended=(5.0, 9.0),
    ),
    Spec(
        "audio_scale",
        float,
        1.0,
        "Weight of what the diffusion engine hears in each of its layers.",
        low=0.0,
        high=2.0,
        recommended=(0.8, 1.2),
    ),
)
# What an engine takes for a parameter that is not given, where that is not the default of the table.
ENGINE_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "sonic": {"min_resolution": 512, "expand_ratio": 0.5, "dynamic_scale": 1.0, "motion_scale": 1.0},
}
# Denoising steps of the probe clip, where an engine has some: it is to show that a node works, and soon.
PROBE_STEPS: Mapping[str, int] = {"sonic": 2}
_ACCEPTED: dict[type, Any] = {bool: bool, int: int, float: int | float}
_BY_NAME = {spec.name: spec for spec in SPECS}


@dataclass(frozen=True)
class RenderParameters:
    """Complete, valid parameters of one render. Make one with `complete` or `from_wire`, which check the ranges."""

    duration: float | None = None  # seconds; None: as long as the audio
    min_resolution: int = 1024  # pixels
    expand_ratio: float = 0.18
    inference_steps: int = 25
    dynamic_scale: float = 1.1
    motion_scale: float = 1.05
    lip_sync_correction: bool = True
    smooth_motion: bool = True
    fps: int = 25
    seed: int = 0
    appearance_guidance: float = 2.0
    audio_guidance: float = 7.5
    audio_scale: float = 1.0

    def to_wire(self) -> parameters_pb2.RenderParameters:
        """The same parameters as a message; `duration` is left out when it is None."""
        return parameters_pb2.RenderParameters(**{f.name: getattr(self, f.name) for f in fields(self)})


def complete(given: Mapping[str, Any], engine: str = "") -> tuple[RenderParameters, list[Caution]]:
    """Check what was given and fill in the defaults, those of the engine where it has its own.

    Returns the parameters and a warning for each value outside its recommended range.
    Raises InvalidParameters with every problem found: an unknown name, a wrong type, a value outside its hard range.
    """
    problems = [
        Problem(f"parameters.{name}", f"there is no such parameter; known are {', '.join(_BY_NAME)}")
        for name in given
        if name not in _BY_NAME
    ]
    values: dict[str, Any] = {}
    warnings: list[Caution] = []
    for spec in SPECS:
        value = given.get(spec.name)
        default = ENGINE_DEFAULTS.get(engine, {}).get(spec.name, spec.default)
        if value is None:
            values[spec.name] = default
            continue
        problem = _problem(spec, value)
        if problem:
            problems.append(Problem(f"parameters.{spec.name}", problem))
            continue
        values[spec.name] = spec.kind(value)
        if spec.recommended and value != default and not spec.recommended[0] <= value <= spec.recommended[1]:
            low, high = spec.recommended
            message = f"{spec.name} is {value}; {low} to {high} is recommended"
            warnings.append(Caution("OUTSIDE_RECOMMENDED_RANGE", message))
    if problems:
        raise InvalidParameters(problems)
    return RenderParameters(**values), warnings


def from_wire(message: parameters_pb2.RenderParameters, engine: str = "") -> tuple[RenderParameters, list[Caution]]:
    """`complete` for a message; fields that are not set take their defaults."""
    given = {spec.name: getattr(message, spec.name) for spec in SPECS if message.HasField(spec.name)}  # type: ignore[arg-type]
    return complete(given, engine)


def _problem(spec: Spec, value: Any) -> str | None:
    unit = f" {spec.unit}" if spec.unit else ""
    if isinstance(value, bool) != (spec.kind is bool) or not isinstance(value, _ACCEPTED[spec.kind]):
        return f"is {value!r}; {spec.wanted} is wanted"
    if spec.kind is bool:
        return None
    if not spec.low <= value <= spec.high or not math.isfinite(value):
        return f"is {value}{unit}; choose a value from {spec.range}"
    if spec.multiple_of and value % spec.multiple_of:
        below = int(value // spec.multiple_of) * spec.multiple_of
        near = f"{below} or {below + spec.multiple_of}"
        return f"is {value}{unit}, not a multiple of {spec.multiple_of}; choose {near}"
    return None
