"""Conversations with the hub's decisions: what happens, and what they want done, line by line."""

from __future__ import annotations

import difflib
from typing import Any

from hub.core import events, instructions
from hub.core.dispatch import Dispatch, Rules
from hub.core.faults import Failure, Fault
from hub.core.jobs import Job, Progress, Ref, Requirement
from hub.core.nodes import Slot, SlotState

WARP = Requirement("warp", "1")


def job(
    name: str, *, tenant: str = "acme", at: float = 0.0, priority: int = 0, wants: Requirement = WARP, **about: Any
) -> Job:
    return Job(name, tenant, wants, priority, submitted_at_s=at, sequence=0, **about)


def slot(index: int = 0, state: SlotState = SlotState.READY, speed: float = 1.0, engine: Requirement = WARP) -> Slot:
    return Slot(index, state, (engine,), speed)


def line(instruction: instructions.Instruction) -> str:
    """An instruction as one readable line."""
    match instruction:
        case instructions.Assign(ref, node_id):
            return f"assign {ref.job_id}#{ref.attempt} to {node_id} slot {instruction.slot}"
        case instructions.MarkRunning(ref):
            return f"running {ref.job_id}#{ref.attempt}"
        case instructions.Requeue(ref, failure, tries):
            return f"requeue {ref.job_id}#{ref.attempt} {failure.reason} tries {tries}"
        case instructions.CommitSuccess(ref):
            return f"succeed {ref.job_id}#{ref.attempt}"
        case instructions.CommitFailure(ref, failure):
            return f"fail {ref.job_id}#{ref.attempt} {failure.reason}"
        case instructions.CommitCancel(job_id):
            return f"cancel {job_id}"
        case instructions.Acknowledge(node_id, ref, verdict):
            return f"tell {node_id} {ref.job_id}#{ref.attempt} {verdict.name.lower()}"
        case instructions.StopAttempt(node_id, ref):
            return f"stop {ref.job_id}#{ref.attempt} on {node_id}"
        case instructions.SendProbe(node_id, _, slot):
            return f"probe {node_id} slot {slot}"
        case instructions.Record(decision):
            return f"note {decision.kind.name.lower()} {decision.node_id}".rstrip()
        case instructions.TellDrain(node_id, drain):
            return f"{'drain' if drain else 'resume'} {node_id}"


class Talk:
    """A hub without I/O whose clock stands still until `wait`."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.hub = Dispatch(rules or Rules(lease_s=30, max_tries=3, backoff_s=1, settle_s=10))
        self.now = 1000.0

    def say(self, event: events.Event, *expected: str) -> None:
        """Let something happen; whatever is wanted done must be exactly the expected lines."""
        wanted = [*self.hub.handle(event, self.now), *self.hub.assign(self.now)]
        got = [line(instruction) for instruction in wanted]
        if got != list(expected):
            diff = "\n".join(difflib.ndiff(list(expected), got))
            raise AssertionError(f"after {event} (- expected, + got):\n{diff}")

    def wait(self, seconds: float, *expected: str) -> None:
        self.now += seconds
        self.say(events.Ticked(), *expected)

    def submit(self, name: str, *expected: str, **about: Any) -> None:
        self.say(events.JobStored(job(name, **about)), *expected)

    def join(self, node: str, *expected: str, slots: tuple[Slot, ...] = (slot(),), **holds: object) -> None:
        refs = {"running": (), "finished": (), **holds}
        self.say(events.NodeJoined(node, "eu", f"{node}-session-{self.now}", slots, **refs), *expected)  # type: ignore[arg-type]

    def beat(self, node: str, *expected: str, slots: tuple[Slot, ...] = (slot(),), holds: tuple[Ref, ...] = ()) -> None:
        self.say(events.NodeHeard(node, self.hub.nodes[node].session_id, slots, holds), *expected)

    def cut(self, node: str) -> None:
        self.say(events.NodeCut(node, self.hub.nodes[node].session_id))

    def start(self, node: str, ref: Ref, *expected: str) -> None:
        self.say(events.AttemptStarted(node, ref), *expected)

    def progress(self, node: str, ref: Ref, fraction: float) -> None:
        self.say(events.AttemptProgressed(node, ref, Progress("rendering", 0, 0, fraction)))

    def succeed(self, node: str, ref: Ref, *expected: str) -> None:
        self.say(events.AttemptSucceeded(node, ref, b""), *expected)

    def fail(self, node: str, ref: Ref, fault: Fault, *expected: str) -> None:
        self.say(events.AttemptFailed(node, ref, Failure(fault, fault.name, "it broke")), *expected)
