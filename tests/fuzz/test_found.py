"""What fuzzing has found, so that it is not found again."""

from __future__ import annotations

import resource
import struct
import zipfile
import zlib
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
from sonic_runtime.media import portraits, voices
from sonic_runtime.models import packages
from sonic_runtime.models.folder import FetchFailed
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


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "a\0b", "~nobody-is-called-so/x"])
def test_a_path_that_no_file_can_have_is_refused_by_its_setting(name: str) -> None:
    with pytest.raises(BadSettings, match="SONIC_CA_FILE"):
        config.load(Path("/dev/null"), {"SONIC_CA_FILE": name}, {}).resolve("client")


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


def test_a_zip_bomb_is_read_no_further_than_a_file_may_be_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "MAX_FILE_BYTES", 1 << 20)
    path = tmp_path / "bomb.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("../../outside.bin", bytes(64 << 20))
    assert path.stat().st_size < 1 << 17
    with pytest.raises(FetchFailed, match="SHA-256"):
        packages.read(path, {"../../outside.bin": "0" * 64}, packages.Wheel("bomb==1"))
    assert [each.name for each in tmp_path.iterdir()] == ["bomb.whl"]


def test_an_image_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A hundred kilobytes that would be four gigabytes of pixels."""
    rows = zlib.compress(bytes(1 << 20), 9) * 4
    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(errors.PortraitTooLarge):
        portraits.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
