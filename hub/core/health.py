"""How much of a node's speed it is trusted with, as a number with its reasons.

Each factor has a share, 1 as usual and 0 nothing; the score is their product. What belongs to one GPU counts for the
slots on it alone, so that one GPU that is off the bus does not take the others of its box with it. Heat and throttling
are how such cards work: alone they cost little, on a GPU that is slower than its like they cost more.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from hub.core.faults import Fault

# Beats. A lease is six intervals at the usual settings: by then a node is as good as gone.
_LATE_INTERVALS = (2.0, 6.0)  # the share falls from 1 at the first to its least at the second
_LATE_LEAST = 0.2
_JITTER_INTERVALS = (0.5, 2.0)
_JITTER_LEAST = 0.8  # a shaky line delays news of the work, not the work
_ROUND_TRIP_S = (0.5, 5.0)
_ROUND_TRIP_LEAST = 0.8
_BEAT_WEIGHT = 0.1  # of the newest beat or round trip

# Faults, against attempts that went well.
_FAULT_HALF_LIFE_S = 900.0  # a node has to be able to live a fault down within a shift
_ONE_LOSS_S = 30.0  # a node that is lost loses all that it rendered: one fault, though leases end one by one
_FAULT_PRIOR = 3.0  # attempts taken as good beforehand: one fault of one attempt is a quarter, not all

# Speed, as work seconds over the baseline.
_SPEED_WEIGHT = 0.1
_SPEED_PRIOR = 2.0  # renders at the baseline taken as seen beforehand: one slow render is no verdict
_SPEED_HALF_LIFE_S = 3600.0  # a node that gets no work because it was slow has to get another chance
_SLOW_RATIO = 1.15  # renders of one kind differ by so much anyway
_MOST_RATIO = 100.0
_SLOW_BESIDE_HEAT = (1.1, 1.5)  # from where heat counts more, to where it counts most

# Heat and clocks. 85 °C is where the shipped alert begins; at 95 °C cards slow down or stop by themselves.
_HOT_CELSIUS = (85.0, 95.0)
_HEAT_LEAST_ALONE, _HEAT_LEAST_SLOW = 0.9, 0.6
_THROTTLED_LEAST_ALONE, _THROTTLED_LEAST_SLOW = 0.95, 0.6
_THROTTLE_WEIGHT = 0.2
_UNHURTFUL_THROTTLES = frozenset({"sync", "setting"})  # somebody wanted it so

# Xid errors, by what NVIDIA's catalogue says is to be done at once (docs.nvidia.com/deploy/xid-errors).
FATAL_XIDS: Mapping[int, str] = {
    46: "the GPU stopped processing",
    48: "double-bit memory error",
    62: "its power controller halted",
    64: "a bad row of memory could not be retired",
    74: "NVLink error",
    79: "fell off the bus",
    95: "uncontained memory error",
    109: "context switch timed out",
    110: "security fault",
    119: "its firmware does not answer",
    120: "its firmware failed",
    136: "link training failed",
    140: "unrecovered memory error",
    143: "could not be initialised",
}  # reset the GPU or the machine; a contained memory error (94) costs only the program that met it
PROGRAM_XIDS = frozenset(
    {13, 31, 43, 45}
)  # a program that is wrong or is killed makes them; no alert counts them either
_XID_WEIGHTS = (3.0, 1.0, 0.05)  # fatal, other, a program's: shares of 0.25, 0.5 and 0.95 for one that is new
_XID_HALF_LIFE_S = 1800.0
_XIDS_KEPT = 64
_ECC_WEIGHT = 1.0
_UNPROVEN_S = 1800.0  # a GPU that nobody has probed since gets a little again, so that it is not left alone for good

# Memory that renders leave behind, told from idle moments. Each quarter of the window has to lie above the one before,
# by more than chance does within one: a warm-up, a model that is loaded late or a cache that fills lifts it once, not
# three times.
_FLOORS_A_QUARTER = 8
_FLOOR_NOISE = 1.0  # of the median deviation within a quarter
_RENDERS_LEFT = (10.0, 200.0)
_LEAK_LEAST = 0.2

_DRIVER_SHARE = 0.9  # a hint, not a fault; a canary has to get work
_MODEL_SHARE = 0.95
_LEAST_VOTERS = 3

_FRESH_S = 1.0  # for so long an unchanged node's health is not worked out again

DERATED_BELOW, RESTORED_ABOVE = 0.7, 0.85


@dataclass(frozen=True)
class GpuReading:
    """One GPU as a heartbeat tells it; 0 where something cannot be measured."""

    uuid: str
    name: str
    driver_version: str = ""
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    temperature_celsius: float = 0.0
    throttle_reasons: tuple[str, ...] = ()
    ecc_uncorrected_errors: int | None = None  # since the driver was loaded
    xid_events: Mapping[int, int] = field(default_factory=dict)  # by code, since the agent started
    idle: bool = False  # nothing of ours renders on it


@dataclass(frozen=True)
class Alarm:
    """A GPU that has to prove itself by a probe clip before it gets work again."""

    gpu_uuid: str
    reason: str


@dataclass(frozen=True)
class Factor:
    """One number, and what it does to the work that the node gets."""

    name: str
    value: float
    unit: str
    share: float
    reason: str


@dataclass(frozen=True)
class Health:
    """The product of the shares, 0 to 1, and where it comes from."""

    score: float
    factors: tuple[Factor, ...]

    def beside(self, factor: Factor) -> Health:
        """With one more, that others than the node's vitals tell of."""
        return Health(self.score * factor.share, (*self.factors, factor))


