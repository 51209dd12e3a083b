"""How long a recording is, by its first bytes or by its size; what makes no sense is not believed."""

from __future__ import annotations

import struct

import pytest

from hub.artifacts import durations
from hub.artifacts.media_types import HEAD_BYTES


def header(channels: int = 1, sample_rate: int = 16_000, byte_rate: int = 32_000, first: bytes = b"fmt ") -> bytes:
    about = struct.pack("<4sI4s4sIHHII", b"RIFF", 0xFFFFFFFF, b"WAVE", first, 16, 1, channels, sample_rate, byte_rate)
    assert len(about) == HEAD_BYTES
    return about


def test_a_wav_tells_its_length_whatever_its_size_fields_say() -> None:
    assert durations.told(header(), 44 + 320_000) == 10.0
    assert durations.told(header(2, 48_000, 192_000), 44 + 96_000) == 0.5


@pytest.mark.parametrize(
    "head",
    [
        header(channels=0),
        header(channels=900),
        header(sample_rate=0),
        header(byte_rate=0),
        header(byte_rate=0xFFFFFFFF),
        header(first=b"JUNK"),
        header()[:31],
        b"",
        b"ID3" + bytes(29),
    ],
)
def test_a_header_that_makes_no_sense_tells_nothing(head: bytes) -> None:
    assert durations.told(head, 1_000_000) is None


def test_an_empty_recording_tells_nothing() -> None:
    assert durations.told(header(), 44) is None


def test_other_types_are_guessed_by_their_usual_bit_rate_within_what_can_be_rendered() -> None:
    assert durations.guessed("audio/mpeg", 160_000) == 10.0
    assert durations.guessed("audio/flac", 10**12) == durations.LONGEST_S
    assert durations.guessed("no/such", 1) == 0.1
