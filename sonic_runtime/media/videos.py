"""Writing the video: H.264 and AAC in an mp4 that appears whole and checked, or not at all."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from sonic.parameters import Problem
from sonic_runtime import errors
from sonic_runtime.engines.base import Shape
from sonic_runtime.media import encoders, voices
from sonic_runtime.media.encoders import Encoder

MAX_SIDE_PX = 4096  # NVENC encodes no more as H.264
_AAC_RATES_HZ = (32_000, 44_100, 48_000)  # lower ones would pad the end by more than a video frame
_AAC_FRAME_SAMPLES = 1024
_AUDIO_BITS_PER_S = {1: 96_000, 2: 160_000}
_MOST_WAITING = 3  # frames, so that memory stays flat
_log = logging.getLogger("sonic_runtime.videos")


def frame_count(duration_s: float, fps: int) -> int:
    """How many frames a recording of that length gets: the nearest whole number, at least one."""
    return max(math.floor(duration_s * fps + 0.5), 1)


def check_sides(width: int, height: int) -> None:
    """Before a picture is scaled to the size of a video. Raises errors.BadParameters when that is too long."""
    if max(width, height) > MAX_SIDE_PX:
        message = (
            f"the video would be {width} x {height} pixels, {MAX_SIDE_PX} on each side are allowed; choose an "
            "expand_ratio above 0, a smaller min_resolution, or a picture that is less long"
        )
        raise errors.BadParameters(message, (Problem("parameters.expand_ratio", message),))


@contextmanager
def recording(output: Path, shape: Shape, voice: Path) -> Iterator[Recorder]:
    """Record into `output`, which appears when the context is left without an error.

    Raises errors.OutputUnwritable when the disk is full or the encoder fails, errors.DeviceFailed when the GPU's does.
    """
    part = output.with_name(f".{output.name}.part")
    try:
        with _recorder(part, shape, voice) as recorder:
            yield recorder
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.rename(output)
    except (av.FFmpegError, OSError) as error:
        raise errors.OutputUnwritable(f"{output.name}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _recorder(part: Path, shape: Shape, voice: Path) -> Iterator[Recorder]:
    """Record by the first encoder that takes this video."""
    *first, last = encoders.candidates()
    for encoder in (*first, last):
        with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            try:
                recorder = Recorder(container, shape, voice, encoder)
            except av.FFmpegError as error:
                if encoder is last:
                    raise
                _log.warning("encoder passed over", extra={"encoder": encoder.codec, "why": str(error)})
                continue
            try:
                with recorder:
                    yield recorder
            except av.ExternalError as error:  # what NVENC says when the GPU is gone
                if encoder is not encoders.NVENC:
                    raise
                raise errors.DeviceFailed(f"{encoder.codec}: {error.strerror}") from error
            return


class Recorder:
    """Takes frames; the sound of the original recording is written beside them, as far as the picture is.

    A thread of its own encodes while the next frames are rendered.
    """

    def __init__(self, container: Any, shape: Shape, voice: Path, encoder: Encoder) -> None:
        self.encoder = encoder
        self._container = container
        self._shape = shape
        self._video = container.add_stream(encoder.codec, rate=shape.fps, options=dict(encoder.options))
        encoder.set_up(self._video, shape)
        self._sound = voices.frames(voice)
        first = next(self._sound)
        channels = min(first.layout.nb_channels, 2)
        rate = first.sample_rate if first.sample_rate in _AAC_RATES_HZ else 48_000
        layout = "mono" if channels == 1 else "stereo"
        self._audio = container.add_stream("aac", rate=rate, layout=layout)
        self._audio.bit_rate = _AUDIO_BITS_PER_S[channels]
        self._resampler = AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=_AAC_FRAME_SAMPLES)
        self._first: AudioFrame | None = first
        self._frames = 0
        self._samples = 0
        container.start_encoding()  # its header is written first: an encoder behind a header that failed crashes
        self._thread = ThreadPoolExecutor(1, "encoder")
        self._waiting: deque[Future[None]] = deque()
        size = (shape.height * 3 // 2, shape.width)
        self._kept = deque(np.empty(size, np.uint8) for _ in range(_MOST_WAITING))  # the encoder has its own copy

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for written in self._waiting:
                    written.result()
                self._thread.submit(self._finish).result()
        finally:
            self._thread.shutdown(cancel_futures=True)

    def add(self, yuv: NDArray[np.uint8]) -> None:
        """One frame, planar yuv420p, uint8 [height * 3 // 2, width], BT.709 limited range."""
        if len(self._waiting) == _MOST_WAITING:
            self._waiting.popleft().result()
        kept = self._kept[0]
        self._kept.rotate()
        np.copyto(kept, yuv)
        self._waiting.append(self._thread.submit(self._write, av.VideoFrame.from_numpy_buffer(kept, "yuv420p")))

    def _write(self, frame: av.VideoFrame) -> None:
        frame.pts, frame.time_base = self._frames, Fraction(1, self._shape.fps)
        self._frames += 1
        self._container.mux(self._video.encode(frame))
        while self._samples < self._frames / self._shape.fps * self._audio.rate and self._more_sound():
            pass

    def _finish(self) -> None:
        """Write what the encoders still hold."""
        self._container.mux(self._video.encode(None))
        while self._more_sound():
            pass
        for frame in self._resampler.resample(None):
            self._encode(frame)
        self._container.mux(self._audio.encode(None))

    def _more_sound(self) -> bool:
        frame, self._first = self._first or next(self._sound, None), None
        if frame is None:
            return False
        frame.pts = None  # the samples themselves are the clock
        for ready in self._resampler.resample(frame):
            self._encode(ready)
        return True

    def _encode(self, frame: AudioFrame) -> None:
        frame.pts, frame.time_base = self._samples, Fraction(1, self._audio.rate)
        self._samples += frame.samples
        self._container.mux(self._audio.encode(frame))


def check(path: Path, shape: Shape, duration_s: float) -> None:
    """Open a finished video again and compare it with what it should be. Raises errors.OutputBroken."""
    try:
        with av.open(str(path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            found = (video.width, video.height, sum(1 for packet in container.demux(video) if packet.size))
            audio_s = float((audio.duration or 0) * (audio.time_base or 0))
        wanted = (shape.width, shape.height, shape.frame_count)
        if found != wanted:
            raise errors.OutputBroken(f"width, height and frames are {found}, not {wanted}")
        if abs(audio_s - duration_s) > 1 / shape.fps:
            raise errors.OutputBroken(f"its sound is {audio_s:.3f} s long, not {duration_s:.3f} s")
    except (av.FFmpegError, OSError, IndexError) as error:
        raise errors.OutputBroken(f"it cannot be read again: {error}") from error
