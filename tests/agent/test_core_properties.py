"""Whatever happens in whatever order: no finished result is lost, no slot holds two attempts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.core import events
from agent.core.attempts import Failure, Fault, Progress, Ref, Rendered, Work
from agent.core.instructions import (
    Connect,
    Exit,
    FetchInputs,
    ForgetResult,
    Instruction,
    KillWorker,
    Probe,
    Render,
    SendHeartbeat,
    SendResult,
    SendStarted,
    SlotState,
    StartWorker,
    StoreResult,
    UploadVideo,
)
from agent.core.node import Node
from agent.core.terms import Terms

SLOTS = 2
slots = st.integers(0, SLOTS - 1)
refs = st.builds(Ref, st.sampled_from("abcd"), st.integers(1, 2))
faults = st.sampled_from([Fault.BAD_INPUT, Fault.OUT_OF_MEMORY, Fault.DEVICE, Fault.INTERNAL])


class World(RuleBasedStateMachine):
    """The outside of an agent: it obeys instructions, and checks that they make sense."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(Terms(slots=SLOTS, drain_timeout_s=50, silence_timeout_s=20, stall_timeout_s=15))
        self.now = 0.0
        self.session = "down"
        self.processes: dict[int, int] = {}  # slot -> generation of the process that runs
        self.probed: set[tuple[int, int]] = set()
        self.rendering: dict[int, Ref] = {}
        self.fetching: dict[Ref, int] = {}
        self.held: set[Ref] = set()  # taken or answered, and not yet forgotten
        self.disk: dict[Ref, bool] = {}  # the outbox: has it a video?
        self.unwanted: set[Ref] = set()
        self.hub_has_video: set[Ref] = set()
        self.exited = False
        self.say(events.Ticked())

    def say(self, event: events.Event) -> None:
        for one in self.node.handle(event, self.now):
            self.obey(one)

    def obey(self, one: Instruction) -> None:
        assert not self.exited, f"{one} after Exit"
        match one:
            case Connect():
                assert self.session == "down"
                self.session = "connecting"
            case StartWorker(slot, generation):
                assert slot not in self.processes, "two processes in one slot"
                self.processes[slot] = generation
            case Probe(slot, generation):
                assert self.processes.get(slot) == generation
            case FetchInputs(work):
                assert work.slot not in self.occupied, "two attempts in one slot"
                self.fetching[work.ref] = work.slot
                self.held.add(work.ref)
            case Render(slot, generation, work):
                assert self.processes.get(slot) == generation
                assert (slot, generation) in self.probed, "a render before the probe clip"
                assert slot not in self.rendering, "two attempts in one slot"
                del self.fetching[work.ref]
                self.rendering[slot] = work.ref
            case KillWorker(slot):
                self.rendering.pop(slot, None)
            case StoreResult(ref, outcome):
                self.store(ref, isinstance(outcome, Rendered))
            case UploadVideo(ref):
                assert self.disk[ref], "an upload of a video that is not there"
                assert self.session == "up"
            case SendResult(ref):
                assert self.session == "up"
                assert ref in self.disk
                assert not self.disk[ref] or ref in self.hub_has_video, "a report before its video"
            case SendStarted() | SendHeartbeat():
                assert self.session == "up"
            case ForgetResult(ref):
                assert ref in self.unwanted, f"{ref} was lost"
                self.held.discard(ref)
                del self.disk[ref]
            case Exit():
                assert not self.rendering
                self.exited = True
            case _:
                pass

    def store(self, ref: Ref, has_video: bool) -> None:
        assert has_video or not self.disk.get(ref) or ref in self.unwanted, f"the video of {ref} was thrown away"
        self.held.add(ref)
        self.fetching.pop(ref, None)
        for slot in [slot for slot, running in self.rendering.items() if running == ref]:
            del self.rendering[slot]
        self.disk[ref] = has_video

    @property
    def occupied(self) -> set[int]:
        return {*self.rendering, *self.fetching.values()}

    @property
    def told_finished(self) -> set[Ref]:
        return set(self.node.deliveries.refs)

    # What the hub does.

    @rule(ref=refs, slot=slots)
    def assign(self, ref: Ref, slot: int) -> None:
        if self.session == "up":
            self.unwanted.discard(ref)
            self.say(events.Assigned(Work(ref, slot, "warp")))

    @rule(ref=refs)
    def cancel(self, ref: Ref) -> None:
        if self.session == "up":
            self.unwanted.add(ref)
            self.say(events.CancelRequested(ref))

    @rule(data=st.data(), verdict=st.sampled_from(events.Verdict))
    def acknowledge(self, data: st.DataObject, verdict: events.Verdict) -> None:
        if self.session != "up" or not self.disk:
            return
        ref = data.draw(st.sampled_from(sorted(self.disk)))
        if verdict is events.Verdict.VIDEO_MISSING:
            self.hub_has_video.discard(ref)
        if verdict is not events.Verdict.VIDEO_MISSING or not self.disk[ref]:
            self.unwanted.add(ref)
        self.say(events.Acknowledged(ref, verdict))

    @rule(drain=st.booleans())
    def drain(self, drain: bool) -> None:
        if self.session == "up":
            self.say(events.DrainWished(drain))

    @rule()
    def welcome(self) -> None:
        if self.session == "connecting":
            self.session = "up"
            self.say(events.Welcomed(5.0))

    @rule(jitter=st.floats(0, 1))
    def cut(self, jitter: float) -> None:
        if self.session != "down":
            self.session = "down"
            self.say(events.SessionEnded("cut", jitter))

    # What the box does.

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.say(events.Ticked())

    @rule(slot=slots)
    def load_and_probe(self, slot: int) -> None:
        generation = self.processes.get(slot, 0)
        self.say(events.WorkerLoaded(slot, generation, (("warp", "1"),)))
        if self.node.slots[slot].engines:
            self.probed.add((slot, generation))
            self.say(events.WorkerProbed(slot, generation, 1.0))

    @rule(slot=slots, generation_back=st.integers(0, 1), ticks=st.integers(0, 3))
    def alive(self, slot: int, generation_back: int, ticks: int) -> None:
        self.say(events.WorkerAlive(slot, self.processes.get(slot, 0) - generation_back, ticks))

    @rule(slot=slots, cause=st.sampled_from(events.ExitCause))
    def die(self, slot: int, cause: events.ExitCause) -> None:
        if slot in self.processes:
            generation = self.processes.pop(slot)
            self.rendering.pop(slot, None)
            self.say(events.WorkerExited(slot, generation, cause, "died"))

    @rule(data=st.data())
    def fetch(self, data: st.DataObject) -> None:
        if self.fetching:
            ref = data.draw(st.sampled_from(sorted(self.fetching)))
            if data.draw(st.booleans()):
                self.say(events.InputsReady(ref))
            else:
                self.say(events.InputsFailed(ref, Failure(Fault.TRANSFER, "GONE", "gone")))

    @rule(ref=refs, slot=slots, fraction=st.floats(0, 1))
    def progress(self, ref: Ref, slot: int, fraction: float) -> None:
        told = events.WorkerProgressed(slot, self.processes.get(slot, 0), str(ref), Progress("r", 0, 0, fraction))
        self.say(told)

    @rule(slot=slots)
    def render(self, slot: int) -> None:
        if slot in self.rendering and slot in self.processes:
            ref = str(self.rendering[slot])
            self.say(events.WorkerRendered(slot, self.processes[slot], ref, b""))

    @rule(ref=refs, slot=slots, fault=faults)
    def fail(self, ref: Ref, slot: int, fault: Fault) -> None:
        failure = Failure(fault, "WRONG", "wrong")
        self.say(events.WorkerFailed(slot, self.processes.get(slot, 0), str(ref), failure))

    @rule(data=st.data())
    def stored(self, data: st.DataObject) -> None:
        if self.disk:
            self.say(events.ResultStored(data.draw(st.sampled_from(sorted(self.disk)))))

    @rule(data=st.data())
    def upload(self, data: st.DataObject) -> None:
        videos = sorted(ref for ref, has_video in self.disk.items() if has_video)
        if not videos:
            return
        ref = data.draw(st.sampled_from(videos))
        if data.draw(st.booleans()):
            self.hub_has_video.add(ref)
            self.say(events.VideoUploaded(ref))
        else:
            self.say(events.UploadFailed(ref, False, "cut"))

    @rule()
    def leave(self) -> None:
        self.say(events.StopRequested())

    # What always holds.

    @invariant()
    def everything_taken_is_accounted_for(self) -> None:
        assert self.held == {*self.node.running, *self.told_finished}
        assert set(self.disk) == self.told_finished

    @invariant()
    def nothing_is_both_running_and_finished(self) -> None:
        assert not set(self.node.running) & self.told_finished

    @invariant()
    def only_a_probed_worker_without_an_attempt_is_offered(self) -> None:
        for view in self.node.slots:
            if view.state is SlotState.READY:
                assert view.attempt is None
                assert (view.index, self.processes.get(view.index)) in self.probed


World.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestWorld = World.TestCase
