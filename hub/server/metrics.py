"""The hub's own metrics, on its /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

JOBS_SUBMITTED = Counter("sonic_hub_jobs_submitted", "Jobs accepted and stored.", registry=REGISTRY)
JOBS_ENDED = Counter("sonic_hub_jobs_ended", "Jobs that have ended.", ["state"], registry=REGISTRY)
REQUEUES = Counter("sonic_hub_requeues", "Tries that ended without ending their job.", ["reason"], registry=REGISTRY)
PLACEMENTS = Counter("sonic_hub_placements", "Jobs given to a node.", ["region"], registry=REGISTRY)
QUEUE_DEPTH = Gauge("sonic_hub_queue_depth", "Jobs that wait for a slot.", registry=REGISTRY)
SESSIONS = Gauge("sonic_hub_sessions", "Agents connected.", registry=REGISTRY)
STORE_FAILURES = Counter(
    "sonic_hub_store_failures", "Transactions that failed and were tried again.", registry=REGISTRY
)
COMMIT_SECONDS = Histogram("sonic_hub_commit_seconds", "Time of one transaction of the dispatcher.", registry=REGISTRY)
