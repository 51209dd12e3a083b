"""NVIDIA's management library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from sonic.v1 import nodes_pb2


class NvmlProbe:
    """The GPUs that NVIDIA's driver knows. Raises pynvml.NVMLError where there is no driver."""

    name = "nvml"

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self._driver = _text(pynvml.nvmlSystemGetDriverVersion())
        self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]

    def inventory(self) -> list[nodes_pb2.GpuInfo]:
        return [self._describe(handle) for handle in self._handles]

    def measure(self) -> list[nodes_pb2.GpuHealth]:
        return [_measure(handle) for handle in self._handles]

    def _describe(self, handle: Any) -> nodes_pb2.GpuInfo:
        memory = _offered(pynvml.nvmlDeviceGetMemoryInfo, handle)
        return nodes_pb2.GpuInfo(
            uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            memory_bytes=memory.total if memory else 0,
            driver_version=self._driver,
        )


def _measure(handle: Any) -> nodes_pb2.GpuHealth:
    memory = _offered(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _offered(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return nodes_pb2.GpuHealth(
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        utilization_percent=rates.gpu if rates else 0,
        memory_used_bytes=memory.used if memory else 0,
        temperature_celsius=_offered(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU) or 0,
    )


def _offered(read: Callable[..., Any], *arguments: Any) -> Any | None:
    """Some devices, and slices of devices, do not offer every number."""
    try:
        return read(*arguments)
    except pynvml.NVMLError_NotSupported:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
