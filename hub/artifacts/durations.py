"""How long a recording is, as far as can be told without decoding it."""

from __future__ import annotations

import struct

LONGEST_S = 600.0
_HEADER_BYTES = 44
_USUAL_BYTES_PER_S = {
    "audio/wav": 64_000,
    "audio/aiff": 88_000,
    "audio/flac": 45_000,
    "audio/mpeg": 16_000,
    "audio/mp4": 12_000,
    "audio/ogg": 8_000,
    "video/webm": 60_000,
    "video/mp4": 250_000,
}
_BYTES_PER_S = 16_000  # of what is not known


def told(head: bytes, size_bytes: int) -> float | None:
    """Seconds by the byte rate in a WAV header whose format comes first, as it nearly always does; None without one."""
    if head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt " or len(head) < 32:
        return None
    channels, sample_rate, byte_rate = struct.unpack_from("<HII", head, 22)
    samples = channels * sample_rate
    if not (1 <= channels <= 8 and 4000 <= sample_rate <= 384_000 and samples / 8 <= byte_rate <= samples * 8):
        return None
    return max(size_bytes - _HEADER_BYTES, 0) / byte_rate or None


def guessed(media_type: str, size_bytes: int) -> float:
    """Seconds by the usual bit rate of the type."""
    return min(max(size_bytes / _USUAL_BYTES_PER_S.get(media_type, _BYTES_PER_S), 0.1), LONGEST_S)
