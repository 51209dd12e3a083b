"""Each source of truth about accelerators, against what its driver writes."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.probes.jetson import JetsonProbe
from agent.probes.nvml import NvmlProbe
from agent.probes.sysfs import AmdProbe, IntelProbe


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_FunctionNotFound(NVMLError):
    pass


class NVMLError_Timeout(NVMLError):
    pass


class StandIn(SimpleNamespace):
    """A driver with two GPUs, of which the second one offers hardly anything."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU, NVML_VOLATILE_ECC = 1, 0, 0
    NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1
    nvmlEventTypeXidCriticalError = 8
    NVMLError_NotSupported = NVMLError_NotSupported
    NVMLError_FunctionNotFound = NVMLError_FunctionNotFound
    NVMLError_Timeout = NVMLError_Timeout
    nvmlClocksEventReasonSwPowerCap = 4
    nvmlClocksEventReasonHwSlowdown = 8
    nvmlClocksEventReasonSyncBoost = 16
    nvmlClocksEventReasonSwThermalSlowdown = 32
    nvmlClocksEventReasonHwThermalSlowdown = 64
    nvmlClocksEventReasonHwPowerBrakeSlowdown = 128
    nvmlClocksEventReasonApplicationsClocksSetting = 2
    nvmlClocksEventReasonUserDefinedClocks = 2

    def __init__(self) -> None:
        super().__init__()
        self.xids: deque[tuple[int, int]] = deque()  # GPU, code

    def nvmlInit(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"570.86.15"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 12080

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA L4"

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: object) -> None:
        if handle:
            raise NVMLError_NotSupported

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> SimpleNamespace:
        if not self.xids:
            raise NVMLError_Timeout
        device, code = self.xids.popleft()
        return SimpleNamespace(device=device, eventData=code)

    def __getattr__(self, name: str):
        answers = {
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 << 30, used=3 << 30),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=87),
            "nvmlDeviceGetPowerUsage": 71_500,
            "nvmlDeviceGetClockInfo": 2040,
            "nvmlDeviceGetTemperature": 68,
            "nvmlDeviceGetCurrentClocksEventReasons": 4 | 64,
            "nvmlDeviceGetTotalEccErrors": 5,
            "nvmlDeviceGetCurrPcieLinkGeneration": 4,
            "nvmlDeviceGetCurrPcieLinkWidth": 8,
        }

        def read(handle: int, *_: object) -> object:
            if handle:
                raise NVMLError_NotSupported
            return answers[name]

        return read


def test_nvml_tells_all_that_the_driver_offers() -> None:
    probe = NvmlProbe(StandIn())
    info = probe.inventory()[0]
    assert (info.uuid, info.index, info.vendor, info.driver_version) == ("GPU-0", 0, "nvidia", "570.86.15")
    assert (info.cuda_version, info.memory_bytes) == ("12.8", 24 << 30)
    health = probe.measure()[0]
    assert (health.utilization_percent, health.memory_used_bytes, health.temperature_celsius) == (87, 3 << 30, 68)
    assert (health.power_watts, health.clock_hertz) == (71.5, 2.04e9)
    assert list(health.throttle_reasons) == ["thermal", "power"]
    assert (health.ecc_corrected_errors, health.ecc_uncorrected_errors) == (5, 5)
    assert (health.pcie_generation, health.pcie_width) == (4, 8)


def test_what_a_gpu_does_not_offer_is_not_set() -> None:
    health = NvmlProbe(StandIn()).measure()[1]
    assert health.uuid == "GPU-1"
    for field in ("power_watts", "clock_hertz", "ecc_corrected_errors", "pcie_generation", "pcie_width"):
        assert not health.HasField(field)


def test_xid_errors_are_counted_by_code_and_gpu() -> None:
    driver = StandIn()
    probe = NvmlProbe(driver)
    driver.xids.extend([(0, 79), (0, 31), (0, 31), (1, 48)])
    first, second = probe.measure()
    assert dict(first.xid_events) == {79: 1, 31: 2}
    assert dict(second.xid_events) == {48: 1}
    driver.xids.append((0, 79))
    assert dict(probe.measure()[0].xid_events) == {79: 2, 31: 2}


AMD = {
    "vendor": "0x1002",
    "unique_id": "a1b2c3d4e5f60718",
    "product_name": "AMD Radeon PRO W7900",
    "gpu_busy_percent": 64,
    "mem_info_vram_total": 48 << 30,
    "mem_info_vram_used": 5 << 30,
    "current_link_speed": "16.0 GT/s PCIe",
    "current_link_width": 16,
    "hwmon/hwmon3/temp1_input": 71000,
    "hwmon/hwmon3/power1_average": 195000000,
    "hwmon/hwmon3/freq1_input": 2500000000,
    "ras/umc_err_count": "ue: 1\nce: 12",
}


