"""From what nodes say in their sessions to the spools of those who own it.

A series that names a tenant which has jobs here goes to that tenant; every other is the operator's. What a node sends
again, because it did not hear the acknowledgement, is known by its sequence number. A node whose clock is off by more
than the bound has its samples moved to the hub's time, so that it cannot raise the floor of its tenant in Mimir.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hub.core.tenants import tenant_problem
from hub.forward import layouts
from hub.forward.layouts import Layout
from hub.forward.spool import STALE, Cursor, Spool
from hub.server import metrics
from sonic.v1 import metrics_pb2

MAX_TABLES = 64  # of one session

Acknowledge = Callable[[list[int]], None]


@dataclass(frozen=True)
class Terms:
    """What the intake goes by."""

    operator: str
    late_samples: bool
    max_clock_offset_s: float
    max_age_s: float


@dataclass(frozen=True)
class _Part:
    """The values of a batch that belong to one tenant."""

    tenant: str
    layout: Layout
    places: npt.NDArray[np.intp]


@dataclass
class Source:
    """One session of a node, and what was declared in it."""

    node_id: str
    region: str
    acknowledge: Acknowledge
    tables: dict[int, list[tuple[str, bytes]]] = field(default_factory=dict)  # tenant, packed series
    splits: dict[tuple[int, int, bytes], tuple[_Part, ...]] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)  # batches on the disk that are not acknowledged yet
    leaving: bool = False  # has said so, and waits for the acknowledgement of its last batch


class Intake:
    """Puts samples into spools. `spool` gives a tenant's."""

    def __init__(
        self, terms: Terms, spool: Callable[[str], Spool], is_tenant: Callable[[str], Awaitable[bool]]
    ) -> None:
        self._terms = terms
        self._spool = spool
        self._is_tenant = is_tenant
        self._received = functools.cache(metrics.FORWARD_RECEIVED.labels)  # looked up for every batch
        self._current: dict[str, dict[str, Layout]] = {}  # source -> tenant -> what it reports

    async def declare(self, source: Source, table: metrics_pb2.SeriesTable) -> None:
        """Learn the numbers of series."""
        if len(source.tables) >= MAX_TABLES and table.table_id not in source.tables:
            del source.tables[next(iter(source.tables))]
        known = source.tables.setdefault(table.table_id, [])
        source.splits.clear()
        place = {"region": source.region, "node_id": source.node_id}
        owners = {tenant: await self._owner(tenant) for tenant in {layouts.tenant_of(one) for one in table.series}}
        for series in table.series[: layouts.MAX_SERIES - len(known)]:
            if problem := layouts.problem(series, place):
                metrics.FORWARD_DROPPED.labels(self._terms.operator, problem).inc()
                known.append(("", b""))
            else:
                known.append((owners[layouts.tenant_of(series)], layouts.packed(series)))

    def take(self, source: Source, samples: metrics_pb2.Samples) -> None:
        """Put a batch into its spools."""
        values = np.array(samples.values, np.float64)
        numbers = np.array(samples.series, np.intp)
        parts = self._parts(source, samples.table_id, numbers, len(values))
        if not self._terms.late_samples and all(self._has(source.node_id, part, samples.sequence) for part in parts):
            return
        at_unix_ms = self._corrected(samples)
        self._end_series(source.node_id, samples.sequence, at_unix_ms, parts)
        for part in parts:
            self._put(part.tenant, part.layout, Cursor(samples.sequence, at_unix_ms), values[part.places])

    def own(self, name: str, values: Mapping[bytes, float]) -> None:
        """Put values of a hub itself, by packed series."""
        now_ms = time.time_ns() // 1_000_000
        layout = Layout(name, tuple(sorted(values)))
        part = _Part(self._terms.operator, layout, np.arange(len(values)))
        self._end_series(name, now_ms, now_ms, (part,))
        numbers = np.array([values[series] for series in layout.series], np.float64)
        self._put(part.tenant, layout, Cursor(now_ms, now_ms), numbers)

    def gone(self, source: str) -> None:
        """Nothing more comes of a source: its graphs end where they are, so that what it kept can still follow."""
        for tenant, layout in self._current.pop(source, {}).items():
            last = self._spool(tenant).cursors[source]
            self._put(tenant, layout, last, np.repeat(STALE, len(layout.series)), again=True)

    async def _owner(self, tenant: str) -> str:
        known = tenant and not tenant_problem(tenant) and await self._is_tenant(tenant)
        return tenant if known else self._terms.operator

    def _has(self, source: str, part: _Part, sequence: int) -> bool:
        """Whether a batch is there already: the node had not heard of it when it sent it again."""
        last = self._spool(part.tenant).cursors.get(source)
        return last is not None and sequence <= last.sequence

    def _parts(self, source: Source, table_id: int, numbers: npt.NDArray[np.intp], count: int) -> tuple[_Part, ...]:
        """Whose the values of a batch are; the same for every batch of the same series."""
        table = source.tables.get(table_id, [])
        key = (table_id, count, numbers.tobytes())
        if key not in source.splits:
            if len(source.splits) >= MAX_TABLES:
                source.splits.clear()
            listed = numbers.tolist() or range(count)
            source.splits[key] = _split(source.node_id, table, [n for n in listed[:count] if n < len(table)])
        return source.splits[key]

    def _corrected(self, samples: metrics_pb2.Samples) -> int:
        """When the samples were taken, by the hub's clock if the node's is off."""
        now_ms = time.time_ns() // 1_000_000
        age_ms = min(max(samples.age_ms, 0), int(self._terms.max_age_s * 1000))
        offset_ms = samples.at_unix_ms + age_ms - now_ms
        return samples.at_unix_ms if abs(offset_ms) <= self._terms.max_clock_offset_s * 1000 else now_ms - age_ms

    def _end_series(self, source: str, sequence: int, at_unix_ms: int, parts: Iterable[_Part]) -> None:
        """Series that were in the batch before and are not in this one get a staleness marker."""
        now = {part.tenant: part.layout for part in parts}
        before = self._current.get(source, {})
        if before == now:
            return
        self._current[source] = now
        for tenant, layout in before.items():
            left = set(now[tenant].series) if tenant in now else set()
            ended = tuple(series for series in layout.series if series not in left)
            if ended:
                last = self._spool(tenant).cursors[source]
                self._put(tenant, Layout(source, ended), last, np.repeat(STALE, len(ended)), again=True)

    def _put(
        self, tenant: str, layout: Layout, cursor: Cursor, values: npt.NDArray[np.float64], again: bool = False
    ) -> None:
        """`again`: more of the batch that the cursor stands for."""
        spool = self._spool(tenant)
        last = spool.cursors.get(layout.source)
        if last and not self._terms.late_samples:
            if cursor.sequence <= last.sequence and not again:
                return  # another tenant's part of the batch was lost, this one was not
            cursor = Cursor(cursor.sequence, max(cursor.at_unix_ms, last.at_unix_ms + 1))
        spool.put(layout, cursor, values)
        self._received(tenant).inc(len(values))


def _split(source: str, table: list[tuple[str, bytes]], numbers: list[int]) -> tuple[_Part, ...]:
    places: dict[str, list[int]] = {}
    seen = {b""}  # what no receiver would take is none
    for place, number in enumerate(numbers):
        tenant, series = table[number]
        if series not in seen:
            seen.add(series)
            places.setdefault(tenant, []).append(place)
    return tuple(
        _Part(tenant, Layout(source, tuple(table[numbers[place]][1] for place in own)), np.array(own, np.intp))
        for tenant, own in sorted(places.items())
    )
