"""The way of the metrics in one piece: an intake, a spool and a sender for each tenant, and the hub's own samples."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hub.forward.config import ForwardConfig
from hub.forward.intake import Intake, Source, Terms
from hub.forward.layouts import packed
from hub.forward.sender import Sender
from hub.forward.sink import Sink
from hub.forward.spool import Spool
from hub.server import metrics
from sonic.metrics import message, snapshot
from sonic.v1 import metrics_pb2

FLUSH_PAUSE_S = 0.2  # what comes in meanwhile shares a sync of the disk
ACKNOWLEDGED_TOGETHER = 4
RETRY_PAUSE_S = 2.0
FAILED_PAUSE_S = 30.0
_log = logging.getLogger("hub.forward")


@dataclass(frozen=True)
class _Way:
    spool: Spool
    sender: Sender


class Forwarder:
    """Takes samples, acknowledges them once they are on the disk, and delivers them."""

    def __init__(
        self,
        config: ForwardConfig,
        folder: Path,
        hub_id: str,
        sink: Sink,
        is_tenant: Callable[[str], Awaitable[bool]],
    ) -> None:
        self.config = config
        self._folder = folder
        self._hub_id = hub_id
        self._sink = sink
        self._ways: dict[str, _Way] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._acks: list[tuple[Source, int]] = []
        self._came = asyncio.Event()
        terms = Terms(
            operator=config.operator_tenant,
            late_samples=config.out_of_order_window_s > 0,
            max_clock_offset_s=config.max_clock_offset_s,
            max_age_s=config.spool_max_age_s,
        )
        self._intake = Intake(terms, lambda tenant: self._way(tenant).spool, is_tenant)

    async def declare(self, source: Source, table: metrics_pb2.SeriesTable) -> None:
        """A node gives numbers to series."""
        await self._intake.declare(source, table)

    def take(self, source: Source, samples: metrics_pb2.Samples) -> None:
        """A node's batch; acknowledged when it is on the disk."""
        self._intake.take(source, samples)
        self._acks.append((source, samples.sequence))
        self._came.set()

    def gone(self, node_id: str) -> None:
        """A node has left, or has been away for longer than a cut lasts."""
        self._intake.gone(node_id)
        self._came.set()

    async def run(self, observe: Callable[[], None]) -> None:
        """For ever; `observe` brings the hub's gauges up to date. What a crash left in the spools is delivered too."""
        async with asyncio.TaskGroup() as self._tasks:
            for folder in sorted(self._folder.glob("*/")):
                self._way(folder.name)
            self._tasks.create_task(self._keep(), name="forward-keep")
            self._tasks.create_task(self._sample(observe), name="forward-sample")

    def observe(self) -> None:
        """Tell the gauges how things are."""
        for tenant, way in self._ways.items():
            metrics.FORWARD_LAG.labels(tenant).set(way.sender.lag_s())
            metrics.FORWARD_SPOOL.labels(tenant).set(way.spool.size_bytes)
            metrics.FORWARD_SPOOL_LIMIT.labels(tenant).set(way.spool.max_bytes)

    def close(self) -> None:
        """Put on the disk what has come in."""
        for tenant, way in self._ways.items():
            try:
                way.spool.close()
            except OSError as error:
                _log.error("samples not kept", extra={"tenant": tenant, "why": str(error)})

    def _way(self, tenant: str) -> _Way:
        if tenant not in self._ways:
            assert self._tasks
            spool = Spool(self._folder / tenant, self.config.spool_max_bytes, self.config.spool_max_age_s)
            sender = Sender(tenant, spool, self._sink, self.config)
            self._ways[tenant] = _Way(spool, sender)
            self._tasks.create_task(_kept_going(tenant, sender), name=f"forward-{tenant}")
        return self._ways[tenant]

    async def _keep(self) -> None:
        """Put on the disk what has come in, and only then acknowledge it."""
        while True:
            await self._came.wait()
            self._came.clear()
            acks, self._acks = self._acks, []
            try:
                for way in self._ways.values():
                    way.spool.flush()
                await asyncio.to_thread(self._sync)
            except OSError as error:
                _log.error("samples not kept yet", extra={"why": str(error)})
                self._acks = acks + self._acks
                await asyncio.sleep(RETRY_PAUSE_S)
                self._came.set()
                continue
            _acknowledge(acks)
            for tenant, way in self._ways.items():
                for reason, count in way.spool.give_up().items():
                    metrics.FORWARD_DROPPED.labels(tenant, reason).inc(count)
                way.sender.wake()
            await asyncio.sleep(FLUSH_PAUSE_S)

    def _sync(self) -> None:
        for way in list(self._ways.values()):
            way.spool.sync()

    async def _sample(self, observe: Callable[[], None]) -> None:
        while True:
            observe()
            own = {}
            for series, value in snapshot(metrics.REGISTRY).items():
                labels = tuple(sorted([*series.labels, ("hub", self._hub_id)]))
                own[packed(message(replace(series, labels=labels)))] = value
            self._intake.own(f"hub:{self._hub_id}", own)
            self._came.set()
            await asyncio.sleep(self.config.interval_s)


async def _kept_going(tenant: str, sender: Sender) -> None:
    """Whatever goes wrong for one tenant is its own affair."""
    while True:
        try:
            await sender.run()
        except Exception:
            _log.exception("forwarding failed; it goes on from where it was", extra={"tenant": tenant})
            await asyncio.sleep(FAILED_PAUSE_S)


def _acknowledge(acks: list[tuple[Source, int]]) -> None:
    """A few batches at a time, which halves what an acknowledgement costs."""
    for source, sequence in acks:
        source.kept.append(sequence)
        if len(source.kept) >= ACKNOWLEDGED_TOGETHER or source.leaving:
            source.acknowledge(source.kept)
            source.kept = []
