"""The real decisions under drawn faults keep every promise; and decisions that do not are found out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from hub.core import events, placement
from hub.core.dispatch import Dispatch
from hub.core.faults import Failure, Fault
from hub.core.instructions import CommitCancel, CommitSuccess, Instruction, Requeue, Verdict, Write
from hub.core.jobs import Job, State
from hub.simulation import plans
from hub.simulation.fleet import Fleet
from hub.simulation.promises import Broken
from hub.simulation.store import SimulatedStore
from hub.simulation.stories import Story
from hub.store.commits import Outcome

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (10, 0, 1)  # of small fleets in which the broken ones below are found out soonest
BUDGET_S = 6.0  # of a run of all tests; `make simulate` has no such bound


def first_broken(seeds: tuple[int, ...], make_dispatch=Dispatch, make_store=SimulatedStore) -> tuple[Broken, str]:
    """What breaks first, and the story of its job from running the same seed again."""
    for seed in seeds:
        plan = plans.draw(seed)
        if broken := Fleet(plan, None, make_dispatch, make_store()).run().broken:
            story = Story()
            again = Fleet(plan, story, make_dispatch, make_store()).run().broken
            assert again
            assert (again.promise, again.job_id) == (broken.promise, broken.job_id)
            return broken, story.of_job(broken.job_id)
    raise AssertionError(f"nothing was found in seeds {seeds}")


def test_small_fleets_keep_every_promise_under_drawn_faults() -> None:
    """At least ten seeds; as many more as the time allows."""
    until_s = time.monotonic() + BUDGET_S
    for seed in range(1000):
        if seed >= 10 and time.monotonic() > until_s:
            break
        outcome = Fleet(plans.draw(seed)).run()
        assert outcome.broken is None, f"{outcome.broken}; its story: {outcome.replay}"


def test_ten_thousand_nodes_keep_every_promise() -> None:
    random = Random(1)
    kinds = ["crash"] * 20 + ["partition"] * 20 + ["slow_line"] * 10 + ["hub_restart"]
    faults = tuple(
        plans.Fault(k, random.uniform(3, 6), random.randrange(10_000), random.uniform(0.5, 3), 0.5) for k in kinds
    )
    plan = plans.Plan(1, 10_000, 6.0, 1.0, 3, {"one": 1.0, "two": 1.0}, 200, faults=faults)
    outcome = Fleet(plan).run()
    assert outcome.broken is None, outcome.broken
    assert outcome.jobs == 200


def test_a_saturated_fleet_is_shared_by_weight() -> None:
    plan = plans.Plan(7, 12, 0.0, 1.0, 2, {"one": 1.0, "two": 2.0, "three": 3.0}, 1500, saturated=True)
    outcome = Fleet(plan).run()
    assert outcome.broken is None, outcome.broken
    assert outcome.faults["saturated"], "the queue ran dry: nothing was measured"


def test_a_run_is_a_function_of_its_seed() -> None:
    """In another process too, where strings have other hashes."""
    code = "from hub.simulation.fleet import run_seed; print([run_seed(seed).digest for seed in (5, 6)])"
    command = [sys.executable, "-c", code]
    said = {
        subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert len(said) == 1, said


class ForgetfulDispatch(Dispatch):
    """Forgets to requeue what a node has lost."""

    def _retry(self, job: Job, failure: Failure, now: float) -> Iterator[Instruction]:
        if failure.fault is not Fault.NODE_LOST:
            yield from super()._retry(job, failure, now)


class StubbornDispatch(Dispatch):
    """Sends a failed job back to where it failed."""

    def __init__(self, rules, weights) -> None:
        super().__init__(rules, weights, self.choose)

    def choose(self, job: Job, at: placement.Round) -> placement.Placement:
        options = list(placement.options(replace(job, attempt=0), at))
        there = [option for option in options if option.key[0] == job.node_id]
        return placement.Placement(min(there or options, key=lambda option: option.rank, default=None))


class HastyDispatch(Dispatch):
    """Renders again what a node brings back finished."""

    def _join(self, event: events.NodeJoined, now: float) -> Iterator[Instruction]:
        yield from super()._join(event, now)
        for ref in event.finished:
            job = self.jobs.get(ref.job_id)
            if job and job.ref == ref and job.held:
                yield from self._retry(job, Failure(Fault.CRASH, "HASTY", "again"), now)


class CarelessStore(SimulatedStore):
    """Its updates are unconditional: whoever writes last wins."""

    def apply(self, write: Write) -> Outcome:
        row = self.rows.get(getattr(write, "job_id", "") or getattr(getattr(write, "ref", None), "job_id", ""))
        match write:
            case CommitSuccess(ref):
                row.job.state, row.won_by = State.SUCCEEDED, ref.attempt
            case CommitCancel():
                row.job.state = State.CANCELLED
            case Requeue():
                row.job.state, row.job.tries = State.QUEUED, write.tries
            case _:
                return super().apply(write)
        return Outcome(True, Verdict.COMMITTED)


@pytest.mark.parametrize(
    ("make_dispatch", "make_store", "promises"),
    [
        (ForgetfulDispatch, SimulatedStore, {"every acknowledged job ends", "a slot holds one attempt"}),
        (StubbornDispatch, SimulatedStore, {"a retry goes to another node"}),
        (HastyDispatch, SimulatedStore, {"what was finished is not rendered again"}),
        (Dispatch, CarelessStore, {"a job ends once", "an attempt that is over changes nothing"}),
    ],
)
def test_broken_decisions_and_stores_are_found_out(make_dispatch, make_store, promises) -> None:
    broken, story = first_broken(SEEDS, make_dispatch, make_store)
    assert broken.promise in promises, broken
    assert broken.job_id in story
    assert "stores it" in story
    assert "decides: " in story


class ListeningStore(SimulatedStore):
    """Keeps why jobs were requeued."""

    def __init__(self) -> None:
        super().__init__()
        self.requeued: list[str] = []

    def apply(self, write: Write) -> Outcome:
        if isinstance(write, Requeue):
            self.requeued.append(write.failure.reason)
        return super().apply(write)


def test_no_lease_runs_out_while_the_store_stands_still() -> None:
    """The hub hears of no heartbeat meanwhile; the nodes are well."""
    stall = plans.Fault("store_stall", 20.0, 0, 45.0, 0.5)
    store = ListeningStore()
    outcome = Fleet(plans.Plan(3, 12, 60.0, 0.6, 2, {"one": 1.0}, 200, faults=(stall,)), store=store).run()
    assert outcome.broken is None, outcome.broken
    assert "LEASE_EXPIRED" not in store.requeued


def test_one_command_replays_a_seed_and_tells_a_story() -> None:
    command = [sys.executable, "-m", "hub.simulation", "--seed", "5", "--story", "job-0003"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "decides: assign job-0003#1" in done.stdout
    assert '"violations": 0' in done.stdout.splitlines()[-1]
