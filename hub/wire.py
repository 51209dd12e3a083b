"""Between the decisions' values and the wire's messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from google.protobuf.timestamp_pb2 import Timestamp

from hub.core import events
from hub.core.decisions import Decision
from hub.core.faults import Failure, Fault, Problem
from hub.core.forecast import Estimate
from hub.core.health import GpuReading, Health
from hub.core.jobs import Progress, Ref, Requirement
from hub.core.nodes import Gpu, Slot, SlotState
from sonic.v1 import decisions_pb2, fleet_service_pb2, jobs_pb2, nodes_pb2

MAX_PARTS = 256
"""Slots, GPUs and inputs of one node, and problems of one failure, that are looked at; no box has more."""
MAX_XIDS = 64
"""Codes of one GPU that are looked at; none has so many kinds of trouble."""
MAX_NAME_CHARACTERS = 128
MAX_TEXT_CHARACTERS = 4000
_LEAST = 1e-9  # whatever is measured here; what is divided by less is infinite
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


def sane(number: float, most: float = 1e9) -> float:
    """What a peer says, up to `most`; what is no number, is beyond, or next to nothing, counts as 0: not said."""
    return number if _LEAST <= number <= most else 0.0


def text(said: str, most: int = MAX_NAME_CHARACTERS) -> str:
    """What a peer says, up to `most` characters, but for what cannot be printed: no database takes all of that."""
    if len(said) <= most and said.isprintable():
        return said
    return "".join(character for character in said[:most] if character.isprintable() or character in "\n\t")


def progress(message: jobs_pb2.Progress) -> Progress:
    return Progress(text(message.stage), message.done, message.total, sane(message.fraction, 1.0))


def progress_message(value: Progress) -> jobs_pb2.Progress:
    return jobs_pb2.Progress(stage=value.stage, done=value.done, total=value.total, fraction=value.fraction)


def failure(message: jobs_pb2.JobFailure) -> Failure:
    """A fault kind that this hub does not know counts as an internal one."""
    kind = int(message.fault)
    fault = Fault(kind) if kind in set(Fault) - {Fault.UNSPECIFIED} else Fault.INTERNAL
    problems = tuple(
        Problem(text(problem.field), text(problem.description, MAX_TEXT_CHARACTERS))
        for problem in message.problems[:MAX_PARTS]
    )
    return Failure(fault, text(message.reason) or fault.name, text(message.message, MAX_TEXT_CHARACTERS), problems)


def failure_message(value: Failure) -> jobs_pb2.JobFailure:
    problems = [jobs_pb2.FieldProblem(field=p.field, description=p.description) for p in value.problems]
    fault = jobs_pb2.FaultKind.ValueType(value.fault)
    return jobs_pb2.JobFailure(fault=fault, reason=value.reason, message=value.message, problems=problems)


def slot(message: nodes_pb2.Slot) -> Slot:
    """A state that this hub does not know is not ready."""
    return Slot(
        index=message.index,
        state=_SLOT_STATES.get(message.state, SlotState.STARTING),
        engines=tuple(Requirement(text(engine.engine), text(engine.model_version)) for engine in message.engines),
        realtime_factor=sane(message.probe_realtime_factor),
        detail=text(message.detail, MAX_TEXT_CHARACTERS),
        gpu_uuid=text(message.gpu_uuid),
    )


def slots(messages: Sequence[nodes_pb2.Slot]) -> tuple[Slot, ...]:
    return tuple(slot(message) for message in messages[:MAX_PARTS])


def readings(gpus: Sequence[nodes_pb2.GpuInfo], health: nodes_pb2.NodeHealth) -> tuple[GpuReading, ...]:
    """The accelerators that the Hello has named, as a heartbeat has measured them: others would be kept for ever."""
    about = {gpu.uuid: gpu for gpu in gpus[:MAX_PARTS]}
    return tuple(
        GpuReading(
            uuid=text(measured.uuid),
            name=text(about[measured.uuid].name),
            driver_version=text(about[measured.uuid].driver_version),
            memory_total_bytes=max(about[measured.uuid].memory_bytes, 0),
            memory_used_bytes=max(measured.memory_used_bytes, 0),
            temperature_celsius=sane(measured.temperature_celsius),
            throttle_reasons=tuple(map(text, measured.throttle_reasons[:MAX_PARTS])),
            ecc_uncorrected_errors=_optional(measured, "ecc_uncorrected_errors"),
            xid_events={code: int(sane(count)) for code, count in islice(measured.xid_events.items(), MAX_XIDS)},
        )
        for measured in health.gpus[:MAX_PARTS]
        if measured.uuid in about
    )


def _optional(message: nodes_pb2.GpuHealth, name: str) -> int | None:
    return int(sane(getattr(message, name))) if message.HasField(name) else None  # type: ignore[arg-type]


def gpu(message: nodes_pb2.GpuInfo) -> Gpu:
    memory_bytes = max(message.memory_bytes, 0)
    return Gpu(text(message.uuid), text(message.name), memory_bytes, text(message.driver_version))


def rendered(report: jobs_pb2.RenderReport) -> events.Rendered | None:
    """What a report says of the work that the render was; nothing where another attempt had done a part of it."""
    if report.resumed_from:
        return None
    seconds = {stage.stage: sane(stage.seconds) for stage in report.stages}
    preparing_s = seconds.pop("preparing", 0.0)
    return events.Rendered(
        video_s=sane(report.video_seconds),
        render_s=sum(seconds.values()),
        preparing_s=preparing_s,
        portrait_was_prepared=report.portrait_was_prepared,
        peak_memory_bytes=max(report.peak_memory_bytes, 0),
    )


def probed(node_id: str, message: fleet_service_pb2.ProbeResult) -> events.Probed:
    """A result without an outcome counts as a failure."""
    clip = message.clip
    failed = None if message.HasField("clip") else failure(message.failure)
    return events.Probed(node_id, message.probe_id, message.slot, sane(clip.realtime_factor), text(clip.digest), failed)


def decision_message(value: Decision, at_s: float, hub_id: str) -> decisions_pb2.Decision:
    passed_over = [
        decisions_pb2.PassedOver(node_id=p.node_id, nodes=p.nodes, reason=p.reason, finish_seconds=p.finish_s)
        for p in value.passed_over
    ]
    return decisions_pb2.Decision(
        at=timestamp(at_s),
        kind=decisions_pb2.DecisionKind.ValueType(value.kind),
        job_id=value.job_id,
        attempt=value.attempt,
        node_id=value.node_id,
        reason=value.reason,
        passed_over=passed_over,
        finish_seconds=value.finish_s,
        hub_id=hub_id,
    )


def health_message(value: Health) -> decisions_pb2.HealthScore:
    factors = [
        decisions_pb2.HealthFactor(name=f.name, value=f.value, unit=f.unit, share=f.share, reason=f.reason)
        for f in value.factors
    ]
    return decisions_pb2.HealthScore(score=value.score, factors=factors)


def estimate_message(value: Estimate) -> jobs_pb2.SecondsRange:
    return jobs_pb2.SecondsRange(expected=value.expected_s, low=value.low_s, high=value.high_s)
