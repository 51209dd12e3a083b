"""Jobs and nodes as the wire shows them: what is stored, with what is live laid over it."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from hub import wire
from hub.core.decisions import Decision, Kind
from hub.core.health import Health
from hub.core.jobs import State
from hub.core.nodes import DRAIN_WANTED, Node, NodeState
from hub.core.prospects import Outlook
from hub.server.sessions import AgentSession
from hub.store.records import JobRecord
from sonic.v1 import decisions_pb2, enrolment_service_pb2, fleet_service_pb2, jobs_pb2, nodes_pb2

STATES = {
    State.QUEUED: jobs_pb2.JOB_STATE_QUEUED,
    State.ASSIGNED: jobs_pb2.JOB_STATE_ASSIGNED,
    State.RUNNING: jobs_pb2.JOB_STATE_RUNNING,
    State.SUCCEEDED: jobs_pb2.JOB_STATE_SUCCEEDED,
    State.FAILED: jobs_pb2.JOB_STATE_FAILED,
    State.CANCELLED: jobs_pb2.JOB_STATE_CANCELLED,
}
NODE_STATES = {
    NodeState.JOINING: nodes_pb2.NODE_STATE_JOINING,
    NodeState.READY: nodes_pb2.NODE_STATE_READY,
    NodeState.DEGRADED: nodes_pb2.NODE_STATE_DEGRADED,
    NodeState.EJECTED: nodes_pb2.NODE_STATE_EJECTED,
    NodeState.DRAINING: nodes_pb2.NODE_STATE_DRAINING,
    NodeState.OFFLINE: nodes_pb2.NODE_STATE_OFFLINE,
}
NODE_STANDINGS = {value: key for key, value in NODE_STATES.items()}


def job(record: JobRecord, outlook: Outlook) -> jobs_pb2.Job:
    """A job for its tenant."""
    row = record.row
    message = jobs_pb2.Job(
        job_id=row.job_id,
        tenant=row.tenant,
        spec=jobs_pb2.JobSpec.FromString(row.spec),
        state=STATES[record.state],
        revision=row.revision,
        attempts=[_attempt(attempt) for attempt in record.attempts],
        submitted_at=wire.timestamp(row.submitted_at_s),
        started_at=wire.timestamp(row.started_at_s),
        ended_at=wire.timestamp(row.ended_at_s),
        idempotency_key=row.idempotency_key,
        warnings=jobs_pb2.RenderReport.FromString(row.cautions or b"").warnings,
    )
    if row.failure is not None:
        message.failure.ParseFromString(row.failure)
    if row.result is not None:
        result = fleet_service_pb2.RenderedVideo.FromString(row.result)
        message.video.CopyFrom(result.video)
        message.report.CopyFrom(result.report)
        known = {(warning.reason, warning.message) for warning in message.warnings}
        message.warnings.extend(w for w in result.report.warnings if (w.reason, w.message) not in known)
    if not record.state.ended:
        message.progress.CopyFrom(wire.progress_message(outlook.progress))
        message.queue_position = outlook.queue_position if record.state is State.QUEUED else 0
        if outlook.start:
            message.forecast.start.CopyFrom(wire.estimate_message(outlook.start))
        if outlook.finish:
            message.forecast.finish.CopyFrom(wire.estimate_message(outlook.finish))
            message.eta_seconds = outlook.finish.expected_s
    return message


def _attempt(row: sa.Row[Any]) -> jobs_pb2.Attempt:
    message = jobs_pb2.Attempt(
        attempt=row.attempt,
        node_id=row.node_id,
        region=row.region,
        assigned_at=wire.timestamp(row.assigned_at_s),
        started_at=wire.timestamp(row.started_at_s),
        ended_at=wire.timestamp(row.ended_at_s),
        placement_reason=row.placement_reason,
    )
    if row.failure is not None:
        message.failure.ParseFromString(row.failure)
    return message


def decisions(record: JobRecord) -> list[decisions_pb2.Decision]:
    """What was decided about a job, from its attempts and its end, the oldest first."""
    found: list[decisions_pb2.Decision] = []
    for row in record.attempts:
        if row.decision is not None:
            found.append(decisions_pb2.Decision.FromString(row.decision))
        else:  # a hub of the version before did not keep more
            placed = Decision(Kind.PLACED, row.placement_reason, row.job_id, row.attempt, row.node_id)
            found.append(wire.decision_message(placed, row.assigned_at_s, ""))
        if row.failure is not None and row.ended_at_s is not None:
            why = jobs_pb2.JobFailure.FromString(row.failure)
            ended = record.state.ended and row.attempt == record.row.attempt
            kind = Kind.ENDED if ended else Kind.REQUEUED
            reason = f"{why.message} ({why.reason})"
            value = Decision(kind, reason, row.job_id, row.attempt, row.node_id)
            found.append(wire.decision_message(value, row.ended_at_s, ""))
    if record.state.ended and not (found and found[-1].kind == decisions_pb2.DECISION_KIND_ENDED):
        found.append(wire.decision_message(_end(record), record.row.ended_at_s, ""))
    return found


def _end(record: JobRecord) -> Decision:
    row = record.row
    if record.state is State.SUCCEEDED:
        won = next(attempt for attempt in record.attempts if attempt.attempt == row.won_by)
        return Decision(Kind.ENDED, "succeeded: the first valid result", row.job_id, row.won_by, won.node_id)
    if record.state is State.FAILED:
        why = jobs_pb2.JobFailure.FromString(row.failure)
        return Decision(Kind.ENDED, f"{why.message} ({why.reason})", row.job_id, row.attempt)
    return Decision(Kind.ENDED, "cancelled by the caller", row.job_id, row.attempt)


def node(
    row: sa.Row[Any], known: Node | None, session: AgentSession | None, health: Health | None, hub_id: str = ""
) -> nodes_pb2.Node:
    """A node for an operator: its row, what the decisions hold of it, and what it last said to this hub."""
    message = live(known, session, health)
    _name(message, row, session.heard_at_s if session else row.last_heard_at_s)
    message.hub_id = hub_id if session else ""
    return message


def live(known: Node | None, session: AgentSession | None, health: Health | None) -> nodes_pb2.Node:
    """What is in no row: how a node stands, and what it last said."""
    state, reason = known.state if known else (NodeState.OFFLINE, "no session")
    message = nodes_pb2.Node(state=NODE_STATES[state], state_reason=reason)
    if session:
        message.gpus.extend(session.hello.gpus)
        message.slots.extend(session.slots)
        message.health.CopyFrom(session.health)
        message.plays_faults = session.hello.plays_faults
        message.faults.extend(session.faults)
    if health:
        message.standing.CopyFrom(wire.health_message(health))
    return message


def node_elsewhere(row: sa.Row[Any]) -> nodes_pb2.Node:
    """A node whose session is with another hub, as that one has described it, and with the operators' newest wish."""
    message = nodes_pb2.Node.FromString(row.about or b"")
    _name(message, row, row.last_heard_at_s)
    message.hub_id = row.hub_id
    drains, wanted = message.state == nodes_pb2.NODE_STATE_DRAINING, row.drain_wanted
    if not message.state or message.state == nodes_pb2.NODE_STATE_OFFLINE:
        message.state, message.state_reason = nodes_pb2.NODE_STATE_JOINING, "has just joined another hub"
    if wanted and not drains:
        message.state, message.state_reason = nodes_pb2.NODE_STATE_DRAINING, DRAIN_WANTED
    elif drains and not wanted and message.state_reason == DRAIN_WANTED:
        message.state, message.state_reason = nodes_pb2.NODE_STATE_READY, ""
    return message


def _name(message: nodes_pb2.Node, row: sa.Row[Any], heard_at_s: float) -> None:
    named = nodes_pb2.Node(
        node_id=row.node_id,
        region=row.region,
        agent_version=row.agent_version,
        joined_at=wire.timestamp(row.joined_at_s),
        last_heard_at=wire.timestamp(heard_at_s),
    )
    message.MergeFrom(named)


def now_message() -> Any:
    """The hub's wall clock as a message."""
    return wire.timestamp(time.time())


def join_token(row: sa.Row[Any]) -> enrolment_service_pb2.JoinToken:
    """A token as operators see it."""
    return enrolment_service_pb2.JoinToken(
        token_id=row.token_id,
        region=row.region,
        node_id=row.node_id,
        uses_left=row.uses_left,
        created_at=wire.timestamp(row.created_at_s),
        expires_at=wire.timestamp(row.expires_at_s),
        revoked=row.revoked_at_s is not None,
    )
