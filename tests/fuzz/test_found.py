"""What fuzzing has found, so that it is not found again."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from hub.config import InvalidConfig
from hub.core.tenants import TenantLimits
from hub.forward import sink
from hub.server import tenant_limits
from sonic import config, manifest
from sonic.exceptions import BadManifest, BadSettings
from sonic_runtime import errors
from sonic_runtime.media import voices
from tests.fuzz.targets import TARGETS

DEEP = "[" * 5000
HUGE = "0x" + "f" * 5000


@pytest.mark.parametrize("value", [DEEP, HUGE, "9" * 400])
def test_toml_that_no_reader_can_hold_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "it.toml"
    path.write_text(f"min_resolution = {value}\n")
    with pytest.raises(BadManifest, match=r"it\.toml"):
        manifest.read_preset(path)
    path.write_text(f"[client]\npatience_s = {value}\n")
    with pytest.raises(BadSettings, match=r"it\.toml"):
        config.load(path, {}, {})
    path.write_text(f"[default]\nweight = {value}\n")
    with pytest.raises(InvalidConfig, match=r"it\.toml"):
        tenant_limits.read(path, TenantLimits())


def test_a_row_that_no_reader_can_hold_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "it.jsonl"
    path.write_text(f'{DEEP}\n{{"portrait": "a", "voice": "b", "priority": {"9" * 400}}}\n{{}}\n')
    rows = list(manifest.read(path, {}))
    assert [row.line for row in rows] == [1, 2, 3]
    assert all(isinstance(row, manifest.BadRow) for row in rows)


@pytest.mark.parametrize(
    "answer",
    [
        b'{"access_token": "a\\r\\nX-Scope-OrgID: other"}',
        b'{"access_token": 3}',
        b'{"access_token": "a", "expires_in": NaN}',
        b'{"access_token": "a", "expires_in": -1}',
        b'{"access_token": "a", "expires_in": ' + b"9" * 400 + b"}",
        b'"a"',
        b"[" * 5000,
    ],
)
def test_a_grant_that_no_header_can_carry_is_none(answer: bytes) -> None:
    with pytest.raises(sink.NoToken):
        sink.granted(answer)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("details of refusals", b"\0"),
        ("published archives", b"PK\5\6 and no more"),
        ("states of renders", b"\xff" * 64),
    ],
)
def test_bytes_that_once_ended_in_a_traceback_are_refused(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


def test_a_recording_whose_sound_changes_half_way_is_refused(tmp_path: Path) -> None:
    """No resampler goes on with it; it once was the fault of the node."""
    parts = []
    for rate, layout in ((16_000, "mono"), (48_000, "stereo")):
        path = tmp_path / f"{rate}.mp3"
        with av.open(str(path), "w", options={"write_xing": "0", "id3v2_version": "0"}) as out:
            stream = out.add_stream("mp3", rate=rate, layout=layout)
            silence = np.zeros((1, rate * len(av.AudioLayout(layout).channels)), np.int16)
            frame = av.AudioFrame.from_ndarray(silence, format="s16", layout=layout)
            frame.sample_rate = rate
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                out.mux(packet)
        parts.append(path.read_bytes())
    both = tmp_path / "both.mp3"
    both.write_bytes(b"".join(parts))
    with pytest.raises(errors.VoiceUnreadable, match="half-way"):
        list(voices.speech(both))
