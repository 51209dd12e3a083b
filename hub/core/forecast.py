"""What is to be expected of work that has not been done yet: learned from what has been, bounded in memory.

A render takes preparing + fixed + rate x seconds of video x (pixels / 256²)^power x (steps / 25)^steps_power seconds.
The five numbers of a class of slots are kept as logarithms, with their covariance: an extended Kalman filter over the
logarithm of what renders took (Simon, Optimal State Estimation, 2006, chapter 13), whose surprises are clipped so that
no single render counts for much (Huber, Robust Statistics, 1981). Each node has a ratio of its own against its class.
"""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from operator import mul
from statistics import median
from typing import Any, NamedTuple, TypeVar

from hub.core.jobs import Work
from sonic.parameters import PROBE_STEPS

CALIBRATION = Work(video_s=0.5, side_px=256)
"""The probe clip of an engine without denoising steps; its portrait is never prepared."""
PRIOR_BYTES_PER_S = 5e6
MAX_KINDS = 512
MAX_NODES = 65_536

_Z = 1.645  # nine of ten of a normal distribution
_CLIP = 2.5  # standard deviations: what is further out counts as if it were there
_WINDOW = 50  # renders: knowledge is never held for surer than so many make it, so that it can change
_NODE_WINDOW = 9
_MEDIAN_VARIANCE = math.pi / 2  # of the median of a normal distribution against that of the mean
_NOISE_SHARE = 0.05
_LEAST_NOISE = 0.05**2
_FIRST_NOISE = 0.3**2
_CALIBRATION_NOISE = 0.25**2  # half a second of another kind of video says only so much
_UNKNOWN_LENGTH = 0.8**2
_TYPICAL_VIDEO_S = 15.0
_MAX_CACHED = 4096
_MARGIN = 1.05  # of memory
_FIXED, _RATE, _POWER, _STEPS, _PREPARING = range(5)
_MEAN = (math.log(0.3), math.log(0.6), 0.8, 0.5, math.log(0.5))
_OWN_VARIANCE = (0.8**2, 0.5**2, 0.25**2, 0.5**2, 0.8**2)
_SCALES = (_FIXED, _RATE, _PREPARING)  # a faster device is faster in all of them
_SCALE_VARIANCE = 2.0**2
_OTHER_CLASS_VARIANCE = 1.0
_OTHER_VERSION_VARIANCE = 0.3**2
T = TypeVar("T")
K = TypeVar("K")


class Estimate(NamedTuple):
    """Seconds: as expected, and the range in which nine of ten fall. Sums take their errors for independent."""

    expected_s: float
    low_s: float
    high_s: float

    def __add__(self, other: Estimate) -> Estimate:  # type: ignore[override]
        expected_s = self.expected_s + other.expected_s
        below_s = math.hypot(self.expected_s - self.low_s, other.expected_s - other.low_s)
        above_s = math.hypot(self.high_s - self.expected_s, other.high_s - other.expected_s)
        return Estimate(expected_s, expected_s - below_s, expected_s + above_s)

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.expected_s * factor, self.low_s * factor, self.high_s * factor)


def calibration(engine: str) -> Work:
    """The probe clip of an engine."""
    return CALIBRATION._replace(steps=PROBE_STEPS.get(engine, CALIBRATION.steps))


NOTHING = Estimate(0.0, 0.0, 0.0)


class Kind(NamedTuple):
    """Slots that should be alike."""

    engine: str
    model_version: str
    gpu_class: str  # "cpu" for those without


class Lesson(NamedTuple):
    """What was learned of one subject, for keeping: both consist of numbers, strings, None, and sequences of them.

    The subject is what it is about ("class", "node", "line", "memory" or "typical"), and the names of that.
    """

    subject: tuple[str, ...]
    state: tuple[Any, ...]


