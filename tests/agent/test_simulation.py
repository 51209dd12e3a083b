"""`sonic agent --simulate` as a process of its own, against a real hub."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from agent.config import AgentConfig, InvalidConfig
from hub.testing import running_hub
from sonic.client import AsyncSonicClient
from sonic.v1 import jobs_pb2, nodes_pb2
from tests.hub.peers import JPEG, WAV
from tests.processes import process

pytestmark = pytest.mark.integration
READY, OFFLINE = nodes_pb2.NODE_STATE_READY, nodes_pb2.NODE_STATE_OFFLINE


async def until_all_are(client: AsyncSonicClient, state: nodes_pb2.NodeState.ValueType) -> list[nodes_pb2.Node]:
    async with asyncio.timeout(60):
        while len(nodes := [node for node in await client.nodes() if node.state == state]) < 30:
            await asyncio.sleep(0.05)
    return nodes


async def test_one_process_is_many_nodes_of_unlike_kinds_and_sigterm_drains_them(tmp_path: Path) -> None:
    (tmp_path / "face.jpg").write_bytes(JPEG)
    (tmp_path / "voice.wav").write_bytes(WAV)
    async with running_hub() as hub, AsyncSonicClient(hub.grpc_address, insecure=True) as client:
        command = [sys.executable, "-m", "sonic", "agent", "--simulate", "30", "--node-id", "lab", "--region", "eu,us"]
        with process([*command, "--insecure", "--hub", hub.grpc_address], tmp_path / "log") as fleet:
            nodes = await until_all_are(client, READY)
            assert [node.node_id for node in nodes if node.region == "us"][:2] == ["lab-0002", "lab-0004"]
            assert len({gpu.name for node in nodes for gpu in node.gpus}) > 3
            assert len({slot.probe_realtime_factor for node in nodes for slot in node.slots}) > 20
            job = await client.submit(tmp_path / "face.jpg", tmp_path / "voice.wav", duration=1.0)
            async for seen in client.watch(job.job_id):
                if seen.state == jobs_pb2.JOB_STATE_RUNNING:
                    break
            assert await asyncio.to_thread(fleet.stop) == 0
            assert (await client.get(job.job_id)).state == jobs_pb2.JOB_STATE_SUCCEEDED
            await until_all_are(client, OFFLINE)
        assert "placeholders" in fleet.log.read_text()


def test_names_are_checked_as_the_hub_will_see_them() -> None:
    with pytest.raises(InvalidConfig, match="node_id"):
        AgentConfig(node_id="n" * 60, simulate=5)
    with pytest.raises(InvalidConfig, match="region is 'eu,us'"):
        AgentConfig(node_id="n", region="eu,us")
    assert AgentConfig(node_id="n", region="eu,us", simulate=5).regions == ("eu", "us")
