"""The faults that a fleet is made to suffer, by a seeded schedule, and what of each was seen to have had an effect."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import grpc.aio
import psycopg

from sonic.v1 import admin_service_pb2, admin_service_pb2_grpc, nodes_pb2
from tests.faults.fleet import LEASE_S, Fleet, Part
from tests.faults.history import Call

ON_EVERY_FLEET = (
    "kill_hub",
    "freeze_hub",
    "cut_hub",
    "slow_hub",
    "full_disk_hub",
    "kill_agents",
    "freeze_agents",
    "cut_agents",
    "slow_agents",
    "skew_agents",
)
ON_POSTGRESQL = (
    "kill_store",
    "restart_store",
    "freeze_store",
    "cut_store",
    "cut_connections",
)
AT_ONCE = 3
REST_S = 1.0  # for a victim between two faults
_ECHO_S = LEASE_S + 3.0  # for how long after its end the effects of a fault may still be told
_STALLED = (
    "the store refused a transaction",
    "the store failed a call",
    "the store of files failed",
    "the line to the other hubs is cut",
    "no sign of life could be given",
)
_LOST = ("session ended", "session silent", "requeued", "frozen")


@dataclass
class Blow:
    """One fault as it happened. Times are of the wall clock, as logs have them, and of the monotonic one."""

    kind: str
    victim: str
    began_wall_s: float
    began_s: float
    ended_wall_s: float = 0.0
    ended_s: float = 0.0

    def told(self) -> str:
        return f"{self.kind} of {self.victim}, {self.ended_s - self.began_s:.1f} s"


@dataclass
class Storm:
    """Strikes a fleet; every fault that begins is healed before `run` ends."""

    fleet: Fleet
    chance: random.Random
    tell: Callable[[str], None]
    blows: list[Blow] = field(default_factory=list)
    _struck: set[str] = field(default_factory=set)  # parts that suffer something now

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that this fleet can suffer; with several hubs and their own store, hubs write little to their disks."""
        if self.fleet.cluster is None:
            return ON_EVERY_FLEET
        return tuple(kind for kind in ON_EVERY_FLEET if kind != "full_disk_hub") + ON_POSTGRESQL

    async def run(self, until_s: float) -> None:
        """Every kind in turn, in a new order each time; every kind once, and on until the time is up."""
        waiting: list[str] = []
        every_once = False
        async with asyncio.TaskGroup() as tasks:
            at_once = asyncio.Semaphore(AT_ONCE)
            while not every_once or time.monotonic() < until_s:
                if not waiting:
                    every_once = bool(self.blows)
                    waiting = self.chance.sample(self.kinds, len(self.kinds))
                    continue
                await at_once.acquire()
                struck = tasks.create_task(self._strike(waiting.pop()), name="blow")
                struck.add_done_callback(lambda _: at_once.release())
                await asyncio.sleep(self.chance.uniform(0.2, 1.0))

    async def _strike(self, kind: str) -> None:
        group = kind.rpartition("_")[2]
        while not (free := [name for name in self._victims(group) if name not in self._struck]):
            await asyncio.sleep(0.1)
        victim = self.chance.choice(free)
        self._struck.add(victim)
        blow = Blow(kind, victim, time.time(), time.monotonic())
        self.blows.append(blow)
        try:
            await getattr(self, f"_{kind}")(victim)
        finally:
            blow.ended_wall_s, blow.ended_s = time.time(), time.monotonic()
            self.tell(blow.told())
        await asyncio.sleep(REST_S)
        self._struck.discard(victim)

    def _victims(self, group: str) -> list[str]:
        parts = {"hub": self.fleet.hubs, "agents": self.fleet.agents}.get(group)
        return [part.name for part in parts] if parts is not None else ["store"]

    def _part(self, name: str) -> Part:
        return next(part for part in (*self.fleet.hubs, *self.fleet.agents) if part.name == name)

    async def _pause(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.chance.uniform(least_s, most_s))

    # Hubs.

    async def _kill_hub(self, name: str) -> None:
        hub = self._part(name)
        hub.kill()
        await self._pause(0.1, 2.0)
        self.fleet.start_hub(hub)
        await self._until_hub_is_back(hub)

    async def _until_hub_is_back(self, hub: Part) -> None:
        """A hub that cannot reach its store when it starts ends; what watches over it starts it again."""
        until_s = time.monotonic() + 60
        while not await asyncio.to_thread(self.fleet.ready, hub):
            assert time.monotonic() < until_s, f"{hub.name} is not ready:\n{hub.log.read_text()[-3000:]}"
            if not hub.alive():
                self.fleet.start_hub(hub)
            await asyncio.sleep(0.1)

    async def _freeze_hub(self, name: str) -> None:
        await self._freeze(self._part(name))

    async def _cut_hub(self, name: str) -> None:
        await self._line(name, 0.5, 2.5, cut=True)

    async def _slow_hub(self, name: str) -> None:
        await self._line(name, 1.5, 3.0, delay_s=self.chance.uniform(0.02, 0.1), loss=self.chance.uniform(0.01, 0.04))

    async def _full_disk_hub(self, name: str) -> None:
        """Until the hub has noticed, which it does with the next file or with a page that its database adds."""
        disk, began_s = self.fleet.disks[name], time.time()
        await asyncio.to_thread(disk.fill)
        for _ in range(10):
            await self._pause(1.5, 3.0)
            if any(at_s > began_s and what in _STALLED for at_s, what, _ in self._part(name).said()):
                break
        disk.clear()

    # Agents.

    async def _kill_agents(self, name: str) -> None:
        agents = self._part(name)
        agents.kill()
        await self._pause(0.0, LEASE_S + 2.0)
        agents.start()

    async def _freeze_agents(self, name: str) -> None:
        await self._freeze(self._part(name))

    async def _cut_agents(self, name: str) -> None:
        await self._line(name, 0.5, LEASE_S + 3.0, cut=True)

    async def _slow_agents(self, name: str) -> None:
        bytes_per_s = self.chance.uniform(40_000, 200_000)
        delay_s, loss = self.chance.uniform(0.03, 0.3), self.chance.uniform(0.01, 0.08)
        await self._line(name, 2.0, 4.0, delay_s=delay_s, loss=loss, bytes_per_s=bytes_per_s)

    async def _skew_agents(self, name: str) -> None:
        """Heartbeats of one of its nodes are three minutes ahead for a while."""
        fault = nodes_pb2.PlayFault(fault=nodes_pb2.GAME_DAY_FAULT_SKEW, seconds=3.0)
        request = admin_service_pb2.PlayFaultRequest(node_id=f"{name}-0001", fault=fault)
        for target in self.fleet.targets * 10:  # the hub that holds its session may be away
            async with grpc.aio.secure_channel(target, self.fleet.credentials) as channel:
                try:
                    await admin_service_pb2_grpc.AdminServiceStub(channel).PlayFault(
                        request, timeout=5, metadata=(("authorization", f"Bearer {self.fleet.keys['']}"),)
                    )
                    break
                except grpc.aio.AioRpcError:
                    await self._pause(0.5, 1.0)
        await asyncio.sleep(3.0)

    # The store.

    async def _kill_store(self, _: str) -> None:
        cluster = self.fleet.cluster
        assert cluster
        await asyncio.to_thread(cluster.stop, signal.SIGKILL)
        await self._pause(0.1, 2.0)
        await asyncio.to_thread(self._start_store)

    async def _restart_store(self, _: str) -> None:
        cluster = self.fleet.cluster
        assert cluster
        await asyncio.to_thread(cluster.stop, signal.SIGINT)
        await self._pause(0.1, 1.0)
        await asyncio.to_thread(self._start_store)

    def _start_store(self) -> None:
        """After a kill -9 the server's children need a moment to notice it, and it does not start before that."""
        assert self.fleet.cluster
        for _ in range(20):
            try:
                self.fleet.cluster.start()
                return
            except AssertionError:
                time.sleep(0.3)
        raise AssertionError(f"PostgreSQL does not come back:\n{self.fleet.cluster.log.read_text()[-3000:]}")

    async def _freeze_store(self, _: str) -> None:
        """The processes that serve stand still, too."""
        cluster = self.fleet.cluster
        assert cluster
        frozen = cluster.processes()
        _signal(frozen, signal.SIGSTOP)
        await self._pause(0.5, 2.5)
        _signal(frozen, signal.SIGCONT)

    async def _cut_store(self, name: str) -> None:
        await self._line(name, 0.5, 3.0, cut=True)

    async def _cut_connections(self, _: str) -> None:
        def cut() -> None:
            assert self.fleet.cluster
            self.fleet.cluster.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE usename = 'sonic' AND pid <> pg_backend_pid()"
            )

        for _again in range(3):
            try:
                await asyncio.to_thread(cut)
            except psycopg.OperationalError:
                self.tell("the store does not answer: its connections are cut already")
            await self._pause(0.1, 0.5)

    # Steps.

    async def _freeze(self, part: Part) -> None:
        """For longer than a lease."""
        part.signal(signal.SIGSTOP)
        try:
            await self._pause(LEASE_S + 0.5, LEASE_S + 2.5)
        finally:
            part.signal(signal.SIGCONT)

    async def _line(self, name: str, least_s: float, most_s: float, **how: float | bool) -> None:
        machine = self.fleet.machines[name]
        self.fleet.world.line(machine, **how)
        await self._pause(least_s, most_s)
        self.fleet.world.line(machine)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def effects(fleet: Fleet, blows: Iterable[Blow], calls: Iterable[Call]) -> Counter[str]:
    """How many faults of each kind were seen to have had an effect by somebody whom they should not have told."""
    lines = {part.name: list(part.said()) for part in (*fleet.hubs, *fleet.agents)}
    troubled = [call for call in calls if call.outcome == "unclear" or call.ended_s - call.began_s > 1.0]
    counts = fleet.world.counts()
    seen: Counter[str] = Counter()
    for blow in blows:
        seen[blow.kind] += _had_effect(fleet, blow, lines, troubled, counts)
    return seen


