"""Who goes next."""

import heapq
import random
from collections import Counter
from dataclasses import replace
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core.fair_queue import FairQueue
from hub.core.jobs import Job, RegionRules

from .talk import job


def drain(queue: FairQueue, jobs: dict[str, Job], starts: int) -> list[str]:
    order = []
    for _ in range(starts):
        name = queue.next()
        assert name
        queue.start(jobs[name])
        order.append(name)
    return order


def filled(weights: dict[str, float], each: int) -> tuple[FairQueue, dict[str, Job]]:
    queue, jobs = FairQueue(weights), {}
    for tenant in weights:
        for number in range(each):
            jobs[f"{tenant}{number}"] = job(f"{tenant}{number}", tenant=tenant, at=number)
            queue.add(jobs[f"{tenant}{number}"])
    return queue, jobs


def test_tenants_share_by_weight() -> None:
    queue, jobs = filled({"a": 3.0, "b": 1.0}, each=400)
    started = Counter(name[0] for name in drain(queue, jobs, 400))
    assert abs(started["a"] - 300) <= 2


def test_a_tenant_that_was_idle_has_saved_nothing_up() -> None:
    queue, jobs = filled({"a": 1.0}, each=100)
    drain(queue, jobs, 50)
    for number in range(50):
        jobs[f"b{number}"] = job(f"b{number}", tenant="b", at=number)
        queue.add(jobs[f"b{number}"])
    started = Counter(name[0] for name in drain(queue, jobs, 40))
    assert abs(started["a"] - started["b"]) <= 1


def test_priority_is_worth_waiting_time_and_starves_nobody() -> None:
    queue = FairQueue()
    old = job("old", at=0.0)
    jobs = {"old": old}
    queue.add(old)
    for minute in range(20):
        jobs[f"urgent{minute}"] = job(f"urgent{minute}", at=minute * 60.0, priority=10)
        queue.add(jobs[f"urgent{minute}"])
    order = drain(queue, jobs, 21)
    assert order[0] == "urgent0"
    assert order.index("old") == 10 or order.index("old") == 11


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-10, 10)), min_size=1, max_size=40))
def test_position_says_how_many_starts_until_a_job_goes(arrivals: list[tuple[str, int]]) -> None:
    queue, jobs, numbers = FairQueue({"a": 2.0}), {}, count()
    for tenant, priority in arrivals:
        number = next(numbers)
        jobs[f"{number}"] = job(f"{number}", tenant=tenant, at=float(number), priority=priority)
        queue.add(jobs[f"{number}"])
    positions = {name: queue.position(waiting) for name, waiting in jobs.items()}
    order = drain(queue, jobs, len(jobs))
    assert positions == {name: place for place, name in enumerate(order, 1)}


def test_a_removed_job_is_not_started_and_leaves_no_trace() -> None:
    queue, jobs = filled({"a": 1.0}, each=3)
    queue.remove(jobs["a1"])
    queue.remove(jobs["a1"])
    assert drain(queue, jobs, 2) == ["a0", "a2"]
    assert queue.next() is None
    assert len(queue) == 0


def test_under_saturation_a_minute_of_work_is_shared_by_weight_however_long_jobs_are() -> None:
    """Twenty slots, always busy; a tenant's jobs are short, unlike or long, and are forecast not quite rightly."""
    rng = random.Random(5)
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    lengths_s = {"a": (0.2, 0.4), "b": (0.1, 2.0), "c": (0.5, 3.0)}
    queue, jobs, took_s = FairQueue(weights), {}, {}
    for tenant, (low_s, high_s) in lengths_s.items():
        for number in range(8000):
            made = job(f"{tenant}{number}", tenant=tenant, at=float(number))
            jobs[made.job_id], took_s[made.job_id] = made, rng.uniform(low_s, high_s)
            queue.add(made)
    free_at_s = [0.0] * 20
    worked_s: Counter[str] = Counter()
    while (now_s := heapq.heappop(free_at_s)) < 60.0:
        name = queue.next()
        assert name
        queue.start(jobs[name], cost=took_s[name] * rng.uniform(0.8, 1.25))
        worked_s[jobs[name].tenant] += min(took_s[name], 60.0 - now_s)
        heapq.heappush(free_at_s, now_s + took_s[name])
    total_s = sum(worked_s.values())
    for tenant, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(worked_s[tenant] / total_s / share - 1) < 0.05, worked_s


