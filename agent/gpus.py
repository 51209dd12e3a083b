"""Which GPU a slot renders on: slot i on GPU i modulo their number."""

from __future__ import annotations

from collections.abc import Sequence

from sonic.v1 import nodes_pb2


def of_slot(slot: int, gpus: Sequence[nodes_pb2.GpuInfo]) -> nodes_pb2.GpuInfo | None:
    """None where there is none; a worker that has one may still render on the CPU, and says so."""
    return gpus[slot % len(gpus)] if gpus else None


def environment(gpu: nodes_pb2.GpuInfo | None, gpus: Sequence[nodes_pb2.GpuInfo]) -> dict[str, str]:
    """What keeps a worker to its GPU where there are several."""
    if gpu is None or len(gpus) < 2:
        return {}
    if gpu.vendor == "amd":
        return {"HIP_VISIBLE_DEVICES": str(gpu.index)}
    return {"CUDA_VISIBLE_DEVICES": gpu.uuid} if gpu.vendor == "nvidia" else {}