def _had_effect(
    fleet: Fleet,
    blow: Blow,
    lines: dict[str, list[tuple[float, str, dict[str, str]]]],
    troubled: list[Call],
    counts: dict[str, int],
) -> bool:
    def said(parts: Iterable[Part], what: tuple[str, ...]) -> bool:
        return any(
            blow.began_wall_s <= at_s <= blow.ended_wall_s + _ECHO_S and message in what
            for part in parts
            for at_s, message, _ in lines[part.name]
        )

    what, _, whom = blow.kind.rpartition("_")
    if what in ("cut", "slow") and whom in ("hub", "agents", "store"):
        name = {"cut": "cut", "slow": "delayed"}[what]
        return counts.get(f"{fleet.machines[blow.victim].port} {name}", 0) > 0
    if blow.kind == "skew_agents":
        return said(fleet.agents, ("fault begins",))
    if whom == "agents":
        return said(fleet.hubs, _LOST)
    if blow.kind == "full_disk_hub" or whom in ("store", "connections"):
        return said(fleet.hubs, _STALLED)
    return _troubled(blow, troubled)


def _troubled(blow: Blow, calls: list[Call]) -> bool:
    return any(call.began_s < blow.ended_s + _ECHO_S and call.ended_s > blow.began_s for call in calls)
