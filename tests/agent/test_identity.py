"""A box keeps who it is, also when it is killed, renews in time, and says what is missing."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent import enrolment
from agent.config import AgentConfig, InvalidConfig
from agent.enrolment import Renewal, identity_of
from agent.identity import Identity, IdentityFolder
from agent.session import open_line
from sonic.v1 import fleet_service_pb2_grpc, nodes_pb2
from tests.agent.conftest import DOUBLE, AgentProcess
from tests.hub.secured import secured
from tests.processes import free_port


async def test_a_box_without_a_token_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="sonic hub token create --region eu"):
        await identity_of(AgentConfig(data_dir=tmp_path, region="eu"))
    assert await identity_of(AgentConfig(data_dir=tmp_path, insecure=True)) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        ("sonic-join-1.abc", "which holds no token"),
        ("", "which holds no token"),
    ],
)
async def test_a_token_that_is_none_is_told_without_showing_it(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(InvalidConfig, match=said) as refused:
        await identity_of(AgentConfig(data_dir=tmp_path, join_token_file=tmp_path / "token"))
    assert "abc" not in str(refused.value)


async def test_a_token_that_every_user_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with secured(tmp_path) as at:
        box = at.box(await at.token())
        assert box.join_token_file
        for mode, warned in ((0o600, False), (0o640, False), (0o644, True)):
            box.join_token_file.chmod(mode)
            caplog.clear()
            with pytest.raises(InvalidConfig, match="token is for region"):
                await identity_of(replace(box, region="us"))
            assert ("can be read by every user" in caplog.text) == warned


async def test_an_identity_that_is_damaged_is_told_and_stays_as_it_is(tmp_path: Path) -> None:
    async with secured(tmp_path) as at:
        box = at.box(await at.token())
        await identity_of(box)
    file = IdentityFolder(box.data_dir).file
    whole = file.read_bytes()
    for cut in (0, 100, len(whole) // 2, len(whole) - 30):
        file.write_bytes(whole[:cut])
        with pytest.raises(InvalidConfig, match="which is no identity"):
            await identity_of(box)
    file.write_bytes(whole)
    assert await identity_of(box)


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_nothing_of_a_key_is_left_behind_where_it_could_not_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with secured(tmp_path) as at:
        identity = await at.enrolled("n1")
    folder = IdentityFolder(tmp_path / "n1" / "data")
    for step in ("fsync", "replace"):
        with monkeypatch.context() as disk:
            disk.setattr(os, step, no_room)
            with pytest.raises(OSError, match="No space left"):
                folder.save(identity)
        assert [file.name for file in folder.file.parent.iterdir()] == ["identity.pem"]


async def test_what_was_half_written_when_the_box_went_down_is_removed_when_it_starts(tmp_path: Path) -> None:
    async with secured(tmp_path) as at:
        box = at.box(await at.token())
        await identity_of(box)
    file = IdentityFolder(box.data_dir).file
    file.with_name(".new-abc").write_bytes(file.read_bytes()[:100])
    assert await identity_of(box)
    assert [left.name for left in file.parent.iterdir()] == ["identity.pem"]


async def test_a_certificate_that_finds_no_room_on_disk_is_used_and_saved_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "agent.enrolment")
    monkeypatch.setattr(enrolment, "LOOK_AGAIN_S", 0.1)
    async with secured(tmp_path, certificate_valid_s=3.0) as at:
        box = at.box(await at.token())
        first = await identity_of(box)
        assert first
        box.join_token_file.unlink()  # type: ignore[union-attr] # there is no other way in
        async with open_line(box.hub_target, first.credentials) as line:
            fleet = fleet_service_pb2_grpc.FleetServiceStub(line)  # type: ignore[arg-type]
            running = asyncio.create_task(Renewal(box, first, fleet, line).run())  # type: ignore[arg-type]
            with monkeypatch.context() as disk:
                disk.setattr(IdentityFolder, "save", no_room)
                while not first.expired:
                    await asyncio.sleep(0.1)
            async with asyncio.timeout(10):
                while "certificate saved" not in caplog.text:
                    await asyncio.sleep(0.02)
            running.cancel()
        now = IdentityFolder(box.data_dir).load()
        assert now
        assert now != first
        async with at.agent(now) as agent:
            await agent.join()
    told = [record.message for record in caplog.records if "saved" in record.message]
    assert told == ["certificate not saved", "certificate saved"]


async def test_a_certificate_of_another_key_or_authority_is_not_taken(tmp_path: Path) -> None:
    async with secured(tmp_path / "a") as a, secured(tmp_path / "b", hub_id="b") as b:
        one, two = await a.enrolled("n1"), await b.enrolled("n1")
    for parts in (
        (two.key_pem, one.certificate_pem, one.authority_pem),
        (one.key_pem, one.certificate_pem, two.authority_pem),
        (one.key_pem, one.authority_pem, one.authority_pem),
    ):
        with pytest.raises(ValueError, match=r"."):
            Identity.of(*parts)


async def test_a_box_that_waits_for_its_hub_enrols_when_it_is_there(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    async with secured(tmp_path, listen=listen) as at:
        box = at.box(await at.token())
    waiting = asyncio.create_task(identity_of(box))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    async with secured(tmp_path, listen=listen):
        assert await asyncio.wait_for(waiting, 60)


@pytest.mark.integration
async def test_a_box_that_is_killed_while_it_enrols_has_nothing_half_and_uses_its_token_once(tmp_path: Path) -> None:
    async with secured(tmp_path) as at:
        box = at.box(await at.token())
        command = [sys.executable, "-m", "sonic", "agent", "enrol", "--data-dir", str(box.data_dir)]
        command += ["--enrol-at", box.enrol_at, "--node-id", "n1", "--region", "eu"]
        command += ["--join-token-file", str(box.join_token_file)]
        file = IdentityFolder(box.data_dir).file
        kills = 0
        while not file.exists():
            process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            asked = file.with_name("asked.pem")
            while process.returncode is None and not (asked.exists() and kills < 4):
                await asyncio.sleep(0.001)
            if process.returncode is None:
                await asyncio.sleep(0.004 * kills)
                process.send_signal(signal.SIGKILL)
                kills += 1
            await process.wait()
        assert kills
        identity = await identity_of(replace(box, join_token_file=None))
        assert identity
        async with at.agent(identity) as agent:
            await agent.join()
        assert [token.uses_left for token in await at.operator.join_tokens()] == [0]
        assert not list(file.parent.glob(".new-*")) or file.exists()


@pytest.mark.integration
async def test_an_agent_enrols_by_itself_and_renews_while_its_session_stands(tmp_path: Path) -> None:
    async with secured(tmp_path, certificate_valid_s=6.0) as at:
        box = at.box(await at.token())
        agent = AgentProcess(replace(box, http_listen="127.0.0.1:0", worker_command=DOUBLE), {}, None)
        await agent.start()
        try:
            await agent.logged("enrolled")
            opened = await agent.logged("session opened")
            first = IdentityFolder(box.data_dir).load()
            assert first
            while time.time() < first.expires_at_s + 1.0:
                await asyncio.sleep(0.2)
            now = IdentityFolder(box.data_dir).load()
            assert now
            assert now.key_pem != first.key_pem
            assert not now.expired
            assert sum(line["message"] == "session opened" for line in agent.log) == 1, opened
            assert [node.state for node in await at.operator.nodes()] == [nodes_pb2.NODE_STATE_READY]
            box.join_token_file.unlink()  # type: ignore[union-attr] # it is not needed any more
            agent.signal(signal.SIGTERM)
            assert await agent.ended() == 0
        finally:
            await agent.kill()


async def test_a_box_that_was_away_too_long_comes_back_by_a_token_for_it(tmp_path: Path) -> None:
    async with secured(tmp_path, certificate_valid_s=3.0) as at:
        box = at.box(await at.token())
        first = await identity_of(box)
        assert first
        await asyncio.sleep(3.1)
        with pytest.raises(InvalidConfig, match="sonic hub token create --region eu --node n1"):
            await identity_of(replace(box, join_token_file=None))
        with pytest.raises(InvalidConfig, match="'n1' is enrolled"):
            await identity_of(at.box(await at.token()))
        again = await identity_of(at.box(await at.token(node_id="n1")))
        assert again
        assert again.names == first.names


async def test_a_clock_that_is_behind_or_ahead_by_minutes_does_not_matter(tmp_path: Path) -> None:
    async with secured(tmp_path) as at:
        identity = await at.enrolled("n1")
    assert identity.begins_at_s < time.time() - 50 * 60
    assert identity.expires_at_s > time.time() + 6 * 86_400
    assert os.stat(tmp_path / "n1" / "data" / "identity").st_mode & 0o777 == 0o700
