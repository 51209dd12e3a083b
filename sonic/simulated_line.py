"""What simulated nodes share: a connection to one of the hubs, and a video that each tenant needs only once."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio

from sonic import lines
from sonic.v1 import artifacts_pb2, fleet_service_pb2_grpc, jobs_pb2
from sonic.v1 import fleet_service_pb2 as pb

NODES_PER_LINE = 250  # every line is one TCP connection; its streams wait for each other
_OPENING_AT_ONCE = 32  # sessions of a line, so that thousands do not run out of time together
_CALL_TIMEOUT_S = 30.0
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # else all lines to one hub would be one connection
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # how long one attempt to connect may take, TLS and all
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
_SESSION = f"/{pb.DESCRIPTOR.services_by_name['FleetService'].full_name}/Session"


@cache
def slate() -> bytes:
    """A second of mp4 that says SIMULATED."""
    return Path(__file__).with_name("simulated.mp4").read_bytes()


def signed(ref: jobs_pb2.AttemptRef, node_id: str) -> bytes:
    """The slate with the attempt's name behind it, where players do not look."""
    name = f"{ref.job_id}/{ref.attempt} on {node_id}".encode()
    return slate() + struct.pack(">I4s", 8 + len(name), b"free") + name


@lru_cache(maxsize=64)
def artifact_of(video: bytes) -> artifacts_pb2.Artifact:
    """The artifact of a video, not to be changed."""
    sha256 = hashlib.sha256(video).hexdigest()
    return artifacts_pb2.Artifact(sha256=sha256, size_bytes=len(video), media_type="video/mp4")


class Line:
    """One connection to the hub at `target` (host:port, several with commas between), for up to NODES_PER_LINE nodes.

    Made where a loop runs.
    """

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self._channel = lines.Line(target, _OPTIONS, credentials, node=True)
        self._fleet: Any = fleet_service_pb2_grpc.FleetServiceStub(cast(grpc.aio.Channel, self._channel))
        self.moves = 0  # from hub to hub
        self._held: set[str] = set()  # tenants for whom the hub has the slate
        self._uploading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.opening = asyncio.Semaphore(_OPENING_AT_ONCE)
        # A session's requests are bytes: what is said again and again is not serialised again and again.
        self.session: Any = self._channel.stream_stream(_SESSION, None, pb.SessionResponse.FromString)

    def move_on(self, since: int) -> None:
        """A session that began after so many moves has ended: call the next hub, unless another node has seen to it."""
        if self.moves == since:
            self.moves += 1
            self._channel.move_on()

    def holds_slate(self, tenant: str) -> bool:
        return tenant in self._held

    def lost_slate(self, tenant: str) -> None:
        """The hub has said that it does not hold it."""
        self._held.discard(tenant)

    async def bring_slate(self, tenant: str, node_id: str, ref: jobs_pb2.AttemptRef) -> None:
        """Upload the slate for a tenant, unless somebody has. Raises grpc.aio.AioRpcError."""
        async with self._uploading[tenant]:
            if tenant not in self._held:
                await self.upload(slate(), node_id, ref)
                self._held.add(tenant)

    async def upload(self, video: bytes, node_id: str, ref: jobs_pb2.AttemptRef) -> None:
        """Upload the video of an attempt. Raises grpc.aio.AioRpcError."""
        artifact = artifact_of(video)
        upload = artifacts_pb2.UploadHeader(sha256=artifact.sha256, size_bytes=artifact.size_bytes)

        async def parts() -> AsyncIterator[pb.UploadVideoRequest]:
            yield pb.UploadVideoRequest(header=pb.VideoHeader(node_id=node_id, ref=ref, upload=upload))
            yield pb.UploadVideoRequest(chunk=video)

        await self._fleet.UploadVideo(parts(), timeout=_CALL_TIMEOUT_S)

    async def close(self) -> None:
        await self._channel.close()
