"""A mouth that comes late, early, or later and later is brought back to what is heard; nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sonic_runtime.mouth import sync


def speech(seconds: float, seed: int = 4) -> NDArray[np.float32]:
    """A curve that opens and closes about five times a second, as a talking mouth does."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * 100) + 40)
    window = np.hanning(22)[1:-1]
    return np.clip(np.convolve(noise, window / window.sum(), "valid")[: int(seconds * 100)] * 2 + 0.4, 0, 1).astype(
        np.float32
    )


def delayed(curve: NDArray[np.float32], late_s: NDArray[np.float64] | float) -> NDArray[np.float32]:
    times = np.arange(len(curve)) / 100
    return np.interp(times - late_s, times, curve).astype(np.float32)


@pytest.mark.parametrize("late_s", [-0.11, -0.04, 0.0, 0.015, 0.08])
def test_an_offset_is_found(late_s: float) -> None:
    heard = speech(12)
    found = sync.lateness(delayed(heard, late_s), heard)
    assert found.at(np.array([0.0, 6.0, 12.0])) == pytest.approx([late_s] * 3, abs=0.006)


@pytest.mark.parametrize("drift", [-0.0015, 0.001])
def test_a_drift_is_found(drift: float) -> None:
    heard = speech(60)
    times = np.arange(len(heard)) / 100
    found = sync.lateness(delayed(heard, drift * times), heard)
    assert found.at(times) == pytest.approx(drift * times, abs=0.012)


def test_a_correction_is_bounded() -> None:
    heard = speech(60)
    times = np.arange(len(heard)) / 100
    found = sync.lateness(delayed(heard, 0.004 * times), heard)
    assert np.abs(found.at(times)).max() <= sync.MAX_LATE_S


@pytest.mark.parametrize(("curve", "heard"), [(speech(20, 1), speech(20, 2)), (speech(0.3), speech(0.3))])
def test_curves_that_do_not_agree_are_left_alone(curve: NDArray[np.float32], heard: NDArray[np.float32]) -> None:
    assert sync.lateness(curve, heard) == sync.Lateness(0.0, 0.0)


def test_silence_is_left_alone() -> None:
    assert sync.lateness(np.zeros(900, np.float32), np.zeros(900, np.float32)) == sync.Lateness(0.0, 0.0)
