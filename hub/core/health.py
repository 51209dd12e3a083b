"""How a node is, as numbers with reasons: each factor takes a share of the trust in it, and the shares multiply.

Slow, hot or flaky nodes are trusted with less before they are trusted with nothing. What happened once fades: all is
weighted exponentially, by time or by count, and one bad moment is no verdict.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hub.core.faults import Fault

MIB = 1 << 20
_FAULTS_FADE_S = 1800.0
_EVENTS_FADE_S = 3600.0
_SLOW = 1.25  # unlike boxes of one class differ by so much
_HOT_CELSIUS = 87.0  # at which most data sheets begin to hold clocks down
_FAR_S = 0.5
_LEAK_RENDERS = 5  # between idle moments, before growth means anything
_MAJORITY_OF = 3  # fewer nodes have no majority
_RECENT_RENDERS = 8
_JUDGE_EVERY_S = 15.0
_DERATED_BELOW, _SOUND_ABOVE = 0.7, 0.85  # apart, so that nobody hears of every wobble

# NVIDIA's Xid catalogue: what cannot be the application's doing, and what it most often is.
FATAL_XIDS = frozenset({48, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140})
CALLERS_XIDS = frozenset({13, 31, 43, 45, 68, 69})


@dataclass(frozen=True)
class GpuReading:
    """One accelerator at one moment; what it does not offer is None or 0."""

    uuid: str
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    temperature_celsius: float
    throttle_reasons: tuple[str, ...] = ()
    ecc_uncorrected_errors: int | None = None
    xid_events: Mapping[int, int] = field(default_factory=dict)  # by code, since the agent started


class Factor(NamedTuple):
    """One number, and what it does to the trust: 1 leaves it as it is, 0 leaves none."""

    name: str
    value: float
    unit: str
    share: float
    reason: str


@dataclass(frozen=True)
class Health:
    """How far a node, or one GPU of it, is trusted."""

    score: float
    factors: tuple[Factor, ...]

    @property
    def worst(self) -> Factor | None:
        return min((factor for factor in self.factors if factor.share < 1), key=lambda f: f.share, default=None)


@dataclass(frozen=True)
class Norms:
    """What most nodes have: driver by region and GPU, model version by region and engine."""

    drivers: Mapping[tuple[str, str], str] = field(default_factory=dict)
    models: Mapping[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Versions:
    """What one node has."""

    region: str = ""
    drivers: tuple[tuple[str, str], ...] = ()  # GPU name, version
    models: tuple[tuple[str, str], ...] = ()  # engine, version


def norms(nodes: Iterable[Versions]) -> Norms:
    """The majorities, where there are any."""
    drivers: dict[tuple[str, str], Counter[str]] = {}
    models: dict[tuple[str, str], Counter[str]] = {}
    for node in nodes:
        for name, version in set(node.drivers):
            drivers.setdefault((node.region, name), Counter())[version] += 1
        for name, version in set(node.models):
            models.setdefault((node.region, name), Counter())[version] += 1
    return Norms(_majorities(drivers), _majorities(models))


def _majorities(counts: Mapping[tuple[str, str], Counter[str]]) -> dict[tuple[str, str], str]:
    found = {}
    for key, versions in counts.items():
        version, most = versions.most_common(1)[0]
        if versions.total() >= _MAJORITY_OF and 2 * most > versions.total():
            found[key] = version
    return found


@dataclass
class _Fading:
    """A sum of which a part is forgotten as time goes by."""

    fade_s: float
    amount: float = 0.0
    at_s: float = 0.0

    def add(self, amount: float, now: float) -> None:
        self.amount, self.at_s = self.now(now) + amount, now

    def now(self, now: float) -> float:
        return self.amount * math.exp(-max(now - self.at_s, 0.0) / self.fade_s)


@dataclass
class _Gpu:
    """What is remembered of one accelerator."""

    reading: GpuReading
    fatal: _Fading = field(default_factory=lambda: _Fading(_EVENTS_FADE_S))
    others: _Fading = field(default_factory=lambda: _Fading(_EVENTS_FADE_S))
    ecc: _Fading = field(default_factory=lambda: _Fading(_EVENTS_FADE_S))
    last_xid: int = 0
    idle: list[tuple[int, int]] = field(default_factory=list)  # renders so far, bytes used, at idle moments


class Vitals:
    """What was observed of one node, and what it comes to."""

    def __init__(self) -> None:
        self.derated = False
        self.why = ""
        self._heard_at_s = 0.0
        self._gap_s = 0.0  # by which heartbeats are late
        self._round_trip_s = 0.0
        self._attempts = _Fading(_FAULTS_FADE_S)
        self._faults: dict[Fault, _Fading] = {}
        self._pace = 0.0  # logarithm of work against the baseline
        self._renders = 0
        self._versions = Versions()
        self._gpus: dict[str, _Gpu] = {}
        self._interval_s = math.inf
        self._trust: dict[str, float] = {}  # by GPU, "" for the CPU, as they were judged last
        self._judge_at_s = 0.0

    # What is observed.

    def joined(self, now: float, versions: Versions) -> None:
        """A session begins: the pause before it says nothing of the line."""
        self._heard_at_s, self._versions = now, versions

    def heard(self, now: float, interval_s: float) -> None:
        """A heartbeat; one is due every `interval_s`, and may come early."""
        late_s = max(now - self._heard_at_s - interval_s, 0.0)
        self._heard_at_s, self._interval_s = now, interval_s
        self._gap_s += 0.2 * (late_s - self._gap_s)

    def round_trip(self, seconds: float) -> None:
        self._round_trip_s += (0.3 if self._round_trip_s else 1.0) * (seconds - self._round_trip_s)

    def gpus(self, now: float, readings: Iterable[GpuReading], idle: Collection[str]) -> bool:
        """All accelerators as they are; on those in `idle` nothing runs. Returns whether one has failed for good."""
        failed = False
        for reading in readings:
            gpu = self._gpus.get(reading.uuid)
            if gpu is None:
                gpu = self._gpus[reading.uuid] = _Gpu(reading)
            failed = _note_events(gpu, reading, now) or failed
            gpu.reading = reading
            if reading.uuid in idle and (not gpu.idle or gpu.idle[-1][0] != self._renders):
                gpu.idle = [*gpu.idle[-19:], (self._renders, reading.memory_used_bytes)]
        return failed

    def rendered(self, now: float, ratio: float) -> None:
        """A render took `ratio` times the work of a usual one."""
        self._attempts.add(1.0, now)
        self._renders += 1
        off = math.log(min(max(ratio, 0.1), 10.0))
        self._pace += (off - self._pace) / min(self._renders, _RECENT_RENDERS)

    def failed(self, now: float, fault: Fault) -> None:
        """An attempt failed through the node's doing."""
        self._attempts.add(1.0, now)
        self._faults.setdefault(fault, _Fading(_FAULTS_FADE_S)).add(1.0, now)

    def forgive(self, now: float, fault: Fault) -> None:
        """It was the input's doing after all."""
        if fault in self._faults:
            self._faults[fault].add(-min(1.0, self._faults[fault].now(now)), now)

    def proven(self, now: float) -> None:
        """It has rendered its probe clip: what its hardware said is over, and half of its faults are forgotten."""
        for gpu in self._gpus.values():
            for fading in (gpu.fatal, gpu.ecc):
                fading.amount = 0.0
        for fading in self._faults.values():
            fading.add(-fading.now(now) / 2, now)

    # What it comes to.

    def trust(self, gpu_uuid: str) -> float:
        """The score, as it was judged last, of what runs on one GPU, or on the CPU."""
        return self._trust.get(gpu_uuid, self._trust.get("", 1.0))

    def health(self, now: float, usual: Norms, gpu_uuid: str | None = None) -> Health:
        """Of the node with its worst GPU, or with the one that is named ("" for the CPU)."""
        factors = [*self._of_the_box(now), *self._of_versions(usual)]
        gpus = [gpu for uuid, gpu in self._gpus.items() if gpu_uuid in (None, uuid)]
        per_gpu = [self._of_gpu(gpu, now) for gpu in gpus]
        factors += min(per_gpu, key=_score, default=[])
        return Health(_score(factors), tuple(factors))

    def judge(self, now: float, usual: Norms, at_once: bool = False) -> bool:
        """Look at the health anew, if that is due; whether it has changed if the node counts as derated."""
        if now < self._judge_at_s and not at_once:
            return False
        self._judge_at_s = now + _JUDGE_EVERY_S
        health = self.health(now, usual)
        self._trust = {uuid: self.health(now, usual, uuid).score for uuid in ("", *self._gpus)}
        before = self.derated
        self.derated = health.score < (_SOUND_ABOVE if before else _DERATED_BELOW)
        worst = health.worst
        self.why = f"trusted with {health.score:.0%} of its speed: {worst.reason}" if self.derated and worst else ""
        return self.derated != before

    def _of_the_box(self, now: float) -> list[Factor]:
        age_s = now - self._heard_at_s
        late = self._gap_s / self._interval_s
        found = [
            Factor("heartbeat_age", age_s, "s", 1.0, f"heard {age_s:.1f} s ago"),
            Factor("heartbeat_jitter", self._gap_s, "s", _above(late, 1.0), f"heartbeats are {self._gap_s:.1f} s late"),
        ]
        if self._round_trip_s:
            told = f"a round trip takes {self._round_trip_s * 1000:.0f} ms"
            share = max(_above(self._round_trip_s, _FAR_S), 0.7)
            found.append(Factor("round_trip", self._round_trip_s, "s", share, told))
        attempts = self._attempts.now(now)
        for fault, fading in self._faults.items():
            rate = fading.now(now) / (attempts + 4.0)  # as if four sound ones had gone before
            told = f"{rate:.0%} of its attempts of late ended with {fault.name}"
            found.append(Factor(f"faults_{fault.name.lower()}", rate, "ratio", 1 - rate, told))
        if self._renders:
            pace = self._slowness
            told = f"takes {pace:.2f} times the work of its like, by {self._renders} renders"
            found.append(Factor("pace", pace, "ratio", _above(pace, _SLOW), told))
        return found

    @property
    def _slowness(self) -> float:
        """Drawn towards 1 while few renders tell."""
        return math.exp(self._pace * self._renders / (self._renders + 2))

    def _of_versions(self, usual: Norms) -> list[Factor]:
        found = []
        for kind, have, majority in (
            ("driver", self._versions.drivers, usual.drivers),
            ("model_version", self._versions.models, usual.models),
        ):
            for name, version in dict.fromkeys(have):
                most = majority.get((self._versions.region, name), version)
                if most != version:
                    told = f"{name} has {kind.replace('_', ' ')} {version}, most of the region have {most}"
                    found.append(Factor(kind, 0.0, "is usual", 0.95, told))
        return found

    def _of_gpu(self, gpu: _Gpu, now: float) -> list[Factor]:
        reading = gpu.reading
        hot = reading.temperature_celsius >= _HOT_CELSIUS
        slow = self._slowness > _SLOW
        found = []
        if reading.temperature_celsius:
            told = f"GPU at {reading.temperature_celsius:.0f} °C"
            share = (0.7 if slow else 0.95) if hot else 1.0  # heat alone is no illness
            found.append(Factor("temperature", reading.temperature_celsius, "°C", share, told))
        if reading.throttle_reasons:
            told = f"clocks are held down: {', '.join(reading.throttle_reasons)}"
            share = 0.75 if slow else 0.95
            found.append(Factor("throttling", float(len(reading.throttle_reasons)), "reasons", share, told))
        fatal, others, ecc = gpu.fatal.now(now), gpu.others.now(now), gpu.ecc.now(now)
        if fatal > 0.01:
            told = f"Xid {gpu.last_xid} of late, which means a broken GPU"
            found.append(Factor("xid_fatal", fatal, "events", max(0.05, 1 - fatal), told))
        if others > 0.01:
            told = f"Xid {gpu.last_xid} of late, which programs can cause"
            found.append(Factor("xid", others, "events", max(0.5, 1 - 0.05 * others), told))
        if ecc > 0.01:
            told = f"{ecc:.1f} uncorrected ECC errors of late"
            found.append(Factor("ecc_uncorrected", ecc, "errors", max(0.1, 1 - ecc), told))
        if leak := _leak(gpu):
            found.append(leak)
        return found


