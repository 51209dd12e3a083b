"""The agent's numbers. Every series carries region, node_id and model_version; node_id and region never change."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agent.core.attempts import Failure, Fault, Outcome, Rendered
from sonic.v1 import nodes_pb2

COMMON = ("region", "node_id", "model_version")
RENDER_BUCKETS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)
NO_MODEL = "none"  # until a worker has loaded one


class Metrics:
    """Counts what the agent does."""

    def __init__(self, region: str, node_id: str) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._place = (region, node_id)
        self._model_version = NO_MODEL
        of = self.registry
        self._requests = Counter("sonic_request_total", "Attempts that ended here.", COMMON, registry=of)
        self._errors = Counter("sonic_error_total", "Attempts that failed here.", (*COMMON, "reason"), registry=of)
        self._utilization = Gauge("sonic_gpu_utilization", "Percent.", (*COMMON, "gpu"), registry=of)
        self._last = Gauge("sonic_inference_duration_seconds", "Of the last render.", COMMON, registry=of)
        self._renders = Histogram(
            "sonic_render_seconds", "Of every render.", COMMON, registry=of, buckets=RENDER_BUCKETS_S
        )
        self._restarts = Counter("sonic_worker_restarts_total", "After the first start.", COMMON, registry=of)
        self._reconnects = Counter("sonic_session_reconnects_total", "After the first call.", COMMON, registry=of)
        self._outbox = Gauge("sonic_outbox_results", "Not acknowledged by the hub.", COMMON, registry=of)
        self._slots = Gauge("sonic_slots", "Slots by state.", (*COMMON, "state"), registry=of)

    def model(self, version: str) -> None:
        """Label what comes with this model version; gauges of the one before are gone."""
        if version != self._model_version:
            for gauge in (self._utilization, self._last, self._outbox, self._slots):
                gauge.clear()
        self._model_version = version
        for metric in (self._requests, self._renders, self._restarts, self._reconnects):
            metric.labels(*self._labels)

    def ended(self, outcome: Outcome) -> None:
        """An attempt has ended; what was declined is no request."""
        if isinstance(outcome, Failure) and outcome.fault is Fault.DECLINED:
            return
        self._requests.labels(*self._labels).inc()
        if isinstance(outcome, Failure):
            self._errors.labels(*self._labels, outcome.reason).inc()
        if isinstance(outcome, Rendered):
            self._last.labels(*self._labels).set(outcome.seconds)
            self._renders.labels(*self._labels).observe(outcome.seconds)

    def worker_restarted(self) -> None:
        self._restarts.labels(*self._labels).inc()

    def reconnected(self) -> None:
        self._reconnects.labels(*self._labels).inc()

    def outbox(self, results: int) -> None:
        self._outbox.labels(*self._labels).set(results)

    def slots(self, by_state: dict[str, int]) -> None:
        """How many slots are in each state."""
        for state, count in by_state.items():
            self._slots.labels(*self._labels, state).set(count)

    def health(self, health: nodes_pb2.NodeHealth) -> None:
        for gpu in health.gpus:
            self._utilization.labels(*self._labels, gpu.uuid).set(gpu.utilization_percent)

    @property
    def _labels(self) -> tuple[str, str, str]:
        return (*self._place, self._model_version)
