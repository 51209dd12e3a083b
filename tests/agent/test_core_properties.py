"""Whatever happens in whatever order: no finished result is lost, no slot holds two attempts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.core import events
from agent.core.attempts import Failure, Fault, Progress, Ref, Rendered, Work
from agent.core.instructions import (
    CancelProbe,
    Connect,
    Exit,
    FetchInputs,
    ForgetResult,
    Instruction,
    KillWorker,
    Probe,
    Render,
    SendHeartbeat,
    SendProbed,
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
        self.probing: dict[int, str] = {}  # for the hub
        self.asked: set[str] = set()  # probes without an answer, in this session
        self.asked_before: set[str] = set()  # in an earlier one: an answer may still come, or have been swallowed
        self.probes = 0
        self.fetching: dict[Ref, int] = {}
        self.held: set[Ref] = set()  # taken or answered, and not yet forgotten
        self.disk: dict[Ref, bool] = {}  # the outbox: has it a video?
        self.unwanted: set[Ref] = set()
        self.safe: set[Ref] = set()  # of them, known to be
        self.uploading: set[Ref] = set()
        self.reported: set[Ref] = set()  # in this session
        self.hub_has_video: set[Ref] = set()
        self.exited = False
        self.say(events.Ticked())

    def say(self, event: events.Event) -> None:
        if self.exited:
            assert not self.node.handle(event, self.now), "something is wanted after Exit"
            return
        for one in self.node.handle(event, self.now):
            self.obey(one)

    def obey(self, one: Instruction) -> None:
        match one:
            case Connect():
                assert self.session == "down"
                self.session = "connecting"
            case StartWorker(slot, generation):
                assert slot not in self.processes, "two processes in one slot"
                self.processes[slot] = generation
            case Probe(slot, generation, probe_id):
                assert self.processes.get(slot) == generation
                if probe_id:
                    assert slot not in self.occupied, "a probe beside an attempt"
                    assert slot not in self.probing, "two probes in one slot"
                    self.probing[slot] = probe_id
            case CancelProbe(slot, _, probe_id):
                assert self.probing.pop(slot) == probe_id
            case SendProbed(probe_id):
                assert self.session == "up"
                assert probe_id in self.asked | self.asked_before, f"{probe_id} was answered twice"
                self.asked.discard(probe_id)
                self.asked_before.discard(probe_id)
            case FetchInputs(work):
                assert work.slot not in self.occupied, "two attempts in one slot"
                self.fetching[work.ref] = work.slot
                self.held.add(work.ref)
            case Render(slot, generation, work):
                assert self.processes.get(slot) == generation
                assert (slot, generation) in self.probed, "a render before the probe clip"
                assert slot not in self.rendering, "two attempts in one slot"
                assert slot not in self.probing, "an attempt beside a probe"
                del self.fetching[work.ref]
                self.rendering[slot] = work.ref
            case KillWorker(slot):
                self.rendering.pop(slot, None)
                self.probing.pop(slot, None)
            case StoreResult(ref, outcome):
                self.store(ref, isinstance(outcome, Rendered))
            case UploadVideo(ref):
                assert self.disk[ref], "an upload of a video that is not there"
                assert self.session == "up"
                assert ref not in self.uploading, "two uploads of one video"
                self.uploading.add(ref)
            case SendResult(ref):
                assert self.session == "up"
                assert ref in self.disk
                assert not self.disk[ref] or ref in self.hub_has_video, "a report before its video"
                self.reported.add(ref)
            case SendStarted() | SendHeartbeat():
                assert self.session == "up"
            case ForgetResult(ref):
                assert ref in self.unwanted, f"{ref} was lost"
                assert ref in self.safe, f"{ref} is forgotten while it is being stored"
                self.held.discard(ref)
                self.uploading.discard(ref)
                self.safe.discard(ref)
                del self.disk[ref]
            case Exit():
                assert not self.rendering
                self.exited = True
            case _:
                pass

    def store(self, ref: Ref, has_video: bool) -> None:
        assert has_video or not self.disk.get(ref) or ref in self.unwanted, f"the video of {ref} was thrown away"
        self.held.add(ref)
        self.safe.discard(ref)
        self.uploading.discard(ref)
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

    @initialize(ready=st.booleans())
    def begin(self, ready: bool) -> None:
        if ready:
            self.welcome()
            for slot in range(SLOTS):
                self.go_on(slot)

    # What usually happens next.

    @rule(ref=refs, slot=slots)
    def assign(self, ref: Ref, slot: int) -> None:
        if self.session == "up":
            self.unwanted.discard(ref)
            self.say(events.Assigned(Work(ref, slot, "warp")))

    @rule(slot=slots)
    def ask_for_a_probe(self, slot: int) -> None:
        if self.session == "up" and not self.exited:
            self.probes += 1
            self.asked.add(f"p{self.probes}")
            self.say(events.ProbeWished(f"p{self.probes}", slot))

    @rule(slot=slots)
    def go_on(self, slot: int) -> None:
        """The next step of a slot, as it goes when nothing goes wrong."""
        generation = self.processes.get(slot, 0)
        waiting = [ref for ref, of in self.fetching.items() if of == slot]
        if waiting:
            self.say(events.InputsReady(waiting[0]))
        elif slot in self.probing:
            self.say(events.WorkerProbed(slot, generation, 2.0, self.probing.pop(slot), "digest"))
        elif slot in self.rendering:
            self.say(events.WorkerRendered(slot, generation, str(self.rendering[slot]), b""))
        elif slot in self.processes and (slot, generation) not in self.probed:
            self.say(events.WorkerLoaded(slot, generation, (("warp", "1"),)))
            if self.node.slots[slot].engines:
                self.probed.add((slot, generation))
                self.say(events.WorkerProbed(slot, generation, 1.0))
        else:
            self.say(events.WorkerAlive(slot, generation, 0))

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """The next step of a result, as it goes when nothing goes wrong."""
        if not self.disk:
            return
        ref = data.draw(st.sampled_from(sorted(self.disk)))
        if ref not in self.safe:
            self.safe.add(ref)
            self.say(events.ResultStored(ref))
        elif ref in self.uploading:
            self.uploading.discard(ref)
            self.hub_has_video.add(ref)
            self.say(events.VideoUploaded(ref))
        elif ref in self.reported and self.session == "up":
            self.unwanted.add(ref)
            self.say(events.Acknowledged(ref, events.Verdict.COMMITTED))

    @rule()
    def welcome(self) -> None:
        if self.session == "connecting":
            self.session = "up"
            self.say(events.Welcomed(5.0))

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 16.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.say(events.Ticked())

    # What may go wrong.

    @rule(data=st.data(), slot=slots, ref=refs)
    def trouble(self, data: st.DataObject, slot: int, ref: Ref) -> None:
        kinds = [self.cut, self.hub_changes_its_mind, self.die, self.fail, self.transfer_fails, self.echo, self.leave]
        data.draw(st.sampled_from(kinds))(data, slot, ref)

    def cut(self, data: st.DataObject, slot: int, ref: Ref) -> None:
        if self.session != "down":
            self.session = "down"
            self.reported.clear()
            self.asked_before |= self.asked
            self.asked.clear()
            self.say(events.SessionEnded("cut", data.draw(st.floats(0, 1))))

    def hub_changes_its_mind(self, data: st.DataObject, slot: int, ref: Ref) -> None:
        if self.session != "up":
            return
        ref = data.draw(st.sampled_from([ref, *sorted(self.disk)]))
        self.unwanted.add(ref)
        verdicts = [events.Acknowledged(ref, verdict) for verdict in events.Verdict]
        said = data.draw(st.sampled_from([events.CancelRequested(ref), *verdicts, events.DrainWished(True)]))
        if said == events.Acknowledged(ref, events.Verdict.VIDEO_MISSING) and self.disk.get(ref):
            self.unwanted.discard(ref)
            self.hub_has_video.discard(ref)
            self.reported.discard(ref)
        self.say(said)

    def die(self, data: st.DataObject, slot: int, ref: Ref) -> None:
        if slot in self.processes:
            generation = self.processes.pop(slot)
            self.rendering.pop(slot, None)
            self.probing.pop(slot, None)
            self.say(events.WorkerExited(slot, generation, data.draw(st.sampled_from(events.ExitCause)), "died"))

    def fail(self, data: st.DataObject, slot: int, ref: Ref) -> None:
        failure = Failure(data.draw(faults), "WRONG", "wrong")
        render_id = self.probing.pop(slot, "") or str(self.rendering.get(slot, ref))
        self.say(events.WorkerFailed(slot, self.processes.get(slot, 0), render_id, failure))

    def transfer_fails(self, data: st.DataObject, slot: int, ref: Ref) -> None:
        if ref in self.fetching:
            self.say(events.InputsFailed(ref, Failure(Fault.TRANSFER, "GONE", "gone")))
        elif ref in self.uploading:
            self.uploading.discard(ref)
            self.say(events.UploadFailed(ref, refused=False, detail="cut"))

    def echo(self, data: st.DataObject, slot: int, ref: Ref) -> None:
        """What comes late, twice, or from a process that is gone."""
        generation = self.processes.get(slot, 0) - data.draw(st.integers(0, 1))
        says: list[events.Event] = [
            events.WorkerLoaded(slot, generation - 1, (("warp", "1"),)),
            events.WorkerProbed(slot, generation - 1, 1.0),
            events.WorkerExited(slot, generation - 1, events.ExitCause.CRASHED, "died"),
            events.WorkerProgressed(slot, generation, str(ref), Progress("rendering")),
            events.WorkerRendered(slot, generation - 1, str(ref), b""),
            events.InputsFailed(ref, Failure(Fault.TRANSFER, "GONE", "gone")),
        ]
        says += [events.InputsReady(ref)] if ref not in self.fetching else []
        self.say(data.draw(st.sampled_from(says)))

    def leave(self, data: st.DataObject, slot: int, ref: Ref) -> None:
        if data.draw(st.integers(0, 9)) == 9:
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
    def a_probe_is_answered_when_it_is_over(self) -> None:
        assert self.exited or self.asked <= set(self.probing.values())

    @invariant()
    def only_a_probed_worker_without_an_attempt_is_offered(self) -> None:
        for view in self.node.slots:
            if view.state is SlotState.READY and not self.exited:
                assert view.attempt is None
                assert (view.index, self.processes.get(view.index)) in self.probed


World.TestCase.settings = settings(max_examples=400, stateful_step_count=80)
TestWorld = World.TestCase
