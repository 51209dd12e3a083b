"""Between the decisions' values and the wire's messages."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from hub.core.faults import Failure, Fault, Problem
from hub.core.jobs import Progress, Ref, Requirement
from hub.core.nodes import Slot, SlotState
from sonic.v1 import jobs_pb2, nodes_pb2

_SLOT_STATES = {
    nodes_pb2.SLOT_STATE_STARTING: SlotState.STARTING,
    nodes_pb2.SLOT_STATE_READY: SlotState.READY,
    nodes_pb2.SLOT_STATE_BUSY: SlotState.BUSY,
    nodes_pb2.SLOT_STATE_BACKOFF: SlotState.BACKOFF,
}


def timestamp(seconds: float | None) -> Timestamp | None:
    """Seconds since the epoch as a message; None stays None."""
    if seconds is None:
        return None
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e6) * 1000)


def ref(message: jobs_pb2.AttemptRef) -> Ref:
    return Ref(message.job_id, message.attempt)


def ref_message(value: Ref) -> jobs_pb2.AttemptRef:
    return jobs_pb2.AttemptRef(job_id=value.job_id, attempt=value.attempt)


def progress(message: jobs_pb2.Progress) -> Progress:
    return Progress(message.stage, message.done, message.total, min(max(message.fraction, 0.0), 1.0))


def progress_message(value: Progress) -> jobs_pb2.Progress:
    return jobs_pb2.Progress(stage=value.stage, done=value.done, total=value.total, fraction=value.fraction)


def failure(message: jobs_pb2.JobFailure) -> Failure:
    """A fault kind that this hub does not know counts as an internal one."""
    kind = int(message.fault)
    fault = Fault(kind) if kind in set(Fault) - {Fault.UNSPECIFIED} else Fault.INTERNAL
    problems = tuple(Problem(problem.field, problem.description) for problem in message.problems)
    return Failure(fault, message.reason or fault.name, message.message, problems)


def failure_message(value: Failure) -> jobs_pb2.JobFailure:
    problems = [jobs_pb2.FieldProblem(field=p.field, description=p.description) for p in value.problems]
    fault = jobs_pb2.FaultKind.ValueType(value.fault)
    return jobs_pb2.JobFailure(fault=fault, reason=value.reason, message=value.message, problems=problems)


def slot(message: nodes_pb2.Slot) -> Slot:
    """A state that this hub does not know is not ready."""
    return Slot(
        index=message.index,
        state=_SLOT_STATES.get(message.state, SlotState.STARTING),
        engines=tuple(Requirement(engine.engine, engine.model_version) for engine in message.engines),
        realtime_factor=message.probe_realtime_factor,
        detail=message.detail,
    )
