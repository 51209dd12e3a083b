"""From an audio file to a voice. Decoded as a stream, bounded in length, with nothing but audio containers allowed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from sonic_runtime import errors
from sonic_runtime.engines.base import SPEECH_RATE_HZ, Voice

MAX_DURATION_S = 600.0
MIN_DURATION_S = Fraction(1, 10)
MIN_RATE_HZ = 1000
LOUDEST = 1000.0  # floating-point recordings may go beyond 1 and have lost nothing
# Playlists and the like could name other files or addresses: only containers that hold their own bytes may be opened.
_CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,"
    "mpeg,mpegts,ogg,opus,rm,tta,voc,w64,wav,wv"
)
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}


def load(path: Path, max_duration_s: float = MAX_DURATION_S) -> Voice:
    """Decode a recording to its end. Raises errors.BadVoice: VoiceUnreadable, VoiceTooLong, VoiceTooShort."""
    duration_s = Fraction(0)
    for frame in frames(path):
        if not duration_s:
            _check_kind(frame)
        duration_s += Fraction(frame.samples, frame.sample_rate)
        if duration_s > max_duration_s:
            raise errors.VoiceTooLong(f"more than {max_duration_s:g} seconds; split it")
    if duration_s < MIN_DURATION_S:
        raise errors.VoiceTooShort(f"{float(duration_s):.3f} seconds, at least {float(MIN_DURATION_S)} are needed")
    return Voice(float(duration_s), path, lambda: speech(path))


def _check_kind(frame: AudioFrame) -> None:
    """Raises errors.VoiceUnreadable for what no resampler takes: decoders take more."""
    rate, channels = frame.sample_rate, frame.layout.nb_channels
    if rate < MIN_RATE_HZ:
        raise errors.VoiceUnreadable(f"its rate is {rate} Hz, at least {MIN_RATE_HZ} are needed; record it anew")
    try:
        _to_speech().resample(frame)
    except (av.FFmpegError, ValueError):
        kind = f"{channels} channels at {rate} Hz"
        raise errors.VoiceUnreadable(
            f"its {kind} cannot be made one at {SPEECH_RATE_HZ} Hz; send mono or stereo"
        ) from None


def _to_speech() -> AudioResampler:
    return AudioResampler(format="flt", layout="mono", rate=SPEECH_RATE_HZ)


def speech(path: Path) -> Iterator[NDArray[np.float32]]:
    """The recording in parts, float32 [n], mono, SPEECH_RATE_HZ. Raises errors.VoiceUnreadable."""
    resampler = _to_speech()
    for frame in itertools.chain(frames(path), [None]):  # None lets go what the resampler still holds
        for part in resampler.resample(frame):
            yield np.nan_to_num(np.clip(part.to_ndarray().reshape(-1), -LOUDEST, LOUDEST)).astype(np.float32)


def frames(path: Path) -> Iterator[AudioFrame]:
    """The recording's own frames, at its own rate. Raises errors.VoiceUnreadable."""
    try:
        with av.open(str(path), options=_OPTIONS, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise errors.VoiceUnreadable("the file has no sound; send WAV, MP3, M4A, FLAC or OGG")
            first: tuple[int, str, str] | None = None
            for frame in container.decode(container.streams.audio[0]):
                if frame.samples and frame.sample_rate:
                    kind = (frame.sample_rate, frame.layout.name, frame.format.name)
                    first = first or kind
                    if kind != first:  # no resampler goes on with it
                        raise errors.VoiceUnreadable(
                            f"its sound changes half-way from {first} to {kind}; encode it anew"
                        )
                    yield frame
    except errors.RenderError:
        raise
    except (av.FFmpegError, ValueError, OSError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise errors.VoiceUnreadable(f"{said}; send WAV, MP3, M4A, FLAC or OGG") from None
