"""Every sample goes to its owner, at the right time, once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub.forward.intake import Intake, Source, Terms
from hub.forward.spool import Batch, Spool
from sonic.v1 import metrics_pb2

from .material import series

TENANTS = ("acme", "beta")
PLACE = {"region": "eu", "node_id": "box"}


class World:
    """An intake, its spools, and one node's session."""

    def __init__(self, folder: Path, **terms: Any) -> None:
        self.folder, self.spools = folder, {}
        usual = {"operator": "op", "late_samples": False, "max_clock_offset_s": 2.0, "max_age_s": 86_400.0}
        self.intake = Intake(Terms(**(usual | terms)), self.spool, self.is_tenant)
        self.source = self.session()

    def session(self) -> Source:
        return Source("box", "eu", lambda _sequences: None)

    def spool(self, tenant: str) -> Spool:
        if tenant not in self.spools:
            self.spools[tenant] = Spool(self.folder / tenant, 1 << 20, 86_400)
        return self.spools[tenant]

    async def is_tenant(self, name: str) -> bool:
        return name in TENANTS

    async def declare(self, *declared: metrics_pb2.Series, table_id: int = 1) -> None:
        await self.intake.declare(self.source, metrics_pb2.SeriesTable(table_id=table_id, series=declared))

    def take(self, sequence: int, values: list[float], **more: Any) -> None:
        usual = {"table_id": 1, "at_unix_ms": now_ms()}
        self.intake.take(self.source, metrics_pb2.Samples(sequence=sequence, values=values, **(usual | more)))

    def kept(self, tenant: str) -> list[tuple[list[str], list[float], int]]:
        """What lies in a spool and was not read yet: names, values and time of each batch."""
        spool, found = self.spool(tenant), []
        spool.flush()
        while window := spool.window(1000):
            found += [(names(batch), batch.values.tolist(), batch.at_unix_ms) for batch in window.batches]
            spool.commit(window)
        return found


def names(batch: Batch) -> list[str]:
    return [one.name for one in batch.layout.parsed()]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def of_node(name: str, **labels: str) -> metrics_pb2.Series:
    return series(name, {**PLACE, **labels})


async def test_series_of_jobs_go_to_their_tenant_and_all_others_to_the_operator(tmp_path: Path) -> None:
    world = World(tmp_path)
    tenants = ("acme", "beta", "stranger", "a:b")
    await world.declare(of_node("load"), *(of_node(f"jobs_{name[0]}", tenant=name) for name in tenants))
    world.take(1, [1, 2, 3, 4, 5])
    kept = {tenant: [(found, values) for found, values, _ in world.kept(tenant)] for tenant in ("op", *TENANTS)}
    assert kept == {
        "op": [(["load", "jobs_s", "jobs_a"], [1, 4, 5])],
        "acme": [(["jobs_a"], [2])],
        "beta": [(["jobs_b"], [3])],
    }
    assert set(world.spools) == {"op", "acme", "beta"}


async def test_a_node_speaks_for_itself_alone_and_only_in_names_that_a_receiver_takes(tmp_path: Path) -> None:
    world = World(tmp_path)
    bad = [
        series("other", {"region": "eu", "node_id": "victim"}),
        series("nowhere", {}),
        of_node("with-dash"),
        of_node("long", label="x" * 2049),
        of_node("empty", label=""),
        of_node("", label="x"),
        of_node("many", **{f"l{number}": "x" for number in range(28)}),
    ]
    await world.declare(*bad, of_node("good"), of_node("good"))
    world.take(1, list(range(9)))
    assert [(found, values) for found, values, _ in world.kept("op")] == [(["good"], [7])]


