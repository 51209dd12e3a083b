"""GPUs and workers that are hot, slow, broken, or lose memory."""

from __future__ import annotations

import re

from .case import GIB, GPU, HOUR, NODE_A, A, B, Case, growing

HOT, COOL = "88x100", "70x100"
# Two hours and more at 0.2 seconds of work per second of video, then half an hour at 0.2 or at 0.4.
STEADY, SLOWED = "0+6x60", "0+6x48 300+12x12"
LEAK = {f"sonic_gpu_memory_total_bytes{{{GPU}}}": f"{80 * GIB}x200"}


def renders(seconds_each: str) -> dict[str, str]:
    """A render every ten seconds; `seconds_each` is the growth of the sum per step of five minutes."""
    steps = sum(map(int, re.findall(r"x(\d+)", seconds_each)))
    name = "sonic_node_render_seconds_per_video_second"
    return {f"{name}_sum{{{A}}}": seconds_each, f"{name}_count{{{A}}}": growing(30, steps + 5)}


CASES = (
    Case(
        "a hot GPU on a node that has become slow",
        "GPUHot",
        {f"sonic_gpu_temperature_celsius{{{GPU}}}": HOT, **renders(SLOWED)},
        (290,),
        (NODE_A,),
        every=5,
    ),
    Case(
        "a hot GPU that works as fast as ever",
        "GPUHot",
        {f"sonic_gpu_temperature_celsius{{{GPU}}}": HOT, **renders(STEADY)},
        (200, 290),
        every=5,
    ),
    Case(
        "a slow node whose GPU is cool",
        "GPUHot",
        {f"sonic_gpu_temperature_celsius{{{GPU}}}": COOL, **renders(SLOWED)},
        (290,),
        every=5,
    ),
    Case(
        "clocks are held down for heat, and the node is slow",
        "GPUThrottled",
        {
            f"sonic_gpu_utilization{{{GPU}}}": "90x100",
            f'sonic_gpu_throttled{{{GPU},reason="thermal"}}': "_x48 1x50",
            **renders(SLOWED),
        },
        (290,),
        ({**NODE_A, "reason": "thermal"},),
        every=5,
    ),
    Case(
        "a card at its power limit that works as fast as ever",
        "GPUThrottled",
        {
            f"sonic_gpu_utilization{{{GPU}}}": "90x100",
            f'sonic_gpu_throttled{{{GPU},reason="power"}}': "1x100",
            **renders(STEADY),
        },
        (200, 290),
        every=5,
    ),
    Case(
        "clocks that somebody has set, on a node that is slow",
        "GPUThrottled",
        {
            f"sonic_gpu_utilization{{{GPU}}}": "90x100",
            f'sonic_gpu_throttled{{{GPU},reason="setting"}}': "1x100",
            **renders(SLOWED),
        },
        (290,),
        every=5,
    ),
    Case(
        "a GPU falls off the bus",
        "XidErrors",
        {f'sonic_gpu_xid_total{{{GPU},code="79"}}': "_x20 1 stale"},
        (25,),
        ({**NODE_A, "code": "79"},),
    ),
    Case(
        "a render is killed, and an error of last week is still counted",
        "XidErrors",
        {
            f'sonic_gpu_xid_total{{{GPU},code="45"}}': growing(1, 60),
            f'sonic_gpu_xid_total{{{GPU},code="63"}}': "2x60",
        },
        (35, 50),
    ),
    Case(
        "bits are lost",
        "ECCErrors",
        {f'sonic_gpu_ecc_errors{{{GPU},kind="uncorrected"}}': "0x30 2x60"},
        (35,),
        (NODE_A,),
    ),
    Case(
        "errors are corrected, and the driver is loaded anew",
        "ECCErrors",
        {
            f'sonic_gpu_ecc_errors{{{GPU},kind="corrected"}}': growing(3, 90),
            f'sonic_gpu_ecc_errors{{{GPU},kind="uncorrected"}}': "5x30 0x60",
        },
        (35, 80),
    ),
    Case(
        "two GB of GPU memory are lost every hour",
        "GPUMemoryLeak",
        LEAK | {f"sonic_gpu_memory_used_bytes{{{GPU}}}": growing(GIB / 6, 200, 10 * GIB)},
        (9 * HOUR,),
        (NODE_A,),
        every=5,
    ),
    Case(
        "a model is loaded, and large jobs come and go",
        "GPUMemoryLeak",
        LEAK
        | {
            f"sonic_gpu_memory_used_bytes{{{GPU}}}": f"{GIB}x20 {20 * GIB}x40 "
            + " ".join(f"{20 * GIB} {size * GIB}" for size in range(25, 75))
        },
        tuple(hour * HOUR for hour in range(3, 13)),
        every=5,
    ),
    Case(
        "a worker grows without end",
        "WorkerMemoryLeak",
        {f'sonic_worker_memory_bytes{{{A},slot="0"}}': growing(1e7, 200, 1e9)},
        (9 * HOUR,),
        (NODE_A,),
        every=5,
    ),
    Case(
        "a worker warms up, and another is started again",
        "WorkerMemoryLeak",
        {
            f'sonic_worker_memory_bytes{{{A},slot="0"}}': f"{growing(2e7, 40, 1e9)} 1.8e9x160",
            f'sonic_worker_memory_bytes{{{B},slot="0"}}': f"{growing(1e7, 50, 1e9)} {growing(1e7, 50, 1e9)} 1.5e9x100",
        },
        tuple(hour * HOUR for hour in range(1, 16)),
        every=5,
    ),
)
