"""What a game day's faults lay over what was measured, and which GPU a slot is kept to."""

from __future__ import annotations

import asyncio

import pytest

from agent import gpus, wire
from agent.clock import Clock
from agent.core.game_day import GameDayFault
from agent.core.instructions import SlotState, SlotView
from agent.faults import SKEW_S, Faults
from sonic.v1 import nodes_pb2, worker_pb2

GIB = 1 << 30
INFO = nodes_pb2.GpuInfo(uuid="g", memory_bytes=10 * GIB)
MEASURED = nodes_pb2.NodeHealth(
    cpu_percent=7,
    gpus=[nodes_pb2.GpuHealth(uuid="g", temperature_celsius=60, memory_used_bytes=4 * GIB, xid_events={31: 1, 79: 1})],
)


@pytest.fixture
def faults() -> Faults:
    return Faults(Clock(), lambda _still: None)


def shown(faults: Faults) -> nodes_pb2.GpuHealth:
    return faults.over(MEASURED, [INFO]).gpus[0]


def test_heat(faults: Faults) -> None:
    assert faults.begin(GameDayFault.HEAT)
    assert (shown(faults).temperature_celsius, shown(faults).throttle_reasons) == (96, ["thermal"])
    assert faults.slowdown == pytest.approx(4 / 3)
    faults.end(GameDayFault.HEAT)
    assert faults.over(MEASURED, [INFO]) == MEASURED


def test_xid_counts_on_what_was_counted(faults: Faults) -> None:
    faults.begin(GameDayFault.XID)
    faults.begin(GameDayFault.XID)
    assert dict(shown(faults).xid_events) == {31: 1, 79: 3}
    faults.end(GameDayFault.XID)
    assert faults.over(MEASURED, [INFO]) == MEASURED


def test_leak_grows_with_each_render_until_the_gpu_is_full(faults: Faults) -> None:
    faults.rendered()
    faults.begin(GameDayFault.LEAK)
    assert shown(faults).memory_used_bytes == 4 * GIB
    faults.rendered()
    assert shown(faults).memory_used_bytes == 4.5 * GIB
    for _ in range(20):
        faults.rendered()
    assert shown(faults).memory_used_bytes == 10 * GIB


def test_skew() -> None:
    clock = Clock()
    faults = Faults(clock, lambda _still: None)
    before = clock.now_ns()
    faults.begin(GameDayFault.SKEW)
    assert clock.now_ns() - before >= SKEW_S * 1e9
    faults.end(GameDayFault.SKEW)
    assert clock.skew_s == 0


async def test_slow_workers_go_on_in_the_end() -> None:
    held: list[bool] = []
    faults = Faults(Clock(), held.append)
    assert faults.begin(GameDayFault.SLOW)
    assert not faults.begin(GameDayFault.HEAT), "one is enough to slow them down"
    slowing = asyncio.create_task(faults.slow_down())
    await asyncio.sleep(0)
    assert held == [True]
    for fault in (GameDayFault.SLOW, GameDayFault.HEAT):
        faults.end(fault)
    await slowing
    assert held[-1] is False
    assert faults.begin(GameDayFault.SLOW)


def test_slots_are_spread_over_the_gpus() -> None:
    several = [nodes_pb2.GpuInfo(uuid=f"GPU-{number}", index=number, vendor="nvidia") for number in range(2)]
    found = [gpus.of_slot(slot, several) for slot in range(3)]
    assert [gpu.uuid for gpu in found if gpu] == ["GPU-0", "GPU-1", "GPU-0"]
    assert gpus.environment(found[1], several) == {"CUDA_VISIBLE_DEVICES": "GPU-1"}
    assert gpus.environment(found[0], several[:1]) == {}
    assert gpus.of_slot(0, []) is None
    amd = [nodes_pb2.GpuInfo(index=number, vendor="amd") for number in range(2)]
    assert gpus.environment(amd[1], amd) == {"HIP_VISIBLE_DEVICES": "1"}


def test_a_worker_that_renders_on_the_cpu_has_no_gpu_whatever_the_box_has() -> None:
    gpu = nodes_pb2.GpuInfo(uuid="GPU-0", vendor="nvidia")
    assert wire.slot_message(SlotView(0, SlotState.READY), gpu).gpu_uuid == "GPU-0"
    assert wire.slot_message(SlotView(0, SlotState.READY, on_cpu=True), gpu).gpu_uuid == ""
    loaded = worker_pb2.WorkerEvent(loaded=worker_pb2.WorkerLoaded(on_cpu=True))
    assert wire.from_worker(0, 1, loaded).on_cpu
