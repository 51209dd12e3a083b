"""Between the wire's messages and what the decisions speak of."""

from __future__ import annotations

from agent.core import events
from agent.core.attempts import Failure, Fault, Outcome, Progress, Ref, Rendered, Work
from agent.core.game_day import GameDayFault
from agent.core.instructions import Clip, SendDraining, SendProbed, SendProgress, SendStarted, SlotView
from sonic.v1 import artifacts_pb2, jobs_pb2, nodes_pb2, worker_pb2
from sonic.v1 import fleet_service_pb2 as pb

DEFAULT_ENGINE = "warp"


def ref(message: jobs_pb2.AttemptRef) -> Ref:
    return Ref(message.job_id, message.attempt)


def ref_message(of: Ref) -> jobs_pb2.AttemptRef:
    return jobs_pb2.AttemptRef(job_id=of.job_id, attempt=of.attempt)


def work(message: pb.Assignment) -> Work:
    engine = message.spec.engine or DEFAULT_ENGINE
    return Work(ref(message.ref), message.slot, engine, message.spec.model_version, message.SerializeToString())


def failure(message: jobs_pb2.JobFailure) -> Failure:
    known = message.fault in {fault.value for fault in Fault}
    problems = tuple((problem.field, problem.description) for problem in message.problems)
    return Failure(Fault(message.fault) if known else Fault.INTERNAL, message.reason, message.message, problems)


def failure_message(of: Failure) -> jobs_pb2.JobFailure:
    return jobs_pb2.JobFailure(
        fault=jobs_pb2.FaultKind.ValueType(of.fault),
        reason=of.reason,
        message=of.message,
        problems=[jobs_pb2.FieldProblem(field=field, description=text) for field, text in of.problems],
    )


def progress_message(of: Progress) -> jobs_pb2.Progress:
    return jobs_pb2.Progress(stage=of.stage, done=of.done, total=of.total, fraction=of.fraction)


def result(of: Ref, outcome: Outcome, video: artifacts_pb2.Artifact | None) -> pb.AttemptResult:
    """The report of an outcome; a rendered one comes with its video."""
    message = pb.AttemptResult(ref=ref_message(of))
    if isinstance(outcome, Rendered):
        report = jobs_pb2.RenderReport.FromString(outcome.report)
        message.video.CopyFrom(pb.RenderedVideo(video=video, report=report))
    elif isinstance(outcome, Failure):
        message.failure.CopyFrom(failure_message(outcome))
    else:
        message.stopped.SetInParent()
    return message


def checkpoint_message(of: Ref, state: artifacts_pb2.Artifact, done: int, total: int) -> pb.SessionRequest:
    told = pb.AttemptCheckpoint(ref=ref_message(of), state=state, done=done, total=total)
    return pb.SessionRequest(checkpoint=told)


def slot_message(view: SlotView, gpu: nodes_pb2.GpuInfo | None) -> nodes_pb2.Slot:
    return nodes_pb2.Slot(
        index=view.index,
        state=nodes_pb2.SlotState.ValueType(view.state),
        attempt=ref_message(view.attempt) if view.attempt else None,
        probe_realtime_factor=view.realtime_factor,
        engines=[nodes_pb2.EngineInfo(engine=name, model_version=version) for name, version in view.engines],
        detail=view.detail,
        gpu_uuid=gpu.uuid if gpu and not view.on_cpu else "",
    )


def fault_message(fault: GameDayFault, seconds: float) -> nodes_pb2.PlayFault:
    return nodes_pb2.PlayFault(fault=nodes_pb2.GameDayFault.ValueType(fault), seconds=seconds)


def probe_result(one: SendProbed) -> pb.ProbeResult:
    message = pb.ProbeResult(probe_id=one.probe_id, slot=one.slot)
    if isinstance(one.outcome, Clip):
        clip = pb.ProbeClip(realtime_factor=one.outcome.realtime_factor, digest=one.outcome.digest)
        message.clip.CopyFrom(clip)
    else:
        message.failure.CopyFrom(failure_message(one.outcome))
    return message


def to_hub(one: SendStarted | SendProgress | SendDraining | SendProbed) -> pb.SessionRequest:
    """What is said in passing, without waiting for an answer."""
    match one:
        case SendStarted(attempt):
            return pb.SessionRequest(started=pb.AttemptStarted(ref=ref_message(attempt)))
        case SendProgress(attempt, progress):
            told = pb.AttemptProgress(ref=ref_message(attempt), progress=progress_message(progress))
            return pb.SessionRequest(progress=told)
        case SendDraining(reason):
            return pb.SessionRequest(draining=pb.Draining(reason=reason))
        case SendProbed():
            return pb.SessionRequest(probed=probe_result(one))


def from_hub(message: pb.SessionResponse) -> events.Event | None:
    """What the hub says once the session stands; None for what this agent does not know yet."""
    match message.WhichOneof("message"):
        case "assignment":
            return events.Assigned(work(message.assignment))
        case "cancel":
            return events.CancelRequested(ref(message.cancel.ref))
        case "result_ack":
            ack = message.result_ack
            known = ack.verdict in {verdict.value for verdict in events.Verdict}
            return events.Acknowledged(ref(ack.ref), events.Verdict(ack.verdict)) if known else None
        case "drain":
            return events.DrainWished(True)
        case "resume":
            return events.DrainWished(False)
        case "probe":
            return events.ProbeWished(message.probe.probe_id, message.probe.slot)
        case "play_fault":
            wanted = message.play_fault
            known = wanted.fault in {fault.value for fault in GameDayFault}
            return events.FaultWished(GameDayFault(wanted.fault), wanted.seconds) if known else None
        case _:
            return None


def from_worker(slot: int, generation: int, message: worker_pb2.WorkerEvent) -> events.FromWorker | None:
    """What a worker says; None for what this agent does not know yet."""
    match message.WhichOneof("event"):
        case "loaded":
            engines = tuple((one.engine, one.model_version) for one in message.loaded.engines)
            networks = tuple((one.network, one.provider) for one in message.loaded.networks)
            return events.WorkerLoaded(slot, generation, engines, networks, message.loaded.on_cpu)
        case "probed":
            probed = message.probed
            return events.WorkerProbed(slot, generation, probed.realtime_factor, probed.render_id, probed.digest)
        case "alive":
            return events.WorkerAlive(slot, generation, message.alive.progress_ticks)
        case "progress":
            told = message.progress.progress
            progress = Progress(told.stage, told.done, told.total, told.fraction)
            return events.WorkerProgressed(slot, generation, message.progress.render_id, progress)
        case "checkpointed":
            kept = message.checkpointed
            return events.WorkerCheckpointed(slot, generation, kept.render_id, kept.done, kept.total)
        case "rendered":
            report = message.rendered.report.SerializeToString()
            return events.WorkerRendered(slot, generation, message.rendered.render_id, report)
        case "failed":
            return events.WorkerFailed(slot, generation, message.failed.render_id, failure(message.failed.failure))
        case _:
            return None
