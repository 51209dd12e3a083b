"""Many simulated nodes in one process, over as few connections as carry them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc

from sonic.simulated_line import NODES_PER_LINE, Line
from sonic.simulated_node import SimulatedNode
from sonic.simulated_profile import NodeProfile


class SimulatedFleet:
    """The nodes, by their place in the profiles."""

    def __init__(self, nodes: Sequence[SimulatedNode]) -> None:
        self.nodes = nodes
        self._lives = [asyncio.create_task(node.run(), name=f"simulated {node.node_id}") for node in nodes]

    def __getitem__(self, node_id: str) -> SimulatedNode:
        return next(node for node in self.nodes if node.node_id == node_id)

    async def joined(self) -> None:
        """Until every node has a session."""
        for node in self.nodes:
            await node.joined.wait()

    async def leave(self, timeout_s: float) -> bool:
        """Let every node finish, report and go; whether all have within that time."""
        for node in self.nodes:
            node.leave()
        _, pending = await asyncio.wait(self._lives, timeout=timeout_s)
        return not pending

    async def crash(self) -> None:
        """End every node as a kill would. Raises what a node has failed with."""
        for life in self._lives:
            life.cancel()
        for outcome in await asyncio.gather(*self._lives, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


@asynccontextmanager
async def running(
    target: str, profiles: Sequence[NodeProfile], credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[SimulatedFleet]:
    """A fleet that calls the hub at `target` (host:port); leaving the context ends it as a kill would.

    `credentials` are of a certificate that names all of the nodes; without them it is plain text.
    """
    lines = [Line(target, credentials) for _ in range(0, len(profiles), NODES_PER_LINE)]
    fleet = SimulatedFleet([SimulatedNode(profile, lines[at // NODES_PER_LINE]) for at, profile in enumerate(profiles)])
    try:
        yield fleet
    finally:
        try:
            await fleet.crash()
        finally:
            for line in lines:
                await line.close()
