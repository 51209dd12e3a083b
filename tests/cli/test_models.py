"""`sonic models` with a real hub: a model is put into its store once, and every box takes it from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hub.service import Hub
from sonic.cli import model_store
from sonic.config import ClientConfig
from sonic_runtime import models
from sonic_runtime.models import folder
from tests.cli.conftest import Sonic

SAID: list[str] = []


@pytest.fixture
def settings(hub: Hub) -> ClientConfig:
    return ClientConfig(hub.grpc_address, "fleet", patience_s=5, insecure=True)


@pytest.fixture
def pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version that is here, of small files, one of them of several parts."""
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path / "operator"))
    place = tmp_path / "operator/sonic/sonic-tiny"
    (place / "Sonic").mkdir(parents=True)
    (place / "Sonic/unet.pth").write_bytes(bytes(range(256)) * 10)
    (place / "config.json").write_text("{}")
    folder.write_manifest(place, folder.Manifest("sonic", "sonic-tiny", "Apache-2.0", folder.listed(place)))
    return place


async def test_a_box_takes_from_the_hub_what_an_operator_put_there(
    sonic: Sonic, hub: Hub, pushed: Path, tmp_path: Path
) -> None:
    here = {"SONIC_HUB": hub.grpc_address, "SONIC_TENANT": "fleet", "SONIC_INSECURE": "1"}
    put = await sonic("models", "push", "sonic-tiny", "--json", SONIC_MODELS=str(tmp_path / "operator"), **here)
    assert put.code == 0, put.err
    assert put.data["version"] == "sonic-tiny"
    box = here | {"SONIC_MODELS": str(tmp_path / "box"), "SONIC_MODEL_STORE": put.data["store"]}
    got = await sonic("models", "fetch", "sonic-tiny", **box)
    assert got.code == 0, got.err
    assert got.out.strip() == str(tmp_path / "box/sonic/sonic-tiny")
    assert folder.read_manifest(tmp_path / "box/sonic/sonic-tiny") == folder.read_manifest(pushed)
    assert (await sonic("models", "verify", "sonic-tiny", **box)).out == "sonic sonic-tiny: ok\n"
    elsewhere = box | {"SONIC_TENANT": "other"}
    refused = await sonic("models", "fetch", "sonic", SONIC_ACCEPT_LICENCE="1", HF_HUB_OFFLINE="1", **elsewhere)
    assert refused.code == 1
    assert "could not be had from the hub's store" in refused.err
    assert "HF_HUB_OFFLINE is set" in refused.err


def fetched(settings: ClientConfig, store: str, at: Path, monkeypatch: pytest.MonkeyPatch) -> models.Model:
    monkeypatch.setenv("SONIC_MODELS", str(at))
    return models.fetch("sonic-tiny", SAID.append, store=model_store.Shelf(settings, store))


async def test_large_files_go_in_parts_and_a_cut_fetch_goes_on(
    settings: ClientConfig, pushed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    sha256 = await model_store.push(settings, pushed, SAID.append, part_bytes=1000)
    assert await model_store.push(settings, pushed, SAID.append, part_bytes=1000) == sha256
    arriving = tmp_path / "box/sonic/.sonic-tiny.arriving/Sonic"
    arriving.mkdir(parents=True)
    unet = next(file for file in folder.read_manifest(pushed).files if file.path == "Sonic/unet.pth")
    part = arriving / f".unet.pth.{unet.sha256[:16]}.part"
    part.write_bytes((pushed / "Sonic/unet.pth").read_bytes()[:1500])
    model = await asyncio.to_thread(fetched, settings, sha256, tmp_path / "box", monkeypatch)
    assert model.problem == ""
    assert (model.path / "Sonic/unet.pth").read_bytes() == (pushed / "Sonic/unet.pth").read_bytes()
    assert sorted(path.name for path in (model.path / "Sonic").iterdir()) == ["unet.pth"]


async def test_an_artifact_that_is_no_model_is_refused(
    sonic: Sonic, hub: Hub, settings: ClientConfig, tmp_path: Path
) -> None:
    from sonic.client import AsyncSonicClient

    (tmp_path / "some.json").write_text(json.dumps({"manifest": {"files": 1}}))
    async with AsyncSonicClient(settings.hub, settings.tenant, insecure=True) as client:
        artifact = await client.upload(tmp_path / "some.json")
    with pytest.raises(models.FetchFailed, match="no model that `sonic models push` put there"):
        model_store._parsed((tmp_path / "some.json").read_bytes(), artifact.sha256)


@pytest.mark.parametrize(
    "about",
    [
        {"parts": {"a.bin": ["0" * 64] * 1000}},
        {"parts": {"a.bin": []}},
        {"parts": {"a.bin": [5]}},
        {"parts": {"a.bin": 5}},
        {"parts": {}},
        {"part_bytes": float("inf")},
        {"part_bytes": 0},
    ],
    ids=str,
)
def test_an_index_with_other_parts_than_its_files_have_is_refused(about: dict[str, object]) -> None:
    """A thousand parts in place of one would fill the disk before the whole is held to its hash."""
    files = [{"path": "a.bin", "sha256": "0" * 64, "bytes": 10}]
    index = {"manifest": {"name": "sonic", "version": "sonic-1", "licence": "", "files": files}}
    index |= {"part_bytes": 10, "parts": {"a.bin": ["0" * 64]}}
    assert model_store._parsed(json.dumps(index).encode(), "")
    with pytest.raises(models.FetchFailed, match="no model that `sonic models push` put there"):
        model_store._parsed(json.dumps(index | about).encode(), "")


async def test_what_cannot_be_used_is_said_with_its_exit_code(sonic: Sonic, tmp_path: Path) -> None:
    own = {"SONIC_MODELS": str(tmp_path / "models")}
    listed = await sonic("models", "list", "--json", **own)
    assert {(m["name"], m["version"], m["problem"], m["optional"]) for m in listed.data} == {
        ("face-mesh", "mediapipe-0.10.21", "is not here", False),
        ("sonic", "sonic-1", "is not here", True),
    }
    unknown = await sonic("models", "fetch", "sonic-2", **own)
    assert (unknown.code, "there is no model 'sonic-2'" in unknown.err) == (2, True)
    wrong = await sonic("models", "fetch", "sonic", "--store", "abc", **own)
    assert (wrong.code, "64 hexadecimal digits are wanted" in wrong.err) == (2, True)
    missing = await sonic("models", "path", "sonic", **own)
    assert (missing.code, "run `sonic models fetch sonic`" in missing.err) == (7, True)
    refused = await sonic("models", "fetch", "sonic", **own)
    assert (refused.code, "NOT FOR COMMERCIAL USE" in refused.err) == (6, True)
    nothing = await sonic("models", "push", "sonic", **own)
    assert (nothing.code, "run `sonic models fetch sonic`" in nothing.err) == (7, True)
    assert (await sonic("models", "verify", **own)).code == 0
    assert not (tmp_path / "models").exists()
