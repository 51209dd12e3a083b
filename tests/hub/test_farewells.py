"""Thousands of sessions end together when a hub stops: they are noted together, and none costs more for the others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import sqlalchemy as sa

from hub.core.dispatch import Dispatch
from hub.core.events import NodeCut, NodeJoined
from hub.server.farewells import MOST_AT_ONCE, Farewells
from hub.service import serving
from hub.store import records
from hub.store.bulletin import Bulletin
from hub.store.database import open_database
from hub.store.hubs import Farewell

from .conftest import config
from .peers import Agent
from .talk import slot


def row(database: sa.Engine, node_id: str) -> sa.Row[Any]:
    with database.connect() as connection:
        return next(row for row in records.node_rows(connection) if row.node_id == node_id)


async def test_they_share_a_commit_and_a_newer_session_stands(database_url: str) -> None:
    database, count, commits = open_database(database_url), MOST_AT_ONCE + 500, 0
    with database.begin() as connection:
        for number in range(count):
            records.note_node(connection, f"n{number}", "eu", "1", 1.0, "a", f"s{number}")
        records.note_node(connection, "n7", "eu", "1", 5.0, "b", "newer")

    def count_commit(_: sa.Connection) -> None:
        nonlocal commits
        commits += 1

    sa.event.listen(database, "commit", count_commit)
    farewells = Farewells(database, Bulletin(database, "life"))
    for number in range(count):
        farewells.note(Farewell(f"n{number}", f"s{number}", 3.0 + number, leaving=number == 8))
    await farewells.noted()
    assert 0 < commits <= 3
    for node_id, expected in {
        "n6": (None, None, 9.0, None),
        "n7": ("b", "newer", 5.0, None),
        "n8": (None, None, 11.0, 11.0),
        f"n{count - 1}": (None, None, count + 2.0, None),
    }.items():
        found = row(database, node_id)
        assert (found.hub_id, found.session_id, found.last_heard_at_s, found.left_at_s) == expected
    database.dispose()


async def test_a_store_that_refuses_holds_nothing_up(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    database = open_database(database_url)
    with database.begin() as connection:
        records.note_node(connection, "n1", "eu", "1", 1.0, "a", "s1")
        connection.exec_driver_sql("ALTER TABLE nodes RENAME TO away")
    farewells = Farewells(database, Bulletin(database, "life"))
    farewells.note(Farewell("n1", "s1", 3.0, leaving=False))
    await farewells.noted()
    assert "ended sessions could not be noted" in caplog.messages
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO nodes")
    farewells.note(Farewell("n1", "s1", 3.0, leaving=False))
    await farewells.noted()
    assert row(database, "n1").session_id is None
    database.dispose()


async def test_a_hub_that_stops_has_noted_the_end_of_every_session(tmp_path: Path, database_url: str) -> None:
    async with serving(config(tmp_path / "hub", database_url=database_url)) as hub:
        channel = grpc.aio.insecure_channel(hub.grpc_address)
        agents = [Agent(channel, f"n{number}") for number in range(50)]
        await asyncio.gather(*(agent.join() for agent in agents))
    await channel.close()
    database = open_database(database_url)
    with database.connect() as connection:
        assert [row.session_id for row in records.node_rows(connection)] == [None] * 50
    database.dispose()


def vanish_s(count: int) -> float:
    hub = Dispatch()
    for number in range(count):
        hub.handle(NodeJoined(f"n{number}", "eu", "s", (slot(),), (), ()), 0.0)
    began_s = time.process_time()
    for number in range(count):
        hub.handle(NodeCut(f"n{number}", "s"), 1.0)
    return time.process_time() - began_s


def test_four_times_the_nodes_vanish_in_about_four_times_the_time() -> None:
    few_s, many_s = (min(vanish_s(count) for _ in range(2)) for count in (1500, 6000))
    assert many_s < 9 * few_s  # 16 times it would be, if each looked at all the others
