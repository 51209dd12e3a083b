"""From a voice to what the network hears: audio tokens for each frame, and how much it should move.

Whisper's encoder (Radford et al., 2023) gives 50 rows a second; a frame of the video at 12.5 frames per second is
given those around it. The two heads and their windows are Sonic's (section 3.1 and 3.2). Everything here is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from sonic_runtime import errors
from sonic_runtime.engines.base import SPEECH_RATE_HZ
from sonic_runtime.engines.sonic.resampling import to_16k_mono
from sonic_runtime.media import voices

ROW_RATE_HZ = 50
ROWS_PER_FRAME = 4
CHUNK_S = 30  # what Whisper hears at once
OVERLAP_S = 5  # of neighbouring chunks at each end, so that no row lies at a border
_UNIT_SAMPLES = 640  # the reference counts audio in units of 1/25 s
_TOKENS_BEFORE, _BUCKETS_BEFORE = 4, 24  # rows before a frame's first one
_MOST_FRAMES_AT_ONCE = 64


def load(path: Path) -> NDArray[np.float32]:
    """A recording as the reference hears it: the mean of its channels, resampled to 16 kHz; [samples], -1 to 1.

    Raises errors.VoiceUnreadable.
    """
    parts: list[NDArray[np.float32]] = []
    resampler: AudioResampler | None = None
    for frame in voices.frames(path):
        # Packed: of eight planes PyAV reads beyond the last. Averaged here: all channels would be gigabytes.
        resampler = resampler or AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
        for part in resampler.resample(frame):
            samples = np.nan_to_num(part.to_ndarray().reshape(-1, part.layout.nb_channels))
            parts.append(np.clip(samples, -voices.LOUDEST, voices.LOUDEST).mean(axis=1, dtype=np.float32))
    if resampler is None:
        raise errors.VoiceUnreadable("it has no sound; send WAV, MP3, M4A, FLAC or OGG")
    return to_16k_mono(np.concatenate(parts)[None], resampler.rate)


class AudioProjector(nn.Module):
    """Rows of Whisper's hidden states around a frame -> its audio tokens (`audio2token.pth`)."""

    def __init__(
        self, seq_len: int, blocks: int, channels: int, intermediate_dim: int, output_dim: int, context_tokens: int
    ) -> None:
        super().__init__()
        self.seq_len, self.tokens = seq_len, context_tokens
        self.proj1 = nn.Linear(seq_len * blocks * channels, intermediate_dim)
        self.proj2 = nn.Linear(intermediate_dim, intermediate_dim)
        self.proj3 = nn.Linear(intermediate_dim, context_tokens * output_dim)
        self.norm = nn.LayerNorm(output_dim)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., seq_len, blocks, channels] -> [..., context_tokens, output_dim]."""
        hidden = functional.relu(self.proj1(rows.flatten(-3)))
        hidden = functional.relu(self.proj2(hidden))
        tokens: Tensor = self.norm(self.proj3(hidden).unflatten(-1, (self.tokens, -1)))
        return tokens


class MotionBuckets(nn.Module):
    """A second of the voice and the picture -> how much head and face move (`audio2bucket.pth`)."""

    def __init__(
        self,
        seq_len: int,
        blocks: int,
        channels: int,
        clip_channels: int,
        intermediate_dim: int,
        output_dim: int,
        context_tokens: int,
    ) -> None:
        super().__init__()
        self.seq_len, self.tokens = seq_len, context_tokens
        self.proj1 = nn.Linear(seq_len * blocks * channels + clip_channels, intermediate_dim)
        self.proj2 = nn.Linear(intermediate_dim, intermediate_dim)
        self.proj3 = nn.Linear(intermediate_dim, context_tokens * output_dim)

    def forward(self, rows: Tensor, picture: Tensor) -> Tensor:
        """Raw values [n, 2, 1] (head, expression) from [n, seq_len, blocks, channels] and CLIP's [n, clip_channels]."""
        hidden = functional.silu(self.proj1(torch.cat((rows.flatten(-3), picture), -1)))
        hidden = functional.silu(self.proj2(hidden))
        raw: Tensor = self.proj3(hidden).unflatten(-1, (self.tokens, -1))
        return raw

    def buckets(self, rows: Tensor, picture: Tensor) -> Tensor:
        """What the network is told: [n, 2] on the scale of SVD's motion bucket."""
        buckets: Tensor = 16 * self(rows, picture)[..., 0] + 16
        return buckets


