"""The hub's own numbers: every metric is named once, in METRICS; docs/metrics.md follows.

They are on the hub's /metrics, and go the way of the nodes' into the operator's tenant, there with a label `hub`.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from hub.core.faults import Failure, Fault
from sonic.metrics import Metric, register

_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14_400)
_COMMITS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
_PLACEMENTS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)

METRICS = (
    Metric("sonic_hub_jobs_submitted_total", "counter", "jobs", ("tenant",), "Jobs accepted and stored."),
    Metric("sonic_hub_jobs_ended_total", "counter", "jobs", ("tenant", "state"), "Jobs that have ended."),
    Metric("sonic_hub_jobs", "gauge", "jobs", ("tenant", "state"), "Jobs that have not ended."),
    Metric(
        "sonic_hub_queue_wait_seconds",
        "histogram",
        "seconds",
        ("tenant",),
        "From submission to the first assignment.",
        _SECONDS,
    ),
    Metric(
        "sonic_hub_requeues_total", "counter", "attempts", ("reason",), "Tries that ended without ending their job."
    ),
    Metric("sonic_hub_placements_total", "counter", "jobs", ("region", "reason"), "Jobs given to a node."),
    Metric(
        "sonic_hub_placement_seconds",
        "histogram",
        "seconds",
        (),
        "Time to choose a slot, per job placed.",
        _PLACEMENTS,
    ),
    Metric("sonic_hub_sessions", "gauge", "agents", ("region",), "Agents connected."),
    Metric("sonic_hub_nodes", "gauge", "nodes", ("region", "state"), "Nodes by their standing."),
    Metric(
        "sonic_hub_node_up",
        "gauge",
        "0 or 1",
        ("region", "node_id"),
        "Whether a node is connected; none of one that has left or been away for a day.",
    ),
    Metric(
        "sonic_hub_node_decisions_total",
        "counter",
        "decisions",
        ("region", "kind"),
        "Decisions about nodes: derated, ejected, probing, readmitted, spared; frozen and thawed of all.",
    ),
    Metric("sonic_hub_node_health", "gauge", "ratio", ("region", "node_id"), "How far a connected node is trusted."),
    Metric(
        "sonic_hub_requeue_freezes_total",
        "counter",
        "freezes",
        (),
        "How often nothing was requeued for a while, since many sessions had vanished at once.",
    ),
    Metric(
        "sonic_hub_store_failures_total", "counter", "transactions", (), "Transactions that failed and were repeated."
    ),
    Metric("sonic_hub_commit_seconds", "histogram", "seconds", (), "Time of one transaction.", _COMMITS),
    Metric(
        "sonic_hub_forward_received_samples_total",
        "counter",
        "samples",
        ("tenant",),
        "Samples taken from nodes and hubs.",
    ),
    Metric("sonic_hub_forward_sent_samples_total", "counter", "samples", ("tenant",), "Samples that were delivered."),
    Metric(
        "sonic_hub_forward_refused_samples_total",
        "counter",
        "samples",
        ("tenant", "reason"),
        "Samples of requests that the receiver refused for good; of these it may have stored a part.",
    ),
    Metric(
        "sonic_hub_forward_dropped_samples_total",
        "counter",
        "samples",
        ("tenant", "reason"),
        "Samples given up: spool_full, too_old, unreadable, or what is wrong with series that no receiver would take.",
    ),
    Metric(
        "sonic_hub_forward_requests_total",
        "counter",
        "requests",
        ("tenant", "code"),
        "Requests, by HTTP status or none.",
    ),
    Metric(
        "sonic_hub_forward_lag_seconds",
        "gauge",
        "seconds",
        ("tenant",),
        "Age of the oldest sample that is being delivered; 0 when none is.",
    ),
    Metric("sonic_hub_forward_spool_bytes", "gauge", "bytes", ("tenant",), "Samples on disk that are not delivered."),
    Metric("sonic_hub_forward_spool_limit_bytes", "gauge", "bytes", ("tenant",), "The most that a spool may take."),
    Metric(
        "sonic_hub_forward_held",
        "gauge",
        "1",
        ("tenant", "code"),
        "There while the receiver refuses everything of a tenant, by HTTP status.",
    ),
)

_REASONS = {
    *("ASSIGNMENT_LOST", "ATTEMPT_LOST", "DECLINED", "DEVICE_FAILED", "INPUT_CORRUPT", "INPUT_UNAVAILABLE"),
    *("LEASE_EXPIRED", "MODEL_BROKEN", "MODEL_MISSING", "OUTPUT_BROKEN", "OUTPUT_UNWRITABLE", "OUT_OF_MEMORY"),
    *("RESULT_NOT_KEPT", "STOPPED", "UPLOAD_REFUSED", "WORKER_CRASHED", "WORKER_HUNG", "WOULD_NOT_FIT"),
    *(fault.name for fault in Fault),  # of a failure that has no reason of its own
}  # docs/errors.md says what each means

REGISTRY = CollectorRegistry()
_MADE: dict[str, Any] = dict(register(METRICS, (), REGISTRY))


def _made(name: str) -> Any:
    return _MADE[f"sonic_hub_{name}"]


JOBS_SUBMITTED = _made("jobs_submitted_total")
JOBS_ENDED = _made("jobs_ended_total")
JOBS = _made("jobs")
QUEUE_WAIT = _made("queue_wait_seconds")
REQUEUES = _made("requeues_total")
PLACEMENTS = _made("placements_total")
PLACEMENT_SECONDS = _made("placement_seconds")
SESSIONS = _made("sessions")
NODES = _made("nodes")
NODE_UP = _made("node_up")
DECISIONS = _made("node_decisions_total")
NODE_HEALTH = _made("node_health")
FREEZES = _made("requeue_freezes_total")
STORE_FAILURES = _made("store_failures_total")
COMMIT_SECONDS = _made("commit_seconds")
FORWARD_RECEIVED = _made("forward_received_samples_total")
FORWARD_SENT = _made("forward_sent_samples_total")
FORWARD_REFUSED = _made("forward_refused_samples_total")
FORWARD_DROPPED = _made("forward_dropped_samples_total")
FORWARD_REQUESTS = _made("forward_requests_total")
FORWARD_LAG = _made("forward_lag_seconds")
FORWARD_SPOOL = _made("forward_spool_bytes")
FORWARD_SPOOL_LIMIT = _made("forward_spool_limit_bytes")
FORWARD_HELD = _made("forward_held")


def reason_label(failure: Failure) -> str:
    """OTHER for what only an agent would say: each label is a series that stays for as long as the hub runs."""
    return failure.reason if failure.reason in _REASONS else "OTHER"
