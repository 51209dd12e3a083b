"""Latency alerts: what deserves a page and what does not, by real promtool on the rules that are shipped.

Every case is a region of its own, so that promtool runs once for those of hours, once for those of days.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import pytest

from tests.monitoring import promtool, renders

RULES = ["operator/latency.yml", "tenant/latency.yml"]
PAGE, TICKET, STATIC = "RegionLatencyAnomaly", "SlowRelease", "HighInferenceLatency"
BEGIN, OVER = 180, 420  # of incidents, in minutes
USUAL = 0.8  # seconds of work for a second of video

Level = Callable[[np.ndarray], np.ndarray]  # by minute, as a multiple of what is usual


def usual(minute: np.ndarray) -> np.ndarray:
    return np.ones_like(minute)


def step(factor: float, begin: float = BEGIN, over: float = OVER) -> Level:
    return lambda minute: np.where((minute >= begin) & (minute < over), factor, 1.0)


def ramp(minute: np.ndarray) -> np.ndarray:
    return np.where(minute < OVER, np.interp(minute, [BEGIN, BEGIN + 90], [1, 2]), 1.0)


def noisy(minute: np.ndarray) -> np.ndarray:
    """30 % noise that all nodes share, so that no median over them takes it away."""
    return 1 + 0.3 * np.random.default_rng(5).standard_normal(len(minute))


class Regions:
    """Input series, region by region."""

    def __init__(self, minutes: int, interval_s: int) -> None:
        self.minute = np.arange(0, minutes, interval_s / 60)
        self.interval_min = interval_s / 60
        self.series: list[dict[str, str]] = []
        self._rng = np.random.default_rng(1)

    def add(
        self,
        region: str,
        level: Level = usual,
        *,
        nodes: range = range(4),
        per_minute: Level | float = 3.0,
        noise: float = 0.1,
        version: str = "warp-2",
        own: Mapping[int, Level] = MappingProxyType({}),
        missing: Level | None = None,
    ) -> None:
        """Nodes of a region; `own` are levels of single nodes, in place of the region's."""
        rate = per_minute(self.minute) if callable(per_minute) else np.full(len(self.minute), per_minute)
        seen = np.where(missing(self.minute), np.nan, 1.0) if missing else 1.0
        for number in nodes:
            labels = {"region": region, "node_id": f"{region}-{number}", "model_version": version}
            levels = USUAL * own.get(number, level)(self.minute)
            count, work = renders.rendered(self._rng, levels, rate * self.interval_min, noise)
            self.series += renders.node(labels, count * seen, work * seen)


Fired = Callable[[str, str], set[int]]


def minutes_of(regions: Regions, minutes: int, every: int, interval: str) -> Fired:
    """Asks promtool; gives the minutes at which an alert fires in a region."""
    asked = [(alert, float(minute)) for alert in (PAGE, TICKET) for minute in range(0, minutes, every)]
    found = promtool.fired(RULES, regions.series, asked, interval, "30s")
    return lambda alert, region: {
        round(minute)
        for (name, minute), series in found.items()
        if name == alert and any(labels["region"] == region for labels in series)
    }


@pytest.fixture(scope="module")
def hours() -> Fired:
    cases = Regions(480, 30)
    cases.add("a third slower", step(1.3))
    cases.add("twice as slow", step(2))
    cases.add("slower and slower", ramp)
    cases.add("new", lambda minute: np.where((minute > 30) & (minute < 60), 3.0, 1.0))
    cases.add("hardly used", step(3), per_minute=0.5)
    cases.add("noisy", noisy)
    cases.add("one bad node", own={2: step(5)})
    cases.add("slow boxes now and then", nodes=range(2), per_minute=4)
    cases.add("slow boxes now and then", step(1.5, 0, 480), nodes=range(2, 6), per_minute=0.2, noise=0.2)
    cases.add(
        "holiday",
        lambda minute: np.where(minute < BEGIN, 1.0, 1.1),
        nodes=range(8),
        per_minute=lambda minute: np.where(minute < BEGIN, 6.0, 0.6),
        noise=0.03,
    )
    cases.add("released", per_minute=lambda minute: np.where(minute < BEGIN, 3.0, 0.0))
    cases.add("released", step(1.3), per_minute=lambda minute: np.where(minute < BEGIN, 0.0, 3.0), version="warp-3")
    cases.add("twice hit", lambda minute: np.maximum(step(1.5, 180, 300)(minute), step(1.3, 340, 400)(minute)))
    cases.add("long hit", lambda minute: np.maximum(step(2, 120, 380)(minute), step(1.3, 410, 470)(minute)))
    cases.add("unseen for a while", step(1.3), missing=lambda minute: (minute >= 240) & (minute < 250))
    cases.add("unseen and well", missing=lambda minute: (minute >= 240) & (minute < 250))
    cases.add("taken back", step(2), per_minute=lambda minute: np.where(minute < 240, 3.0, 0.0))
    cases.add("taken back", per_minute=lambda minute: np.where(minute < 240, 0.0, 3.0), version="warp-1")
    return minutes_of(cases, 480, 1, "30s")


