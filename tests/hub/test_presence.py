"""Thousands of sessions begin and end together with a hub: noted together, and none costs more for the others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import sqlalchemy as sa

from hub import exceptions
from hub.core.dispatch import Dispatch
from hub.core.events import NodeCut, NodeJoined
from hub.server.presence import MOST_AT_ONCE, Presence
from hub.service import serving
from hub.store import hubs, records
from hub.store.bulletin import Bulletin
from hub.store.database import open_database
from hub.store.hubs import Farewell, Greeting

from .conftest import config
from .peers import Agent
from .talk import slot


def row(database: sa.Engine, node_id: str) -> sa.Row[Any]:
    with database.connect() as connection:
        return next(row for row in records.node_rows(connection) if row.node_id == node_id)


def greetings(count: int) -> list[Greeting]:
    return [Greeting(f"n{number}", f"s{number}", "eu", "1") for number in range(count)]


class Commits:
    """How many a database has seen."""

    def __init__(self, database: sa.Engine) -> None:
        self.count = 0
        sa.event.listen(database, "commit", self._one_more)

    def _one_more(self, _: sa.Connection) -> None:
        self.count += 1


async def test_the_beginnings_share_a_commit_and_each_says_what_its_node_has(database_url: str) -> None:
    database = open_database(database_url)
    commits, presence = Commits(database), Presence(database, Bulletin(database, "life"), "a")
    assert await asyncio.gather(*map(presence.begin, greetings(MOST_AT_ONCE + 500))) == [[]] * (MOST_AT_ONCE + 500)
    assert 0 < commits.count <= 3
    before, after = Greeting("n7", "before", "us", "2"), Greeting("n7", "newest", "us", "2")
    await asyncio.gather(presence.begin(before), presence.begin(after))
    with database.connect() as connection:
        rows = {row.node_id: row for row in records.node_rows(connection)}
    assert len(rows) == MOST_AT_ONCE + 500
    assert (rows["n7"].session_id, rows["n7"].region, rows["n7"].hub_id) == ("newest", "us", "a")
    assert (rows["n8"].session_id, rows["n8"].region, rows["n8"].drain_wanted) == ("s8", "eu", False)
    database.dispose()


async def test_a_session_given_up_before_it_was_stored_has_ended(database_url: str) -> None:
    database = open_database(database_url)
    presence = Presence(database, Bulletin(database, "life"), "a")
    beginning = asyncio.create_task(presence.begin(greetings(1)[0]))
    await asyncio.sleep(0)
    beginning.cancel()
    await asyncio.wait([beginning])
    await presence.noted()
    assert (row(database, "n0").session_id, row(database, "n0").hub_id) == (None, None)
    database.dispose()


async def test_the_ends_share_a_commit_and_a_newer_session_stands(database_url: str) -> None:
    database, count = open_database(database_url), MOST_AT_ONCE + 500
    with database.begin() as connection:
        hubs.begin_sessions(connection, greetings(count), "a", 1.0)
        hubs.begin_sessions(connection, [Greeting("n7", "newer", "eu", "1")], "b", 5.0)
    commits, presence = Commits(database), Presence(database, Bulletin(database, "life"), "a")
    for number in range(count):
        presence.end(Farewell(f"n{number}", f"s{number}", 3.0 + number, leaving=number == 8))
    await presence.noted()
    assert 0 < commits.count <= 3
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
        hubs.begin_sessions(connection, [Greeting("n1", "s1", "eu", "1")], "a", 1.0)
        connection.exec_driver_sql("ALTER TABLE nodes RENAME TO away")
    presence = Presence(database, Bulletin(database, "life"), "a")
    presence.end(Farewell("n1", "s1", 3.0, leaving=False))
    with pytest.raises(exceptions.NotNow):
        await presence.begin(Greeting("n2", "s2", "eu", "1"))
    await presence.noted()
    assert "ended sessions could not be noted" in caplog.messages
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO nodes")
    presence.end(Farewell("n1", "s1", 3.0, leaving=False))
    await presence.noted()
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