class Forecasts:
    """What the hub has learned of its fleet's speed and memory."""

    def __init__(self) -> None:
        self._classes: dict[Kind, _Class] = {}
        self._nodes: dict[tuple[Kind, str], _Node] = {}
        self._lines: dict[str, _Line] = {}
        self._memory: dict[tuple[str, str], _Memory] = {}
        self._cache: dict[Kind, dict[tuple[str, Work, bool], Estimate]] = {}
        self._typical = math.log(_TYPICAL_VIDEO_S)
        self._changed: dict[tuple[str, ...], None] = {}  # subjects of which something new was learned

    # Keeping.

    def take_lessons(self, at_most: int) -> list[Lesson]:
        """What was learned since it was taken last, but for so much; it is the caller's to keep."""
        subjects = list(islice(self._changed, at_most))
        for subject in subjects:
            del self._changed[subject]
        return [lesson for subject in subjects if (lesson := self._lesson(subject))]

    def give_back(self, lessons: Iterable[Lesson]) -> None:
        """They could not be kept: let them be taken again, as they are by then."""
        for lesson in lessons:
            self._note(*lesson.subject)

    def remember(self, lessons: Iterable[Lesson]) -> None:
        """Know what was learned before; lessons that cannot be understood are left out. For one that knows nothing."""
        for lesson in lessons:
            with contextlib.suppress(ValueError, TypeError):  # another version has written it
                self._remember(lesson)
        for (kind, _), node in self._nodes.items():
            if node.calibration is not None and kind in self._classes:
                self._classes[kind].calibrations.append(node.calibration)
        for cls in self._classes.values():
            cls.calibrations.sort()

    def _lesson(self, subject: tuple[str, ...]) -> Lesson | None:
        """None for what has made room meanwhile."""
        match subject:
            case ("class", *names) if cls := self._classes.get(Kind(*names)):
                return Lesson(subject, cls.kept)
            case ("node", node_id, *names) if node := self._nodes.get((Kind(*names), node_id)):
                return Lesson(subject, (node.calibration, tuple(node.renders)))
            case ("line", node_id) if line := self._lines.get(node_id):
                return Lesson(subject, (line.mean, line.variance))
            case ("memory", engine, version) if memory := self._memory.get((engine, version)):
                return Lesson(subject, (tuple(memory.taken.items()), tuple(memory.too_little.items())))
            case ("typical",):
                return Lesson(subject, (self._typical,))
        return None

    def _remember(self, lesson: Lesson) -> None:
        """Raises ValueError, TypeError."""
        match lesson.subject:
            case ("class", *names):
                made = _Class.again(*lesson.state)
                _kept(self._classes, Kind(*names), MAX_KINDS, lambda: made)
            case ("node", node_id, *names):
                calibration, renders = lesson.state
                node = self._node(Kind(*names), node_id)
                node.calibration = None if calibration is None else _number(calibration)
                for off, variance in renders:
                    node.observe(_number(off), _number(variance))
            case ("line", node_id):
                _kept(self._lines, node_id, MAX_NODES, lambda: _Line(*map(_number, lesson.state)))
            case ("memory", engine, version):
                memory = _kept(self._memory, (engine, version), MAX_KINDS, _Memory)
                taken, too_little = lesson.state
                memory.taken = {int(side): _number(size) for side, size in taken}
                memory.too_little = {int(side): (_number(size), int(times)) for side, (size, times) in too_little}
            case ("typical",):
                (self._typical,) = map(_number, lesson.state)

    # Render work.

    def calibrated(self, kind: Kind, node_id: str, realtime_factor: float) -> None:
        """A slot has rendered its probe clip. The same factor again changes nothing."""
        node, cls = self._node(kind, node_id), self._class(kind)
        took = math.log(CALIBRATION.video_s / realtime_factor)
        if node.calibration == took:
            return
        cls.calibrate(calibration(kind.engine), node.calibration, took)
        node.calibration = took
        self._learned_of(kind, node_id)

    def rendered(
        self, kind: Kind, node_id: str, work: Work, took_s: float, warm: bool, preparing_s: float = 0.0
    ) -> None:
        """A render took so long without transfers; `preparing_s` is what its report says of preparing, if anything."""
        if took_s <= 0 or work.video_s <= 0:
            return
        self._typical += (math.log(work.video_s) - self._typical) / _WINDOW
        node, cls = self._node(kind, node_id), self._class(kind)
        ratio, unsure = node.ratio(cls)
        usual, own = cls.predict(work, warm)
        cls.observe(work, warm, math.log(took_s) - ratio, unsure)
        node.observe(math.log(took_s) - usual, cls.noise + own)
        if preparing_s:
            cls.observe_preparing(preparing_s / math.exp(ratio), warm, unsure)
        self._note("typical")
        self._learned_of(kind, node_id)

    def render(self, kind: Kind, node_id: str, work: Work, warm: bool) -> Estimate:
        """Seconds of work on that node; `warm` when its worker has the portrait prepared."""
        cache = self._cache.get(kind)
        if cache is None:
            cache = _kept(self._cache, kind, MAX_KINDS, dict)
        key = (node_id, work, warm)
        found = cache.get(key)
        if found is None:
            if len(cache) >= _MAX_CACHED:
                cache.clear()
            found = cache[key] = self._render(kind, node_id, work, warm)
        return found

    def baseline(self, kind: Kind, work: Work, warm: bool = False) -> float:
        """Seconds of work on a usual node of its class."""
        return self.render(kind, "", work, warm).expected_s

    def ratio(self, kind: Kind, node_id: str) -> float:
        """Seconds of work on the node against a usual one of its class: 2 is half as fast."""
        node = self._nodes.get((kind, node_id))
        return math.exp(node.ratio(self._class(kind))[0]) if node else 1.0

    def knows(self, kind: Kind) -> bool:
        """Whether anything at all was measured for the kind."""
        return kind in self._classes and self._classes[kind].count > 0

    def preparing(self, kind: Kind, node_id: str) -> float:
        """Seconds that a prepared portrait saves on the node."""
        return math.exp(self._class(kind).mean[_PREPARING]) * self.ratio(kind, node_id)

    # Transfers.

    def transferred(self, node_id: str, size_bytes: int, took_s: float) -> None:
        """Inputs have come to the node."""
        if size_bytes > 0 and took_s > 0:
            _kept(self._lines, node_id, MAX_NODES, _Line).observe(size_bytes / took_s)
            self._note("line", node_id)

    def transfer(self, node_id: str, size_bytes: int) -> Estimate:
        """Seconds until so many bytes are on the node."""
        if not size_bytes:
            return NOTHING
        line = self._lines.get(node_id) or _Line()
        return _range(math.log(size_bytes) - line.mean, line.variance)

    # Memory of the device.

    def used_memory(self, engine: str, version: str, work: Work, peak_bytes: int) -> None:
        """A render has finished, and this was the most that it took."""
        if peak_bytes > 0:
            _kept(self._memory, (engine, version), MAX_KINDS, _Memory).observe(work.side_px, peak_bytes)
            self._note("memory", engine, version)

    def ran_out(self, kind: Kind, work: Work, had_bytes: int) -> None:
        """A render did not fit into a device of so many bytes."""
        if had_bytes > 0:
            memory = _kept(self._memory, (kind.engine, kind.model_version), MAX_KINDS, _Memory)
            memory.run_out(work.side_px, had_bytes)
            self._note("memory", kind.engine, kind.model_version)

    def memory(self, engine: str, version: str, work: Work) -> int:
        """Bytes of a device's memory that the work should take, with a margin; 0 when nothing is known.

        A guess where the size was not seen, for choosing among devices: that a job fits nowhere, it does not prove.
        """
        memory = self._memory.get((engine, version))
        return memory.needs(work.side_px)[1] if memory else 0

    def memory_at_least(self, engine: str, version: str, work: Work) -> int:
        """Bytes that videos of this size or smaller were seen to take, for refusing. 0 when nothing is known."""
        memory = self._memory.get((engine, version))
        return memory.needs(work.side_px)[0] if memory else 0

    def _learned_of(self, kind: Kind, node_id: str) -> None:
        self._cache.pop(kind, None)
        self._note("class", *kind)
        self._note("node", node_id, *kind)

    def _note(self, *subject: str) -> None:
        _kept(self._changed, subject, 2 * MAX_NODES, lambda: None)

    def _render(self, kind: Kind, node_id: str, work: Work, warm: bool) -> Estimate:
        cls, node = self._class(kind), self._nodes.get((kind, node_id))
        ratio, unsure = node.ratio(cls) if node else (0.0, cls.spread**2 if node_id else 0.0)
        variance = cls.noise + unsure
        if not work.video_s:
            work = work._replace(video_s=math.exp(self._typical))
            variance += _UNKNOWN_LENGTH
        mean, own = cls.predict(work, warm)
        return _range(mean + ratio, variance + own)

    def _class(self, kind: Kind) -> _Class:
        if kind not in self._classes:
            made = self._like(kind)
            return _kept(self._classes, kind, MAX_KINDS, lambda: made)
        return self._classes[kind]

    def _like(self, kind: Kind) -> _Class:
        """A class that has seen nothing begins as what comes next to it."""
        versions = [k for k in self._classes if (k.engine, k.gpu_class) == (kind.engine, kind.gpu_class)]
        others = versions or [k for k in self._classes if k.engine == kind.engine]
        if not others:
            return _Class()
        nearest = max(others, key=lambda k: self._classes[k].count)
        return self._classes[nearest].heir(_OTHER_VERSION_VARIANCE if versions else _OTHER_CLASS_VARIANCE)

    def _node(self, kind: Kind, node_id: str) -> _Node:
        return _kept(self._nodes, (kind, node_id), MAX_NODES, _Node)


