"""Who goes next."""

from collections import Counter
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from hub.core.fair_queue import FairQueue
from hub.core.jobs import Job

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
