"""What nodes report of their renders, made up: series for promtool."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.monitoring.promtool import series

METRIC = "sonic_node_render_seconds_per_video_second"


def rendered(
    rng: np.random.Generator, levels: np.ndarray, rates: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """How many renders end in each interval, and the sum of their seconds of work for a second of video.

    `levels` and `rates` are the means of an interval. The number is a Poisson number, and each render strays from the
    level by `noise`, as a share of it.
    """
    count = rng.poisson(rates)
    strayed = 1 + noise * rng.standard_normal(len(levels)) / np.sqrt(np.maximum(count, 1))
    return count, levels * count * np.maximum(strayed, 0.1)


def node(labels: Mapping[str, str], count: np.ndarray, work: np.ndarray) -> list[dict[str, str]]:
    """A node's series, from the renders of each interval; nothing is known of an interval where they are NaN."""
    return [series(f"{METRIC}_{name}", labels, _total(each)) for name, each in (("count", count), ("sum", work))]


def _total(each: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(each), np.nan, np.nancumsum(each))