def test_a_third_slower_pages_within_ten_minutes_until_it_is_over(hours: Fired) -> None:
    fired = hours(PAGE, "a third slower")
    assert min(fired) in range(BEGIN, BEGIN + 11)
    assert fired >= set(range(BEGIN + 10, OVER))
    assert max(fired) < OVER + 20


def test_twice_as_slow_pages_within_five_minutes_until_it_is_over(hours: Fired) -> None:
    fired = hours(PAGE, "twice as slow")
    assert min(fired) in range(BEGIN, BEGIN + 6)
    assert fired >= set(range(BEGIN + 5, OVER))
    assert max(fired) < OVER + 20


def test_a_slow_ramp_is_seen_while_it_rises_and_stays_seen(hours: Fired) -> None:
    fired = hours(PAGE, "slower and slower")
    assert min(fired) in range(BEGIN, BEGIN + 40)
    assert fired >= set(range(BEGIN + 40, OVER))
    assert max(fired) < OVER + 20


@pytest.mark.parametrize(
    "region",
    [
        "new",
        "hardly used",
        "noisy",
        "one bad node",
        "slow boxes now and then",
        "holiday",
        "released",
        "unseen and well",
    ],
)
def test_what_is_no_incident_never_pages(hours: Fired, region: str) -> None:
    assert not hours(PAGE, region)


@pytest.mark.parametrize(
    ("region", "first_over", "second"), [("twice hit", 300, (340, 400)), ("long hit", 380, (410, 470))]
)
def test_a_second_incident_soon_after_the_first_is_seen(
    hours: Fired, region: str, first_over: int, second: tuple[int, int]
) -> None:
    fired = hours(PAGE, region)
    assert first_over - 1 in fired
    assert not fired & set(range(first_over + 20, second[0]))
    assert fired >= set(range(second[0] + 10, second[1]))


def test_a_gap_in_the_data_does_not_end_a_page(hours: Fired) -> None:
    assert hours(PAGE, "unseen for a while") >= set(range(BEGIN + 10, OVER))


def test_a_page_ends_an_hour_after_the_last_render_of_a_version_that_is_taken_back(hours: Fired) -> None:
    fired = hours(PAGE, "taken back")
    assert {200, 239} <= fired
    assert max(fired) < 240 + 75


RELEASE = 26 * 60
DAYS = 35 * 60
THREE = range(3)


def busy_hours(minute: np.ndarray) -> np.ndarray:
    return np.interp(minute % 1440, [180, 195, 530, 550], [1, 1.3, 1.3, 1])


def before(minute: np.ndarray) -> np.ndarray:
    """Renders per minute, until the release."""
    return np.where(minute < RELEASE, 4.0, 0.0)


def after(minute: np.ndarray) -> np.ndarray:
    return 4 - before(minute)


@pytest.fixture(scope="module")
def days() -> Fired:
    cases = Regions(DAYS, 60)
    cases.add("busy by day", lambda minute: busy_hours(minute) * step(2, 34 * 60, 35 * 60)(minute), nodes=THREE)
    cases.add("slow release", per_minute=before, nodes=THREE)
    cases.add("slow release", step(1.3, 0, DAYS), per_minute=after, version="warp-3", nodes=THREE)
    cases.add("good release", per_minute=before, nodes=THREE)
    cases.add("good release", per_minute=after, version="warp-3", nodes=THREE)
    slow_box = step(2.5, 0, DAYS)
    cases.add("canary", nodes=range(1, 3), per_minute=4)
    cases.add("canary", slow_box, nodes=range(1), per_minute=before)
    cases.add("canary", slow_box, nodes=range(1), per_minute=after, version="warp-3")
    cases.add(
        "slower for good",
        lambda minute: step(1.3, 2 * 60, DAYS)(minute) * step(1.3, 33 * 60, 34 * 60)(minute),
        nodes=THREE,
    )
    return minutes_of(cases, DAYS, 5, "60s")


