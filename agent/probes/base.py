"""What every source of truth about accelerators offers."""

from __future__ import annotations

from typing import Protocol

from sonic.v1 import nodes_pb2


class Probe(Protocol):
    """One kind of accelerator, through its driver. Its methods may block and may raise anything."""

    name: str

    def inventory(self) -> list[nodes_pb2.GpuInfo]:
        """The accelerators that there are; empty where the box has none of the kind."""

    def measure(self) -> list[nodes_pb2.GpuHealth]:
        """How they are now."""
