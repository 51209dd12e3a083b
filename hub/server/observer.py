"""How things are in the hub, told to its gauges whenever they are read."""

from __future__ import annotations

import time
from collections import Counter

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
        for gauge in (metrics.SESSIONS, metrics.NODES, metrics.NODE_UP):
            gauge.clear()
        nodes = self._dispatcher.nodes.values()
        for region, count in Counter(session.hello.region for session in self._sessions.all()).items():
            metrics.SESSIONS.labels(region).set(count)
        for (region, state), count in Counter((node.region, node.state[0]) for node in nodes).items():
            metrics.NODES.labels(region, state).set(count)
        now_s = time.monotonic()
        for node in nodes:
            up = node.online or bool(node.hub_id)
            since_s = now_s if up else self._away_since_s.get(node.node_id, now_s)
            self._away_since_s[node.node_id] = since_s
            if not self._sessions.left(node.node_id) and now_s - since_s < FORGET_S:
                metrics.NODE_UP.labels(node.region, node.node_id).set(up)
