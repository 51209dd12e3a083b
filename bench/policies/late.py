"""The hub's own decisions, and other rules for the choice in their place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from bench.policies.demand import ENGINE
from bench.policies.plant import LEASE_S, MAX_TRIES, Box, Plant, Policy, Run, Task
from hub.core import dispatch, events, instructions, placement
from hub.core.dispatch import Dispatch, Rules
from hub.core.faults import Failure, Fault
from hub.core.health import GpuReading
from hub.core.jobs import Job, Ref
from hub.core.nodes import Gpu, Slot, SlotState

HEARTBEAT_S = 900.0  # leases are ended by hand, so heartbeats need only tell of heat
TICK_S = 60.0
dispatch._LOOK_AGAIN_S = 300.0  # renders take minutes here, where a real hub's may take seconds


class Late(Policy):
    """The hub's decisions: jobs wait with it. `place` chooses the slot."""

    def __init__(self, plant: Plant, place: Callable[[Job, placement.Round], placement.Placement]) -> None:
        super().__init__(plant)
        rules = Rules(lease_s=1e9, max_tries=MAX_TRIES, settle_s=1e9, heartbeat_interval_s=HEARTBEAT_S)
        self.hub = Dispatch(rules, place=place)
        self.boxes = {box.name: box for box in plant.boxes}
        self.tasks: dict[str, Task] = {}
        self.runs: dict[Ref, Run] = {}
        self.sessions = 0

    def begin(self) -> None:
        for box in self.boxes.values():
            self._join(box, ())
            self.plant.at(HEARTBEAT_S * Random(box.name).random(), self._beat, box)
        self.plant.at(TICK_S, self._tick, True)

    def submitted(self, task: Task) -> None:
        self.tasks[task.job.job_id] = task
        self._happens(events.JobStored(task.job))

    def began(self, run: Run) -> None:
        if not run.over and run.box.up:
            self._happens(events.AttemptStarted(run.box.name, Ref(run.task.job.job_id, run.attempt)))

    def ended(self, run: Run) -> None:
        name, ref = run.box.name, self._ref(run)
        if run.failure:
            self._happens(events.AttemptFailed(name, ref, run.failure))
            self._beat_now(run.box)  # its worker is there again
            return
        self.plant.succeeded(run)
        took_s = self.plant.now - run.began_s - run.preparing_s
        memory = run.task.memory_bytes if run.box.memory_bytes else 0
        rendered = events.Rendered(run.task.job.work.video_s, took_s, run.preparing_s, run.warm, memory)
        self._happens(events.AttemptSucceeded(name, ref, b"", rendered))

    def left(self, box: Box) -> None:
        self._happens(events.NodeCut(box.name, self.hub.nodes[box.name].session_id))
        self.plant.at(self.plant.now + LEASE_S, self._lost, box)

    def returned(self, box: Box, outbox: list[Run]) -> None:
        self._join(box, tuple(self._ref(run) for run in outbox))
        for run in outbox:
            self.ended(run)

    def _lost(self, box: Box) -> None:
        """Leases are not renewed one by one here; they end when those of a real node would."""
        if not box.up:
            for job in self.hub.jobs.values():
                if job.node_id == box.name and job.held:
                    job.lease_expires_at_s = self.plant.now
            self._tick(False)
            for pause_s in (1.0, 2.0, 4.0, 30.0):
                self.plant.at(self.plant.now + pause_s + 0.001, self._tick, False)

    def _join(self, box: Box, finished: tuple[Ref, ...]) -> None:
        self.sessions += 1
        running = (self._ref(box.run),) if box.run else ()
        gpus = (Gpu(box.name, box.gpu_class, box.memory_bytes),) if box.gpu_class else ()
        session = f"session-{self.sessions}"
        slots, inputs = self._slots(box), tuple(reversed(box.cached))[:256]
        self._happens(events.NodeJoined(box.name, box.region, session, slots, running, finished, False, gpus, inputs))

    def _beat(self, box: Box) -> None:
        if box.up:
            self._beat_now(box)
        self.plant.at(self.plant.now + HEARTBEAT_S, self._beat, box)

    def _beat_now(self, box: Box) -> None:
        hot = any(since <= self.plant.now < until for since, until in box.hot)
        throttled = ("sw_thermal_slowdown",) if hot else ()
        reading = GpuReading(
            box.name, box.gpu_class, temperature_celsius=89.0 if hot else 65.0, throttle_reasons=throttled
        )
        held = (self._ref(box.run),) if box.run else ()
        session = self.hub.nodes[box.name].session_id
        readings = (reading,) if box.gpu_class else ()
        self._happens(events.NodeHeard(box.name, session, self._slots(box), held, readings))

    def _slots(self, box: Box) -> tuple[Slot, ...]:
        state = SlotState.BUSY if box.run else SlotState.READY
        return (Slot(0, state, (ENGINE,), box.probe_factor, "", box.name if box.gpu_class else ""),)

    def _tick(self, again: bool) -> None:
        self._happens(events.Ticked())
        if again:
            self.plant.at(self.plant.now + TICK_S, self._tick, True)

    def _happens(self, event: events.Event) -> None:
        now = self.plant.now
        wanted = self.hub.handle(event, now)
        if not isinstance(event, events.AttemptStarted):
            wanted += self.hub.assign(now)
        for item in wanted:
            match item:
                case instructions.Assign(ref, node_id):
                    box = self.boxes[node_id]
                    assert box.run is None
                    self.plant.start(self.tasks[ref.job_id], ref.attempt, box)
                case instructions.Requeue(ref):
                    self.plant.at(now + 2.0 ** min(ref.attempt - 1, 5) + 0.001, self._tick, False)
                case instructions.CommitFailure(ref, failure):
                    self._gave_up(ref, failure)
                case instructions.StopAttempt(node_id, ref):
                    run = self.boxes[node_id].run
                    if run and self._ref(run) == ref:
                        self.plant.stop(run)
                        self.plant.at(now + 0.5, self._happens, events.AttemptStopped(node_id, ref))
                case instructions.SendProbe(node_id, probe_id, slot):
                    self.plant.at(now + 10.0, self._probed, node_id, probe_id, slot)

    def _gave_up(self, ref: Ref, failure: Failure) -> None:
        task = self.tasks[ref.job_id]
        if failure.fault is Fault.DEADLINE:
            self.plant.dropped(task)
            return
        self.plant.gave_up += 1
        job = replace(task.job, job_id=f"{task.job.job_id}+")
        anew = replace(task, job=job, luck=task.luck[1:] + task.luck[:1])
        self.plant.at(self.plant.now + 1.0, self.submitted, anew)

    def _probed(self, node_id: str, probe_id: str, slot: int) -> None:
        box, now = self.boxes[node_id], self.plant.now
        if not box.up:
            return
        luck = Random(f"{probe_id} {now}").random()
        broken = luck < 0.5 and any(since <= now < until for since, until in box.flaky)
        failure = Failure(Fault.CRASH, "WORKER_CRASHED", "the worker died") if broken else None
        factor = 0.0 if broken else box.probe_factor / box.slowness(now)
        self._happens(events.Probed(node_id, probe_id, slot, factor, "" if broken else "clip", failure))

    @staticmethod
    def _ref(run: Run) -> Ref:
        return Ref(run.task.job.job_id, run.attempt)


class FreeSlots:
    """Another rule for the choice among the slots that are free and can take the job."""

    def __init__(self, rule: str, seed: int) -> None:
        self._rule = rule
        self._random = Random(seed)
        self._last = ""

    def __call__(self, job: Job, at: placement.Round) -> placement.Placement:
        pools, barred = placement.able_pools(job, at)
        free = sorted((key, number) for number, pool in enumerate(pools) for key in pool.free if key[0] != barred)
        if not free:
            return placement.Placement(None)
        key, number = self._pick(free, pools)
        self._last = key[0]
        nothing = placement.NOTHING
        return placement.Placement(placement.Option(pools[number], key, True, 0.0, nothing, nothing, False, 1.0))

    def _pick(self, free: list[tuple[Any, int]], pools: list[Any]) -> tuple[Any, int]:
        if self._rule == "round_robin":
            names = [key[0] for key, _ in free]
            return free[bisect_right(names, self._last) % len(free)]
        if self._rule == "two_choices":
            return min(self._random.choices(free, k=2), key=lambda entry: pools[entry[1]].traits.pace)
        return self._random.choice(free)  # one slot a node: all free ones are loaded alike
