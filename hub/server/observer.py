"""How things are in the hub, told to its gauges whenever they are read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from prometheus_client import Gauge

from hub.forward.forwarder import Forwarder
from hub.server import metrics
from hub.server.dispatcher import Dispatcher
from hub.server.sessions import Sessions

FORGET_S = 86_400.0  # a node away for longer is no news any more


class Observer:
    """Sets the gauges."""

    def __init__(self, dispatcher: Dispatcher, sessions: Sessions, forwarder: Forwarder | None) -> None:
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._forwarder = forwarder
        self._away_since_s: dict[str, float] = {}
        for gauge in (metrics.NODE_UP, metrics.NODE_HEALTH):
            gauge.clear()
        self._up, self._trusted = _PerNode(metrics.NODE_UP), _PerNode(metrics.NODE_HEALTH)

    def __call__(self) -> None:
        self._observe_jobs()
        self._observe_nodes()
        if self._forwarder:
            self._forwarder.observe()

    def _observe_jobs(self) -> None:
        metrics.JOBS.clear()
        for (tenant, state), count in self._dispatcher.jobs_by_state().items():
            metrics.JOBS.labels(tenant, state).set(count)

    def _observe_nodes(self) -> None:
        for gauge in (metrics.SESSIONS, metrics.NODES):
            gauge.clear()
        nodes = self._dispatcher.nodes.values()
        for region, count in Counter(session.hello.region for session in self._sessions.all()).items():
            metrics.SESSIONS.labels(region).set(count)
        for (region, state), count in Counter((node.region, node.state[0]) for node in nodes).items():
            metrics.NODES.labels(region, state).set(count)
        now_s = time.monotonic()
        up: dict[tuple[str, str], float] = {}
        trusted: dict[tuple[str, str], float] = {}
        for node in nodes:
            is_up = node.online or bool(node.hub_id)
            since_s = now_s if is_up else self._away_since_s.get(node.node_id, now_s)
            self._away_since_s[node.node_id] = since_s
            if not self._sessions.left(node.node_id) and now_s - since_s < FORGET_S:
                up[node.region, node.node_id] = is_up
            if health := self._dispatcher.health(node.node_id):
                trusted[node.region, node.node_id] = health.score
        self._up.show(up)
        self._trusted.show(trusted)


class _PerNode:
    """A gauge with a series for each of thousands of nodes: making one costs ten times as much as setting it."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._series: dict[tuple[str, str], Gauge] = {}

    def show(self, values: Mapping[tuple[str, str], float]) -> None:
        """These series and no others."""
        for labels in [labels for labels in self._series if labels not in values]:
            del self._series[labels]
            self._gauge.remove(*labels)
        for labels, value in values.items():
            if labels not in self._series:
                self._series[labels] = self._gauge.labels(*labels)
            self._series[labels].set(value)
