"""Samples outlive the agent and the box's cuts, within bounds, and are sent until they are acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.spool import Spool
from sonic.metrics import Series
from sonic.v1 import metrics_pb2
from tests.agent.scripted_hub import ScriptedHub

DAY_S = 86_400.0
ROOM = 1 << 20


def series(number: int) -> Series:
    return Series(f"m{number}", (("node_id", "box"),), "gauge", "Help.")


def values(count: int, first: int = 0) -> dict[Series, float]:
    return {series(number): number + 0.5 for number in range(first, count)}


def read(spool: Spool) -> list[dict[str, float]]:
    """Each batch that waits, by the names of its series, as a hub would read it."""
    found = []
    for sequence in range(spool.first, spool.end):
        _, declarations = spool.tables(sequence)
        known = [one.name for declaration in declarations for one in declaration.series_table.series]
        samples = spool.batch(sequence).samples
        assert samples.sequence == sequence
        numbers = list(samples.series) or range(len(known))
        found.append({known[number]: value for number, value in zip(numbers, samples.values, strict=True)})
    return found


def named(given: dict[Series, float]) -> dict[str, float]:
    return {one.name: value for one, value in given.items()}


def test_batches_say_what_was_sampled_whichever_series_come_and_go(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", ROOM, DAY_S)
    given = [values(3), values(5), values(5, 2), values(3)]
    for number, batch in enumerate(given):
        spool.append(batch, 1000 + number)
    assert read(spool) == [named(batch) for batch in given]
    assert [len(spool.batch(n).samples.series) for n in range(spool.first, spool.end)] == [0, 0, 3, 3]


def test_what_is_not_acknowledged_outlives_the_agent_and_a_torn_write(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", ROOM, DAY_S)
    for number in range(4):
        spool.append(values(3, number % 2), 1000 + number)
    spool.acknowledge([spool.first])
    with next((tmp_path / "s").glob("*.seg")).open("ab") as file:
        file.write(b"\x40\x00\x00\x00half")
    again = Spool(tmp_path / "s", ROOM, DAY_S)
    assert read(again) == [named(values(3, 1)), named(values(3)), named(values(3, 1))]
    assert again.end == spool.end
    again.append(values(2), 2000)
    assert read(again)[-1] == named(values(2))
    again.acknowledge(list(range(again.first, again.end)))
    assert again.first == again.end
    assert Spool(tmp_path / "s", ROOM, DAY_S).end == again.end


def test_acknowledgements_may_come_out_of_turn(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", ROOM, DAY_S)
    for number in range(4):
        spool.append(values(2), 1000 + number)
    first = spool.first
    spool.acknowledge([first + 3, first + 1])
    assert spool.first == first
    spool.acknowledge([first])
    assert spool.first == first + 2
    spool.acknowledge([first + 2])
    assert spool.first == spool.end


def test_a_full_spool_gives_up_the_oldest_and_counts_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 16_000, DAY_S)
    lost = sum(spool.append(values(10), 1000 + number).get("spool_full", 0) for number in range(500))
    assert spool.size_bytes <= 16_000
    assert lost == 10 * (500 - len(read(spool)))


def test_what_is_too_old_is_given_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 16_000, DAY_S)
    for number in range(30):
        spool.append(values(10), 1000 + number)
    assert sum(spool.append(values(10), 1000 + int(DAY_S * 1000) + 60).values()) > 200


async def sampled(hub: ScriptedHub, count: int) -> list[metrics_pb2.Samples]:
    await hub.until(lambda _message: len(_samples(hub)) >= count)
    return _samples(hub)


def _samples(hub: ScriptedHub) -> list[metrics_pb2.Samples]:
    return [message.samples for message in hub.heard if message.HasField("samples")]


@pytest.mark.parametrize("late", [False, True])
async def test_a_cut_is_caught_up_with_the_oldest_first(hub: ScriptedHub, start: Callable, late: bool) -> None:
    hub.sampling_interval_s, hub.late_samples = 0.1, late
    agent = await start()
    before = await sampled(hub, 3)
    await hub.stop()
    hub.heard.clear()
    await agent.logged("session ended")
    hub.acknowledging_samples = True
    await hub.start()
    after = await sampled(hub, 10)
    sequences = list(dict.fromkeys(one.sequence for one in after))
    assert sequences[0] == before[0].sequence  # none was acknowledged
    if not late:
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
    declared = [message.series_table for message in hub.heard if message.HasField("series_table")]
    assert {one.table_id for one in declared} == {one.table_id for one in after}
    names = {one.name for table in declared for one in table.series}
    assert {"sonic_cpu_percent", "sonic_slots", "sonic_metric_spool_bytes"} <= names
    assert all(one.age_ms < 60_000 for one in after)


async def test_without_an_interval_nothing_is_sampled(hub: ScriptedHub, start: Callable) -> None:
    agent = await start()
    await agent.logged("session opened")
    await hub.until(lambda _message: sum(one.HasField("heartbeat") for one in hub.heard) >= 3)
    assert _samples(hub) == []