@dataclass
class _Class:
    """What is known of slots of one kind."""

    mean: list[float] = field(default_factory=lambda: list(_MEAN))
    covariance: list[list[float]] = field(default_factory=lambda: _prior(_SCALE_VARIANCE))
    noise: float = _FIRST_NOISE  # variance of one render about what is expected of it
    count: int = 0
    warm_preparing_s: float = 0.0  # what preparing takes beside the portrait
    calibrations: list[float] = field(default_factory=list)  # of its nodes, sorted

    @property
    def spread(self) -> float:
        """Standard deviation of its nodes' speeds, from the middle half of them."""
        count = len(self.calibrations)
        if count < 4:
            return 0.5
        middle = self.calibrations[3 * count // 4] - self.calibrations[count // 4]
        return min(max(middle / 1.349, 0.2), 1.5)

    @property
    def median(self) -> float:
        return self.calibrations[len(self.calibrations) // 2] if self.calibrations else 0.0

    @property
    def kept(self) -> tuple[Any, ...]:
        """What is not known from its nodes."""
        return (tuple(self.mean), tuple(map(tuple, self.covariance)), self.noise, self.count, self.warm_preparing_s)

    @classmethod
    def again(cls, mean: Any, covariance: Any, noise: Any, count: Any, warm_preparing_s: Any) -> _Class:
        """From what was `kept`. Raises ValueError, TypeError."""
        rows = [[_number(number) for number in row] for row in covariance]
        made = cls([_number(number) for number in mean], rows, _number(noise), int(count), _number(warm_preparing_s))
        if {len(made.mean), len(rows), *map(len, rows)} != {len(_MEAN)}:
            raise ValueError(f"a class has {len(_MEAN)} numbers")
        return made

    def heir(self, scale_variance: float) -> _Class:
        """A class that is like this one, but for its speed."""
        more = _prior(scale_variance, share=0.25)
        covariance = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(self.covariance, more, strict=True)]
        return _Class(list(self.mean), covariance)

    def calibrate(self, work: Work, before: float | None, took: float) -> None:
        """A node's calibration took exp(`took`) seconds, and exp(`before`) the last time."""
        if before is not None and (at := bisect_left(self.calibrations, before)) < len(self.calibrations):
            del self.calibrations[at]
        insort(self.calibrations, took)
        if len(self.calibrations) > MAX_NODES:
            del self.calibrations[-1], self.calibrations[0]  # what is in the middle stays there
        self.observe(work, False, took, self.spread**2 + _CALIBRATION_NOISE, learns_noise=False)

    def predict(self, work: Work, warm: bool) -> tuple[float, float]:
        """Mean and variance of the logarithm of what the work takes."""
        mean, slope = self._expected(work, warm)
        return mean, _along(self.covariance, slope)[1]

    def observe(self, work: Work, warm: bool, took: float, unsure: float, learns_noise: bool = True) -> None:
        """A usual node took exp(`took`) seconds, give or take `unsure`."""
        self.count += 1
        mean, slope = self._expected(work, warm)
        surprise, own = self._correct(slope, took - mean, unsure + self.noise)
        if learns_noise:
            self.noise = max(self.noise + _NOISE_SHARE * (surprise**2 - own - unsure - self.noise), _LEAST_NOISE)

    def observe_preparing(self, took_s: float, warm: bool, unsure: float) -> None:
        """A usual node prepared for `took_s` seconds."""
        if warm:
            share = _NOISE_SHARE if self.warm_preparing_s else 1.0
            self.warm_preparing_s += share * (took_s - self.warm_preparing_s)
            return
        slope = [0.0, 0.0, 0.0, 0.0, 1.0]
        portrait_s = max(took_s - self.warm_preparing_s, 0.05 * took_s, 1e-3)
        self._correct(slope, math.log(portrait_s) - self.mean[_PREPARING], unsure + _FIRST_NOISE)

    def _expected(self, work: Work, warm: bool) -> tuple[float, list[float]]:
        """The logarithm of what the work takes, and its slope along each of the five numbers."""
        fixed, rate, power, steps_power, preparing = self.mean
        size = 2 * math.log(max(work.side_px, 1) / 256)
        steps = math.log(max(work.steps, 1) / 25)
        parts = (
            math.exp(fixed),
            math.exp(rate + power * size + steps_power * steps) * work.video_s,
            0.0 if warm else math.exp(preparing),
        )
        total = sum(parts)
        moving = parts[1] / total
        return math.log(total), [parts[0] / total, moving, moving * size, moving * steps, parts[2] / total]

    def _correct(self, slope: list[float], surprise: float, noise: float) -> tuple[float, float]:
        """Kalman's correction; returns the surprise, clipped, and how much of its variance was our own."""
        gains, own = _along(self.covariance, slope)
        variance = own + noise
        limit = _CLIP * math.sqrt(variance)
        surprise = min(max(surprise, -limit), limit)
        self.mean = [old + gain * surprise / variance for old, gain in zip(self.mean, gains, strict=True)]
        if own > noise / _WINDOW:
            for row, gain in zip(self.covariance, gains, strict=True):
                for at, other in enumerate(gains):
                    row[at] -= gain * other / variance
        return surprise, own


@dataclass
class _Node:
    """How one node differs from its class."""

    calibration: float | None = None  # logarithm of what the probe clip took
    renders: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_NODE_WINDOW))
    middle: float = 0.0  # of the logarithms of its last renders against its class: no few of them can move it far
    precision: float = 0.0

    def ratio(self, cls: _Class) -> tuple[float, float]:
        """Mean and variance of the logarithm of the ratio, drawn towards 1 the more, the less is known."""
        precision, weighted = 1 / cls.spread**2, 0.0
        if self.calibration is not None:
            precision += 1 / _CALIBRATION_NOISE
            weighted += (self.calibration - cls.median) / _CALIBRATION_NOISE
        precision += self.precision
        weighted += self.middle * self.precision
        return weighted / precision, 1 / precision

    def observe(self, off: float, variance: float) -> None:
        """A render took exp(`off`) times as long as on a usual node, which is known up to a variance."""
        self.renders.append((off, variance))
        self.middle = median(off for off, _ in self.renders)
        self.precision = sum(1 / variance for _, variance in self.renders) / _MEDIAN_VARIANCE


