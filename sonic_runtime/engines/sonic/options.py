"""How a node runs the diffusion engine: SONIC_ENGINE_OPTIONS, as name=value pairs with commas between them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

import torch

from sonic.parameters import Problem
from sonic_runtime import errors

VARIABLE = "SONIC_ENGINE_OPTIONS"
_MOST = 10_000  # of any number
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Options:
    """The defaults are exact and run anywhere. `choices` and `least` say what a value may be."""

    device: str = field(default="auto", metadata={"help": "auto: the GPU where there is one; or cpu, cuda, cuda:1 …"})
    dtype: str = field(
        default="auto",
        metadata={
            "choices": ("auto", *_DTYPES),
            "help": "precision of the large networks; auto: the fastest that the device computes natively",
        },
    )
    face_detector: str = field(
        default="own",
        metadata={
            "choices": ("own", "reference"),
            "help": "who finds the face: the finder of all engines; or yoloface_v5m.pt, with the reference's choice",
        },
    )
    whisper_context: str = field(
        default="overlapping",
        metadata={
            "choices": ("overlapping", "reference"),
            "help": "how recordings over 30 s are heard; reference: with the context broken every 30 s",
        },
    )
    window_frames: int = field(
        default=25,
        metadata={"least": 2, "help": "frames denoised at once; fewer than 25 are not exact, and take less memory"},
    )
    decode_chunk: int = field(
        default=8,
        metadata={
            "least": 1,
            "help": "frames decoded at once; another number than 8 is not exact at the chunks' borders",
        },
    )

    memory: str = field(
        default="auto",
        metadata={
            "choices": ("auto", "resident", "offload"),
            "help": "offload: only the networks that are at work are on the GPU; auto: where it must be; exact",
        },
    )
    compile: str = field(
        default="off",
        metadata={
            "choices": ("off", "on", "layers", "graphs"),
            "help": "compile the large networks: a size's first render takes minutes more; layers: each layer for "
            "itself, so that a cancel is felt between two of them; graphs: by CUDA graphs",
        },
    )
    guidance_every: int = field(
        default=1,
        metadata={"least": 1, "help": "one step in so many computes all rows of guidance; above 1 not exact"},
    )
    step_cache: int = field(
        default=1,
        metadata={
            "least": 1,
            "help": "where noise is very strong or very weak, one step in so many calls the UNet; above 1 not exact",
        },
    )
    weights: str = field(
        default="full",
        metadata={"choices": ("full", "fp8"), "help": "fp8: the UNet's weights in 8 bits, half the memory; not exact"},
    )

    @property
    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        if self.dtype != "auto":
            return _DTYPES[self.dtype]
        if self.torch_device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def from_environment(environment: Mapping[str, str] = os.environ) -> Options:
    """What SONIC_ENGINE_OPTIONS says. Raises errors.BadParameters with every problem found."""
    known = {each.name: each for each in fields(Options)}
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for pair in filter(None, (part.strip() for part in environment.get(VARIABLE, "").split(","))):
        name, _, text = (part.strip() for part in pair.partition("="))
        if name not in known:
            problems.append(Problem(VARIABLE, f"has {pair!r}; known are {', '.join(known)}, each as name=value"))
            continue
        if name in values:
            problems.append(Problem(VARIABLE, f"has {name} twice; give it once"))
        try:
            values[name] = _value(known[name], text)
        except ValueError as error:
            problems.append(Problem(VARIABLE, f"has {name}={text}; {error}"))
    if problems:
        raise errors.BadParameters("; ".join(f"{one.field} {one.description}" for one in problems), tuple(problems))
    return Options(**values)


def _value(option: Field[Any], text: str) -> str | int:
    choices, least = option.metadata.get("choices"), option.metadata.get("least")
    if choices and text not in choices:
        raise ValueError(f"choose one of {', '.join(choices)}")
    if option.name == "device" and not _DEVICE.fullmatch(text):
        raise ValueError("auto, cpu, cuda, or cuda with the number of a GPU is wanted, as in cuda:1")
    if least is None:
        return text
    if not text.isdecimal() or not least <= int(text) <= _MOST:
        raise ValueError(f"a whole number from {least} to {_MOST} is wanted")
    return int(text)
