"""All probes together. A probe that fails or hangs is logged and left out; it never stops the agent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from agent.probes.base import Probe
from agent.probes.host import HostProbe
from agent.probes.jetson import JetsonProbe
from agent.probes.nvml import NvmlProbe
from agent.probes.patience import NoAnswer, Patience
from agent.probes.sysfs import AmdProbe, IntelProbe
from sonic.v1 import nodes_pb2

ANSWERS_WITHIN_S = 10.0
FOUND_WITHIN_S = 30.0  # a driver may have to wake many GPUs first
_log = logging.getLogger("agent.probes")
T = TypeVar("T")


class Hardware:
    """The accelerators and the box. Methods block, for a while: call them from a thread."""

    def __init__(self, folder: Path, probes: list[Probe]) -> None:
        self._host = HostProbe(folder)
        self._probes = probes
        self._failing: dict[str, str] = {}  # name -> why
        self._patience = {name: Patience(ANSWERS_WITHIN_S) for name in self.works}

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
            found = self._patience[name].call(read)
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
            found += Patience(FOUND_WITHIN_S).call(partial(_detected, probe))
        except NoAnswer as error:
            _log.warning("probe failed", extra={"probe": probe.name, "why": str(error)})
        except Exception as error:  # no library, no driver, or a driver that is broken
            _log.info("probe finds nothing", extra={"probe": probe.name, "why": str(error)})
    return found


def _detected(probe: Callable[[], Probe]) -> list[Probe]:
    made = probe()
    return [made] if made.inventory() else []