@dataclass
class _Line:
    """How fast inputs come to a node, as a logarithm."""

    mean: float = math.log(PRIOR_BYTES_PER_S)
    variance: float = 1.0

    def observe(self, bytes_per_s: float) -> None:
        off = math.log(bytes_per_s) - self.mean
        self.mean += 0.3 * off
        self.variance += 0.1 * (min(off**2, 4.0) - self.variance)


@dataclass
class _Memory:
    """Bytes by the short side of the video: an upper quantile of what was seen, and what was too little."""

    taken: dict[int, float] = field(default_factory=dict)
    too_little: dict[int, tuple[float, int]] = field(default_factory=dict)  # and how often, since one has fitted

    told: dict[int, tuple[int, int]] = field(default_factory=dict)  # `seen` and `expected` by side, until one changes

    def observe(self, side_px: int, peak_bytes: int) -> None:
        self.told.clear()
        known = self.taken.get(side_px, 0.0)
        self.taken[side_px] = peak_bytes if peak_bytes > known else known + (peak_bytes - known) * 0.02
        for side, (size, _) in list(self.too_little.items()):
            if side <= side_px and size >= peak_bytes:
                del self.too_little[side]

    def run_out(self, side_px: int, had_bytes: int) -> None:
        self.told.clear()
        size, times = self.too_little.get(side_px, (0.0, 0))
        self.too_little[side_px] = (max(size, had_bytes), times + 1)

    def needs(self, side_px: int) -> tuple[int, int]:
        """Bytes that are sure to be needed, and those expected; neither is less for more pixels."""
        if side_px not in self.told:
            if len(self.told) >= _MAX_CACHED:
                self.told.clear()
            self.told[side_px] = (self._seen(side_px), self._expected(side_px))
        return self.told[side_px]

    def _seen(self, side_px: int) -> int:
        """A single render that ran out proves nothing: somebody else may have been on the device."""
        lacking = [size * _MARGIN for side, (size, times) in self.too_little.items() if side <= side_px and times > 1]
        return int(max([*lacking, *(size for side, size in self.taken.items() if side <= side_px)], default=0.0))

    def _expected(self, side_px: int) -> int:
        sizes = dict(self.taken)
        for side, (size, _) in self.too_little.items():
            sizes[side] = max(sizes.get(side, 0.0), size)
        known = [(side**2, size) for side, size in sorted(sizes.items())]
        if not known:
            return 0
        pixels = side_px**2
        at = bisect_left(known, (pixels, 0.0))
        if len(known) == 1:
            guess = known[0][1] * pixels / known[0][0]
        else:  # along the line through the two that are nearest
            (few, little), (many, much) = known[min(max(at - 1, 0), len(known) - 2) :][:2]
            guess = little + (much - little) * (pixels - few) / (many - few)
        return int(_MARGIN * max(guess, *(size for count, size in known[: at + 1] if count <= pixels), 0.0))


