"""Exports the engine's two small networks for onnxruntime: `python -m sonic_runtime.engines.sonic.export`.

Each is compared with torch, then timed against it by the provider that opens here. What is faster stays in the folder
`onnx` of the model, where the engine takes it from; what is not is removed. Needs onnxscript.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sonic_runtime import errors, models, providers
from sonic_runtime.engines.sonic import exported, weights
from sonic_runtime.engines.sonic.interpolation import MULTIPLE_PX, FrameInterpolator
from sonic_runtime.engines.sonic.options import from_environment

_OPSET = 18
_LIMIT = 1e-4  # of the largest value, or of 1
_MOST_SIDE_PX = 4096
_ROUNDS = 3
_DRAWN_PX = (512, 512)  # of the frames that are timed


class Hidden(nn.Module):
    """Whisper's encoder with all its hidden states in one tensor, as `SpeechEncoder.hidden` has them."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, mel: Tensor) -> Tensor:
        """[1, 80, 3000] -> [1500, layers + 1, channels]."""
        return torch.stack(self.encoder(mel, output_hidden_states=True).hidden_states, 2)[0]


@dataclass(frozen=True)
class Network:
    """What is exported, and how."""

    name: str
    module: nn.Module  # on the CPU
    inputs: Mapping[str, tuple[int, ...]]  # the shapes that it is traced with
    output: str
    varying: Mapping[int, Any]  # axes of all inputs whose length stays open
    timed: Mapping[str, tuple[int, ...]]

    def drawn(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Inputs, the same ones every time, 0 to 1."""
        draw = torch.Generator().manual_seed(0)
        return {name: torch.rand(shape, generator=draw) for name, shape in shapes.items()}


def speech_encoder(encoder: nn.Module, bands: int = 80, frames: int = 3000) -> Network:
    """Whisper's; what it hears is always 30 s."""
    shape = {"mel": (1, bands, frames)}
    return Network(exported.SPEECH, Hidden(encoder).eval(), shape, "hidden", {}, shape)


def frame_interpolator(module: FrameInterpolator) -> Network:
    """For frames of any size."""
    sides = {2 + axis: MULTIPLE_PX * torch.export.Dim(name, min=1, max=_MOST_SIDE_PX // MULTIPLE_PX)
             for axis, name in enumerate(("rows", "columns"))}  # fmt: skip
    traced = dict.fromkeys(("first", "second"), (1, 3, 4 * MULTIPLE_PX, 6 * MULTIPLE_PX))
    timed = dict.fromkeys(traced, (1, 3, *_DRAWN_PX))
    return Network(exported.INTERPOLATOR, module.eval(), traced, "middle", sides, timed)


def export(network: Network, file: Path) -> float:
    """Write an ONNX file, and compare it with torch; how far they are apart is returned. Raises errors.ModelBroken."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    axes = {axis: network.varying.get(axis, torch.export.Dim.STATIC) for axis in range(4)}
    program = torch.onnx.export(
        network.module,
        kwargs=network.drawn(network.inputs),
        dynamo=True,
        dynamic_shapes={name: {a: axes[a] for a in range(len(shape))} for name, shape in network.inputs.items()},
        input_names=list(network.inputs),
        output_names=[network.output],
        opset_version=_OPSET,
        verbose=False,
    )
    assert program is not None
    try:
        program.save(str(part))
        off = apart(network, part, network.inputs)
        if off > _LIMIT:
            raise errors.ModelBroken(
                f"{network.name} by onnxruntime is {off:.1e} off torch, at most {_LIMIT} is allowed"
            )
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
    return off


def apart(network: Network, file: Path, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """The largest difference between torch and onnxruntime, in units of the largest value where that is above 1."""
    given = network.drawn(shapes)
    (found,) = _session(network, file).run(None, {name: value.numpy() for name, value in given.items()})
    with torch.inference_mode():
        expected = network.module(**given)
    if found.shape != tuple(expected.shape):
        return float("inf")
    return float((torch.from_numpy(found) - expected).abs().max() / max(float(expected.abs().max()), 1))


def seconds(network: Network, file: Path, device: torch.device) -> tuple[float, float]:
    """The shortest time that one run takes by torch on its device and by onnxruntime."""
    given = network.drawn(network.timed)
    arrays = {name: value.numpy() for name, value in given.items()}
    session = _session(network, file)
    module = network.module.to(device)
    try:
        with torch.inference_mode():
            by_torch = _shortest(lambda: module(**{name: value.to(device) for name, value in given.items()}).cpu())
    finally:
        module.to("cpu")
    return by_torch, _shortest(lambda: session.run(None, arrays))


def _session(network: Network, file: Path) -> Any:
    return exported.open_session(file, network.name)


def _shortest(work: Callable[[], object]) -> float:
    work()  # the first time is for finding kernels and memory
    took = []
    for _ in range(_ROUNDS):
        started_s = time.perf_counter()
        work()
        took.append(time.perf_counter() - started_s)
    return min(took)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when both were exported and compared, 1 when not."""
    parser = argparse.ArgumentParser(prog="python -m sonic_runtime.engines.sonic.export", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="model folder; the installed one when it is left out")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it talks of torchvision, which nobody needs
    try:
        folder: Path = parser.parse_args(arguments).folder or models.whole("sonic")
        encoder, interpolator = weights.small_networks(folder)
        for network in (speech_encoder(encoder), frame_interpolator(interpolator)):
            file = exported.path(folder, network.name)
            off = export(network, file)
            torch_s, onnx_s = seconds(network, file, from_environment().torch_device)
            provider = providers.opened()[network.name]
            kept = onnx_s < torch_s
            if not kept:
                file.unlink()
            told = f"torch {torch_s:.3f} s, onnxruntime by {provider} {onnx_s:.3f} s, {off:.0e} apart"
            print(f"{network.name}: {told}; {'kept' if kept else 'not kept'}", flush=True)
    except (errors.RenderError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
