"""What a hub does because there are others on its database: it gives signs of life, and hears what they change.

Notes come at once; a look at every row now and then finds what a note that was lost would have told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from hub import wire
from hub.config import InvalidConfig
from hub.core import events
from hub.core.nodes import Node, NodeState
from hub.server import views
from hub.server.dispatcher import Dispatcher
from hub.server.favours import Favours
from hub.server.sessions import AgentSession, Sessions
from hub.store import enrolments, hubs, records
from hub.store.bulletin import Bulletin, Favour, Note
from hub.store.hubs import Sighting
from sonic.v1 import nodes_pb2

SILENT_BEATS = 3  # a hub that has missed so many signs of life counts as dead
TELL_INTERVAL_S = 1.0
MAX_DESCRIBED = 1000  # nodes in one statement
RECONNECT_S = 1.0
_NAME_LOOK_S = 0.25
T = TypeVar("T")
_log = logging.getLogger("hub.neighbours")


class NameTaken(RuntimeError):
    """Another hub bears this one's hub_id now: this one was taken for dead."""


class Neighbours:
    """The other hubs, as this one knows them; none on a database that cannot be shared."""

    def __init__(
        self,
        hub_id: str,
        life: str,
        beat_s: float,
        database: sa.Engine,
        bulletin: Bulletin,
        dispatcher: Dispatcher,
        sessions: Sessions,
    ) -> None:
        self.hub_id = hub_id
        self._beat_s = beat_s
        self._database = database
        self._bulletin = bulletin
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._life = life
        self._seen: dict[str, tuple[str | None, str | None, bool]] = {}  # nodes: hub, session, whether to drain
        self._told: dict[str, tuple[Any, ...]] = {}  # nodes here: what of them others must know at once
        self._progress: dict[str, events.AttemptProgressed] = {}  # by job, not told yet
        self._new: list[AgentSession] = []  # not described yet
        self.alive: frozenset[str] = frozenset()  # without this one
        self.favours = Favours(hub_id, database, bulletin, self._do)

    def progressed(self, event: events.AttemptProgressed) -> None:
        """An attempt on a node of this hub is further on."""
        if self.alive:
            self._progress[event.ref.job_id] = event

    def joined(self, session: AgentSession) -> None:
        """A node has opened a session with this hub."""
        if self._bulletin.shared:
            self._new.append(session)

    @asynccontextmanager
    async def at_work(self, watch: Callable[[asyncio.Task[None]], None]) -> AsyncIterator[None]:
        """Between the two the hub is one of several. `watch` is called with each task that ends."""
        works = (self._listen, self._beat, self._tell) if self._bulletin.shared else ()
        tasks = [asyncio.create_task(work(), name=f"neighbours{work.__name__}") for work in works]
        for task in tasks:
            task.add_done_callback(watch)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # What this hub tells.

    async def _beat(self) -> None:
        while True:
            try:
                if not await self._write(lambda connection: hubs.beat(connection, self.hub_id, self._life)):
                    raise NameTaken(f"hub_id {self.hub_id!r} is borne by another hub now; this one was silent too long")
                await self._describe(self._sessions.all())
                await self._look_at_all()
            except sa.exc.SQLAlchemyError as error:
                _log.warning("no sign of life could be given", extra={"error": str(error.__cause__ or error)})
            await asyncio.sleep(self._beat_s)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_INTERVAL_S)
            told, self._progress = list(self._progress.values()), {}
            new, self._new = self._new, []
            with contextlib.suppress(
                sa.exc.SQLAlchemyError
            ):  # the next progress says more, the next beat describes all
                await self._describe(new)
                if told:
                    await self._write(lambda connection: self._bulletin.tell_progress(connection, told))  # noqa: B023

    async def _describe(self, sessions: list[AgentSession]) -> None:
        """Store how nodes of this hub are, and tell of those that have another standing or other engines now."""
        standing = {one.hello.node_id: self._standing(one) for one in sessions}
        changed = [node_id for node_id, now in standing.items() if self._told.get(node_id) != now]

        def write(seen: list[Sighting]) -> None:
            with self._database.begin() as connection:
                hubs.describe(connection, seen)
                self._bulletin.tell(connection, nodes={one.node_id for one in seen}.intersection(changed))

        for start in range(0, len(sessions), MAX_DESCRIBED):
            seen = [self._sighting(one) for one in sessions[start : start + MAX_DESCRIBED]]
            await asyncio.to_thread(write, seen)
        self._told.update(standing)

    def _standing(self, session: AgentSession) -> tuple[Any, ...]:
        known = self._dispatcher.nodes.get(session.hello.node_id)
        engines = {engine.SerializeToString() for slot in session.slots for engine in slot.engines}
        return (session.session_id, known.state if known else None, len(session.slots), engines)

    def _sighting(self, session: AgentSession) -> Sighting:
        about = views.live(
            self._dispatcher.nodes.get(session.hello.node_id), session, self._dispatcher.health(session.hello.node_id)
        )
        about.hub_id = self.hub_id
        return Sighting(session.hello.node_id, session.session_id, session.heard_at_s, about.SerializeToString())

    # What this hub hears.

    async def _listen(self) -> None:
        import psycopg

        while True:
            try:
                async for note in self._bulletin.listen():
                    await self._take(note)
            except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
                _log.warning("the line to the other hubs is cut", extra={"error": str(error), "retry_s": RECONNECT_S})
            await asyncio.sleep(RECONNECT_S)

    async def _take(self, note: Note) -> None:
        if note == Note() or note.everything:
            await self._look_at_all()
        self._dispatcher.look_again(note.jobs)
        for event in note.progress:
            self._dispatcher.post(event)
        if note.nodes:
            await self._look_at_nodes(note.nodes)
        await self.favours.heard(note)

    async def _do(self, favour: Favour) -> str:
        """Let a node of this hub play a fault, if there is one, and store how it is now."""
        if favour.fault:
            fault = nodes_pb2.PlayFault.FromString(favour.fault)
            if fault.fault not in nodes_pb2.GameDayFault.values():
                return f"hub {self.hub_id}, which holds the session of node {favour.node_id}, is too old for this fault"
            return self._sessions.play(favour.node_id, fault)
        if session := self._sessions.get(favour.node_id):
            await self._describe([session])
        return ""

    async def _look_at_all(self) -> None:
        """Find every difference between what is stored and what this hub believes."""

        def differ(connection: sa.Connection) -> set[str]:
            return {
                job_id for job_id, _ in records.standings(connection).items() ^ self._dispatcher.standings().items()
            }

        self._dispatcher.look_again(await self._read(differ))
        within_s = SILENT_BEATS * self._beat_s
        alive = await self._read(lambda connection: hubs.alive(connection, within_s)) - {self.hub_id}
        new, self.alive = alive - self.alive, alive
        rows = await self._read(hubs.whereabouts)
        await self._end_those_without_right(self._sessions.all())  # whose note was lost
        changed = [row.node_id for row in rows if row.hub_id in new or self._seen.get(row.node_id) != _kept(row)]
        if changed:
            await self._look_at_nodes(changed)
        self._dispatcher.post(events.HubsAlive(alive))

    def look_at(self, node_ids: Sequence[str]) -> None:
        """Let the decisions know what is stored of nodes."""

        def look(connection: sa.Connection) -> events.NodesSeen:
            return events.NodesSeen(tuple(_node(row, self.alive) for row in hubs.node_rows(connection, node_ids)))

        self._dispatcher.read(look)

    async def _look_at_nodes(self, node_ids: Sequence[str]) -> None:
        self.look_at(node_ids)
        before = {one.hello.node_id: one.session_id for one in self._sessions.all()}
        await self._end_those_without_right(filter(None, map(self._sessions.get, node_ids)))
        for row in await self._read(lambda connection: hubs.node_rows(connection, node_ids)):
            self._seen[row.node_id] = _kept(row)
            session = self._sessions.get(row.node_id)
            came_meanwhile = session and session.session_id != before.get(row.node_id)
            if session and row.hub_id in self.alive and not came_meanwhile:
                _log.info("a newer session stands elsewhere", extra={"node_id": row.node_id, "hub_id": row.hub_id})
                session.end()

    async def _end_those_without_right(self, sessions: Iterable[AgentSession]) -> None:
        by_node = {session.hello.node_id: session for session in sessions}
        joined = {node_id: session.joined for node_id, session in by_node.items()}
        found = await self._read(lambda connection: enrolments.objections(connection, joined))
        for node_id, objection in found.items():
            _log.info("session without right ended", extra={"node_id": node_id, "why": objection.why})
            by_node[node_id].end()

    async def _read(self, work: Callable[[sa.Connection], T]) -> T:
        def read() -> T:
            with self._database.connect() as connection:
                return work(connection)

        return await asyncio.to_thread(read)

    async def _write(self, work: Callable[[sa.Connection], T]) -> T:
        def write() -> T:
            with self._database.begin() as connection:
                return work(connection)

        return await asyncio.to_thread(write)


