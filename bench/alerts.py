"""Four weeks of a fleet's latency, made up, through the alert rules that are shipped: what they page for and what not.

Four unlike regions with waves by day and week, noise, a holiday, a release that is slower by design, a node that is bad
for some hours, and three incidents at times that the seed draws. promtool evaluates the rules every half minute, as a
ruler would. `ours` is RegionLatencyAnomaly, `static` is HighInferenceLatency as if it paged, on the same data; its
nodes are counted by region. All videos last 10 seconds, which is kind to a fixed number of seconds.

A page is on from its first minute to its last, bridging 5 minutes. It counts for an incident if it begins within it;
one that was on already tells nobody anything. `delay_minutes` is from the begin of an incident to its page, and `held`
the share of the rest of the incident in which the page was on. A ruler in Mimir adds one minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from tests.monitoring import promtool, renders
from tests.monitoring.promtool import series

RULES = ("operator/latency.yml", "tenant/latency.yml")
OURS, STATIC, TICKET = "RegionLatencyAnomaly", "HighInferenceLatency", "SlowRelease"
INTERVAL_S = 30
VIDEO_S = 10.0
HOUR, DAY, WEEK = 60, 1440, 10_080  # in minutes
BRIDGED = 5  # minutes
LATE = 15  # minutes after an incident in which a page that begins is still of it


@dataclass(frozen=True)
class Region:
    """What a region is like. Levels are seconds of work for a second of video, shares are of the level."""

    name: str
    nodes: tuple[float, ...]  # their levels
    load: tuple[float, float]  # share of time in which nodes work, at night and by day
    weekend: float  # load of Saturdays and Sundays, as a share
    busy: float  # how much slower nodes are by day
    fastest_first: bool  # whether slower nodes work only when the faster ones are not enough
    noise: float  # of a single render
    shared_noise: float  # of all nodes together, over minutes


REGIONS = (
    Region("eu-west", (0.6,) * 6, (0.25, 0.7), 0.6, 0.03, False, 0.10, 0.02),
    Region("us-east", (0.7, 0.7, 0.7, 0.75, 0.9, 0.9, 1.0, 1.0), (0.2, 0.75), 0.5, 0.05, True, 0.15, 0.03),
    Region("ap-south", (1.1, 1.1, 1.15, 1.15, 1.2), (0.3, 0.8), 0.7, 0.25, False, 0.15, 0.03),
    Region("sa-east", (0.9, 0.95, 0.9, 0.85), (0.03, 0.6), 0.8, 0.10, False, 0.25, 0.04),
)
HOLIDAY, HOLIDAY_DAY = ("eu-west", "us-east"), 10
RELEASE, RELEASE_MINUTE, SLOWER = "eu-west", 15 * DAY + 10 * HOUR, 1.25
ROLLOUT_MINUTES = 20  # from one node to the next
BAD_NODE, BAD_NODE_MINUTE, BAD_NODE_LASTS = ("us-east", 2), 8 * DAY + 11 * HOUR, 6 * HOUR


@dataclass(frozen=True)
class Incident:
    name: str
    region: str
    begin: int
    end: int
    factor: float
    rises: int = 0  # minutes until the factor is reached

    def level(self, minute: np.ndarray) -> np.ndarray:
        rising = np.clip((minute - self.begin) / self.rises, 0, 1) if self.rises else 1.0
        return np.where((minute >= self.begin) & (minute < self.end), 1 + (self.factor - 1) * rising, 1.0)


def drawn_incidents(rng: np.random.Generator, days: int) -> list[Incident]:
    """Each in another region and week, some time between 8 in the morning and 6 in the evening."""
    kinds = (("x1.3", 1.3, 3 * HOUR, 0), ("x2", 2.0, HOUR, 0), ("ramp", 2.0, 150, 90))
    places = rng.permutation([region.name for region in REGIONS])
    found = []
    for week, (name, factor, lasts, rises) in enumerate(kinds, 1):
        begin = int(week * WEEK + rng.integers(1, 6) * DAY + rng.integers(8 * HOUR, 18 * HOUR))
        found.append(Incident(name, str(places[week - 1]), begin, begin + lasts, factor, rises))
    return [incident for incident in found if incident.end < days * DAY]


@dataclass
class Fleet:
    """The series of a region's nodes over some weeks."""

    region: Region
    incidents: list[Incident]
    rng: np.random.Generator
    minute: np.ndarray
    series: list[dict[str, str]] = field(default_factory=list)

    def build(self) -> list[dict[str, str]]:
        minute, region = self.minute, self.region
        by_day = self._by_day()
        load = np.interp(by_day, [0, 1], region.load) * np.where(minute // DAY % 7 >= 5, region.weekend, 1.0)
        if region.name in HOLIDAY:
            load = np.where(minute // DAY == HOLIDAY_DAY, load / 10, load)
        common = (1 + region.busy * by_day) * self._shared_noise()
        for incident in self.incidents:
            if incident.region == region.name:
                common = common * incident.level(minute)
        for number, level in enumerate(region.nodes):
            self._node(number, level * common, self._share(number, load))
        return self.series

    def _by_day(self) -> np.ndarray:
        """From 0 at four in the morning to 1 in the afternoon; no two days are quite alike."""
        wave = (1 - np.cos((self.minute / DAY - 4 / 24) * 2 * np.pi)) / 2
        heights = self.rng.normal(1, 0.07, len(self.minute) * INTERVAL_S // 60 // DAY + 1)
        return np.asarray(np.clip(wave * heights[(self.minute // DAY).astype(int)], 0, 1.2))

    def _shared_noise(self) -> np.ndarray:
        """It wanders: half of it is gone after five minutes."""
        keep = 0.5 ** (INTERVAL_S / 300)
        kicks = self.rng.normal(0, self.region.shared_noise * np.sqrt(1 - keep**2), len(self.minute))
        wander = np.empty_like(kicks)
        value = 0.0
        for index, kick in enumerate(kicks):
            value = keep * value + kick
            wander[index] = value
        return 1 + wander

    def _share(self, number: int, load: np.ndarray) -> np.ndarray:
        """The share of time in which a node works."""
        if not self.region.fastest_first:
            return load
        count = len(self.region.nodes)
        return np.clip(load * count * 1.15 - number, 0.02, 0.95)

    def _node(self, number: int, level: np.ndarray, share: np.ndarray) -> None:
        minute, region = self.minute, self.region
        if (region.name, number) == BAD_NODE:
            bad = (minute >= BAD_NODE_MINUTE) & (minute < BAD_NODE_MINUTE + BAD_NODE_LASTS)
            level = np.where(bad, 3 * level, level)
        released = (minute >= RELEASE_MINUTE + number * ROLLOUT_MINUTES) & (region.name == RELEASE)
        level = np.where(released, SLOWER * level, level)
        rates = share * INTERVAL_S / (VIDEO_S * level)
        count, work = renders.rendered(self.rng, level, rates, region.noise)
        for version, runs in (("warp-2", ~released), ("warp-3", released)):
            if runs.any():
                labels = {"region": region.name, "node_id": f"{region.name}-{number}", "model_version": version}
                begun = np.where(np.cumsum(runs) > 0, 1.0, np.nan)
                self.series += renders.node(labels, count * runs * begun, work * runs * begun)
                self._classic(labels, level, count * runs, np.where(runs, 1.0, np.nan))

    def _classic(self, labels: dict[str, str], level: np.ndarray, count: np.ndarray, there: np.ndarray) -> None:
        """What the static rule reads: the same renders as their tenant's series have them."""
        labels = {**labels, "tenant": "acme"}
        last = VIDEO_S * level * (1 + self.region.noise * self.rng.standard_normal(len(level)))
        newest = np.maximum.accumulate(np.where(count > 0, np.arange(len(count)), 0))
        normal = NormalDist(0, self.region.noise)
        share = np.vectorize(normal.cdf)(1 / level - 1)
        in_time = self.rng.binomial(count.astype(int), share)
        self.series += [
            series("sonic_inference_duration_seconds", labels, last[newest] * there),
            series("sonic_render_seconds_count", labels, np.cumsum(count)),
            series("sonic_render_seconds_bucket", {**labels, "le": "10.0"}, np.cumsum(in_time)),
        ]


@dataclass(frozen=True)
class Page:
    region: str
    begin: int
    end: int


def pages(region: str, minutes: Iterable[int]) -> list[Page]:
    found: list[Page] = []
    for minute in sorted(minutes):
        if found and minute - found[-1].end <= BRIDGED:
            found[-1] = Page(region, found[-1].begin, minute)
        else:
            found.append(Page(region, minute, minute))
    return found


def paged(inputs: list[dict[str, str]], days: int) -> dict[str, list[Page]]:
    """What each alert would have told, region by region."""
    alerts = (OURS, STATIC, TICKET)
    asked = [(alert, float(at)) for alert in alerts for at in range(days * DAY)]
    on: dict[tuple[str, str], set[int]] = {(alert, region.name): set() for alert in alerts for region in REGIONS}
    for (alert, at), firing in promtool.fired(RULES, inputs, asked, f"{INTERVAL_S}s").items():
        for labels in firing:
            on[alert, labels["region"]].add(round(at))
    found: dict[str, list[Page]] = {alert: [] for alert in alerts}
    for (alert, region), minutes in on.items():
        these = pages(region, minutes)
        found[alert] += these
        spans = [f"{when(page.begin)} for {page.end - page.begin + 1} min" for page in these]
        print(f"{region} {alert}: {len(these)}: {', '.join(spans[:12])}", file=sys.stderr)
    return found


def judge(found: list[Page], incidents: list[Incident], days: int) -> dict[str, Any]:
    delay: dict[str, int | None] = {}
    held: dict[str, float | None] = {}
    true: set[Page] = set()
    for incident in incidents:
        of_it = [page for page in found if _of(page, incident)]
        true.update(of_it)
        in_time = [page for page in of_it if page.begin < incident.end]
        first = min((page.begin for page in in_time), default=None)
        delay[incident.name] = held[incident.name] = None
        if first is not None:
            on = sum(min(page.end + 1, incident.end) - page.begin for page in in_time)
            delay[incident.name], held[incident.name] = first - incident.begin, round(on / (incident.end - first), 3)
    return {
        "pages_per_week": round(len(found) * 7 / days, 2),
        "false_pages": len(set(found) - true),
        "missed": sum(minutes is None for minutes in delay.values()),
        "delay_minutes": delay,
        "held": held,
    }


def _of(page: Page, incident: Incident) -> bool:
    return page.region == incident.region and incident.begin <= page.begin < incident.end + LATE


def when(minute: int) -> str:
    return f"day {minute // DAY} {minute % DAY // HOUR:02}:{minute % HOUR:02}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=28)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    incidents = drawn_incidents(rng, arguments.days)
    for incident in incidents:
        print(f"{incident.name} in {incident.region} from {when(incident.begin)}", file=sys.stderr)
    began_s = time.monotonic()
    minute = np.arange(0, arguments.days * DAY, INTERVAL_S / 60)
    inputs = [one for region in REGIONS for one in Fleet(region, incidents, rng, minute).build()]
    print(f"{len(inputs)} series, built in {time.monotonic() - began_s:.0f} s; now promtool", file=sys.stderr)
    found = paged(inputs, arguments.days)
    print(f"done after {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    result = {
        "ours": judge(found[OURS], incidents, arguments.days),
        "static": judge(found[STATIC], incidents, arguments.days),
        "slow_release_delay_minutes": next(
            (page.begin - RELEASE_MINUTE for page in found[TICKET] if page.region == RELEASE), None
        ),
        "false_tickets": sum(page.region != RELEASE for page in found[TICKET]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
