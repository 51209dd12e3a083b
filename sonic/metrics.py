"""Metrics named in tables, and what all their series are at one moment: for /metrics, for the hub and for the docs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sonic.v1 import metrics_pb2

_KINDS: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
_TYPES = {
    "counter": metrics_pb2.METRIC_TYPE_COUNTER,
    "gauge": metrics_pb2.METRIC_TYPE_GAUGE,
    "histogram": metrics_pb2.METRIC_TYPE_HISTOGRAM,
}


@dataclass(frozen=True)
class Metric:
    """One metric; `labels` are those beside the ones that all of its table have."""

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True)
class Series:
    """One series; labels are sorted by name, none is empty."""

    name: str
    labels: tuple[tuple[str, str], ...]
    kind: str
    help: str


def register(
    table: Iterable[Metric], common: tuple[str, ...], registry: CollectorRegistry
) -> dict[str, Counter | Gauge | Histogram]:
    """Make every metric of the table, with these labels before its own."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    made = {}
    for metric in table:
        more = {"buckets": metric.buckets} if metric.buckets else {}
        made[metric.name] = _KINDS[metric.kind](
            metric.name, metric.help, (*common, *metric.labels), registry=registry, **more
        )
    return made


def snapshot(registry: CollectorRegistry) -> dict[Series, float]:
    """Every series and its value now."""
    return {
        Series(sample.name, _labels(sample.labels), family.type, family.documentation): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def message(series: Series) -> metrics_pb2.Series:
    """The series as the wire has it."""
    labels = [metrics_pb2.Label(name=name, value=value) for name, value in series.labels]
    return metrics_pb2.Series(name=series.name, labels=labels, type=_TYPES[series.kind], help=series.help)


def _labels(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in labels.items() if value))
