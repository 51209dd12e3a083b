"""Jobs that are submitted and waited for over one call: where there are many small ones, each call has its cost."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from sonic import exceptions, statuses
from sonic.connection import Connection
from sonic.retries import Patience
from sonic.v1 import job_service_pb2 as pb
from sonic.v1 import jobs_pb2

_MOST_ITEMS = 1000


class Runs:
    """Keeps a call as long as somebody waits for a job; after a cut, what is not known to have ended is said again."""

    def __init__(self, hub: Connection) -> None:
        self._hub = hub
        self._wanted: dict[str, pb.SubmitJobRequest] = {}
        self._waiting: dict[str, asyncio.Future[jobs_pb2.Job]] = {}  # the same keys
        self._unsaid: list[str] = []
        self._news = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    async def run(self, wanted: pb.SubmitJobRequest) -> jobs_pb2.Job:
        """Submit a job and answer it once it has ended. Raises HubError."""
        key = wanted.idempotency_key
        if key not in self._waiting:
            self._wanted[key] = wanted
            self._waiting[key] = asyncio.get_running_loop().create_future()
            self._unsaid.append(key)
            self._news.set()
        elif self._wanted[key] != wanted:
            raise exceptions.KeyReused(f"idempotency_key {key!r} is of another job that runs", reason="KEY_REUSED")
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._keep_on(), name="run of jobs")
        return await asyncio.shield(self._waiting[key])

    async def close(self) -> None:
        """Wait for no job any more; they go on."""
        if self._work:
            self._work.cancel()
            await asyncio.wait([self._work])
        for waiting in self._waiting.values():
            waiting.cancel()

    async def _keep_on(self) -> None:
        patience = self._hub.patience()
        try:
            while self._waiting:
                try:
                    await self._converse(patience)
                except grpc.aio.AioRpcError as error:
                    await patience.pause(error)
        except Exception as error:
            self._fail(error)

    async def _converse(self, patience: Patience) -> None:
        """One call, until it breaks. Raises AioRpcError, HubFailed."""
        self._unsaid = list(self._waiting)
        self._news.set()
        call = self._hub.jobs.RunJobs(metadata=self._hub.metadata)
        await patience.listen(call)
        writer = asyncio.create_task(self._write(call), name="writer of jobs")
        try:
            while isinstance(response := await call.read(), pb.RunJobsResponse):
                patience.renew()
                self._take(response)
            raise exceptions.HubFailed("the hub ended a call in which jobs are waited for")
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)  # the reader has the reason
            call.cancel()

    async def _write(self, call: Any) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._unsaid:
                keys, self._unsaid = self._unsaid[:_MOST_ITEMS], self._unsaid[_MOST_ITEMS:]
                await call.write(pb.RunJobsRequest(items=[self._wanted[key] for key in keys if key in self._wanted]))

    def _take(self, response: pb.RunJobsResponse) -> None:
        for job in response.ended:
            if waiting := self._done(job.idempotency_key):
                waiting.set_result(job)
        for refused in response.refused:
            if waiting := self._done(refused.idempotency_key):
                waiting.set_exception(statuses.of_item(refused))

    def _done(self, key: str) -> asyncio.Future[jobs_pb2.Job] | None:
        self._wanted.pop(key, None)
        waiting = self._waiting.pop(key, None)
        return waiting if waiting and not waiting.done() else None

    def _fail(self, error: Exception) -> None:
        for key in list(self._waiting):
            if waiting := self._done(key):
                waiting.set_exception(error)