@dataclass(frozen=True)
class Norms:
    """What most nodes run; nothing where there is no majority."""

    drivers: Mapping[tuple[str, str], str] = field(default_factory=dict)  # by region and GPU model
    models: Mapping[tuple[str, str], str] = field(default_factory=dict)  # by region and engine


class Vitals:
    """What is known of one node's health. It outlives sessions; `now` never goes back."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.model_versions: Mapping[str, str] = {}  # by engine
        self._heard_at_s = 0.0
        self._interval_s = 0.0  # 0 before the first heartbeat
        self._jitter = 0.0  # of the intervals, in intervals
        self._round_trip_s = 0.0
        self._losses = _Record()
        self._lost_at_s = -math.inf
        self._parts: dict[str, _Part] = {}  # by GPU UUID; empty for the CPU
        self._present: set[str] = set()  # GPUs of the newest readings
        self._known: dict[str | None, tuple[float, Norms, Health]] = {}

    def joined(self, now: float, region: str) -> None:
        """A session has begun: how long the node was away says nothing about its beat."""
        self.region = region
        self._heard_at_s = now
        self._known.clear()

    def heard(self, now: float, interval_s: float) -> None:
        """A heartbeat has come, of those expected every `interval_s`."""
        if self._interval_s:
            off = abs(now - self._heard_at_s - interval_s) / interval_s
            self._jitter += (min(off, 10.0) - self._jitter) * _BEAT_WEIGHT
        self._heard_at_s, self._interval_s = now, interval_s
        self._known.clear()

    def round_trip(self, seconds: float) -> None:
        """The newest echo between agent and hub; 0 before it."""
        if 0 < seconds < math.inf:
            self._round_trip_s += (seconds - self._round_trip_s) * (_BEAT_WEIGHT if self._round_trip_s else 1.0)
            self._known.clear()

    def versions(self, model_versions: Mapping[str, str]) -> None:
        """What its slots have loaded, by engine. Drivers come with the readings."""
        self.model_versions = model_versions
        self._known.clear()

    def gpus(self, now: float, readings: Iterable[GpuReading]) -> tuple[Alarm, ...]:
        """All GPUs as they are; answers those that had a fatal error since the last reading."""
        alarms = []
        self._present = set()
        for reading in readings:
            self._present.add(reading.uuid)
            if fatal := self._part(reading.uuid).read(now, reading):
                alarms.append(Alarm(reading.uuid, fatal))
        self._known.clear()
        return tuple(alarms)

    def failed(self, now: float, gpu_uuid: str, fault: Fault) -> None:
        """An attempt on this GPU failed. What the node did not cause changes nothing."""
        if fault is Fault.NODE_LOST:
            if now - self._lost_at_s > _ONE_LOSS_S:
                self._losses.fault(now, fault)
            self._lost_at_s = now
        elif fault.nodes_own:
            part = self._part(gpu_uuid)
            part.record.fault(now, fault)
            if fault.worker_restarts:
                part.memory.restart()
        self._known.clear()

    def rendered(self, now: float, gpu_uuid: str, ratio: float) -> None:
        """A job's video was rendered there, in `ratio` times the work that it takes the fleet; 0 where not known."""
        part = self._part(gpu_uuid)
        part.record.render(now)
        part.memory.renders += 1
        self._losses.render(now)
        if ratio > 0:
            part.speed.observe(now, ratio)
        self._known.clear()

    def excused(self, now: float, fault: Fault) -> None:
        """The inputs were to blame for one fault: take it back where there is most of it."""
        records = [self._losses, *(part.record for part in self._parts.values())]
        max(records, key=lambda record: record.level(now, fault)).excuse(now, fault)
        self._known.clear()

    def proven(self, gpu_uuid: str) -> None:
        """A probe clip was rendered right on this GPU: its fatal errors no longer hold it back wholly."""
        self._part(gpu_uuid).fatal = ""
        self._known.clear()

    def health(self, now: float, norms: Norms, gpu_uuid: str | None = None) -> Health:
        """Of the slots on one GPU, empty for the CPU; or of the whole node. Cheap while `norms` is the same object."""
        known = self._known.get(gpu_uuid)
        if known and known[1] is norms and now - known[0] < _FRESH_S:
            return known[2]
        factors = list(self._own_factors(now, norms))
        parts = [part for uuid, part in self._parts.items() if self._meant(uuid, gpu_uuid)]
        if len(parts) == 1:
            factors += parts[0].factors(now, self.region, norms)
        elif parts:
            factors.append(_of_several(now, self.region, norms, parts))
        health = Health(_product(factors), tuple(factors))
        self._known[gpu_uuid] = (now, norms, health)
        return health

    @property
    def drivers(self) -> set[tuple[str, str]]:
        """GPU models and their drivers."""
        readings = [part.reading for part in self._parts.values() if part.reading]
        return {(reading.name, reading.driver_version) for reading in readings if reading.driver_version}

    def _part(self, gpu_uuid: str) -> _Part:
        return self._parts.get(gpu_uuid) or self._parts.setdefault(gpu_uuid, _Part(gpu_uuid))

    def _meant(self, uuid: str, asked: str | None) -> bool:
        return uuid == asked if asked is not None else uuid in self._present or not uuid

    def _own_factors(self, now: float, norms: Norms) -> Iterator[Factor]:
        if self._interval_s:
            late = (now - self._heard_at_s) / self._interval_s
            share = _falling(late, _LATE_INTERVALS, _LATE_LEAST)
            yield Factor(
                "heartbeat_age",
                now - self._heard_at_s,
                "s",
                share,
                f"last heard {now - self._heard_at_s:.1f} s ago; every {self._interval_s:g} s is expected",
            )
            jitter_s = self._jitter * self._interval_s
            share = _falling(self._jitter, _JITTER_INTERVALS, _JITTER_LEAST)
            yield Factor(
                "heartbeat_jitter", jitter_s, "s", share, f"heartbeats are {jitter_s:.1f} s off their time on average"
            )
        if self._round_trip_s:
            share = _falling(self._round_trip_s, _ROUND_TRIP_S, _ROUND_TRIP_LEAST)
            yield Factor("round_trip", self._round_trip_s, "s", share, f"an echo takes {self._round_trip_s:.3f} s")
        if losses := self._losses.factor(now, "losses"):
            yield losses
        for engine, version in self.model_versions.items():
            usual = norms.models.get((self.region, engine), version)
            if usual != version:
                said = f"has {engine} at {version}; most nodes of {self.region} have {usual}"
                yield Factor("model_version", 0.0, "", _MODEL_SHARE, said)