def _note_events(gpu: _Gpu, reading: GpuReading, now: float) -> bool:
    """Count what is new since the last reading; whether it is fatal. Counts that fell began anew with the agent."""
    fatal = False
    for code, count in reading.xid_events.items():
        before = gpu.reading.xid_events.get(code, 0) if reading is not gpu.reading else 0
        new = count - before if count >= before else count
        if new > 0:
            gpu.last_xid = code
            (gpu.fatal if code in FATAL_XIDS else gpu.others).add(new, now)
            fatal = fatal or code in FATAL_XIDS
    errors, known = reading.ecc_uncorrected_errors, gpu.reading.ecc_uncorrected_errors
    if errors is not None and known is not None and errors > known:
        gpu.ecc.add(errors - known, now)
        fatal = True
    return fatal


def _leak(gpu: _Gpu) -> Factor | None:
    """Growth of the memory in use at idle moments, in bytes a render; by the slope's lower bound: noise is none."""
    if len(gpu.idle) < 4 or gpu.idle[-1][0] - gpu.idle[0][0] < _LEAK_RENDERS or not gpu.reading.memory_total_bytes:
        return None
    renders, used = [float(r) for r, _ in gpu.idle], [float(u) for _, u in gpu.idle]
    n = len(renders)
    mean_r, mean_u = sum(renders) / n, sum(used) / n
    spread = sum((r - mean_r) ** 2 for r in renders)
    slope = sum((r - mean_r) * (u - mean_u) for r, u in zip(renders, used, strict=True)) / spread
    noise = sum((u - mean_u - slope * (r - mean_r)) ** 2 for r, u in zip(renders, used, strict=True)) / (n - 2)
    sure = slope - 2 * math.sqrt(noise / spread)
    if sure < MIB:
        return None
    left = (gpu.reading.memory_total_bytes - used[-1]) / sure
    told = f"its GPU memory grows by {slope / MIB:.0f} MiB a render; it is full after {left:.0f} more"
    return Factor("memory_growth", slope, "bytes/render", min(1.0, max(0.2, left / 50)), told)


def _above(value: float, usual: float) -> float:
    """1 up to what is usual, then ever less."""
    return 1.0 if value <= usual else usual / value


def _score(factors: Iterable[Factor]) -> float:
    return math.prod(factor.share for factor in factors)
