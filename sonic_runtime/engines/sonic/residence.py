"""Which networks are on the device: all of them, or only those of the stage that runs."""

from __future__ import annotations

import torch
from torch import nn


class Residence:
    """Brings networks to the device before they are called.

    With `offload` those that are not needed go to the CPU's memory: a clip is denoised for minutes, and moving three
    gigabytes takes a second.
    """

    def __init__(self, device: torch.device, *networks: nn.Module) -> None:
        self.device = device
        self.offload = False
        self._networks = networks

    @torch.inference_mode(False)  # a network that was moved is not to be one of inference mode alone
    def bring(self, *needed: nn.Module) -> None:
        """Before these are called, and no others."""
        if self.offload:
            for network in self._networks:
                if network not in needed:
                    network.to("cpu")
        for network in needed:
            network.to(self.device)