class Derating:
    """Says when a node's derating is news: below one score it begins, above a higher one it ends."""

    def __init__(self) -> None:
        self.derated = False

    def turned(self, score: float) -> bool:
        """Whether `derated` has changed."""
        was = self.derated
        self.derated = score < (RESTORED_ABOVE if was else DERATED_BELOW)
        return self.derated != was


def norms(vitals: Iterable[Vitals]) -> Norms:
    """What most nodes of each region run: more than half, of three at least."""
    drivers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    models: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in vitals:
        for model, driver in one.drivers:
            drivers[one.region, model][driver] += 1
        for engine, version in one.model_versions.items():
            models[one.region, engine][version] += 1
    return Norms(_majorities(drivers), _majorities(models))


def majority(votes: Counter[str]) -> str:
    """What more than half of three or more say; empty when there is none."""
    for value, count in votes.most_common(1):
        if votes.total() >= _LEAST_VOTERS and 2 * count > votes.total():
            return value
    return ""


def reason(health: Health) -> str:
    """The factors that take most, in words; empty when none takes anything."""
    worst = sorted((factor for factor in health.factors if factor.share < 0.995), key=lambda factor: factor.share)
    return "; ".join(factor.reason for factor in worst[:3])


class _Fading:
    """A sum whose parts lose half their weight every half-life."""

    __slots__ = ("_at_s", "_half_life_s", "_sum")

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._sum = self._at_s = 0.0

    def add(self, now: float, amount: float) -> None:
        self._sum = self.at(now) + amount
        self._at_s = now

    def at(self, now: float) -> float:
        return self._sum and self._sum * 0.5 ** ((now - self._at_s) / self._half_life_s)


