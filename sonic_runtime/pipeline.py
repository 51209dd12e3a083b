"""One render from files to a file: the one way in for the command line, the worker and the probe."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sonic import parameters
from sonic.parameters import Caution, RenderParameters
from sonic.v1 import jobs_pb2, parameters_pb2
from sonic_runtime import errors
from sonic_runtime.checkpoint import Checkpoint
from sonic_runtime.engines.base import Engine, Voice
from sonic_runtime.faces import FaceFinder
from sonic_runtime.media import videos, voices
from sonic_runtime.prepared import PreparedPortraits

_log = logging.getLogger("sonic_runtime")
_SHARES = {"preparing": 0.1, "rendering": 0.87, "checking": 0.03}  # of the whole, for the progress
_DENOISING_SHARE = 0.9  # of the rendering, where an engine denoises before it has frames
_REPORT_INTERVAL_S = 0.2


@dataclass(frozen=True)
class Request:
    """What to render, from which files into which. The output appears whole or not at all."""

    portrait: Path
    voice: Path
    output: Path
    parameters: parameters_pb2.RenderParameters
    checkpoint: Checkpoint | None = None  # where the state is kept meanwhile


@dataclass
class Tracker:
    """Turns stages into one progress that never goes back, and raises errors.Cancelled when asked to stop."""

    tell: Callable[[jobs_pb2.Progress], None]
    cancelled: Callable[[], bool]
    ticks: int = 0
    denoised: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    _stage: str = ""
    _fraction: float = 0.0
    _told_at_s: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started_s = time.monotonic()
        self._stage = name
        self.report(name, 0, 0)
        yield
        self.seconds[name] = time.monotonic() - started_s

    def report(self, stage: str, done: int, total: int) -> None:
        """What engines call. `done` of `total` steps of a stage: the present one, or "denoising" within "rendering".

        Without a stage nothing is told.
        """
        self.ticks += 1
        if self.cancelled():
            raise errors.Cancelled
        if not stage:
            return
        before = sum(share for name, share in _SHARES.items() if name in self.seconds)
        inside = done / total if total else 0.0
        if stage == "denoising":
            self.denoised = True
            inside *= _DENOISING_SHARE
        elif self.denoised and self._stage == "rendering":
            inside = _DENOISING_SHARE + (1 - _DENOISING_SHARE) * inside
        self._fraction = max(self._fraction, min(before + _SHARES[self._stage] * inside, 1.0))
        now_s = time.monotonic()
        if now_s - self._told_at_s >= _REPORT_INTERVAL_S or done in (0, total):
            self._told_at_s = now_s
            self.tell(jobs_pb2.Progress(stage=stage, done=done, total=total, fraction=self._fraction))


def render(
    request: Request, engine: Engine, finder: FaceFinder, tracker: Tracker, kept: PreparedPortraits | None = None
) -> jobs_pb2.RenderReport:
    """Render one video; portraits in `kept` need not be prepared again. Raises errors.RenderError, and nothing else."""
    try:
        return _render(request, engine, finder, tracker, kept or PreparedPortraits())
    except errors.RenderError:
        raise
    except MemoryError as error:
        raise errors.OutOfMemory("choose a smaller min_resolution, or a node with more memory") from error
    except Exception as error:
        _log.exception("the render failed unexpectedly")
        raise errors.RenderError(f"{type(error).__name__}: {error}") from error


def _render(
    request: Request, engine: Engine, finder: FaceFinder, tracker: Tracker, kept: PreparedPortraits
) -> jobs_pb2.RenderReport:
    with tracker.stage("preparing"):
        wanted, cautions = _parameters(request.parameters, engine.name)
        portrait, was_prepared = kept.get(request.portrait, engine, finder, wanted)
        voice = voices.load(request.voice)
        _check_duration(wanted, voice)
        take = engine.prepare(portrait.portrayed, voice, wanted, tracker.report)
    shape = take.shape
    with tracker.stage("rendering"), videos.recording(request.output, shape, request.voice) as recorder:
        for done, frame in enumerate(take.frames(tracker.report, request.checkpoint), 1):
            recorder.add(frame)
            tracker.report("rendering", done, shape.frame_count)
    try:
        with tracker.stage("checking"):
            videos.check(request.output, shape, voice.duration_s)
    except errors.RenderError:
        request.output.unlink(missing_ok=True)
        raise
    if request.checkpoint:
        request.checkpoint.forget()
    cautions += [*portrait.cautions, *take.cautions]
    return jobs_pb2.RenderReport(
        engine=engine.name,
        model_version=engine.model_version,
        width=shape.width,
        height=shape.height,
        frames=shape.frame_count,
        fps=shape.fps,
        video_seconds=shape.frame_count / shape.fps,
        audio_seconds=voice.duration_s,
        stages=[jobs_pb2.StageTime(stage=name, seconds=seconds) for name, seconds in tracker.seconds.items()],
        warnings=[jobs_pb2.RenderWarning(reason=caution.reason, message=caution.message) for caution in cautions],
        portrait_was_prepared=was_prepared,
        encoder=recorder.encoder.codec,
        resumed_from=request.checkpoint.resumed_from if request.checkpoint else 0,
    )


def _parameters(message: parameters_pb2.RenderParameters, engine: str) -> tuple[RenderParameters, list[Caution]]:
    try:
        return parameters.from_wire(message, engine)
    except parameters.InvalidParameters as error:
        raise errors.BadParameters(str(error), tuple(error.problems)) from None


def _check_duration(wanted: RenderParameters, voice: Voice) -> None:
    if wanted.duration is not None and abs(wanted.duration - voice.duration_s) > 1 / wanted.fps:
        raise errors.DurationMismatch(
            f"duration is {wanted.duration:g} s, the recording is {voice.duration_s:.3f} s long; "
            "leave duration out, or cut the recording"
        )
