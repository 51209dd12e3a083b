"""Batches for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hub.forward.layouts import Layout, packed
from hub.forward.spool import Batch
from sonic.v1 import metrics_pb2

NOW_MS = 1_795_000_000_000


def series(name: str, labels: dict[str, str]) -> metrics_pb2.Series:
    made = [metrics_pb2.Label(name=key, value=value) for key, value in sorted(labels.items())]
    return metrics_pb2.Series(name=name, labels=made, type=metrics_pb2.METRIC_TYPE_GAUGE, help=f"Help of {name}.")


def layout(source: str, count: int, **labels: str) -> Layout:
    """As many series of a node, told apart by a label `n`."""
    place = {"region": "eu", "node_id": source, **labels}
    return Layout(source, tuple(packed(series("m", {**place, "n": str(number)})) for number in range(count)))


def batch(source: str, count: int, at_unix_ms: int = NOW_MS, values: Sequence[float] | None = None) -> Batch:
    return Batch(layout(source, count), at_unix_ms, np.array(range(count) if values is None else values, float))
