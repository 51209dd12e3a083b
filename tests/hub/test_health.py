"""How far a node is trusted, and why."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.faults import Fault
from hub.core.health import Alarm, Derating, GpuReading, Norms, Vitals, norms, reason

GIB = 1 << 30
NONE = Norms()
GPU = GpuReading("gpu0", "RTX 4090", "550.2", 24 * GIB, 4 * GIB, 60.0, idle=True)


def vitals(region: str = "eu", driver: str = "550.2", engine: str = "1.0") -> Vitals:
    made = Vitals(region)
    made.joined(0, region)
    made.versions({"warp": engine})
    made.gpus(0, [replace(GPU, driver_version=driver)])
    return made


def shares(one: Vitals, now: float, gpu_uuid: str | None = None) -> dict[str, float]:
    """What takes anything, by name."""
    factors = one.health(now, NONE, gpu_uuid).factors
    return {factor.name: round(factor.share, 2) for factor in factors if factor.share < 0.995}


def render(one: Vitals, ratio: float, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        one.rendered(now, "gpu0", ratio)


# Beats and the line.


def test_a_sound_node_is_trusted_wholly() -> None:
    one = vitals()
    for beat in range(1, 20):
        one.heard(beat * 5.0, 5.0)
        one.round_trip(0.05)
        one.gpus(beat * 5.0, [GPU])
        one.rendered(beat * 5.0, "gpu0", 1.0)
    health = one.health(96, NONE)
    assert health.score == 1.0
    assert reason(health) == ""
    assert {factor.name for factor in health.factors} >= {"heartbeat_age", "round_trip", "temperature", "speed"}


def test_a_node_that_falls_silent_is_trusted_less_and_less() -> None:
    one = vitals()
    one.heard(5, 5)
    assert [round(one.health(5 + silence, NONE).score, 2) for silence in (5, 10, 20, 30, 300)] == [1, 1, 0.6, 0.2, 0.2]
    assert "last heard 300.0 s ago; every 5 s is expected" in reason(one.health(305, NONE))
    one.heard(305, 5)
    assert one.health(305, NONE).score > 0.8


def test_a_beat_out_of_time_counts_little_and_an_absence_not_at_all() -> None:
    shaky, away = vitals(), vitals()
    now = 0.0
    for beat in range(60):
        now += 13.0 if beat % 2 else 0.5
        shaky.heard(now, 5)
    assert shares(shaky, now) == {"heartbeat_jitter": pytest.approx(0.9, abs=0.03)}
    away.heard(5, 5)
    away.joined(90_000, "eu")
    away.heard(90_005, 5)
    assert shares(away, 90_005) == {}


# Faults.


def test_faults_weigh_against_what_went_well_and_are_lived_down() -> None:
    new, old = vitals(), vitals()
    render(old, 1.0, 40)
    for one in (new, old):
        one.failed(0, "gpu0", Fault.CRASH)
    assert shares(new, 0) == {"faults": 0.75}
    assert shares(old, 0) == {"faults": 0.98}
    assert "1.0 of 1.0 recent attempts failed by its own fault: CRASH 1.0" in reason(new.health(0, NONE))
    new.failed(0, "gpu0", Fault.NODE_LOST)
    assert shares(new, 0) == {"faults": 0.75, "losses": 0.75}
    new.failed(5, "gpu0", Fault.NODE_LOST)  # the same loss
    assert shares(new, 5) == {"faults": 0.75, "losses": 0.75}
    assert shares(new, 4 * 3600) == {}


@given(st.lists(st.sampled_from([fault for fault in Fault if not fault.nodes_own])))
def test_what_the_caller_did_is_no_matter_of_health(faults: list[Fault]) -> None:
    one = vitals()
    for fault in faults:
        one.failed(0, "gpu0", fault)
    assert one.health(0, NONE) == vitals().health(0, NONE)


def test_a_fault_that_the_inputs_made_is_taken_back() -> None:
    one = vitals()
    for gpu_uuid in ("gpu0", "gpu0", ""):
        one.failed(0, gpu_uuid, Fault.CRASH)
    one.excused(1, Fault.CRASH)
    one.excused(1, Fault.DEVICE)
    assert shares(one, 1, "gpu0") == {"faults": 0.75}
    assert shares(one, 1, "") == {"faults": 0.75}
    for _ in range(3):
        one.excused(1, Fault.CRASH)
    assert shares(one, 1) == {}


# Speed, heat and clocks.


def test_one_slow_render_is_no_verdict_and_ten_are() -> None:
    one = vitals()
    render(one, 2.0, 1)
    assert one.health(0, NONE).score > 0.9
    render(one, 2.0, 9)
    assert shares(one, 0) == {"speed": pytest.approx(0.68, abs=0.02)}
    assert "told from 10 renders" in reason(one.health(0, NONE))


def test_a_slow_node_gets_another_chance_and_a_fast_one_no_bonus() -> None:
    slow, fast = vitals(), vitals()
    render(slow, 8.0, 20)
    render(fast, 0.2, 20)
    assert slow.health(0, NONE).score < 0.3
    assert slow.health(8 * 3600, NONE).score > 0.95
    assert fast.health(0, NONE).score == 1.0


@pytest.mark.parametrize(
    "ill", [replace(GPU, temperature_celsius=92.0), replace(GPU, throttle_reasons=("power", "thermal"))]
)
def test_heat_and_throttling_count_for_more_on_a_slow_gpu(ill: GpuReading) -> None:
    quick, slow = vitals(), vitals()
    for _ in range(30):
        quick.gpus(0, [ill])
        slow.gpus(0, [ill])
    render(slow, 2.0, 10)
    assert quick.health(0, NONE).score > 0.9
    [beside] = [share for name, share in shares(slow, 0).items() if name != "speed"]
    assert beside < 0.8
    assert "slower than its like" in reason(slow.health(0, NONE))


def test_clocks_that_somebody_has_set_are_no_throttling() -> None:
    one = vitals()
    for _ in range(30):
        one.gpus(0, [replace(GPU, throttle_reasons=("setting", "sync"))])
    assert one.health(0, NONE).score == 1.0


# Xid and memory errors.


def test_a_gpu_off_the_bus_gets_nothing_and_leaves_the_other_its_work() -> None:
    one = Vitals("eu")
    other = replace(GPU, uuid="gpu1")
    assert one.gpus(0, [GPU, other]) == ()
    lost = replace(GPU, xid_events={79: 1})
    assert one.gpus(5, [lost, other]) == (Alarm("gpu0", "Xid 79: fell off the bus"),)
    assert one.health(5, NONE, "gpu0").score == 0
    assert one.health(5, NONE, "gpu1").score == 1
    assert one.health(5, NONE).score == 0.5
    assert "worst gpu0: Xid 79: fell off the bus; no probe clip rendered since" in reason(one.health(5, NONE))
    assert one.gpus(10, [lost, other]) == ()  # an event, not a state: it is told once
    one.proven("gpu0")
    assert one.health(10, NONE, "gpu0").score == pytest.approx(0.25, abs=0.01)
    assert one.health(4 * 3600, NONE, "gpu0").score > 0.95


def test_a_gpu_that_is_no_longer_there_is_no_part_of_the_node() -> None:
    one = Vitals("eu")
    other = replace(GPU, uuid="gpu1")
    one.gpus(0, [GPU, other])
    one.gpus(5, [replace(GPU, xid_events={79: 1}), other])
    one.gpus(10, [other])
    assert one.health(10, NONE).score == 1.0


def test_counts_from_before_the_first_reading_are_old_and_those_of_a_new_agent_are_new() -> None:
    one = Vitals("eu")
    assert one.gpus(0, [replace(GPU, xid_events={79: 3}, ecc_uncorrected_errors=9)]) == ()
    assert one.health(0, NONE).score == 1.0
    assert one.gpus(5, [replace(GPU, xid_events={79: 1}, ecc_uncorrected_errors=9)])


def test_a_programs_own_xid_is_hardly_one() -> None:
    one = vitals()
    assert one.gpus(5, [replace(GPU, xid_events={13: 1, 31: 1})]) == ()
    assert one.health(5, NONE).score > 0.9
    assert one.gpus(10, [replace(GPU, xid_events={13: 1, 31: 1, 63: 1})]) == ()
    assert 0.4 < one.health(10, NONE).score < 0.5


def test_memory_errors_that_could_not_be_corrected_want_a_proof() -> None:
    one = Vitals("eu")
    one.gpus(0, [replace(GPU, ecc_uncorrected_errors=None)])
    one.gpus(5, [replace(GPU, ecc_uncorrected_errors=4)])  # the driver tells them from now on
    assert one.health(5, NONE).score == 1.0
    alarms = one.gpus(10, [replace(GPU, ecc_uncorrected_errors=6)])
    assert alarms == (Alarm("gpu0", "2 memory errors that could not be corrected"),)
    assert one.health(10, NONE).score == 0


def test_a_gpu_that_nobody_probes_is_not_left_alone_for_good() -> None:
    one = vitals()
    one.gpus(5, [replace(GPU, xid_events={79: 1})])
    assert one.health(1800, NONE).score == 0
    assert one.health(1900, NONE).score > 0.2


# Memory that renders leave behind.


def leaking(used_gib: Iterator[float]) -> Vitals:
    """A GPU that is idle, with so much in use, after each render."""
    one = vitals()
    for number, used in enumerate(used_gib):
        one.rendered(number, "gpu0", 0.0)
        one.gpus(number, [replace(GPU, memory_used_bytes=int((used + 5) * GIB), idle=False)])  # amid the render
        one.gpus(number, [replace(GPU, memory_used_bytes=int(used * GIB))])
    return one


def test_a_leak_is_told_as_bytes_a_render_and_weighs_by_what_is_left() -> None:
    chance = random.Random(1)
    one = leaking(4 + 0.1 * number + chance.uniform(0, 0.1) for number in range(60))
    [leak] = [factor for factor in one.health(60, NONE).factors if factor.name == "memory_growth"]
    assert leak.value == pytest.approx(0.1 * GIB, rel=0.3)
    assert leak.unit == "bytes/render"
    full = leaking(4 + 0.3 * number for number in range(60))
    assert full.health(60, NONE).score == pytest.approx(0.2, abs=0.05)
    assert one.health(60, NONE).score > 2 * full.health(60, NONE).score


@pytest.mark.parametrize(
    "used",
    [
        pytest.param(lambda number, chance: 4 + chance.gauss(0, 0.3), id="noise"),
        pytest.param(lambda number, chance: 4 + min(number, 4) * 0.5, id="warm-up"),
        pytest.param(lambda number, chance: 4 if number < 150 else 9, id="a model loaded late"),
        pytest.param(lambda number, chance: 4 + number % 12 * 0.5, id="given back each dozen"),
    ],
)
def test_what_is_no_leak_counts_for_nothing(used) -> None:
    chance = random.Random(2)
    one = vitals()
    for number in range(300):
        one.rendered(number, "gpu0", 0.0)
        one.gpus(number, [replace(GPU, memory_used_bytes=int(used(number, chance) * GIB))])
        assert shares(one, number) == {}


def test_only_the_least_in_use_between_renders_counts() -> None:
    one, busy = vitals(), vitals()
    for number in range(40):
        grown = replace(GPU, memory_used_bytes=int((4 + 0.3 * number) * GIB))
        one.rendered(number, "gpu0", 0.0)
        busy.rendered(number, "gpu0", 0.0)
        for reading in (grown, replace(grown, memory_used_bytes=4 * GIB), grown):
            one.gpus(number, [reading])
        busy.gpus(number, [replace(grown, idle=False)])
        assert shares(one, number) == shares(busy, number) == {}


def test_a_worker_that_starts_anew_has_left_its_leak_behind() -> None:
    crashed = leaking(4 + 0.3 * number for number in range(60))
    crashed.failed(60, "gpu0", Fault.OUT_OF_MEMORY)
    assert "memory_growth" not in shares(crashed, 60)
    recycled = leaking(4 + 0.3 * number for number in range(60))
    assert "memory_growth" in shares(recycled, 60)
    recycled.gpus(65, [replace(GPU, memory_used_bytes=4 * GIB)])
    assert shares(recycled, 65) == {}


# Versions.


def test_the_majority_is_more_than_half_of_three_or_more_of_the_region() -> None:
    fleet = [vitals(), vitals(), vitals(driver="535.1", engine="2.0"), vitals("us", "535.1"), vitals("us", "535.1")]
    usual = norms(fleet)
    assert usual == Norms({("eu", "RTX 4090"): "550.2"}, {("eu", "warp"): "1.0"})
    assert fleet[2].health(0, NONE).score == 1.0
    odd = fleet[2].health(0, usual)
    assert reason(odd) == ("driver 535.1; most RTX 4090 of eu have 550.2; has warp at 2.0; most nodes of eu have 1.0")
    assert odd.score > 0.7  # a canary is not derated
    assert fleet[0].health(0, usual).score == fleet[3].health(0, usual).score == 1.0


def test_half_of_four_is_no_majority() -> None:
    assert norms([vitals(), vitals(), vitals(driver="535.1"), vitals(driver="535.1")]).drivers == {}


# When to speak.


def test_a_derating_is_told_when_it_begins_and_when_it_has_clearly_ended() -> None:
    derating = Derating()
    scores = [0.9, 0.75, 0.69, 0.71, 0.68, 0.84, 0.86, 0.75, 0.71, 0.69]
    assert [derating.turned(score) for score in scores] == [
        False, False, True, False, False, False, True, False, False, True,
    ]  # fmt: skip
    assert derating.derated


def test_what_has_changed_is_seen_at_once() -> None:
    one, now = vitals(), 30.0
    seen = [one.health(now, NONE).score]
    one.heard(now, 5.0)
    one.heard(now, 5.0)
    for change in (
        lambda: one.round_trip(4.0),
        lambda: one.failed(now, "gpu0", Fault.CRASH),
        lambda: one.rendered(now, "gpu0", 0.0),
        lambda: one.gpus(now, [replace(GPU, xid_events={79: 1})]),
        lambda: one.proven("gpu0"),
        lambda: one.excused(now, Fault.CRASH),
    ):
        change()
        seen.append(one.health(now, NONE).score)
    assert all(before != after for before, after in pairwise(seen))
    assert one.health(now, NONE) is one.health(now + 0.5, NONE)


# Whatever is read.

ANY = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0]) | st.floats()
COUNT = st.integers(0, 2**63 - 1)
READINGS = st.builds(
    GpuReading,
    uuid=st.sampled_from(["gpu0", "gpu1"]),
    name=st.just("RTX 4090"),
    driver_version=st.sampled_from(["", "550.2"]),
    memory_total_bytes=COUNT,
    memory_used_bytes=COUNT,
    temperature_celsius=ANY,
    throttle_reasons=st.sampled_from([(), ("thermal",), ("sync",)]),
    ecc_uncorrected_errors=st.none() | COUNT,
    xid_events=st.dictionaries(st.sampled_from([13, 63, 79]), COUNT),
    idle=st.booleans(),
)
STEPS = st.one_of(
    st.tuples(st.just("heard"), st.floats(0.1, 60)),
    st.tuples(st.just("round_trip"), ANY),
    st.tuples(st.just("gpus"), st.lists(READINGS, max_size=2)),
    st.tuples(st.just("rendered"), ANY),
    st.tuples(st.just("failed"), st.sampled_from(Fault)),
    st.tuples(st.just("proven"), st.none()),
)


@given(st.lists(st.tuples(STEPS, st.floats(0, 1e6)), max_size=40))
def test_the_score_is_the_product_of_the_shares_and_within_0_and_1(steps) -> None:
    one, now = vitals(), 0.0
    for (what, told), wait_s in steps:
        now += wait_s
        match what:
            case "heard" | "gpus":
                getattr(one, what)(now, told)
            case "rendered" | "failed":
                getattr(one, what)(now, "gpu0", told)
            case "round_trip":
                one.round_trip(told)
            case "proven":
                one.proven("gpu0")
        for gpu_uuid in (None, "gpu0", "gpu1", ""):
            health = one.health(now, NONE, gpu_uuid)
            assert 0 <= health.score <= 1
            assert health.score == math.prod(factor.share for factor in health.factors)
            assert all(math.isfinite(factor.value) and 0 <= factor.share <= 1 for factor in health.factors)
