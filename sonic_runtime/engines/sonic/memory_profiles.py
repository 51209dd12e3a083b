"""What fits where: `python -m sonic_runtime.engines.sonic.memory_profiles` prints it for the published model.

By the plan (see memory_plan), for bfloat16; docs/diffusion-speed.md says what of it was measured.
"""

from __future__ import annotations

import torch

from sonic_runtime.engines.sonic import memory_plan
from sonic_runtime.engines.sonic.memory_plan import GIB, Plan, Work

PROFILES_GIB = (8, 12, 24, 80)
DRIVER_GIB = 0.8  # of a GPU that its driver, the context and the kernels keep
HEAD = "| GPU | weights | 512 x 512 takes | largest `min_resolution` | which takes |\n|---|---|---|---|---|"


def table() -> list[str]:
    """As rows of Markdown."""
    rows = []
    for weights in ("full", "fp8"):
        footprint = memory_plan.footprint(torch.bfloat16, weights=weights)
        for gib in PROFILES_GIB:
            available, work = (gib - DRIVER_GIB) * GIB, Work(512, 512)
            side = memory_plan.largest_side(footprint, work, available)
            plans = (memory_plan.fitting(footprint, one, available) for one in (work, work.at(side)))
            at_512, at_most = map(_told, plans)
            rows.append(f"| {gib} GB | `{weights}` | {at_512} | {side} | {at_most} |")
    return rows


def _told(plan: Plan | None) -> str:
    if plan is None:
        return "does not fit"
    where = "networks come and go" if plan.offload else "all stays"
    return f"{plan.peak_bytes / GIB:.1f} GiB: {where}, guidance rows at once: {plan.rows_at_once}"


if __name__ == "__main__":
    print(HEAD, *table(), sep="\n")
