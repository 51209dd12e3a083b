"""What an upload fails for is told, also where it is the file."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
import pytest

from agent import transfers
from agent.core.attempts import Ref
from sonic.v1 import artifacts_pb2, fleet_service_pb2_grpc
from tests.agent.scripted_hub import ScriptedHub


async def test_a_video_that_cannot_be_read_is_an_error_of_the_file(tmp_path: Path) -> None:
    hub = ScriptedHub()
    await hub.start()
    video = artifacts_pb2.Artifact(sha256="0" * 64, size_bytes=10)
    async with grpc.aio.insecure_channel(hub.address) as channel:
        stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
        with pytest.raises(FileNotFoundError):
            await transfers.upload(stub, "n1", Ref("job", 1), video, tmp_path / "gone.mp4", 1024)  # type: ignore[arg-type]
    await hub.stop()
