"""What is expected of work: learned from calibrations and renders, with ranges that hold."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest

from hub.core import forecast
from hub.core.forecast import CALIBRATION, NOTHING, Estimate, Forecasts, Kind
from hub.core.jobs import Work

GPU, CPU = Kind("warp", "1", "a100"), Kind("warp", "1", "cpu")
GIB = 1 << 30


class Box:
    """A node whose renders take what a law says, times chance."""

    def __init__(self, name: str, ratio: float, rng: random.Random, steps_power: float = 0.0) -> None:
        self.name, self.ratio, self.rng, self.steps_power = name, ratio, rng, steps_power

    def law_s(self, work: Work, warm: bool) -> float:
        moving = 0.15 * work.video_s * (work.side_px / 256) ** 1.8 * (work.steps / 25) ** self.steps_power
        return self.ratio * (0.4 + moving + (0.0 if warm else 0.6))

    def render_s(self, work: Work, warm: bool) -> float:
        return self.law_s(work, warm) * math.exp(self.rng.gauss(0, 0.1))

    def calibrate(self, forecasts: Forecasts, kind: Kind = GPU) -> None:
        forecasts.calibrated(kind, self.name, CALIBRATION.video_s / self.render_s(CALIBRATION, False))


def boxes(count: int, spread: float = 0.2, steps_power: float = 0.0) -> list[Box]:
    rng = random.Random(count)
    return [Box(f"n{number}", math.exp(rng.gauss(0, spread)), rng, steps_power) for number in range(count)]


def any_work(rng: random.Random) -> Work:
    steps = rng.choice([15, 25, 50])
    return Work(math.exp(rng.uniform(0, 4)), rng.choice([256, 512, 768, 1024]), steps)


def live(forecasts: Forecasts, fleet: list[Box], renders: int, outliers: float = 0.0) -> None:
    rng = random.Random(7)
    for _ in range(renders):
        box, work, warm = rng.choice(fleet), any_work(rng), rng.random() < 0.5
        took_s = box.render_s(work, warm) * (20 if rng.random() < outliers else 1)
        forecasts.rendered(GPU, box.name, work, took_s, warm)


def width(estimate: Estimate) -> float:
    return math.log(estimate.high_s / estimate.low_s)


def error(forecasts: Forecasts, box: Box, work: Work, warm: bool = False) -> float:
    return abs(math.log(forecasts.render(GPU, box.name, work, warm).expected_s / box.law_s(work, warm)))


def test_calibrations_alone_give_the_right_order_and_a_wide_range() -> None:
    forecasts, fleet = Forecasts(), boxes(8)
    for box in fleet:
        box.calibrate(forecasts)
    work = Work(30.0, 1024)
    estimate = forecasts.render(GPU, "n1", work, False)
    assert estimate.low_s < fleet[1].law_s(work, False) < estimate.high_s
    assert width(estimate) > width(forecasts.render(GPU, "n1", CALIBRATION, False)) > 0.3


def test_renders_sharpen_the_forecast_and_nine_of_ten_fall_within_its_range() -> None:
    forecasts, fleet = Forecasts(), boxes(10)
    for box in fleet:
        box.calibrate(forecasts)
    before = width(forecasts.render(GPU, "n3", Work(30.0, 1024), False))
    live(forecasts, fleet, 200)
    assert width(forecasts.render(GPU, "n3", Work(30.0, 1024), False)) < before / 3
    rng, inside = random.Random(3), 0
    for _ in range(500):
        box, work = rng.choice(fleet), any_work(rng)
        estimate = forecasts.render(GPU, box.name, work, False)
        inside += estimate.low_s <= box.render_s(work, False) <= estimate.high_s
    assert 0.84 < inside / 500 < 0.98


def test_outliers_do_not_wreck_the_forecast() -> None:
    forecasts, fleet = Forecasts(), boxes(10)
    live(forecasts, fleet, 400, outliers=0.04)
    errors = sorted(error(forecasts, box, Work(20.0, 512)) for box in fleet)
    assert errors[len(errors) // 2] < 0.15
    assert errors[-1] < 0.4


def test_steps_count_for_engines_where_they_show() -> None:
    for steps_power in (0.0, 1.0):
        forecasts, fleet = Forecasts(), boxes(10, steps_power=steps_power)
        live(forecasts, fleet, 400)
        few, many = (forecasts.baseline(GPU, Work(60.0, 1024, steps)) for steps in (10, 50))
        assert abs(math.log(many / few) - steps_power * math.log(5)) < 0.25


def test_a_prepared_portrait_saves_what_preparing_takes() -> None:
    forecasts, fleet = Forecasts(), boxes(10)
    live(forecasts, fleet, 400)
    work = Work(2.0, 256)
    saved_s = forecasts.baseline(GPU, work) - forecasts.baseline(GPU, work, warm=True)
    assert abs(saved_s - 0.6) < 0.2
    told = Forecasts()
    for _ in range(20):
        told.rendered(GPU, "n1", Work(60.0, 1024), 300.0, True, preparing_s=1.0)
        told.rendered(GPU, "n1", Work(60.0, 1024), 304.0, False, preparing_s=5.0)
    assert abs(told.preparing(GPU, "") - 4.0) < 1.0


def test_a_node_is_known_by_its_own_renders_and_drawn_to_its_class_before() -> None:
    forecasts, fleet = Forecasts(), boxes(12, spread=0.05)
    slow = Box("slow", 3.0, random.Random(1))
    for box in fleet:
        box.calibrate(forecasts)
    live(forecasts, fleet, 100)
    assert forecasts.ratio(GPU, "slow") == 1.0
    assert 0.85 < forecasts.ratio(GPU, "n2") < 1.15
    ratios = []
    for _ in range(12):
        forecasts.rendered(GPU, "slow", Work(10.0, 512), slow.render_s(Work(10.0, 512), False), False)
        ratios.append(forecasts.ratio(GPU, "slow"))
    assert 1.0 < ratios[0] < ratios[3] < ratios[-1]
    assert 2.2 < ratios[-1] < 3.3
    assert 0.85 < forecasts.ratio(GPU, "n2") < 1.15  # the class has not followed it


def test_unlike_boxes_of_a_class_are_told_apart_by_their_calibrations() -> None:
    forecasts, fleet = Forecasts(), boxes(9, spread=1.0)
    for box in fleet:
        box.calibrate(forecasts, CPU)
    by_speed = sorted(fleet, key=lambda box: box.ratio)
    for faster, slower in combinations(by_speed, 2):
        seen = forecasts.ratio(CPU, slower.name) / forecasts.ratio(CPU, faster.name)
        assert abs(math.log(seen / (slower.ratio / faster.ratio))) < 0.7


def test_what_becomes_slower_for_good_is_followed() -> None:
    forecasts, work = Forecasts(), Work(10.0, 512)
    for took_s in (*[10.0] * 100, *[30.0] * 60):
        forecasts.rendered(GPU, "n1", work, took_s, True)
    assert 24.0 < forecasts.render(GPU, "n1", work, True).expected_s < 36.0


def test_a_new_model_version_begins_as_the_one_before() -> None:
    forecasts, fleet = Forecasts(), boxes(10)
    live(forecasts, fleet, 300)
    new = GPU._replace(model_version="2")
    assert not forecasts.knows(new)
    old, fresh = (forecasts.render(kind, "", Work(20.0, 512), False) for kind in (GPU, new))
    assert abs(math.log(fresh.expected_s / old.expected_s)) < 0.01
    assert width(fresh) > width(old)


def test_a_job_of_unknown_length_has_a_forecast_and_says_how_unsure_it_is() -> None:
    forecasts = Forecasts()
    live(forecasts, boxes(10), 300)
    unknown, known = (forecasts.render(GPU, "n1", Work(video_s, 512), False) for video_s in (0.0, 8.0))
    assert width(unknown) > width(known) + 1


def test_the_same_calibration_again_changes_nothing() -> None:
    forecasts = Forecasts()
    forecasts.calibrated(GPU, "n1", 1.5)
    before = forecasts.render(GPU, "n1", Work(9.0, 512), False)
    for _ in range(50):
        forecasts.calibrated(GPU, "n1", 1.5)
    assert forecasts.render(GPU, "n1", Work(9.0, 512), False) == before


def test_sums_add_what_is_expected_and_not_the_bad_luck() -> None:
    one = Estimate(10.0, 8.0, 14.0)
    assert one + NOTHING == one
    both = one + one
    assert both.expected_s == 20.0
    assert 16.0 < both.low_s < 20.0 < both.high_s < 28.0


def test_the_line_of_a_node_is_learned() -> None:
    forecasts = Forecasts()
    assert forecasts.transfer("n1", 0) == NOTHING
    assert 1.9 < forecasts.transfer("n1", 10_000_000).expected_s < 2.1
    for _ in range(20):
        forecasts.transferred("n1", 1_000_000, 10.0)
    slow = forecasts.transfer("n1", 1_000_000)
    assert 9.0 < slow.expected_s < 12.0
    assert width(slow) < width(forecasts.transfer("n2", 1_000_000))


def test_memory_grows_with_pixels_from_what_was_seen() -> None:
    forecasts = Forecasts()

    def side(px: int) -> Work:
        return Work(10.0, px)

    assert forecasts.memory("warp", "1", side(512)) == 0
    for peak_gib in (3.0, 4.0, 3.5):
        forecasts.used_memory("warp", "1", side(512), int(peak_gib * GIB))
    assert 4.0 * GIB < forecasts.memory("warp", "1", side(512)) < 4.4 * GIB
    assert forecasts.memory("warp", "1", side(1024)) > 15 * GIB  # a guess, by pixels
    assert forecasts.memory_at_least("warp", "1", side(1024)) < 4.1 * GIB  # what is known
    forecasts.used_memory("warp", "1", side(1024), 7 * GIB)
    assert 4.2 * GIB < forecasts.memory("warp", "1", side(768)) < 7 * GIB
    assert 2 * GIB < forecasts.memory("warp", "1", side(256)) < 4 * GIB  # not all of it is pixels
    assert 18 * GIB < forecasts.memory("warp", "1", side(2048)) < 22 * GIB


def test_a_render_that_ran_out_of_memory_raises_the_forecast_above_what_the_device_had() -> None:
    forecasts, work = Forecasts(), Work(10.0, 1024)
    forecasts.used_memory("warp", "1", work, 6 * GIB)
    forecasts.ran_out(GPU, work, 8 * GIB)
    assert forecasts.memory("warp", "1", work) > 8 * GIB
    assert forecasts.memory_at_least("warp", "1", work) < 7 * GIB  # once is no proof
    forecasts.ran_out(GPU, work, 8 * GIB)
    assert forecasts.memory_at_least("warp", "1", work) > 8 * GIB
    assert forecasts.memory_at_least("warp", "1", Work(10.0, 512)) == 0
    forecasts.used_memory("warp", "1", work, 6 * GIB)  # it fits after all: the device had not been free
    assert forecasts.memory("warp", "1", work) < 7 * GIB
    assert forecasts.memory_at_least("warp", "1", work) < 7 * GIB


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "MAX_KINDS", 3)
    monkeypatch.setattr(forecast, "MAX_NODES", 10)
    forecasts = Forecasts()
    for number in range(40):
        kind = Kind("warp", f"{number}", "cpu")
        forecasts.calibrated(kind, "n", 1.0)
        forecasts.render(kind, "n", Work(1.0), False)
        forecasts.used_memory("warp", f"{number}", Work(1.0), GIB)
        forecasts.transferred(f"n{number}", 1000, 1.0)
    assert [forecasts.knows(Kind("warp", f"{number}", "cpu")) for number in (36, 37, 39)] == [False, True, True]
    assert (len(forecasts._classes), len(forecasts._cache), len(forecasts._memory)) == (3, 3, 3)
    assert (len(forecasts._nodes), len(forecasts._lines)) == (10, 10)


def test_a_probe_clip_of_few_denoising_steps_promises_less() -> None:
    """Two steps are not the twenty-five of a job: the same factor means more work for an engine that denoises."""
    forecasts = Forecasts()
    plain, denoising = Kind("warp", "1", "A"), Kind("sonic", "1", "A")
    for kind in (plain, denoising):
        forecasts.calibrated(kind, "n1", 0.1)
    expected_s = [forecasts.render(kind, "n1", Work(10.0, 512, 25), False).expected_s for kind in (plain, denoising)]
    assert expected_s[1] > 1.1 * expected_s[0]
