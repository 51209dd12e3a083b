"""temporary"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuReading:
    uuid: str = ""


@dataclass(frozen=True)
class Factor:
    name: str = ""
    value: float = 0.0
    unit: str = ""
    share: float = 1.0
    reason: str = ""


@dataclass(frozen=True)
class Health:
    score: float = 1.0
    factors: tuple[Factor, ...] = ()


@dataclass(frozen=True)
class Norms:
    pass


@dataclass
class Vitals:
    derated: bool = False
    why: str = ""

    def score(self, now: float, gpu_uuid: str = "") -> float:
        return 1.0

    def health(self, now: float, norms: Norms) -> Health:
        return Health()
