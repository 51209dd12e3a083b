"""Tensors out of files."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def load(path: Path) -> dict[str, Tensor]:
    twin = path.with_suffix(".safetensors")
    return load_file(twin) if twin.exists() else torch.load(path, weights_only=True, map_location="cpu")