class _Record:
    """Attempts that went well, and faults by class."""

    def __init__(self) -> None:
        self._faults: dict[Fault, _Fading] = {}
        self._renders = _Fading(_FAULT_HALF_LIFE_S)

    def fault(self, now: float, fault: Fault) -> None:
        self._faults.setdefault(fault, _Fading(_FAULT_HALF_LIFE_S)).add(now, 1.0)

    def render(self, now: float) -> None:
        self._renders.add(now, 1.0)

    def level(self, now: float, fault: Fault) -> float:
        return self._faults[fault].at(now) if fault in self._faults else 0.0

    def excuse(self, now: float, fault: Fault) -> None:
        if level := self.level(now, fault):
            self._faults[fault].add(now, -min(1.0, level))

    def factor(self, now: float, name: str) -> Factor | None:
        if not self._faults:
            return None
        levels = {fault: level.at(now) for fault, level in self._faults.items()}
        faults = sum(levels.values())
        attempts = faults + self._renders.at(now)
        rate = faults / (attempts + _FAULT_PRIOR)
        kinds = ", ".join(f"{fault.name} {level:.1f}" for fault, level in levels.items() if level >= 0.05)
        said = f"{faults:.1f} of {attempts:.1f} recent attempts failed by its own fault: {kinds or 'long ago'}"
        return Factor(name, rate, "ratio", 1 - rate, said)


class _Speed:
    """Work against the baseline, averaged in logarithms."""

    def __init__(self) -> None:
        self._sum = _Fading(_SPEED_HALF_LIFE_S)
        self._weight = _Fading(_SPEED_HALF_LIFE_S)
        self.renders = 0

    def observe(self, now: float, ratio: float) -> None:
        size = max(-math.log(_MOST_RATIO), min(math.log(_MOST_RATIO), math.log(ratio)))
        self._sum.add(now, size - self._sum.at(now) * _SPEED_WEIGHT)
        self._weight.add(now, 1 - self._weight.at(now) * _SPEED_WEIGHT)
        self.renders += 1

    def ratio(self, now: float) -> float:
        return math.exp(self._sum.at(now) / (self._weight.at(now) + _SPEED_PRIOR)) if self.renders else 1.0

    def factor(self, now: float) -> Factor | None:
        if not self.renders:
            return None
        ratio = self.ratio(now)
        said = f"takes {ratio:.2f} times as long as its like, told from {self.renders} renders"
        return Factor("speed", ratio, "ratio", min(1.0, _SLOW_RATIO / ratio), said)


