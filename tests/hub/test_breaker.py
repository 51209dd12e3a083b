"""Out and back in: the breaker's conversations, and what holds whatever is said."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.breaker import MOST_EJECTED, Breaker, ProbeNorm, ProbeOutcome, State, Wish, ejectable
from hub.core.faults import Fault

RIGHT = ProbeOutcome(True, realtime_factor=2.0, digest="d")
WRONG = ProbeOutcome(False, "CUDA error")
NORM = ProbeNorm(2.0, "d")
OWN = sorted(fault for fault in Fault if fault.nodes_own)
OTHERS = sorted(fault for fault in Fault if not fault.nodes_own)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for number in range(3):
        breaker.failed(now, Fault.CRASH, f"job{number}")
    breaker.open(now)
    return breaker


def probe(breaker: Breaker, now: float, outcome: ProbeOutcome, norm: ProbeNorm = NORM) -> None:
    breaker.probe(now)
    breaker.probed(now, outcome, norm)


def pause_s(breaker: Breaker, now: float) -> int:
    return next(after for after in range(10_000) if breaker.due(now + after))


def test_three_faults_of_its_own_open_it_and_a_probe_closes_it() -> None:
    breaker = Breaker()
    breaker.failed(0, Fault.CRASH, "a")
    breaker.failed(60, Fault.DEVICE, "b")
    assert breaker.wants(60) == ""
    breaker.failed(120, Fault.CRASH, "c")
    assert breaker.wants(120) == "3 faults of its own (2 CRASH, 1 DEVICE) of 3 attempts within 10 min"
    breaker.open(120)
    assert breaker.state is State.OPEN
    assert not breaker.due(149)
    assert breaker.due(150)
    breaker.probe(150)
    assert breaker.state is State.PROBING
    breaker.probed(151, RIGHT, NORM)
    assert breaker.state is State.CLOSED
    assert breaker.wants(151) == ""


def test_three_faults_among_many_renders_do_not() -> None:
    breaker = Breaker()
    for number in range(30):
        breaker.rendered(number, f"well{number}")
        if number % 10 == 9:
            breaker.failed(number, Fault.CRASH, f"bad{number}")
    assert breaker.wants(30) == ""


def test_faults_that_are_old_do_not_unless_they_are_half_of_all() -> None:
    now, breaker, often = 0.0, Breaker(), Breaker()
    for number in range(10):
        now += 3600
        breaker.failed(now, Fault.CRASH, f"{number}") if number % 3 == 0 else breaker.rendered(now, f"{number}")
        often.failed(now, Fault.CRASH, f"{number}") if number % 2 == 0 else often.rendered(now, f"{number}")
    assert breaker.wants(now) == ""
    assert often.wants(now) == "5 faults of its own (5 CRASH) of the last 10 attempts"


def test_a_box_that_lost_all_its_slots_was_lost_once() -> None:
    breaker = Breaker()
    for number in range(8):
        breaker.failed(number, Fault.NODE_LOST, f"job{number}")
    assert breaker.wants(8) == ""
    breaker.failed(100, Fault.NODE_LOST, "a")
    breaker.failed(200, Fault.NODE_LOST, "b")
    assert breaker.wants(200) == "3 faults of its own (3 NODE_LOST) of 3 attempts within 10 min"


def test_one_fatal_error_of_its_gpu_is_enough() -> None:
    breaker = Breaker()
    breaker.condemn("Xid 79: fell off the bus")
    assert breaker.wants(0) == "Xid 79: fell off the bus"
    assert breaker.badness(0) > opened().badness(0)


def test_a_condemned_one_that_is_spared_is_probed_while_closed() -> None:
    breaker = Breaker()
    breaker.condemn("Xid 79: fell off the bus")
    assert breaker.due(0)
    probe(breaker, 0, WRONG)
    assert breaker.wants(1)
    assert not breaker.due(1)
    assert breaker.due(120)
    probe(breaker, 120, RIGHT)
    assert breaker.state is State.CLOSED
    assert breaker.wants(121) == ""


def test_pauses_double_with_each_failed_probe_up_to_half_an_hour() -> None:
    breaker, now, pauses = opened(), 0, []
    for _ in range(9):
        pauses.append(pause_s(breaker, now))
        now += pauses[-1]
        probe(breaker, now, WRONG)
    assert pauses == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
    assert breaker.reason == "its probe clip failed: CUDA error; to be probed in 1800 s"


def test_renders_take_the_growth_of_pauses_back_slowly() -> None:
    def pause_after(renders: int) -> int:
        breaker = opened()
        probe(breaker, 30, WRONG)
        probe(breaker, 90, RIGHT)
        for number in range(renders):
            breaker.rendered(100, f"well{number}")
        breaker.failed(100, Fault.CRASH, "between")
        breaker.rendered(100, "well")
        for number in range(20):
            breaker.failed(100, Fault.CRASH, f"bad{number}")
        breaker.open(100)
        return pause_s(breaker, 100)

    assert [pause_after(renders) for renders in (0, 19, 20, 40)] == [120, 120, 60, 30]


def test_half_of_the_history_stays_so_that_one_more_fault_opens_it_again() -> None:
    breaker = Breaker()
    for number in range(8):
        breaker.failed(0, Fault.CRASH, f"job{number}")
    breaker.open(0)
    probe(breaker, 30, RIGHT)
    assert breaker.wants(30) == ""
    breaker.failed(31, Fault.CRASH, "again")
    assert breaker.wants(31) == "5 faults of its own (5 CRASH) of 5 attempts within 10 min"


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (WRONG, "CUDA error"),
        (ProbeOutcome(True, realtime_factor=0.9, digest="d"), "0.90 x realtime, its first clip had 2.00"),
        (
            ProbeOutcome(True, realtime_factor=2.0, digest="x"),
            "the clip's digest is x, most nodes with its model make d",
        ),
    ],
)
def test_a_clip_that_is_wrong_or_slow_does_not_pass(outcome: ProbeOutcome, why: str) -> None:
    breaker = opened()
    probe(breaker, 30, outcome)
    assert breaker.state is State.OPEN
    assert why in breaker.reason


def test_a_slot_that_never_rendered_one_and_a_fleet_without_a_majority_set_no_norm() -> None:
    breaker = opened()
    probe(breaker, 30, ProbeOutcome(True, realtime_factor=0.01, digest="x"), ProbeNorm())
    assert breaker.state is State.CLOSED


def test_a_probe_that_is_lost_is_sent_again_soon_and_one_unanswered_is_overdue() -> None:
    breaker = opened()
    breaker.probe(30)
    breaker.probe_lost(31)
    assert breaker.state is State.OPEN
    assert pause_s(breaker, 31) == 10
    breaker.probed(32, RIGHT, NORM)  # too late: it is not waited for any more
    assert breaker.state is State.OPEN
    breaker.probe(41)
    assert not breaker.overdue(160)
    assert breaker.overdue(161)


def test_faults_of_inputs_that_were_to_blame_are_taken_back() -> None:
    breaker = Breaker()
    for job_id in ("poison", "a", "b"):
        breaker.failed(0, Fault.CRASH, job_id)
    breaker.open(0)
    assert not breaker.forgive("unknown")
    assert not breaker.due(1)
    assert breaker.forgive("poison")
    assert breaker.state is State.OPEN  # still to be probed, but at once
    assert breaker.due(1)
    probe(breaker, 1, RIGHT)
    breaker.failed(2, Fault.CRASH, "c")
    breaker.failed(2, Fault.CRASH, "d")
    breaker.open(2)
    assert pause_s(breaker, 2) == 30  # the pause has not grown by the opening that was a mistake


def test_faults_that_remain_are_enough() -> None:
    breaker = Breaker()
    for job_id in ("poison", "a", "b", "c"):
        breaker.failed(0, Fault.CRASH, job_id)
    breaker.open(0)
    assert breaker.forgive("poison")
    assert pause_s(breaker, 0) == 30


def test_a_pause_for_failed_probes_is_not_cut_short() -> None:
    breaker = opened()
    probe(breaker, 30, WRONG)
    assert breaker.forgive("job0")
    assert pause_s(breaker, 30) == 60


ACTIONS: list[Callable[[Breaker, float], object]] = [
    *(lambda breaker, now, fault=fault: breaker.failed(now, fault, "job") for fault in OWN),  # type: ignore[misc]
    lambda breaker, now: breaker.rendered(now, "job"),
    lambda breaker, now: breaker.condemn("Xid 79"),
    lambda breaker, now: breaker.open(now),
    lambda breaker, now: breaker.probe(now),
    lambda breaker, now: breaker.probe_lost(now),
    lambda breaker, now: breaker.probed(now, WRONG, NORM),
    lambda breaker, now: breaker.forgive("job"),
]


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.floats(0, 3000))))
def test_nothing_but_a_passed_probe_closes_it(steps: list[tuple[Callable[[Breaker, float], object], float]]) -> None:
    breaker, now = Breaker(), 0.0
    for act, wait_s in steps:
        now += wait_s
        before = breaker.state
        act(breaker, now)
        assert breaker.state is before or breaker.state is not State.CLOSED
    if breaker.state is not State.CLOSED:
        assert breaker.state is State.PROBING or breaker.due(now + 1800)
        probe(breaker, now + 1800, RIGHT)
        assert breaker.state is State.CLOSED
        assert breaker.wants(now + 1800) == ""


@given(st.lists(st.tuples(st.sampled_from(OTHERS), st.floats(0, 60)), min_size=1))
def test_what_the_caller_did_changes_nothing(steps: list[tuple[Fault, float]]) -> None:
    breaker, untouched, now = Breaker(), Breaker(), 0.0
    for fault, wait_s in steps:
        now += wait_s
        breaker.failed(now, fault, "job")
        breaker.open(now)
    assert vars(breaker) == vars(untouched)


@given(st.integers(1, 100), st.data())
def test_the_cap_is_never_exceeded_and_the_worst_go_first(nodes: int, data: st.DataObject) -> None:
    out = data.draw(st.integers(0, nodes))
    badness = data.draw(st.lists(st.floats(0, 2000), max_size=nodes - out))
    wishes = [Wish(f"n{number}", bad, "bad") for number, bad in enumerate(badness)]
    ruling = ejectable("eu", nodes, out, wishes)
    most = max(MOST_EJECTED * nodes, min(1, nodes - 1))
    assert not ruling.ejected or out + len(ruling.ejected) <= most
    assert {wish.node_id for wish in (*ruling.ejected, *ruling.spared)} == {wish.node_id for wish in wishes}
    assert not ruling.spared or out + len(ruling.ejected) + 1 > most
    assert min((wish.badness for wish in ruling.ejected), default=0) >= max(
        (wish.badness for wish in ruling.spared if ruling.ejected), default=0
    )


def test_the_spared_are_told_why() -> None:
    wishes = [Wish("n1", 3, "3 faults"), Wish("n2", 5, "5 faults")]
    assert ejectable("eu", 1, 0, wishes[:1]).spared[0].reason == "spared, it is the only node of eu: 3 faults"
    ruling = ejectable("eu", 4, 0, wishes)
    assert [wish.node_id for wish in ruling.ejected] == ["n2"]
    assert ruling.spared[0].reason == "spared, 1 of 4 nodes of eu are out, and 1 may be: 3 faults"