def test_no_job_starves_whatever_arrives_with_priority() -> None:
    """Ten steps are worth ten minutes: what is stored twenty minutes later can never go before, however much it is."""
    queue, jobs = FairQueue(), {"old": job("old", at=0.0, priority=-10)}
    queue.add(jobs["old"])
    for second in range(3000):
        jobs[f"u{second}"] = job(f"u{second}", at=float(second), priority=10)
        queue.add(jobs[f"u{second}"])
        name = queue.next()
        assert name
        queue.start(jobs[name])
        if name == "old":
            assert second <= 1200 + 1
            return
    raise AssertionError("it starved")


def test_a_tenant_that_is_held_back_is_looked_past_and_has_no_claim_to_what_others_got() -> None:
    queue, jobs = filled({"a": 1.0, "b": 1.0}, each=100)
    for _ in range(60):
        name = queue.next(held_back={"a"})
        assert name
        assert name[0] == "b"
        queue.start(jobs[name])
    started = Counter(name[0] for name in drain(queue, jobs, 20))
    assert abs(started["a"] - started["b"]) <= 2


def test_going_ahead_gives_no_claim_to_go_ahead_again() -> None:
    queue, jobs = filled({"a": 1.0, "b": 1.0}, each=20)
    drain(queue, jobs, 2)
    ahead = 0
    while queue.has_claim("b", cost=1.0) and ahead < 20:
        ahead += 1
        queue.start(jobs[f"b{ahead}"], in_turn=False)
    assert ahead == 1
    assert drain(queue, jobs, 2) == ["a1", "a2"]


def test_a_weight_can_be_changed_while_jobs_wait() -> None:
    queue, jobs = filled({"a": 1.0, "b": 1.0}, each=400)
    drain(queue, jobs, 100)
    queue.weigh("a", 4.0)
    started = Counter(name[0] for name in drain(queue, jobs, 200))
    assert abs(started["a"] - 160) <= 3


def test_what_a_job_cost_beyond_its_forecast_is_charged_afterwards() -> None:
    queue, jobs = filled({"a": 1.0, "b": 1.0}, each=50)
    drain(queue, jobs, 2)
    queue.correct("a", 5.0)
    assert [name[0] for name in drain(queue, jobs, 6)] == ["b"] * 5 + ["a"]


def test_jobs_that_only_another_region_could_take_do_not_hold_up_the_rest() -> None:
    queue, free = FairQueue(), job("free", at=2.0)
    bound = replace(job("bound", at=1.0), regions=RegionRules(require=frozenset({"eu"})))
    queue.add(bound)
    queue.add(free)
    assert queue.next() == "bound"
    assert queue.next({bound.needs}) == "free"
    assert queue.next({bound.needs, free.needs}) is None


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=300))
def test_a_long_line_stays_in_order_while_jobs_come_and_go(changes: list[tuple[int, bool]]) -> None:
    queue, waiting = FairQueue(), {}
    ahead = [job(f"{n:05}", at=n * 0.25) for n in range(1600)]  # more than a block
    for one in ahead:
        queue.add(one)
        waiting[one.job_id] = one
    for at, leaves in changes:
        if leaves and (gone := waiting.pop(f"{at:05}", None)):
            queue.remove(gone)
        elif f"x{at}" not in waiting:
            waiting[f"x{at}"] = job(f"x{at}", at=float(at))
            queue.add(waiting[f"x{at}"])
    expected = sorted(waiting.values(), key=lambda one: (one.queue_key, one.job_id))
    assert len(queue) == len(expected)
    assert [queue.position(one) for one in expected[::97]] == list(range(1, len(expected) + 1, 97))
    assert drain(queue, waiting, 300) == [one.job_id for one in expected[:300]]
