"""NVIDIA's management library (NVML API reference, driver 535 and newer)."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from sonic.v1 import nodes_pb2

_THROTTLE_REASONS = {
    "thermal": ("SwThermalSlowdown", "HwThermalSlowdown"),
    "power": ("SwPowerCap", "HwPowerBrakeSlowdown"),
    "hardware": ("HwSlowdown",),
    "sync": ("SyncBoost",),
    "setting": ("ApplicationsClocksSetting", "UserDefinedClocks"),
}
_MOST_EVENTS = 100  # read at a time


class NvmlProbe:
    """The GPUs that NVIDIA's driver knows. Raises OSError or NVMLError where there is no driver."""

    name = "nvml"

    def __init__(self, library: Any = None) -> None:
        """`library` stands in for pynvml in tests."""
        self._nvml = library or _pynvml()
        self._nvml.nvmlInit()
        self._driver = _text(self._nvml.nvmlSystemGetDriverVersion())
        cuda = self._offered(self._nvml.nvmlSystemGetCudaDriverVersion_v2)
        self._cuda = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""
        count = self._nvml.nvmlDeviceGetCount()
        self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        self._xids: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))  # UUID -> code -> count
        self._events = self._watch_events()

    def inventory(self) -> list[nodes_pb2.GpuInfo]:
        return [self._describe(index, handle) for index, handle in enumerate(self._handles)]

    def measure(self) -> list[nodes_pb2.GpuHealth]:
        self._read_events()
        return [self._measure(handle) for handle in self._handles]

    def _describe(self, index: int, handle: Any) -> nodes_pb2.GpuInfo:
        memory = self._offered(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        return nodes_pb2.GpuInfo(
            uuid=_text(self._nvml.nvmlDeviceGetUUID(handle)),
            name=_text(self._nvml.nvmlDeviceGetName(handle)),
            memory_bytes=memory.total if memory else 0,
            driver_version=self._driver,
            index=index,
            vendor="nvidia",
            cuda_version=self._cuda,
        )

    def _measure(self, handle: Any) -> nodes_pb2.GpuHealth:
        nvml = self._nvml
        memory = self._offered(nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = self._offered(nvml.nvmlDeviceGetUtilizationRates, handle)
        power_mw = self._offered(nvml.nvmlDeviceGetPowerUsage, handle)
        clock_mhz = self._offered(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
        corrected, uncorrected = (
            self._offered(nvml.nvmlDeviceGetTotalEccErrors, handle, kind, nvml.NVML_VOLATILE_ECC)
            for kind in (nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)
        )
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        return nodes_pb2.GpuHealth(
            uuid=uuid,
            utilization_percent=rates.gpu if rates else 0,
            memory_used_bytes=memory.used if memory else 0,
            temperature_celsius=self._offered(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU) or 0,
            power_watts=None if power_mw is None else power_mw / 1000,
            clock_hertz=None if clock_mhz is None else clock_mhz * 1e6,
            throttle_reasons=self._throttle_reasons(handle),
            ecc_corrected_errors=corrected,
            ecc_uncorrected_errors=uncorrected,
            pcie_generation=self._offered(nvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
            pcie_width=self._offered(nvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
            xid_events=dict(self._xids[uuid]),
        )

    def _throttle_reasons(self, handle: Any) -> list[str]:
        bits = self._offered(self._nvml.nvmlDeviceGetCurrentClocksEventReasons, handle) or 0
        return [
            reason
            for reason, names in _THROTTLE_REASONS.items()
            if any(bits & getattr(self._nvml, f"nvmlClocksEventReason{name}") for name in names)
        ]

    def _watch_events(self) -> Any | None:
        """A set that hears the Xid errors of all GPUs, where the driver tells them."""
        nvml = self._nvml
        events = self._offered(nvml.nvmlEventSetCreate)
        for handle in self._handles if events else []:
            self._offered(nvml.nvmlDeviceRegisterEvents, handle, nvml.nvmlEventTypeXidCriticalError, events)
        return events

    def _read_events(self) -> None:
        for _ in range(_MOST_EVENTS if self._events else 0):
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            except self._nvml.NVMLError_Timeout:
                return
            self._xids[_text(self._nvml.nvmlDeviceGetUUID(event.device))][int(event.eventData)] += 1

    def _offered(self, read: Callable[..., Any], *arguments: Any) -> Any | None:
        """Some devices, and slices of devices, do not offer every number; old drivers lack whole calls."""
        try:
            return read(*arguments)
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_FunctionNotFound):
            return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _pynvml() -> Any:
    """The bindings; a box without the driver's library does not carry them in memory."""
    ctypes.CDLL("libnvidia-ml.so.1")
    import pynvml

    return pynvml
