"""`sonic tenants` and `sonic keys`, and how the command and the client library show a credential."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.service import Hub
from sonic import exceptions
from sonic.client import AsyncSonicClient
from sonic.credentials import Credentials
from tests.cli.conftest import Sonic, home, sonic
from tests.hub.peers import JPEG, WAV, Agent
from tests.issuer import Issuer

from .conftest import client_settings, node_channel

__all__ = ["home", "sonic"]


@pytest.fixture
def ann(sonic: Sonic, hub: Hub, tmp_path: Path) -> Sonic:
    """The command with the first operator's key."""

    async def run(*arguments: object, **environment: str) -> object:
        own = {"SONIC_HUB": hub.grpc_address, "SONIC_API_KEY_FILE": str(tmp_path / "hub/operator.key")}
        own |= {f"SONIC_{name}".upper(): str(value) for name, value in client_settings(tmp_path).items()}
        return await sonic(*arguments, **{name: value for name, value in (own | environment).items() if value})

    return run  # type: ignore[return-value]


async def test_a_revoked_node_is_shown_as_one(ann: Sonic, hub: Hub, tmp_path: Path) -> None:
    async with node_channel(hub, tmp_path / "hub", "n1") as channel:
        await Agent(channel).join()
        assert "revoked" not in (await ann("nodes", "list")).out
        await ann("nodes", "revoke", "n1")
        assert "revoked" in (await ann("nodes", "list")).out
        assert "revoked" in (await ann("nodes", "show", "n1")).out
        assert [node["revoked"] for node in (await ann("nodes", "list", "--json")).data] == [True]
        await ann("nodes", "revoke", "--undo", "n1")
        assert [node["revoked"] for node in (await ann("nodes", "list", "--json")).data] == [False]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--role", "tenant"], "say whose key it is"),
        (["--role", "reader", "--of-tenant", "acme"], "goes with --role tenant"),
    ],
)
async def test_a_key_and_its_tenant_go_together(ann: Sonic, given: list[str], said: str) -> None:
    ended = await ann("keys", "create", "ci", *given)
    assert (ended.code, ended.out) == (2, "")
    assert said in " ".join(ended.err.replace("│", " ").split())


async def test_a_reader_that_submits_is_told_that_it_only_looks(ann: Sonic, tmp_path: Path) -> None:
    await ann("tenants", "create", "acme")
    (tmp_path / "wall.key").write_text((await ann("keys", "create", "wall", "--role", "reader")).out)
    (tmp_path / "p.jpg").write_bytes(JPEG)
    (tmp_path / "v.wav").write_bytes(WAV)
    own = {"SONIC_API_KEY_FILE": "wall.key"}
    ended = await ann("submit", "p.jpg", "v.wav", **own)
    assert "name the tenant that is meant by --tenant" in ended.err
    assert "A reader sees its jobs, and submits none" in ended.err
    ended = await ann("submit", "p.jpg", "v.wav", "--tenant", "acme", **own)
    assert "the role reader, which sees everything and changes nothing" in ended.err


async def test_a_tenant_from_its_making_to_its_suspension(ann: Sonic, tmp_path: Path) -> None:
    made = await ann("tenants", "create", "acme")
    assert made.code == 0, made.err
    assert made.out.startswith("sonic_")
    assert made.out.count("\n") == 1
    assert made.out.strip() not in made.err
    (tmp_path / "acme.key").write_text(made.out)
    (tmp_path / "p.jpg").write_bytes(JPEG)
    (tmp_path / "v.wav").write_bytes(WAV)
    own = {"SONIC_API_KEY_FILE": "acme.key"}
    assert (await ann("jobs", "list", **own)).code == 0
    assert (await ann("nodes", "list", **own)).code == 6
    renewed = await ann("tenants", "rotate", "acme", "--overlap", "1h")
    by_variable = {"SONIC_API_KEY_FILE": "", "SONIC_API_KEY": renewed.out.strip()}
    listed = (await ann("tenants", "list")).out
    assert "acme" in listed
    assert "live until" in listed
    for credential in (own, by_variable):
        assert (await ann("jobs", "list", **credential)).code == 0
    assert "suspended" in (await ann("tenants", "suspend", "acme")).out
    ended = await ann("jobs", "list", **own)
    assert (ended.code, "is suspended" in ended.err) == (6, True)
    assert "active" in (await ann("tenants", "resume", "acme")).out
    key_id = renewed.out.split("_")[1]
    assert "revoked" in (await ann("keys", "revoke", key_id)).out
    ended = await ann("jobs", "list", **by_variable)
    assert (ended.code, "has been revoked" in ended.err) == (6, True)
    assert (await ann("tenants", "create", "acme")).code == 6


