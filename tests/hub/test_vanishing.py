"""When the hub has to suspect itself."""

from hypothesis import given
from hypothesis import strategies as st

from hub.core.vanishing import Vanishing


def test_a_third_of_the_fleet_at_once_freezes_until_the_grace_period_is_over() -> None:
    guard = Vanishing(grace_s=30)
    assert [guard.cut(100 + number, f"n{number}", 9 - number) for number in range(3)] == [False, False, True]
    assert guard.frozen
    assert guard.reason.startswith("3 of 10 sessions ended within 10 s")
    assert not guard.ticked(131)
    assert guard.ticked(132)
    assert not guard.frozen
    assert guard.reason == "3 of 3 nodes that vanished are not back after 30 s"


def test_it_ends_early_when_most_are_back() -> None:
    guard = Vanishing(grace_s=30)
    for number in range(10):
        guard.cut(100, f"n{number}", 9 - number)
    assert guard.frozen
    assert [guard.joined(105, f"n{number}") for number in range(8)] == [False] * 7 + [True]
    assert not guard.frozen
    assert guard.reason == "8 of the 10 nodes that vanished are back"


def test_single_losses_and_slow_ones_are_every_days_business() -> None:
    few = Vanishing(grace_s=30)
    assert not few.cut(100, "n1", 1)
    assert not few.cut(100, "n2", 0)
    slow = Vanishing(grace_s=30)
    assert not any(slow.cut(100 + 6 * number, f"n{number}", 9 - number) for number in range(10))
    large = Vanishing(grace_s=30)
    assert not any(large.cut(100, f"n{number}", 999 - number) for number in range(299))


def test_one_node_that_comes_and_goes_is_one_node() -> None:
    guard = Vanishing(grace_s=30)
    for turn in range(5):
        assert not guard.cut(100 + turn, "flaps", 4)
        guard.joined(100 + turn, "flaps")


def test_nodes_that_stay_away_do_not_freeze_it_again() -> None:
    guard = Vanishing(grace_s=5)
    for number in range(3):
        guard.cut(100, f"n{number}", 5 - number)
    assert guard.ticked(105)
    assert not guard.cut(106, "n3", 2)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 11), st.floats(0, 20)), max_size=80))
def test_no_freeze_outlasts_the_grace_period(steps: list[tuple[bool, int, float]]) -> None:
    guard, now, here = Vanishing(grace_s=30), 0.0, set(range(12))
    frozen_s = 0.0
    for leaves, number, wait_s in steps:
        now += wait_s
        guard.ticked(now)
        if leaves and number in here:
            here.discard(number)
            if guard.cut(now, str(number), len(here)):
                frozen_s = now
        elif not leaves and number not in here:
            here.add(number)
            guard.joined(now, str(number))
        assert not guard.frozen or now - frozen_s < 30
