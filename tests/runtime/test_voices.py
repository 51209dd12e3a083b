"""Whatever a person records is heard; whatever is no recording is refused."""

from __future__ import annotations

import contextlib
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sonic_runtime import errors
from sonic_runtime.media import voices

from .sounds import record

SHAPES = [
    ("a.wav", 8_000, "mono", "pcm_s16le"),
    ("a.wav", 44_100, "stereo", "pcm_s24le"),
    ("a.wav", 48_000, "5.1", "pcm_s16le"),
    ("a.mp3", 44_100, "stereo", "libmp3lame"),
    ("a.m4a", 48_000, "mono", "aac"),
    ("a.flac", 96_000, "stereo", "flac"),
    ("a.ogg", 48_000, "mono", "libopus"),
    ("a.webm", 48_000, "stereo", "libopus"),
    ("a.mka", 22_050, "mono", "pcm_s16le"),
]


@pytest.mark.parametrize(("name", "rate", "layout", "codec"), SHAPES, ids=lambda value: str(value))
def test_every_usual_recording_is_heard(tmp_path: Path, name: str, rate: int, layout: str, codec: str) -> None:
    voice = voices.load(record(tmp_path / name, 1.0, rate, layout, codec))
    assert abs(voice.duration_s - 1.0) < 0.06
    assert abs(len(voice.samples) / 16_000 - voice.duration_s) < 0.01
    assert voice.samples.dtype == np.float32
    assert 0.2 < np.abs(voice.samples).max() < 2  # channels that say the same add up


def test_a_floating_point_recording_that_is_too_loud_is_heard_whole(tmp_path: Path) -> None:
    usual, loud = (record(tmp_path / f"{gain}.wav", 1.0, codec="pcm_f32le", gain=gain) for gain in (1, 10))
    heard, shouted = (np.concatenate(list(voices.speech(path))) for path in (usual, loud))
    assert np.abs(shouted).max() > 4
    assert np.allclose(shouted, 10 * heard, atol=1e-3)


def test_length_is_bounded_and_said(tmp_path: Path) -> None:
    path = record(tmp_path / "a.wav", 2.0)
    with pytest.raises(errors.VoiceTooLong, match=r"1\.5 seconds"):
        voices.load(path, max_duration_s=1.5)
    with pytest.raises(errors.VoiceTooShort, match=r"at least 0\.1"):
        voices.load(record(tmp_path / "b.wav", 0.05))


def test_the_shortest_voice_is_a_tenth_of_a_second(tmp_path: Path) -> None:
    assert voices.load(record(tmp_path / "a.wav", 0.1)).duration_s == 0.1


@pytest.mark.parametrize("channels", [9, 32])
def test_channels_that_cannot_be_mixed_are_the_recordings_fault(tmp_path: Path, channels: int) -> None:
    with pytest.raises(errors.VoiceUnreadable, match=rf"its {channels} channels at 48000 Hz .*; send mono"):
        voices.load(plain_wav(tmp_path / "a.wav", 48_000, channels))


def test_a_rate_at_which_nothing_is_heard_is_the_recordings_fault(tmp_path: Path) -> None:
    with pytest.raises(errors.VoiceUnreadable, match="its rate is 1 Hz, at least 1000 are needed"):
        voices.load(plain_wav(tmp_path / "a.wav", 1, 1))
    assert len(voices.load(plain_wav(tmp_path / "b.wav", 1000, 1)).samples) == 16_000


def plain_wav(path: Path, rate: int, channels: int) -> Path:
    """A second of silence, also in shapes that no encoder makes."""
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(bytes(2 * channels * rate))
    return path


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("a.png", "empty", "missing"):
        with pytest.raises(errors.VoiceUnreadable):
            voices.load(tmp_path / name)


def test_a_playlist_cannot_name_other_files(tmp_path: Path) -> None:
    secret = record(tmp_path / "secret.wav", 1.0)
    (tmp_path / "a.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    (tmp_path / "b.txt").write_text(f"ffconcat version 1.0\nfile {secret.name}\n")
    for name in ("a.m3u8", "b.txt"):
        with pytest.raises(errors.VoiceUnreadable):
            voices.load(tmp_path / name)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_bytes_raise_nothing_but_bad_voice(tmp_path: Path, data: st.DataObject) -> None:
    name, rate, layout, codec = data.draw(st.sampled_from(SHAPES))
    content = bytearray(record(tmp_path / name, 0.2, rate, layout, codec).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=20)):
        content[at] = data.draw(st.integers(0, 255))
    (tmp_path / "x").write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(errors.BadVoice):
        voices.load(tmp_path / "x", max_duration_s=5)
