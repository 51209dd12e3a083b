"""What the faults of a game day do to a real box: what it says of itself, and how fast its workers may go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agent.clock import Clock
from agent.core.game_day import GameDayFault
from sonic.v1 import nodes_pb2

HOT_CELSIUS = 96.0
XID = 79  # the GPU has fallen off the bus
LEAK_SHARE = 0.05  # of a GPU's memory, with each render
SKEW_S = 180.0
SLOWDOWNS = {GameDayFault.HEAT: 4 / 3, GameDayFault.SLOW: 4.0}
_CYCLE_S = 0.2


class Faults:
    """Those that are played now."""

    def __init__(self, clock: Clock, hold: Callable[[bool], None]) -> None:
        """`hold` stops all workers where they are, or lets them go on."""
        self._clock = clock
        self._hold = hold
        self._played: set[GameDayFault] = set()
        self._xids = 0
        self._renders = 0
        self._slowing = False

    def begin(self, fault: GameDayFault) -> bool:
        """Whether `slow_down` has to be begun now."""
        self._played.add(fault)
        self._xids += fault is GameDayFault.XID
        if fault is GameDayFault.LEAK:
            self._renders = 0
        if fault is GameDayFault.SKEW:
            self._clock.skew_s = SKEW_S
        begins = self.slowdown > 1 and not self._slowing
        self._slowing |= begins
        return begins

    def end(self, fault: GameDayFault) -> None:
        self._played.discard(fault)
        if fault is GameDayFault.XID:
            self._xids = 0
        if fault is GameDayFault.SKEW:
            self._clock.skew_s = 0.0

    def rendered(self) -> None:
        """A render has ended."""
        self._renders += 1

    def over(self, measured: nodes_pb2.NodeHealth, gpus: Sequence[nodes_pb2.GpuInfo]) -> nodes_pb2.NodeHealth:
        """What was measured, with the faults laid over it."""
        if not self._played:
            return measured
        told = nodes_pb2.NodeHealth()
        told.CopyFrom(measured)
        memory_bytes = {gpu.uuid: gpu.memory_bytes for gpu in gpus}
        for gpu in told.gpus:
            if GameDayFault.HEAT in self._played:
                gpu.temperature_celsius = max(gpu.temperature_celsius, HOT_CELSIUS)
                gpu.throttle_reasons[:] = sorted({*gpu.throttle_reasons, "thermal"})
            if GameDayFault.XID in self._played:
                gpu.xid_events[XID] += self._xids
            if GameDayFault.LEAK in self._played:
                room_bytes = memory_bytes.get(gpu.uuid, 0)
                leaked_bytes = int(self._renders * LEAK_SHARE * room_bytes)
                gpu.memory_used_bytes = min(
                    gpu.memory_used_bytes + leaked_bytes, max(room_bytes, gpu.memory_used_bytes)
                )
        return told

    @property
    def slowdown(self) -> float:
        slowdown = 1.0
        for fault in self._played & SLOWDOWNS.keys():
            slowdown *= SLOWDOWNS[fault]
        return slowdown

    async def slow_down(self) -> None:
        """Let the workers go on for their share of the time only, as long as a fault asks for it."""
        try:
            while self.slowdown > 1:
                going_s = _CYCLE_S / self.slowdown
                self._hold(True)
                await asyncio.sleep(_CYCLE_S - going_s)
                self._hold(False)
                await asyncio.sleep(going_s)
        finally:
            self._slowing = False
            self._hold(False)