@asynccontextmanager
async def bearing_name(database: sa.Engine, hub_id: str, beat_s: float, data_dir: Path) -> AsyncIterator[str]:
    """Be the one hub of this name on a shared database; yields this life of it. Raises InvalidConfig.

    A hub that was killed is followed at once where its data_dir is, elsewhere when it has been silent for long enough.
    """
    life, note = uuid.uuid4().hex, data_dir / "life"
    former = note.read_text() if note.exists() else ""

    def take(before: hubs.Bearer | None) -> bool:
        with database.begin() as connection:
            return hubs.take_name(connection, hub_id, life, before)

    def look() -> hubs.Bearer | None:
        with database.connect() as connection:
            return hubs.bearer(connection, hub_id)

    def leave() -> None:
        with contextlib.suppress(sa.exc.SQLAlchemyError), database.begin() as connection:
            hubs.leave(connection, hub_id, life)

    first = found = await asyncio.to_thread(look)
    while not (_over(found, former, beat_s) and await asyncio.to_thread(take, found)):
        await asyncio.sleep(_NAME_LOOK_S)
        found = await asyncio.to_thread(look)
        if found and (first is None or found.beat_at_s != first.beat_at_s):
            raise InvalidConfig(
                f"hub_id is {hub_id!r}, which another hub on this database bears; give each hub a hub_id of its own"
            )
    note.write_text(life)
    try:
        yield life
    finally:
        await asyncio.to_thread(leave)


def _over(bearer: hubs.Bearer | None, former: str, beat_s: float) -> bool:
    return bearer is None or bearer.life == former or bearer.age_s > SILENT_BEATS * beat_s


def _kept(row: sa.Row[Any]) -> tuple[str | None, str | None, bool]:
    return (row.hub_id, row.session_id, row.drain_wanted)


def _node(row: sa.Row[Any], alive: frozenset[str]) -> Node:
    node = Node(row.node_id, row.region, drain_wanted=row.drain_wanted)
    if row.hub_id in alive:
        about = nodes_pb2.Node.FromString(row.about or b"")
        node.hub_id = row.hub_id
        node.state_there = views.NODE_STANDINGS.get(about.state, NodeState.JOINING)
        node.slots = {slot.index: wire.slot(slot) for slot in about.slots}
    return node