class _Memory:
    """What a GPU has in use when idle, by how many renders it has done."""

    def __init__(self) -> None:
        self.renders = 0
        self._floors: deque[tuple[int, int]] = deque(maxlen=4 * _FLOORS_A_QUARTER)
        self.bytes_a_render = 0.0

    def restart(self) -> None:
        self._floors.clear()
        self.bytes_a_render = 0.0

    def idle(self, used_bytes: int) -> None:
        floors = self._floors
        if floors and used_bytes < floors[0][1]:  # given back: what was before is no trend any more
            self.restart()
        if floors and floors[-1][0] == self.renders:
            floors[-1] = (self.renders, min(used_bytes, floors[-1][1]))
            return
        floors.append((self.renders, used_bytes))
        self.bytes_a_render = self._growth()

    def _growth(self) -> float:
        if len(self._floors) < 4 * _FLOORS_A_QUARTER:
            return 0.0
        floors = list(self._floors)
        quarters = [floors[at : at + _FLOORS_A_QUARTER] for at in range(0, len(floors), _FLOORS_A_QUARTER)]
        levels = [median(used for _, used in quarter) for quarter in quarters]
        noise = [
            median(abs(used - level) for _, used in quarter) for quarter, level in zip(quarters, levels, strict=True)
        ]
        steps = [after - before for before, after in pairwise(levels)]
        if min(steps) <= _FLOOR_NOISE * max(noise):
            return 0.0
        return min(steps) / ((floors[-1][0] - floors[0][0]) / 4)