async def test_keys_for_operators_and_readers(ann: Sonic, tmp_path: Path) -> None:
    made = (await ann("keys", "create", "wall display", "--role", "reader", "--valid-for", "90d", "--json")).data
    (tmp_path / "reader.key").write_text(made["secret_text"])
    reading = {"SONIC_API_KEY_FILE": "reader.key"}
    assert (await ann("nodes", "list", **reading)).code == 0
    assert (await ann("tenants", "create", "x", **reading)).code == 6
    shown = [(key["role"], key["holder"]) for key in (await ann("keys", "list", "--json")).data]
    assert shown == [("ROLE_READER", "wall display"), ("ROLE_OPERATOR", "first operator")]
    for wrong in (
        ("--role", "king"),
        ("--role", "reader", "--valid-for", "soon"),
        ("--role", "reader", "--valid-for", "0s"),
    ):
        assert (await ann("keys", "create", "x", *wrong)).code in (2, 3), wrong


async def test_no_key_is_shown_by_config_or_help_or_taken_as_an_option(ann: Sonic, tmp_path: Path) -> None:
    key = (tmp_path / "hub/operator.key").read_text().strip()
    shown = await ann("config", "show", SONIC_API_KEY=key)
    assert shown.code == 0, shown.err
    assert key not in shown.out + shown.err
    assert "operator.key" in shown.out
    refused = await ann("nodes", "list", "--api-key", key)
    assert refused.code == 2
    (tmp_path / "c.toml").write_text(f'[client]\napi_key = "{key}"\n')
    refused = await ann("nodes", "list", "--config", "c.toml")
    assert refused.code == 2
    assert key not in refused.err
    (tmp_path / "wrong.key").write_text(f"{key} {key}\n")
    refused = await ann("nodes", "list", SONIC_API_KEY_FILE="wrong.key")
    assert key not in refused.err
    refused = await ann("nodes", "list", SONIC_API_KEY_FILE="", SONIC_API_KEY=f"{key}x")
    assert refused.code == 6
    assert key not in refused.err


async def test_a_key_is_never_among_the_arguments_of_a_process(ann: Sonic, tmp_path: Path) -> None:
    key = (tmp_path / "hub/operator.key").read_text().strip()
    running = asyncio.create_task(ann("nodes", "list"))  # type: ignore[arg-type]
    while not running.done():
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert key.encode() not in line.read_bytes()
            except OSError:
                continue
        await asyncio.sleep(0.05)
    assert (await running).code == 0


async def test_a_file_is_read_anew_for_each_call(hub: Hub, issuer: Issuer, tmp_path: Path) -> None:
    key = tmp_path / "hub/operator.key"
    async with AsyncSonicClient(hub.grpc_address, api_key_file=key, **client_settings(tmp_path)) as operator:
        await operator.access.create_tenant("acme")
    token = tmp_path / "token"
    token.write_text(issuer.token(aud="another"))
    async with AsyncSonicClient(hub.grpc_address, token_file=token, **client_settings(tmp_path)) as client:
        with pytest.raises(exceptions.NotIdentified, match="audience"):
            [job async for job in client.jobs()]
        token.write_text(issuer.token() + "\n")
        assert [job async for job in client.jobs()] == []
        token.unlink()
        with pytest.raises(exceptions.FileTrouble, match="token_file"):
            [job async for job in client.jobs()]


async def test_without_a_credential_it_is_said_how_to_show_one(ann: Sonic) -> None:
    refused = await ann("jobs", "list", SONIC_API_KEY_FILE="")
    assert refused.code == 6
    assert "api_key_file" in refused.err


@given(text=st.text(max_size=100))
def test_whatever_is_in_a_file_a_call_carries_one_word_or_it_is_refused(tmp_path_factory, text) -> None:
    path = tmp_path_factory.getbasetemp() / "any.key"
    path.write_text(text, encoding="utf-8")
    try:
        ((name, value),) = Credentials(api_key_file=path).metadata({})
    except exceptions.FileTrouble as error:
        assert len(text) < 20 or text not in str(error)  # noqa: PT017 - what the file holds is not told
        return
    assert name == "authorization"
    assert value == f"Bearer {text.strip()}"
    assert value.isascii()
    assert value.isprintable()
    assert " " not in text.strip()


def test_one_source_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(exceptions.BadSettings):
        Credentials(tmp_path / "a", tmp_path / "b")
    assert Credentials().metadata({}) == ()
    assert Credentials().metadata({"SONIC_API_KEY": "k"}) == (("authorization", "Bearer k"),)