def test_amd(tmp_path: Path) -> None:
    files = {f"sys/class/drm/card1/device/{name}": value for name, value in AMD.items()}
    others = {"sys/class/drm/card0/device/vendor": "0x1a03", "sys/module/amdgpu/version": "6.10.5"}
    probe = AmdProbe(tree(tmp_path, files | others))
    (info,) = probe.inventory()
    assert (info.uuid, info.name, info.vendor) == ("a1b2c3d4e5f60718", "AMD Radeon PRO W7900", "amd")
    assert (info.memory_bytes, info.driver_version) == (48 << 30, "6.10.5")
    (health,) = probe.measure()
    assert (health.utilization_percent, health.memory_used_bytes, health.temperature_celsius) == (64, 5 << 30, 71)
    assert (health.power_watts, health.clock_hertz) == (195, 2.5e9)
    assert (health.ecc_uncorrected_errors, health.ecc_corrected_errors) == (1, 12)
    assert (health.pcie_generation, health.pcie_width) == (4, 16)


@pytest.mark.parametrize(
    ("sleep", "clock"),
    [
        ("tile0/gt0/gtidle/idle_residency_ms", "tile0/gt0/freq0/act_freq"),  # xe
        ("drm/card0/gt/gt0/rc6_residency_ms", "drm/card0/gt/gt0/rps_act_freq_mhz"),  # i915
    ],
)
def test_intel_is_busy_while_it_does_not_sleep(tmp_path: Path, sleep: str, clock: str) -> None:
    device = tmp_path / "sys/class/drm/card0/device"
    tree(device, {"vendor": "0x8086", sleep: 5000, clock: 1450, "hwmon/hwmon1/energy1_input": 1_000_000})
    tree(tmp_path, {"proc/sys/kernel/osrelease": "6.12.9"})
    now = iter([0.0, 0.0, 2.0, 2.0])
    probe = IntelProbe(tmp_path, lambda: next(now))
    (first,) = probe.measure()
    assert (first.utilization_percent, first.clock_hertz) == (0, 1.45e9)
    tree(device, {sleep: 5500, "hwmon/hwmon1/energy1_input": 61_000_000})
    (second,) = probe.measure()
    assert second.utilization_percent == 75  # asleep for half a second of two
    assert second.power_watts == 30
    assert probe.inventory()[0].driver_version == "6.12.9"


def test_intel_says_why_it_is_throttled(tmp_path: Path) -> None:
    throttle = "tile0/gt0/freq0/throttle/"
    files = {"vendor": "0x8086", f"{throttle}status": 1, f"{throttle}reason_thermal": 1, f"{throttle}reason_pl1": 0}
    tree(tmp_path / "sys/class/drm/card0/device", files)
    (health,) = IntelProbe(tmp_path, lambda: 0.0).measure()
    assert list(health.throttle_reasons) == ["thermal"]


def test_jetson(tmp_path: Path) -> None:
    files = {
        "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
        "proc/device-tree/serial-number": "1421523012345\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
        "sys/devices/platform/gpu.0/load": 437,
        "sys/class/devfreq/17000000.gpu/cur_freq": 918000000,
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": 48000,
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
        "sys/class/thermal/thermal_zone1/temp": 52500,
        "proc/meminfo": "MemTotal:       15955208 kB\nMemFree:         1000000 kB\nMemAvailable:   10955208 kB",
    }
    probe = JetsonProbe(tree(tmp_path, files))
    (info,) = probe.inventory()
    assert (info.uuid, info.vendor, info.driver_version) == ("jetson-1421523012345", "nvidia", "36.4.3")
    assert info.memory_bytes == 15955208 * 1024
    (health,) = probe.measure()
    assert (health.utilization_percent, health.temperature_celsius) == (43.7, 52.5)
    assert (health.clock_hertz, health.memory_used_bytes) == (918e6, 5_000_000 * 1024)


@pytest.mark.parametrize("probe", [AmdProbe, IntelProbe, JetsonProbe])
def test_a_box_without_any_has_none(tmp_path: Path, probe) -> None:
    assert (probe(tmp_path).inventory(), probe(tmp_path).measure()) == ([], [])


def test_what_a_driver_does_not_write_is_not_set(tmp_path: Path) -> None:
    tree(tmp_path / "sys/class/drm/card0/device", {"vendor": "0x1002", "gpu_busy_percent": "not a number"})
    (health,) = AmdProbe(tmp_path).measure()
    assert (health.uuid, health.utilization_percent) == ("device", 0)
    for field in ("power_watts", "clock_hertz", "ecc_corrected_errors", "pcie_generation", "pcie_width"):
        assert not health.HasField(field)
