"""Hubs that share a database: who is alive by the database's clock, and whose session of a node is the newest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hub.store.database import clock_s, insert_ignoring
from hub.store.schema import hubs, nodes

FORGOTTEN_S = 86_400.0  # a hub that was silent for so long is not coming back


@dataclass(frozen=True)
class Bearer:
    """Who bears a name: `life` is one start of a hub."""

    life: str
    beat_at_s: float
    age_s: float  # since its last sign of life


def bearer(connection: sa.Connection, hub_id: str) -> Bearer | None:
    """The hub of that name, or None."""
    query = sa.select(hubs.c.life, hubs.c.beat_at_s, clock_s() - hubs.c.beat_at_s).where(hubs.c.hub_id == hub_id)
    found = connection.execute(query).one_or_none()
    return Bearer(*found) if found else None


def take_name(connection: sa.Connection, hub_id: str, life: str, before: Bearer | None) -> bool:
    """Bear the name from now on, in place of `before`. False when somebody else was first.

    Sessions that the one before held are nobody's now.
    """
    values = {"life": life, "beat_at_s": clock_s()}
    if before is None:
        taken = connection.execute(insert_ignoring(connection.engine, hubs).values(hub_id=hub_id, **values))
    else:
        same = (hubs.c.hub_id == hub_id, hubs.c.life == before.life, hubs.c.beat_at_s == before.beat_at_s)
        taken = connection.execute(sa.update(hubs).where(*same).values(**values))
    if taken.rowcount != 1:
        return False
    _release_nodes(connection, hub_id)
    connection.execute(sa.delete(hubs).where(clock_s() - hubs.c.beat_at_s > FORGOTTEN_S))
    return True


def leave(connection: sa.Connection, hub_id: str, life: str) -> None:
    """Give the name back."""
    gone = connection.execute(sa.delete(hubs).where(hubs.c.hub_id == hub_id, hubs.c.life == life))
    if gone.rowcount:
        _release_nodes(connection, hub_id)


def beat(connection: sa.Connection, hub_id: str, life: str) -> bool:
    """A sign of life. False when somebody else has taken the name."""
    mine = (hubs.c.hub_id == hub_id, hubs.c.life == life)
    return connection.execute(sa.update(hubs).where(*mine).values(beat_at_s=clock_s())).rowcount == 1


def alive(connection: sa.Connection, within_s: float) -> frozenset[str]:
    """The hubs that have given a sign of life within that time."""
    query = sa.select(hubs.c.hub_id).where(clock_s() - hubs.c.beat_at_s <= within_s)
    return frozenset(connection.execute(query).scalars())


@dataclass(frozen=True)
class Greeting:
    """A session has begun."""

    node_id: str
    session_id: str
    region: str
    agent_version: str


def begin_sessions(connection: sa.Connection, greetings: Sequence[Greeting], hub_id: str, now_s: float) -> None:
    """Note that sessions are at this hub; a node's newest one is what counts, whichever hub holds it."""
    new, known = [], []
    for one in sorted(greetings, key=lambda greeting: greeting.node_id):
        fresh = {"region": one.region, "agent_version": one.agent_version[:64], "last_heard_at_s": now_s}
        fresh |= {"hub_id": hub_id, "session_id": one.session_id, "left_at_s": None}
        new.append({"node_id": one.node_id, "drain_wanted": False, "joined_at_s": now_s} | fresh)
        known.append({"of_node": one.node_id} | fresh)
    connection.execute(insert_ignoring(connection.engine, nodes), new)
    connection.execute(sa.update(nodes).where(nodes.c.node_id == sa.bindparam("of_node")), known)


@dataclass(frozen=True)
class Farewell:
    """A session has ended."""

    node_id: str
    session_id: str
    heard_at_s: float  # last, on the wall clock
    leaving: bool  # of the node's own will: nobody expects it back


_END_SESSION = (
    sa.update(nodes)
    .where(nodes.c.node_id == sa.bindparam("of_node"), nodes.c.session_id == sa.bindparam("of_session"))
    .values(
        hub_id=None,
        session_id=None,
        last_heard_at_s=sa.bindparam("heard_at_s"),
        left_at_s=sa.bindparam("gone_at_s"),
    )
)


def end_sessions(connection: sa.Connection, farewells: Sequence[Farewell]) -> None:
    """Note that sessions have ended, but for those in whose place a newer one stands."""
    rows = [
        {
            "of_node": farewell.node_id,
            "of_session": farewell.session_id,
            "heard_at_s": farewell.heard_at_s,
            "gone_at_s": farewell.heard_at_s if farewell.leaving else None,
        }
        for farewell in sorted(farewells, key=lambda farewell: farewell.node_id)
    ]
    connection.execute(_END_SESSION, rows)


def whereabouts(connection: sa.Connection) -> list[sa.Row[Any]]:
    """Which hub holds the session of each node, and whether it is to drain."""
    return list(
        connection.execute(sa.select(nodes.c.node_id, nodes.c.hub_id, nodes.c.session_id, nodes.c.drain_wanted))
    )


def node_rows(connection: sa.Connection, node_ids: Collection[str]) -> list[sa.Row[Any]]:
    """Some nodes, with all that is known of them."""
    return list(connection.execute(sa.select(nodes).where(nodes.c.node_id.in_(node_ids))))


@dataclass(frozen=True)
class Sighting:
    """How a node is, as the hub that holds its session sees it."""

    node_id: str
    session_id: str
    heard_at_s: float
    about: bytes  # Node


def describe(connection: sa.Connection, seen: Sequence[Sighting]) -> None:
    """Store how nodes are, in one statement, those left out whose session is not the newest any more."""
    columns = (
        sa.column("node_id", sa.String),
        sa.column("session_id", sa.String),
        sa.column("heard_at_s", sa.Double),
        sa.column("about", sa.LargeBinary),
    )
    rows = [(one.node_id, one.session_id, one.heard_at_s, one.about) for one in seen]
    new = sa.values(*columns, name="seen").data(rows)
    same = (nodes.c.node_id == new.c.node_id, nodes.c.session_id == new.c.session_id)
    values = {"about": new.c.about, "last_heard_at_s": new.c.heard_at_s}
    connection.execute(sa.update(nodes).where(*same).values(**values))


def _release_nodes(connection: sa.Connection, hub_id: str) -> None:
    connection.execute(sa.update(nodes).where(nodes.c.hub_id == hub_id).values(hub_id=None, session_id=None))