class SpeechEncoder:
    """Whisper's encoder with its mel spectrogram."""

    def __init__(self, encoder: WhisperEncoder, extractor: WhisperFeatureExtractor | None = None) -> None:
        self._encoder = encoder
        self._extractor = extractor or WhisperFeatureExtractor()

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Those of torch."""
        return (self._encoder,)

    @property
    def device(self) -> torch.device:
        device: torch.device = self._encoder.device
        return device

    def mel(self, samples: NDArray[np.float32]) -> Tensor:
        """Log-mel spectrogram of up to 30 s at 16 kHz, padded to them: [1, 80, 3000]."""
        given: Any = self._extractor(samples, sampling_rate=SPEECH_RATE_HZ, return_tensors="pt")
        features: Tensor = given["input_features"]
        return features

    @torch.inference_mode()
    def hidden(self, mel: Tensor) -> Tensor:
        """[1, 80, 3000] -> [1500, layers + 1, channels]: after the embedding and each layer, the last one normed."""
        states = self._encoder(mel.to(self.device), output_hidden_states=True).hidden_states
        return torch.stack(states, 2)[0]

    def hear(
        self, samples: NDArray[np.float32], *, overlapping: bool = True, ask: Callable[[], None] = lambda: None
    ) -> Tensor:
        """Hidden states of a whole recording, [rows, layers + 1, channels], two rows for each full 1/25 s.

        Long recordings are heard in chunks of 30 s. The reference lays them end to end, which breaks the context every
        30 s; `overlapping` ones keep only what is at least 5 s from a border. Up to 30 s both are the same.
        `ask` is called before each chunk, and may raise to stop.
        """
        count = len(samples) // _UNIT_SAMPLES * 2
        chunk, margin = CHUNK_S * ROW_RATE_HZ, OVERLAP_S * ROW_RATE_HZ * overlapping
        samples_per_row = SPEECH_RATE_HZ // ROW_RATE_HZ
        parts: list[Tensor] = []
        start, have = 0, 0
        while have < count:
            ask()
            part = samples[start * samples_per_row : (start + chunk) * samples_per_row]
            last = (start + chunk) * samples_per_row >= len(samples)
            rows = self.hidden(self.mel(part))[have - start : chunk if last else chunk - margin]
            parts.append(rows)
            have += len(rows)
            start = have - margin
        return torch.cat(parts)[:count] if parts else self.hidden(self.mel(samples))[:0]


def frame_count(samples: int) -> int:
    """Frames at 12.5 a second that the reference makes of so many samples at 16 kHz."""
    return samples // _UNIT_SAMPLES // 2


def shifted(hidden: Tensor, later_s: float) -> Tensor:
    """Hidden states as they are `later_s` further on in the recording, to the nearest row; zeros before its start."""
    rows = round(later_s * ROW_RATE_HZ)
    return hidden[rows:] if rows >= 0 else functional.pad(hidden, (0, 0, 0, 0, -rows, 0))


def token_windows(hidden: Tensor, frames: int, length: int = 10) -> Tensor:
    """Rows around each frame, [frames, length, layers, channels] of [rows, layers, channels]; zeros beyond the ends."""
    return _windows(hidden, frames, length, _TOKENS_BEFORE)


def bucket_windows(hidden: Tensor, frames: int, length: int = 50) -> Tensor:
    """Rows of the last state around each frame, [frames, length, 1, channels] of [rows, layers, channels]."""
    return _windows(hidden[:, -1:], frames, length, _BUCKETS_BEFORE)


def _windows(hidden: Tensor, frames: int, length: int, before: int) -> Tensor:
    needed = ROWS_PER_FRAME * (frames - 1) + length
    behind = max(needed - before - len(hidden), 0)
    padded = functional.pad(hidden, (0, 0, 0, 0, before, behind))[:needed]
    windows: Tensor = padded.unfold(0, length, ROWS_PER_FRAME)
    return windows.movedim(-1, 1)


@torch.inference_mode()
def tokens_of(projector: AudioProjector, hidden: Tensor, frames: int) -> Tensor:
    """Audio tokens of each frame, [frames, context_tokens, output_dim]."""
    windows = token_windows(hidden, frames, projector.seq_len)
    return torch.cat([projector(part) for part in windows.split(_MOST_FRAMES_AT_ONCE)])


@torch.inference_mode()
def tokens_of_nothing(projector: AudioProjector, hidden: Tensor) -> Tensor:
    """Audio tokens that stand for no audio, [context_tokens, output_dim]: those of zeros."""
    tokens: Tensor = projector(hidden.new_zeros(projector.seq_len, *hidden.shape[1:]))
    return tokens


@torch.inference_mode()
def buckets_of(model: MotionBuckets, hidden: Tensor, picture: Tensor, frames: int) -> Tensor:
    """Motion buckets of each frame, [frames, 2]: head, expression. `picture` [1, clip_channels]."""
    windows = bucket_windows(hidden, frames, model.seq_len)
    parts = windows.split(_MOST_FRAMES_AT_ONCE)
    return torch.cat([model.buckets(part, picture.float().expand(len(part), -1)) for part in parts])