def _prior(scale_variance: float, share: float = 1.0) -> list[list[float]]:
    covariance = [[0.0] * 5 for _ in range(5)]
    for at, own in enumerate(_OWN_VARIANCE):
        covariance[at][at] = own * share
    for a in _SCALES:
        for b in _SCALES:
            covariance[a][b] += scale_variance
    return covariance


def _number(kept: Any) -> float:
    """Raises ValueError, TypeError."""
    if not math.isfinite(number := float(kept)):
        raise ValueError(f"{number} is no finite number")
    return number


def _along(covariance: list[list[float]], slope: list[float]) -> tuple[list[float], float]:
    gains = [sum(map(mul, row, slope)) for row in covariance]
    return gains, sum(map(mul, gains, slope))


def _range(mean: float, variance: float) -> Estimate:
    """Of a logarithm that is normally distributed."""
    spread = math.exp(_Z * math.sqrt(variance))
    expected_s = math.exp(mean)
    return Estimate(expected_s, expected_s / spread, expected_s * spread)


def _kept(table: dict[K, T], key: K, at_most: int, make: Callable[[], T]) -> T:
    """The entry of a table, made if need be; the oldest one makes room."""
    if key not in table:
        if len(table) >= at_most:
            del table[next(iter(table))]
        table[key] = make()
    return table[key]
