"""What happened, told for one job: every event, decision, write, message and receipt about it, with simulated times."""

from __future__ import annotations

from typing import NamedTuple

from hub.core import events, instructions


class Line(NamedTuple):
    """One thing that happened. What it is not about is empty; without both it concerns everyone."""

    at_s: float
    who: str
    text: str
    job_id: str
    node_id: str

    def __str__(self) -> str:
        return f"{self.at_s:10.3f}  {self.who:<10} {self.text}"


class Story:
    """All lines of a run."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def add(self, at_s: float, who: str, text: str, job_id: str, node_id: str) -> None:
        self.lines.append(Line(at_s, who, text, job_id, node_id))

    def of_job(self, job_id: str) -> str:
        """The lines about a job, and what befell the hub and its nodes meanwhile."""
        own = [line for line in self.lines if line.job_id == job_id]
        if not own:
            return f"nothing is told of {job_id!r}"
        nodes = {line.node_id for line in own}
        return "\n".join(
            str(line)
            for line in self.lines
            if line.job_id == job_id or (not line.job_id and line.node_id in nodes and line.at_s >= own[0].at_s)
        )

    def of_all(self) -> str:
        """Everything; for small fleets."""
        return "\n".join(map(str, self.lines))


def about(item: events.Event | instructions.Instruction) -> tuple[str, str]:
    """Which job and which node an event or an instruction is about."""
    ref = getattr(item, "ref", None)
    job_id = ref.job_id if ref else getattr(item, "job_id", "")
    if isinstance(item, events.JobStored):
        job_id = item.job.job_id
    if isinstance(item, instructions.Record):
        return item.decision.job_id, item.decision.node_id
    return job_id, getattr(item, "node_id", "")


def words(item: events.Event | instructions.Instruction) -> str:
    """An event or an instruction as one readable line."""
    match item:
        case instructions.Assign(ref, node_id, _, slot, reason):
            return f"assign {ref.job_id}#{ref.attempt} to {node_id} slot {slot}: {reason}"
        case instructions.MarkRunning(ref, node_id):
            return f"mark {ref.job_id}#{ref.attempt} running on {node_id}"
        case instructions.Requeue(ref, failure, tries):
            return f"requeue {ref.job_id}#{ref.attempt} ({failure.reason}: {failure.message}), {tries} tries counted"
        case instructions.CommitSuccess(ref, node_id):
            return f"end {ref.job_id} with the video of try {ref.attempt} from {node_id}"
        case instructions.CommitFailure(ref, failure):
            return f"end {ref.job_id} at try {ref.attempt} as failed ({failure.reason}: {failure.message})"
        case instructions.CommitCancel(job_id):
            return f"end {job_id} as cancelled"
        case instructions.Record(decision):
            return f"note: {decision.kind.name.lower()} {decision.node_id} {decision.reason}".rstrip()
        case instructions.Acknowledge(node_id, ref, verdict):
            return f"tell {node_id}: report on {ref.job_id}#{ref.attempt} is {verdict.name.lower()}"
        case instructions.StopAttempt(node_id, ref, reason):
            return f"tell {node_id}: stop {ref.job_id}#{ref.attempt}, {reason}"
        case events.NodeJoined():
            holds = f"runs {_refs(item.running)}, has finished {_refs(item.finished)}"
            return f"{item.node_id} says hello in {item.session_id}: {holds}"
        case events.NodeHeard():
            slots = ", ".join(f"slot {slot.index} {slot.state}" for slot in item.slots)
            return f"heartbeat of {item.node_id}: {slots}; holds {_refs(item.attempts)}"
        case events.NodeCut(node_id, session_id):
            return f"session {session_id} of {node_id} has ended"
        case events.AttemptStarted(node_id, ref):
            return f"{node_id} has begun {ref.job_id}#{ref.attempt}"
        case events.AttemptProgressed(node_id, ref, progress):
            return f"{node_id} is through {progress.fraction:.0%} of {ref.job_id}#{ref.attempt}"
        case events.AttemptSucceeded(node_id, ref):
            return f"{node_id} reports the video of {ref.job_id}#{ref.attempt}"
        case events.AttemptFailed(node_id, ref, failure):
            return f"{node_id} reports that {ref.job_id}#{ref.attempt} failed: {failure.reason}, {failure.message}"
        case events.AttemptStopped(node_id, ref):
            return f"{node_id} reports that {ref.job_id}#{ref.attempt} is stopped"
        case events.JobStored(job):
            return f"{job.job_id} of {job.tenant} is stored"
        case events.CancelRequested(job_id):
            return f"the caller cancels {job_id}"
        case events.Diverged(job_id, job):
            return f"the store holds {job_id} as {f'{job.state} at try {job.attempt}' if job else 'ended'}"
    return str(item)  # a kind that needs no words of its own


def _refs(refs: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{job_id}#{attempt}" for job_id, attempt in refs) or "nothing"
