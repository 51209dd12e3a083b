"""`sonic agent --simulate N`: a fleet of simulated nodes in one process, to try a hub without a single GPU."""

from __future__ import annotations

import asyncio
import logging
import signal
import zlib
from collections import Counter
from dataclasses import replace

from agent.config import AgentConfig
from agent.enrolment import identity_of
from sonic import simulated_fleet
from sonic.simulated_fleet import SimulatedFleet
from sonic.simulated_profile import unlike

_log = logging.getLogger("agent")


async def run(config: AgentConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal does not wait for what runs."""
    stop, at_once = asyncio.Event(), asyncio.Event()

    def stopping() -> None:
        (at_once if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping)
    seed = zlib.crc32(config.node_id.encode())  # another name is another fleet
    profiles = [
        replace(profile, engine=config.engine, slots=config.slots)
        for profile in unlike(config.simulate, config.node_id, config.regions, seed)
    ]
    _log.warning("these nodes are simulated: their videos are placeholders", extra={"nodes": len(profiles)})
    identity = await identity_of(config)  # beyond this machine: of all of them
    credentials = identity.credentials if identity else None
    async with simulated_fleet.running(config.hub_target, profiles, credentials) as fleet:
        kinds = Counter(profile.gpu.name or "CPU" for profile in profiles)
        _log.info("agents started", extra={"hub": config.hub_target, "regions": config.regions, "kinds": dict(kinds)})
        joining = asyncio.create_task(_join(fleet), name="joining")
        await stop.wait()
        joining.cancel()
        _log.info("stopping", extra={"running": sum(len(node.running) for node in fleet.nodes)})
        leaving = asyncio.create_task(fleet.leave(config.drain_timeout_s + config.flush_timeout_s), name="leaving")
        hurrying = asyncio.create_task(at_once.wait(), name="second signal")
        await asyncio.wait([leaving, hurrying], return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, hurrying):
            task.cancel()
    _log.info("agents stopped", extra={"rendered": sum(node.rendered for node in fleet.nodes)})


async def _join(fleet: SimulatedFleet) -> None:
    await fleet.joined()
    _log.info("all nodes have joined")
