"""What one hub changes the others hear of at once: PostgreSQL's NOTIFY within the transaction that changes it.

A note only says where to look: whoever hears it reads the rows. Progress, and what hubs ask of each other, is in none.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hub.core.events import AttemptProgressed
from hub.core.jobs import Progress, Ref
from hub.store import database

CHANNEL = "sonic_fleet"
MAX_PAYLOAD_BYTES = 7000  # PostgreSQL takes 7999
MAX_NOTES = 64  # of one transaction; beyond that, "everything" is shorter
_log = logging.getLogger("hub.bulletin")


@dataclass(frozen=True)
class Favour:
    """What is asked of the hub that holds a node's session: to store how the node is now, and let it play a fault."""

    favour_id: str
    hub_id: str  # that is asked
    node_id: str
    fault: bytes = b""  # PlayFault; empty when there is none to play


@dataclass(frozen=True)
class Answer:
    """A favour has been done, or refused for a reason."""

    favour_id: str
    refusal: str = ""


@dataclass(frozen=True)
class Note:
    """What another hub has changed, wants or answers."""

    jobs: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    progress: tuple[AttemptProgressed, ...] = ()
    everything: bool = False  # too much to name
    favours: tuple[Favour, ...] = ()
    answers: tuple[Answer, ...] = ()


class Bulletin:
    """The notes of one hub. On a database that is not shared nobody hears them, and none is written."""

    def __init__(self, engine: sa.Engine, life: str) -> None:
        self.shared = database.shared(engine)
        self._engine = engine
        self._life = life

    def tell(self, connection: sa.Connection, jobs: Iterable[str] = (), nodes: Iterable[str] = ()) -> None:
        """Say with the transaction of `connection` that it has changed these."""
        if self.shared:
            notes = [*self._pack("jobs", jobs), *self._pack("nodes", nodes)]
            self._send(connection, notes)

    def tell_progress(self, connection: sa.Connection, progress: Iterable[AttemptProgressed]) -> None:
        """Say how far attempts are."""
        self._send(connection, list(self._pack("progress", map(_from_progress, progress))))

    def ask(self, connection: sa.Connection, favour: Favour) -> None:
        """Ask another hub for something."""
        said = [favour.favour_id, favour.hub_id, favour.node_id, base64.b64encode(favour.fault).decode()]
        self._send(connection, list(self._pack("favours", [said])))

    def answer(self, connection: sa.Connection, answer: Answer) -> None:
        """Say what became of a favour."""
        self._send(connection, list(self._pack("answers", [[answer.favour_id, answer.refusal]])))

    async def listen(self) -> AsyncIterator[Note]:
        """What the others tell; the first note is empty, when nothing more can be missed. Raises psycopg.Error."""
        import psycopg

        connection = await psycopg.AsyncConnection.connect(**database.listening_to(self._engine))
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            yield Note()
            async for heard in connection.notifies():
                if note := self._read(heard.payload):
                    yield note

    def _send(self, connection: sa.Connection, notes: list[str]) -> None:
        if len(notes) > MAX_NOTES:
            notes = [json.dumps({"by": self._life, "everything": True})]
        for note in notes:
            database.notify(connection, CHANNEL, note)

    def _pack(self, kind: str, items: Iterable[Any]) -> Iterator[str]:
        """As few payloads as the items fit into."""
        packed: list[str] = []
        size_bytes = 0
        for item in map(json.dumps, items):
            if packed and size_bytes + len(item) > MAX_PAYLOAD_BYTES:
                yield self._payload(kind, packed)
                packed, size_bytes = [], 0
            packed.append(item)
            size_bytes += len(item) + 1
        if packed:
            yield self._payload(kind, packed)

    def _payload(self, kind: str, packed: list[str]) -> str:
        return f'{{"by":{json.dumps(self._life)},"{kind}":[{",".join(packed)}]}}'

    def _read(self, payload: str) -> Note | None:
        """None for our own, and for what a hub of another version says in other words: it is found by looking."""
        try:
            said = json.loads(payload)
            if said["by"] == self._life:
                return None
            progress = tuple(map(_to_progress, said.get("progress", ())))
            return Note(
                tuple(said.get("jobs", ())),
                tuple(said.get("nodes", ())),
                progress,
                bool(said.get("everything")),
                tuple(_to_favour(*one) for one in said.get("favours", ())),
                tuple(Answer(*one) for one in said.get("answers", ())),
            )
        except (ValueError, TypeError, KeyError):
            _log.warning("a note of another hub cannot be read", extra={"payload": payload[:200]})
            return Note(everything=True)


def _from_progress(event: AttemptProgressed) -> list[Any]:
    of = event.progress
    return [event.node_id, *event.ref, of.stage[:64], of.done, of.total, of.fraction]


def _to_progress(said: list[Any]) -> AttemptProgressed:
    node_id, job_id, attempt, stage, done, total, fraction = said
    return AttemptProgressed(node_id, Ref(job_id, attempt), Progress(stage, done, total, fraction))


def _to_favour(favour_id: str, hub_id: str, node_id: str, fault: str) -> Favour:
    return Favour(favour_id, hub_id, node_id, base64.b64decode(fault))