class _Part:
    """One GPU of a node, or its CPU."""

    def __init__(self, gpu_uuid: str) -> None:
        self.uuid = gpu_uuid
        self.reading: GpuReading | None = None
        self.record = _Record()
        self.speed = _Speed()
        self.memory = _Memory()
        self.fatal = ""  # of which no probe clip has shown that it is over
        self._fatal_at_s = 0.0
        self._throttled = 0.0
        self._xids: dict[int, _Fading] = {}
        self._ecc = _Fading(_XID_HALF_LIFE_S)

    def read(self, now: float, reading: GpuReading) -> str:
        """Take a reading in; answers what was fatal since the last one."""
        before, self.reading = self.reading, reading
        held = any(throttle not in _UNHURTFUL_THROTTLES for throttle in reading.throttle_reasons)
        self._throttled += (held - self._throttled) * _THROTTLE_WEIGHT
        if reading.idle and reading.memory_used_bytes:
            self.memory.idle(reading.memory_used_bytes)
        if before is None:  # its counts may be days old
            return ""
        fatal = ""
        for code, count in reading.xid_events.items():
            if new := _new(before.xid_events.get(code, 0), count):
                if code in self._xids or len(self._xids) < _XIDS_KEPT:
                    self._xids.setdefault(code, _Fading(_XID_HALF_LIFE_S)).add(now, new)
                if code in FATAL_XIDS:
                    fatal = f"Xid {code}: {FATAL_XIDS[code]}"
        ecc_before, ecc = before.ecc_uncorrected_errors, reading.ecc_uncorrected_errors
        if ecc_before is not None and ecc is not None and (new := _new(ecc_before, ecc)):
            self._ecc.add(now, new)
            fatal = fatal or f"{new} memory errors that could not be corrected"
        if fatal:
            self.fatal, self._fatal_at_s = fatal, now
        return fatal

    def factors(self, now: float, region: str, norms: Norms) -> Iterator[Factor]:
        yield from (factor for factor in (self.record.factor(now, "faults"), self.speed.factor(now)) if factor)
        if self.reading is None:
            return
        yield from self._heat(now, self.reading)
        yield from self._errors(now)
        if self.memory.bytes_a_render and self.reading.memory_total_bytes:
            yield self._leak(self.memory.bytes_a_render, self.reading)
        usual = norms.drivers.get((region, self.reading.name), self.reading.driver_version)
        if self.reading.driver_version and usual != self.reading.driver_version:
            said = f"driver {self.reading.driver_version}; most {self.reading.name} of {region} have {usual}"
            yield Factor("driver_version", 0.0, "", _DRIVER_SHARE, said)

    def _heat(self, now: float, reading: GpuReading) -> Iterator[Factor]:
        slow = 1 - _falling(self.speed.ratio(now), _SLOW_BESIDE_HEAT, 0.0)
        beside = ", and it is slower than its like" if slow else ""
        if 0 < reading.temperature_celsius < math.inf:
            celsius = reading.temperature_celsius
            least = _HEAT_LEAST_ALONE + (_HEAT_LEAST_SLOW - _HEAT_LEAST_ALONE) * slow
            share = _falling(celsius, _HOT_CELSIUS, least)
            yield Factor("temperature", celsius, "°C", share, f"{celsius:.0f} °C{beside if share < 1 else ''}")
        if self._throttled > 0.01:
            least = _THROTTLED_LEAST_ALONE + (_THROTTLED_LEAST_SLOW - _THROTTLED_LEAST_ALONE) * slow
            reasons = ", ".join(reading.throttle_reasons) or "no longer"
            said = f"clocks held down in {self._throttled:.0%} of recent heartbeats ({reasons}){beside}"
            yield Factor("throttling", self._throttled, "ratio", 1 - (1 - least) * self._throttled, said)

    def _errors(self, now: float) -> Iterator[Factor]:
        levels = {code: level.at(now) for code, level in self._xids.items()}
        if self.fatal and now - self._fatal_at_s < _UNPROVEN_S:
            yield Factor("unproven", 0.0, "", 0.0, f"{self.fatal}; no probe clip rendered since")
        if levels:
            trouble = sum(_xid_weight(code) * level for code, level in levels.items())
            codes = ", ".join(f"{code} ({level:.1f})" for code, level in levels.items() if level >= 0.05)
            yield Factor("xid", sum(levels.values()), "events", 1 / (1 + trouble), f"Xid {codes or 'long ago'}")
        if errors := self._ecc.at(now):
            said = f"{errors:.1f} recent memory errors that could not be corrected"
            yield Factor("ecc", errors, "errors", 1 / (1 + _ECC_WEIGHT * errors), said)

    @staticmethod
    def _leak(bytes_a_render: float, reading: GpuReading) -> Factor:
        left = max(0, reading.memory_total_bytes - reading.memory_used_bytes) / bytes_a_render
        few, many = _RENDERS_LEFT
        share = 1 - (1 - _LEAK_LEAST) * min(1.0, max(0.0, (many - left) / (many - few)))
        said = f"each render leaves {bytes_a_render / 2**20:.1f} MiB behind; full after {left:.0f} more"
        return Factor("memory_growth", bytes_a_render, "bytes/render", share, said)


def _of_several(now: float, region: str, norms: Norms, parts: list[_Part]) -> Factor:
    """Several GPUs as one factor: each holds its share of the node."""
    shares, worst, said = [], 1.0, "all are well"
    for part in parts:
        factors = list(part.factors(now, region, norms))
        shares.append(_product(factors))
        if shares[-1] < worst:
            worst = shares[-1]
            said = f"worst {part.uuid or 'CPU'}: {reason(Health(worst, tuple(factors)))}"
    share = sum(shares) / len(shares)
    return Factor("gpus", float(len(parts)), "GPUs", share, said)


def _product(factors: Iterable[Factor]) -> float:
    return math.prod(factor.share for factor in factors)


def _falling(value: float, span: tuple[float, float], least: float) -> float:
    """1 up to the start of the span, `least` from its end on."""
    good, bad = span
    return 1 - (1 - least) * min(1.0, max(0.0, (value - good) / (bad - good)))


def _new(before: int, count: int) -> int:
    """Events since the last count; a count that has fallen began anew."""
    return count - before if count >= before else count


def _xid_weight(code: int) -> float:
    fatal, other, program = _XID_WEIGHTS
    return fatal if code in FATAL_XIDS else program if code in PROGRAM_XIDS else other


def _majorities(votes: Mapping[tuple[str, str], Counter[str]]) -> dict[tuple[str, str], str]:
    return {key: value for key, counted in votes.items() if (value := majority(counted))}
