"""The machine: its GPUs and their driver, and room on its disks."""

from __future__ import annotations

import shutil
from pathlib import Path

from sonic.config import Settings
from sonic.doctor.findings import Finding, State, not_installed

GIB = 1 << 30
DISK_WARNING_BYTES = 5 * GIB
DISK_PROBLEM_BYTES = 1 * GIB


def check_gpus(_settings: Settings) -> list[Finding]:
    """Every NVIDIA GPU and its driver, asked through NVML."""
    try:
        import pynvml
    except ImportError:
        return not_installed("gpu", "nvidia-ml-py", "agent")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        advice = "renders run on the CPU; for a GPU install the NVIDIA driver and see that nvidia-smi works"
        return [Finding("gpu", State.WARNING, f"no NVIDIA GPU can be used ({error})", advice)]
    try:
        found = [_gpu(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(pynvml.nvmlDeviceGetCount())]
        return [Finding("driver", State.OK, f"NVIDIA {pynvml.nvmlSystemGetDriverVersion()}"), *found]
    except pynvml.NVMLError as error:
        return [
            Finding("gpu", State.PROBLEM, f"a GPU does not answer: {error}", "look at dmesg, then restart the machine")
        ]
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object) -> Finding:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    free, total = memory.free / GIB, memory.total / GIB
    return Finding("gpu", State.OK, f"{pynvml.nvmlDeviceGetName(handle)}, {free:.1f} of {total:.1f} GiB free")


def check_disk(settings: Settings) -> list[Finding]:
    """Room where the hub and the agent keep their data."""
    places = {table: settings.resolve(table)["data_dir"].value for table in ("hub", "agent")}
    return [_disk(table, path) for table, path in places.items()]


def _disk(table: str, path: Path) -> Finding:
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free for {path}"
    advice = f"free some space, or move it with --data-dir or SONIC_{table.upper()}_DATA_DIR"
    if free < DISK_PROBLEM_BYTES:
        return Finding(f"disk of the {table}", State.PROBLEM, found, advice)
    if free < DISK_WARNING_BYTES:
        return Finding(f"disk of the {table}", State.WARNING, found, advice)
    return Finding(f"disk of the {table}", State.OK, found)
