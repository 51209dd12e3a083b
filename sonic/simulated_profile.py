"""What a simulated node is like: where it is, what it renders with, how fast, and how often it goes wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from sonic.v1 import jobs_pb2

GIB = 1 << 30


@dataclass(frozen=True)
class GpuClass:
    """A kind of accelerator; no name means that the node renders on its processor."""

    name: str
    memory_bytes: int
    realtime_factor: float  # seconds of video per second of work
    driver_version: str = "550.90.07"


GPU_CLASSES = (
    GpuClass("", 0, 1.2, ""),
    GpuClass("Jetson AGX Orin", 32 * GIB, 0.9, "540.4.0"),
    GpuClass("GeForce RTX 3060", 12 * GIB, 1.6),
    GpuClass("GeForce RTX 4070", 12 * GIB, 3.0),
    GpuClass("RTX A4000", 16 * GIB, 2.0),
    GpuClass("GeForce RTX 4090", 24 * GIB, 6.0),
    GpuClass("L40S", 48 * GIB, 7.0),
)


@dataclass(frozen=True)
class NodeProfile:
    """One simulated node. Seconds are those of its own clock, which runs `speedup` times as fast as ours."""

    node_id: str
    region: str = "local"
    engine: str = "warp"
    model_version: str = "simulated"
    gpu: GpuClass = GPU_CLASSES[2]
    slots: int = 1
    realtime_factor: float = 2.0
    jitter: float = 0.05  # standard deviation of a render's time, as a share of it
    seed: int = 0
    bytes_per_s: float = 12.5e6  # of its line, for inputs that it has not cached
    fail_rates: tuple[tuple[jobs_pb2.FaultKind.ValueType, float], ...] = ()  # of its renders, by kind
    video_s: float = 5.0  # how long a video is when the job does not say
    speedup: float = 1.0  # inf: work takes no time at all
    progress_interval_s: float = 1.0  # of our clock; 0: progress is not told
    tells_start: bool = True  # says AttemptStarted; without it a job of no length costs the hub two messages
    own_videos: bool = False  # each attempt's video has bytes of its own, so each has to be uploaded
    plays_faults: bool = True

    def real_s(self, seconds: float) -> float:
        """How long something takes by our clock."""
        return 0.0 if math.isinf(self.speedup) else seconds / self.speedup


def unlike(
    count: int, name: str = "simulated", regions: Sequence[str] = ("local",), seed: int = 0
) -> list[NodeProfile]:
    """Profiles named name-0001 and so on, over the regions in turn, of unlike classes and speeds: the same by seed."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    digits = max(len(str(count)), 4)
    made = []
    for number in range(1, count + 1):
        gpu = chance.choice(GPU_CLASSES)
        made.append(
            NodeProfile(
                node_id=f"{name}-{number:0{digits}d}",
                region=regions[(number - 1) % len(regions)],
                gpu=gpu,
                realtime_factor=gpu.realtime_factor * chance.uniform(0.85, 1.1),
                seed=chance.getrandbits(32),
            )
        )
    return made
