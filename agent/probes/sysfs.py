"""AMD's and Intel's GPUs, as the kernel describes them under /sys (drivers amdgpu, i915 and xe)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sonic.v1 import nodes_pb2

_AMD, _INTEL = "0x1002", "0x8086"
_PCIE_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}  # GT/s


class AmdProbe:
    """GPUs of the driver amdgpu."""

    name = "amd"

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cards = list(_cards(root, _AMD))

    def inventory(self) -> list[nodes_pb2.GpuInfo]:
        return [
            nodes_pb2.GpuInfo(
                uuid=_uuid(card),
                name=_text(card / "product_name") or "AMD GPU",
                memory_bytes=_number(card / "mem_info_vram_total") or 0,
                driver_version=_text(self._root / "sys/module/amdgpu/version") or _kernel(self._root),
                index=index,
                vendor="amd",
            )
            for index, card in enumerate(self._cards)
        ]

    def measure(self) -> list[nodes_pb2.GpuHealth]:
        return [self._measure(card) for card in self._cards]

    def _measure(self, card: Path) -> nodes_pb2.GpuHealth:
        sensors = _sensors(card)
        power_uw = _number(sensors / "power1_average") or _number(sensors / "power1_input")
        uncorrected, corrected = _errors(card / "ras/umc_err_count")
        return nodes_pb2.GpuHealth(
            uuid=_uuid(card),
            utilization_percent=_number(card / "gpu_busy_percent") or 0,
            memory_used_bytes=_number(card / "mem_info_vram_used") or 0,
            temperature_celsius=(_number(sensors / "temp1_input") or 0) / 1000,
            power_watts=None if power_uw is None else power_uw / 1e6,
            clock_hertz=_number(sensors / "freq1_input"),
            ecc_corrected_errors=corrected,
            ecc_uncorrected_errors=uncorrected,
            pcie_generation=_pcie_generation(card),
            pcie_width=_number(card / "current_link_width"),
        )


class IntelProbe:
    """GPUs of the drivers i915 and xe. How busy one is follows from how long it has not slept."""

    name = "intel"

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._cards = list(_cards(root, _INTEL))
        self._before: dict[str, tuple[float, int]] = {}  # uuid -> when, milliseconds asleep
        self._energy: dict[str, tuple[float, int]] = {}  # uuid -> when, microjoules

    def inventory(self) -> list[nodes_pb2.GpuInfo]:
        return [
            nodes_pb2.GpuInfo(
                uuid=_uuid(card),
                name="Intel GPU",
                memory_bytes=_number(card / "tile0/physical_vram_size_bytes") or 0,
                driver_version=_kernel(self._root),
                index=index,
                vendor="intel",
            )
            for index, card in enumerate(self._cards)
        ]

    def measure(self) -> list[nodes_pb2.GpuHealth]:
        return [self._measure(card) for card in self._cards]

    def _measure(self, card: Path) -> nodes_pb2.GpuHealth:
        sensors, uuid = _sensors(card), _uuid(card)
        clock_mhz = _first(
            card, "tile0/gt0/freq0/act_freq", "drm/card*/gt/gt0/rps_act_freq_mhz", "drm/card*/gt_act_freq_mhz"
        )
        return nodes_pb2.GpuHealth(
            uuid=uuid,
            utilization_percent=self._busy_percent(card, uuid),
            temperature_celsius=(_number(sensors / "temp1_input") or 0) / 1000,
            power_watts=self._power_watts(sensors, uuid),
            clock_hertz=None if clock_mhz is None else clock_mhz * 1e6,
            throttle_reasons=_throttle_reasons(card),
            pcie_generation=_pcie_generation(card),
            pcie_width=_number(card / "current_link_width"),
        )

    def _busy_percent(self, card: Path, uuid: str) -> float:
        asleep_ms = _first(
            card,
            "tile0/gt0/gtidle/idle_residency_ms",
            "drm/card*/gt/gt0/rc6_residency_ms",
            "drm/card*/power/rc6_residency_ms",
        )
        rate = self._rate(self._before, uuid, asleep_ms)
        return 0.0 if rate is None else min(max(100 * (1 - rate / 1000), 0), 100)

    def _power_watts(self, sensors: Path, uuid: str) -> float | None:
        rate = self._rate(self._energy, uuid, _number(sensors / "energy1_input"))
        return None if rate is None else rate / 1e6

    def _rate(self, before: dict[str, tuple[float, int]], uuid: str, value: int | None) -> float | None:
        """How much a counter has grown a second since the last look."""
        if value is None:
            return None
        now = self._clock()
        then, earlier = before.get(uuid, (now, value))
        before[uuid] = (now, value)
        return (value - earlier) / (now - then) if now > then else None


def _cards(root: Path, vendor: str) -> Iterator[Path]:
    """The device folders of a vendor's cards."""
    for card in sorted((root / "sys/class/drm").glob("card[0-9]*")):
        if re.fullmatch(r"card\d+", card.name) and _text(card / "device/vendor") == vendor:
            yield card / "device"


def _uuid(card: Path) -> str:
    """What the chip calls itself, or else its place on the bus."""
    return _text(card / "unique_id") or card.resolve().name


def _sensors(card: Path) -> Path:
    return next(iter(sorted((card / "hwmon").glob("hwmon*"))), card / "hwmon/none")


def _errors(path: Path) -> tuple[int | None, int | None]:
    """Uncorrected and corrected: `ue: 0` and `ce: 3` on lines of their own."""
    found = dict(re.findall(r"^(ue|ce): (\d+)$", _text(path), re.MULTILINE))
    return (int(found["ue"]), int(found["ce"])) if len(found) == 2 else (None, None)


def _throttle_reasons(card: Path) -> list[str]:
    folders = [card / "tile0/gt0/freq0/throttle", *card.glob("drm/card*/gt/gt0")]
    prefixes = ("reason_", "throttle_reason_")
    found = {
        path.name.removeprefix("throttle_").removeprefix("reason_")
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.name.startswith(prefixes) and not path.name.endswith("status") and _number(path)
    }
    return sorted(found)


def _pcie_generation(card: Path) -> int | None:
    speed = re.match(r"([\d.]+) GT/s", _text(card / "current_link_speed"))
    return _PCIE_GENERATIONS.get(float(speed[1])) if speed else None


def _kernel(root: Path) -> str:
    """A driver that comes with the kernel has its version."""
    return _text(root / "proc/sys/kernel/osrelease")


def _first(card: Path, *patterns: str) -> int | None:
    """The first number that one of the patterns finds."""
    values = (_number(path) for pattern in patterns for path in sorted(card.glob(pattern)))
    return next((value for value in values if value is not None), None)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None
