"""States of long renders: taken from the attempt that makes them, given to the next one, gone when the job has ended.

They only save time. So nothing is acknowledged, no job waits for them, and whatever fails here leaves a job that begins
anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import sqlalchemy as sa

from hub import exceptions
from hub.artifacts.depot import Depot, check_hash, state_key
from hub.core.jobs import Ref
from hub.store import checkpoints
from hub.store.checkpoints import Noted
from sonic.v1 import artifacts_pb2
from sonic.v1 import fleet_service_pb2 as pb

SWEEP_INTERVAL_S = 3600.0
T = TypeVar("T")
_log = logging.getLogger("hub.checkpoints")


class Checkpoints:
    """Of one hub. What another hub has ended, or a hub that was killed, is found by looking, every hour."""

    def __init__(self, database: sa.Engine, depot: Depot) -> None:
        self._database, self._depot = database, depot
        self._tenants: dict[str, str] = {}  # of jobs of which a state was taken here
        self._untold: dict[str, str] = {}  # by job the state that was received here last and not told of yet
        self._ended: asyncio.Queue[str] = asyncio.Queue()

    async def receive(
        self, node_id: str, ref: Ref, header: artifacts_pb2.UploadHeader, chunks: AsyncIterator[bytes]
    ) -> artifacts_pb2.Artifact:
        """Store the bytes of a state, in place of one that was never told of. Raises Refusal."""
        check_hash(header.sha256)
        job_id = ref.job_id
        tenant = await self._in_thread(lambda connection: checkpoints.tenant_of(connection, node_id, ref))
        if tenant is None:
            raise exceptions.AttemptOver(
                f"attempt {ref.attempt} of job {job_id!r} is not under way; no state is kept of it"
            )
        self._tenants[job_id] = tenant
        await self._depot.receive_state(tenant, job_id, header.sha256, header.size_bytes, header.offset_bytes, chunks)
        before, self._untold[job_id] = self._untold.get(job_id), header.sha256
        if before and before != header.sha256:
            await self._forget_unless_kept(tenant, job_id, before)
        return artifacts_pb2.Artifact(sha256=header.sha256, size_bytes=header.size_bytes)

    async def note(self, node_id: str, tenant: str, ref: Ref, said: pb.AttemptCheckpoint) -> None:
        """Keep a state that has been received, if it is of use."""
        sha256 = check_hash(said.state.sha256)
        if self._untold.get(ref.job_id) == sha256:
            del self._untold[ref.job_id]
        size_bytes = await self._depot.state_bytes(tenant, ref.job_id, sha256)
        if not size_bytes:
            return  # it was never received
        noted = Noted(sha256, size_bytes, max(said.done, 0), max(said.total, 0))
        replaced = await self._in_thread(
            lambda connection: checkpoints.note(connection, node_id, ref, noted, time.time())
        )
        _log.debug("state", extra={"job_id": ref.job_id, "done": said.done, "kept": replaced is not None})
        if useless := noted.sha256 if replaced is None else replaced:
            await self._forget_unless_kept(tenant, ref.job_id, useless)

    async def read(
        self, tenant: str, job_id: str, sha256: str, wanted: artifacts_pb2.ByteRange
    ) -> AsyncIterator[bytes] | None:
        """The bytes of the state that is kept of a job, from an offset on; None when it is another one."""
        row = await self._of(job_id)
        if row is None or row.sha256 != sha256 or not await self._depot.state_bytes(tenant, job_id, sha256):
            return None
        start = min(max(wanted.offset_bytes, 0), row.size_bytes)
        return self._depot.read_state(tenant, job_id, sha256, start, row.size_bytes)

    def job_ended(self, job_id: str) -> None:
        """Let what was kept of a job be removed soon."""
        if job_id in self._tenants:
            self._ended.put_nowait(job_id)

    async def run(self) -> None:
        """Remove what is not needed any more, until cancelled."""
        due_s = 0.0
        while True:
            try:
                async with asyncio.timeout(max(due_s - time.monotonic(), 0)):
                    job_id = await self._ended.get()
                await self._forget(self._tenants.pop(job_id, ""), job_id)
            except TimeoutError:
                due_s = time.monotonic() + SWEEP_INTERVAL_S
                await self._sweep()
            except (sa.exc.SQLAlchemyError, exceptions.NotNow):  # it is found an hour later
                _log.warning("a state could not be removed")

    async def _sweep(self) -> None:
        try:
            known = await self._in_thread(checkpoints.all_of)
            tenants = {row.job_id: row.tenant for row in known} | self._tenants
            for job_id in await self._in_thread(lambda connection: checkpoints.ended(connection, tenants)):
                self._tenants.pop(job_id, None)
                await self._forget(tenants[job_id], job_id)
            keys = {state_key(row.tenant, row.job_id, row.sha256) for row in known}
            removed = await asyncio.to_thread(self._depot.sweep_states, keys)
        except sa.exc.SQLAlchemyError:
            return
        if removed:
            _log.info("states that nobody needs removed", extra={"count": removed})

    async def _forget(self, tenant: str, job_id: str) -> None:
        """A job has ended: nothing of it stays, nor what was received and never told of."""
        self._untold.pop(job_id, None)
        await self._in_thread(lambda connection: checkpoints.forget(connection, job_id))
        await asyncio.to_thread(self._depot.forget_states, tenant, job_id)

    async def _forget_unless_kept(self, tenant: str, job_id: str, sha256: str) -> None:
        kept = await self._of(job_id)
        if not (kept and kept.sha256 == sha256):
            await self._depot.forget_state(tenant, job_id, sha256)

    async def _of(self, job_id: str) -> sa.Row[tuple[object, ...]] | None:
        return await self._in_thread(lambda connection: checkpoints.of(connection, job_id))

    async def _in_thread(self, work: Callable[[sa.Connection], T]) -> T:
        def transaction() -> T:
            with self._database.begin() as connection:
                return work(connection)

        return await asyncio.to_thread(transaction)