async def test_what_is_sent_again_is_taken_once_also_by_a_hub_that_was_killed(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.declare(of_node("load"), of_node("jobs", tenant="acme"))
    for sequence in (5, 6, 5, 6):
        world.take(sequence, [sequence, sequence])
    assert [values for _, values, _ in world.kept("op")] == [[5], [6]]
    assert [values for _, values, _ in world.kept("acme")] == [[5], [6]]
    again = World(tmp_path)
    await again.declare(of_node("load"), of_node("jobs", tenant="acme"))
    for sequence in (5, 6, 7):
        again.take(sequence, [sequence, sequence])
    assert [values for _, values, _ in again.kept("op")] == [[7]]


async def test_a_half_that_a_crash_lost_is_made_good(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.declare(of_node("load"), of_node("jobs", tenant="acme"))
    world.take(5, [1, 2])
    world.spool("op").flush()  # and then the hub is killed
    again = World(tmp_path)
    await again.declare(of_node("load"), of_node("jobs", tenant="acme"))
    again.take(5, [1, 2])
    assert [values for _, values, _ in again.kept("op")] == [[1]]
    assert [values for _, values, _ in again.kept("acme")] == [[2]]


@pytest.mark.parametrize("offset_s", [0.0, 1.5, -1.5])
async def test_a_clock_within_the_bound_is_believed(tmp_path: Path, offset_s: float) -> None:
    world = World(tmp_path)
    await world.declare(of_node("load"))
    at_unix_ms = now_ms() + int(offset_s * 1000) - 60_000
    world.take(1, [1], at_unix_ms=at_unix_ms, age_ms=60_000)
    assert world.kept("op")[0][2] == at_unix_ms


@pytest.mark.parametrize("offset_s", [3.0, 540.0, 10.0**9, -3.0, -(10.0**9)])
async def test_a_clock_that_is_off_cannot_move_samples_in_time(tmp_path: Path, offset_s: float) -> None:
    world = World(tmp_path)
    await world.declare(of_node("load"))
    world.take(1, [1], at_unix_ms=now_ms() + int(offset_s * 1000) - 60_000, age_ms=60_000)
    assert abs(world.kept("op")[0][2] - (now_ms() - 60_000)) < 500


async def test_times_of_a_node_only_go_forward(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.declare(of_node("load"))
    start_ms = now_ms()
    for sequence, at_unix_ms in ((1, start_ms), (2, start_ms - 1000), (3, start_ms + 500)):
        world.take(sequence, [sequence], at_unix_ms=at_unix_ms)
    times = [at for _, _, at in world.kept("op")]
    assert times == [start_ms, start_ms + 1, start_ms + 500]


def stale(values: list[float]) -> bool:
    return {value.hex() if value == value else np.float64(value).tobytes().hex() for value in values} == {
        "020000000000f07f"
    }


async def test_a_series_that_ends_is_marked_and_the_others_go_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.declare(of_node("load"), of_node("gpu"), of_node("jobs", tenant="acme"))
    world.take(1, [1, 2, 3])
    world.take(2, [4], series=[0])
    first, marked, last = world.kept("op")
    assert (first[:2], last[:2]) == ((["load", "gpu"], [1, 2]), (["load"], [4]))
    assert marked[0] == ["gpu"]
    assert stale(marked[1])
    assert first[2] < marked[2] < last[2]
    assert [found for found, _, _ in world.kept("acme")] == [["jobs"], ["jobs"]]


async def test_the_graphs_of_a_node_that_left_end_and_what_it_had_kept_can_still_follow(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.declare(of_node("load"))
    long_ago_ms = now_ms() - 60_000
    world.take(1, [1], at_unix_ms=long_ago_ms, age_ms=60_000)
    world.intake.gone("box")
    world.intake.gone("box")
    _, (_, marker, at_unix_ms) = world.kept("op")
    assert stale(marker)
    assert at_unix_ms == long_ago_ms + 1
    world.source = world.session()
    await world.declare(of_node("load"))
    world.take(2, [2], at_unix_ms=long_ago_ms + 15_000, age_ms=45_000)
    assert [(values, at) for _, values, at in world.kept("op")] == [([2], long_ago_ms + 15_000)]


async def test_where_late_samples_are_taken_old_ones_keep_their_time(tmp_path: Path) -> None:
    world = World(tmp_path, late_samples=True)
    await world.declare(of_node("load"))
    start_ms = now_ms()
    world.take(9, [9], at_unix_ms=start_ms)
    world.take(1, [1], at_unix_ms=start_ms - 60_000, age_ms=60_000)
    assert [(values, at) for _, values, at in world.kept("op")] == [([9], start_ms), ([1], start_ms - 60_000)]


async def test_numbers_without_a_table_are_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.take(1, [1, 2, 3])
    await world.declare(of_node("load"))
    world.take(2, [1], series=[7])
    world.take(3, [1, 2, 3])
    assert [values for _, values, _ in world.kept("op")] == [[1]]
