"""Networks compiled by torch (Ansel et al., ASPLOS 2024), and what has to be other for the result to be fast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sonic_runtime.engines.sonic.interrupts import layers

_MOST_SHAPES = 64  # that are compiled; further ones are computed as if nothing were


def compile_as(option: str, unet: nn.Module, decoder: nn.Module) -> None:
    """As the option `compile` says."""
    if option == "layers":
        compile_layers(unet)
        compile_layers(decoder)
    elif option != "off":
        compile_network(unet, graphs=option == "graphs")  # windows are full: one shape a size
        compile_network(decoder)


def compile_network(network: nn.Module, *, graphs: bool = False, backend: str = "inductor") -> None:
    """Compile calls of a network when they are first made, anew for each shape. `graphs`: replay CUDA graphs, whose
    memory stays taken.
    """
    _prepare(network)
    mode = "reduce-overhead" if graphs and backend == "inductor" else None
    network.compile(dynamic=False, mode=mode, backend=backend)


def compile_layers(network: nn.Module, *, backend: str = "inductor") -> None:
    """Compile the large layers of a network, each kind once for a shape: less to compile, and hooks before each layer
    are called as if nothing were compiled. What lies between the layers is not compiled."""
    _prepare(network)
    for layer in layers(network):
        layer.forward = torch.compile(layer.forward, dynamic=False, backend=backend)


def _prepare(network: nn.Module) -> None:
    """The compiler lets channels come last in convolutions; so do their weights, not to be turned in each call, and the
    norms between them. Without it all stay as they are: torch's own norms would turn everything back each time.
    """
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = ChannelsLastGroupNorm
        elif isinstance(module, nn.Conv2d) and "weight" in module._parameters:
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_SHAPES)


class ChannelsLastGroupNorm(nn.GroupNorm):
    """A group norm (Wu and He, 2018) whose sums are taken channel by channel first, and then over a group's channels.

    Where channels come last, a group's values lie scattered; summed this way, memory is read in the order that it has.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[batch, channels, ...], to the same shape; computed in float32."""
        wide = hidden_states.float()
        variance, mean = (
            part.unflatten(1, (self.num_groups, -1)) for part in torch.var_mean(wide.flatten(2), 2, correction=0)
        )
        # Of a group: the mean of its channels' variances and the variance of their means.
        between, middle = torch.var_mean(mean, 2, correction=0, keepdim=True)
        scale = (variance.mean(2, keepdim=True) + between + self.eps).rsqrt().expand_as(mean).flatten(1) * self.weight
        shift = self.bias - middle.expand_as(mean).flatten(1) * scale
        each = (..., *(None,) * (wide.ndim - 2))
        normed: Tensor = (wide * scale[each] + shift[each]).to(hidden_states.dtype)
        return normed
