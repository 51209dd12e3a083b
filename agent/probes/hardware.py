"""All probes together. A probe that fails is logged and left out; it never stops the agent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agent.probes.base import Probe
from agent.probes.host import HostProbe
from agent.probes.jetson import JetsonProbe
from agent.probes.nvml import NvmlProbe
from agent.probes.sysfs import AmdProbe, IntelProbe
from sonic.v1 import nodes_pb2

_log = logging.getLogger("agent.probes")
T = TypeVar("T")


class Hardware:
    """The accelerators and the box. Methods block: call them from a thread."""

    def __init__(self, folder: Path, probes: list[Probe]) -> None:
        self._host = HostProbe(folder)
        self._probes = probes
        self._failing: dict[str, str] = {}  # name -> why

    @property
    def works(self) -> dict[str, bool]:
        """Whether each probe worked when it was asked last."""
        return {name: name not in self._failing for name in ("host", *(probe.name for probe in self._probes))}

    def inventory(self) -> list[nodes_pb2.GpuInfo]:
        found: list[nodes_pb2.GpuInfo] = []
        for probe in self._probes:
            found += self._tried(probe.name, probe.inventory, [])
        return found

    def measure(self) -> nodes_pb2.NodeHealth:
        health = self._tried("host", self._host.measure, nodes_pb2.NodeHealth())
        for probe in self._probes:
            health.gpus.extend(self._tried(probe.name, probe.measure, []))
        return health

    def _tried(self, name: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            found = read()
        except Exception as error:  # whatever a driver's library may raise
            if self._failing.get(name) != str(error):
                self._failing[name] = str(error)
                _log.warning("probe failed", extra={"probe": name, "why": str(error)})
            return otherwise
        if self._failing.pop(name, None):
            _log.info("probe works again", extra={"probe": name})
        return found


def detect() -> list[Probe]:
    """The probes that find something on this box; none on one without accelerators."""
    found: list[Probe] = []
    for probe in (NvmlProbe, AmdProbe, IntelProbe, JetsonProbe):
        try:
            made = probe()
            if made.inventory():
                found.append(made)
        except Exception as error:  # no library, no driver, or a driver that is broken
            _log.info("probe finds nothing", extra={"probe": probe.name, "why": str(error)})
    return found
