"""Whether a render fits the memory of the device, and how."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch

from sonic.parameters import Problem
from sonic_runtime import errors
from sonic_runtime.engines.sonic import memory_plan
from sonic_runtime.engines.sonic.memory_plan import GIB, Footprint, Plan, Work
from sonic_runtime.engines.sonic.options import Options
from sonic_runtime.engines.sonic.weights import Networks


class DeviceMemory:
    """Of the device that the options name, for networks that are loaded."""

    def __init__(self, options: Options, networks: Networks) -> None:
        self._options = options
        self._networks = networks

    @cached_property
    def footprint(self) -> Footprint:
        """Measured when it is first wanted, in seconds."""
        nets = self._networks
        flow = nets.interpolator
        return memory_plan.footprint(
            nets.unet.dtype,
            nets.unet.config,
            nets.vae.config,
            {
                "clip": memory_plan.size(nets.clip),
                "hearing": sum(map(memory_plan.size, nets.hearing)),
                "interpolator": memory_plan.size(flow) if isinstance(flow, torch.nn.Module) else 0,
            },
            nets.projector.tokens,
            self._options.weights,
        )

    def plan(self, width: int, height: int, frames: int) -> Plan:
        """The fastest way to render so many frames. Raises errors.WouldNotFit."""
        options = self._options
        latents = 2 + (options.step_cache > 1) + 2 * (options.guidance_every > 1)  # as Shortcuts keep them
        work = Work(width, height, frames, options.window_frames, options.decode_chunk, latents)
        # On the CPU there is nowhere to put networks out of the way.
        memory = "resident" if options.torch_device.type == "cpu" else options.memory
        available = self.available_bytes()
        if plan := memory_plan.fitting(self.footprint, work, available, memory):
            return plan
        least = min(way.peak_bytes for way in memory_plan.ways(self.footprint, work, memory))
        side = memory_plan.largest_side(self.footprint, work, available, memory)
        fewer = f"no smaller size would fit either: choose window_frames below {options.window_frames}"
        advice = f"choose min_resolution {side} or less" if side else fewer
        message = (
            f"{width} x {height} pixels take {least / GIB:.1f} GiB, {available / GIB:.1f} GiB are to be had; {advice}, "
            "or a node with more memory"
        )
        raise errors.WouldNotFit(message, (Problem("parameters.min_resolution", message),))

    def available_bytes(self) -> float:
        """That this process may have in all, with what it has; infinite where that is not known."""
        device = self._options.torch_device
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            return free + torch.cuda.memory_reserved(device)
        meminfo = Path("/proc/meminfo")
        if device.type != "cpu" or not meminfo.exists():
            return float("inf")
        amounts = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(amounts["MemAvailable"].split()[0]) * 1024 + self.footprint.weights