def test_busy_hours_do_not_page_from_their_second_day_on(days: Fired) -> None:
    fired = days(PAGE, "busy by day")
    assert min(fired) in range(180, 210)
    assert not fired & set(range(10 * 60, 34 * 60))


def test_twice_as_slow_pages_after_busy_hours_as_well(days: Fired) -> None:
    fired = days(PAGE, "busy by day")
    assert fired >= set(range(34 * 60 + 10, DAYS, 5))


@pytest.mark.parametrize("region", ["slow release", "good release", "canary"])
def test_a_release_never_pages(days: Fired, region: str) -> None:
    assert not days(PAGE, region)


def test_a_slow_release_is_a_ticket(days: Fired) -> None:
    fired = days(TICKET, "slow release")
    assert min(fired) in range(RELEASE + 30, RELEASE + 50)
    assert fired >= set(range(RELEASE + 60, DAYS, 5))


@pytest.mark.parametrize("region", ["good release", "canary", "busy by day", "slower for good"])
def test_what_is_no_slow_release_is_no_ticket(days: Fired, region: str) -> None:
    assert not days(TICKET, region)


def test_what_has_lasted_a_day_is_usual_and_held_against_itself(days: Fired) -> None:
    fired = days(PAGE, "slower for good")
    assert fired >= set(range(2 * 60 + 10, 24 * 60, 5))
    assert not fired & set(range(27 * 60, 33 * 60))
    assert fired >= set(range(33 * 60 + 10, 34 * 60, 5))


def last_renders(seconds: list[float], until: int) -> dict[str, list[float]]:
    """A tenant's series of a node, a value every half minute: renders from minute 10 on, one after another.

    When they are done, the node renders nothing any more.
    """
    ends = 600 + np.cumsum(seconds)
    found: dict[str, list[float]] = {"gauge": [], "count": [], "ten": []}
    for now in range(0, until * 60, 30):
        done = [render for render, end in zip(seconds, ends, strict=True) if end <= now]
        found["gauge"].append(done[-1] if done else np.nan)
        found["count"].append(len(done))
        found["ten"].append(sum(render <= 10 for render in done))
    return found


@pytest.fixture(scope="module")
def classic() -> Callable[[str], set[int]]:
    nodes = {
        "slow": [8.0] * 100 + [20.0] * 200,
        "very slow": [200.0] * 20,
        "one long render": [8.0] * 100 + [90.0] + [8.0] * 200,
        "one long render, then none": [8.0] * 100 + [90.0],
        "slow, then none": [20.0] * 100,
        "well": [14.0] * 200,
    }
    inputs = []
    for node, seconds in nodes.items():
        labels = {"region": "eu", "node_id": node, "model_version": "warp-2", "tenant": "acme"}
        values = last_renders(seconds, 90)
        inputs.append(promtool.series("sonic_inference_duration_seconds", labels, values["gauge"]))
        inputs.append(promtool.series("sonic_render_seconds_count", labels, values["count"]))
        inputs.append(promtool.series("sonic_render_seconds_bucket", {**labels, "le": "10.0"}, values["ten"]))
    found = promtool.fired(RULES, inputs, [(STATIC, float(minute)) for minute in range(90)], "30s")
    expected = {"region": "eu", "model_version": "warp-2", "tenant": "acme", "severity": "ticket", "scope": "tenant"}
    for one in (one for series in found.values() for one in series):
        assert one.items() >= expected.items()
    return lambda node: {
        round(minute) for (_, minute), series in found.items() if any(labels["node_id"] == node for labels in series)
    }


def test_the_classic_rule_fires_while_renders_take_over_fifteen_seconds(classic: Callable[[str], set[int]]) -> None:
    assert classic("slow") >= set(range(28, 89))
    assert classic("very slow") >= set(range(20, 75))


@pytest.mark.parametrize("node", ["one long render", "one long render, then none", "well"])
def test_the_classic_rule_is_silent_on_one_long_render(classic: Callable[[str], set[int]], node: str) -> None:
    assert not classic(node)


def test_the_classic_rule_lets_go_of_a_node_that_renders_nothing_any_more(classic: Callable[[str], set[int]]) -> None:
    fired = classic("slow, then none")
    assert 40 in fired
    assert max(fired) < 10 + 100 * 20 / 60 + 16
