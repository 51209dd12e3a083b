"""What fuzzing has found, so that it is not found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.config import InvalidConfig
from hub.core.tenants import TenantLimits
from hub.forward import sink
from hub.server import tenant_limits
from sonic import config, manifest
from sonic.exceptions import BadManifest, BadSettings
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
