"""One alert in one story."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

HOUR, DAY = 60, 24 * 60
GIB = 2**30

A = 'region="eu",node_id="a",model_version="2"'
B = 'region="eu",node_id="b",model_version="2"'
GPU = f'{A},gpu="0",uuid="GPU-1"'
EU, NODE_A = {"region": "eu"}, {"region": "eu", "node_id": "a"}


class Case(NamedTuple):
    """An alert at some minutes of a story: the labels that those have for which it fires; none, and it is silent."""

    name: str
    alert: str
    series: dict[str, str]
    at: Sequence[int]  # minutes
    fires: tuple[dict[str, str], ...] = ()
    every: int = 1  # minutes from sample to sample, and from evaluation to evaluation


def growing(per_step: float, steps: int, begin: float = 0) -> str:
    return f"{begin}{per_step:+}x{steps}"
