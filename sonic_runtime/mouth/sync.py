"""Keeping the mouth with the sound: by how much one curve is late against another, as an offset and a drift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.base import CURVE_RATE_HZ

MAX_LATE_S = 0.12  # what is farther off is not a matter of lips
_WINDOW_S, _HOP_S = 4.0, 2.0
_ALIKE = 0.5  # windows that agree less say nothing
_STEPS = np.arange(-int(MAX_LATE_S * CURVE_RATE_HZ) - 3, int(MAX_LATE_S * CURVE_RATE_HZ) + 4)


@dataclass(frozen=True)
class Lateness:
    """How late a curve is at each time: `offset_s` at the beginning, and `drift` seconds more every second."""

    offset_s: float
    drift: float

    def at(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds, within ±MAX_LATE_S."""
        return np.clip(self.offset_s + self.drift * times_s, -MAX_LATE_S, MAX_LATE_S)


def lateness(curve: NDArray[np.float32], heard: NDArray[np.float32]) -> Lateness:
    """By how much `curve` comes after `heard`, both CURVE_RATE_HZ values a second; nothing where they hardly agree."""
    count = min(len(curve), len(heard))
    window, hop = (int(seconds * CURVE_RATE_HZ) for seconds in (_WINDOW_S, _HOP_S))
    starts = range(0, max(count - window, 0) + 1, hop)
    found = [(start, *_best(curve[start : start + window], heard[start : start + window])) for start in starts]
    sure = [(start, late_s, alike) for start, late_s, alike in found if alike > _ALIKE]
    if not sure:
        return Lateness(0.0, 0.0)
    middle_s = np.array([(start + min(window, count) / 2) / CURVE_RATE_HZ for start, _, _ in sure])
    late_s, weight = (np.array([one[number] for one in sure]) for number in (1, 2))
    if len(sure) < 3:
        return Lateness(float(np.average(late_s, weights=weight)), 0.0)
    drift, offset_s = np.polyfit(middle_s, late_s, 1, w=weight)
    return Lateness(float(offset_s), float(drift))


def _best(curve: NDArray[np.float32], heard: NDArray[np.float32]) -> tuple[float, float]:
    """Lateness in seconds, between the steps by a parabola, and the correlation there."""
    edge = int(_STEPS[-1])
    if len(curve) <= 4 * edge:
        return 0.0, 0.0
    inner = heard[edge:-edge]
    alike = np.array([_correlation(curve[edge + step : len(curve) - edge + step], inner) for step in _STEPS])
    best = int(np.argmax(alike))
    if not 0 < best < len(_STEPS) - 1:
        return 0.0, 0.0  # no peak within reach
    before, peak, after = alike[best - 1 : best + 2]
    bend = before - 2 * peak + after
    part = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(_STEPS[best] + part) / CURVE_RATE_HZ, float(peak)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size > 1e-6 else 0.0
