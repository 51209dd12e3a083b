"""The GPU inside an NVIDIA Jetson, as the kernel describes it under /sys: it has no NVML of its own."""

from __future__ import annotations

import re
from pathlib import Path

from sonic.v1 import nodes_pb2

_LOADS = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load", "sys/devices/platform/*.gpu/load")
_CLOCKS = "sys/class/devfreq/*"


class JetsonProbe:
    """One GPU, which shares the memory of the box."""

    name = "jetson"

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._model = _text(root / "proc/device-tree/model").rstrip("\0")
        serial = _text(root / "proc/device-tree/serial-number").rstrip("\0")
        self._uuid = f"jetson-{serial or 'gpu'}"

    @property
    def _there(self) -> bool:
        return "jetson" in self._model.lower()

    def inventory(self) -> list[nodes_pb2.GpuInfo]:
        if not self._there:
            return []
        release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(self._root / "etc/nv_tegra_release"))
        return [
            nodes_pb2.GpuInfo(
                uuid=self._uuid,
                name=self._model,
                memory_bytes=self._memory().get("MemTotal", 0),
                driver_version=f"{release[1]}.{release[2]}" if release else "",
                vendor="nvidia",
            )
        ]

    def measure(self) -> list[nodes_pb2.GpuHealth]:
        if not self._there:
            return []
        memory = self._memory()
        load = next((path for pattern in _LOADS for path in sorted(self._root.glob(pattern))), None)
        return [
            nodes_pb2.GpuHealth(
                uuid=self._uuid,
                utilization_percent=int(_text(load)) / 10 if load else 0,
                memory_used_bytes=memory.get("MemTotal", 0) - memory.get("MemAvailable", 0),
                temperature_celsius=self._temperature_celsius(),
                clock_hertz=self._clock_hertz(),
            )
        ]

    def _temperature_celsius(self) -> float:
        for zone in sorted((self._root / "sys/class/thermal").glob("thermal_zone*")):
            if "gpu" in _text(zone / "type").lower():
                return float(_text(zone / "temp") or 0) / 1000
        return 0.0

    def _clock_hertz(self) -> float | None:
        for device in sorted(self._root.glob(_CLOCKS)):
            if re.search(r"gpu|gv11b|gp10b|ga10b|gm20b", device.name):
                return float(_text(device / "cur_freq") or 0)
        return None

    def _memory(self) -> dict[str, int]:
        """Bytes by name."""
        lines = re.findall(r"^(\w+):\s+(\d+) kB$", _text(self._root / "proc/meminfo"), re.MULTILINE)
        return {name: int(kilobytes) * 1024 for name, kilobytes in lines}


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
