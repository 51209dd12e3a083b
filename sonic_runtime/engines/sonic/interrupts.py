"""Whether to go on is asked between the layers of a network: one call of it may take many seconds on a small GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_LAYERS = (".resnets", ".attentions", ".layers")  # what diffusers and transformers call them


def layers(network: nn.Module) -> list[nn.Module]:
    """The large ones that a network is made of, none within another."""
    return [each for name, each in network.named_modules() if f".{name}".rpartition(".")[0].endswith(_LAYERS)]


class Interrupts:
    """Asks before each layer of the networks that it watches; for one render at a time.

    A GPU is given work far ahead of what it has done, so it is waited for, one layer behind: what is queued is never
    more than the two layers that keep it busy. Inside what is compiled or captured nobody is asked.
    """

    def __init__(self, *networks: nn.Module) -> None:
        self._ask: Callable[[], None] | None = None
        self._queued: torch.cuda.Event | None = None
        for network in networks:
            for layer in layers(network):
                layer.register_forward_pre_hook(self._before)

    @contextmanager
    def asking(self, ask: Callable[[], None]) -> Iterator[None]:
        """Within the context `ask` is called before each layer; it may raise to stop."""
        self._ask = ask
        try:
            yield
        finally:
            if self._ask is ask:
                self._ask = self._queued = None

    def _before(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() or self._ask is None:
            return
        device = next((one.device for one in inputs if isinstance(one, torch.Tensor)), None)
        if device is not None and device.type == "cuda":
            if torch.cuda.is_current_stream_capturing():
                return
            queued, self._queued = self._queued, torch.cuda.current_stream(device).record_event()
            if queued:
                queued.synchronize()
        self._ask()
