"""Tensors out of published files, without running anything that is in them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sonic_runtime import errors

_SAFETENSORS = ".safetensors"
_PICKLES = (".pth", ".pkl", ".bin", ".pt")
_ZIP_MAGIC = b"PK\x03\x04"  # of what torch.save has written since 1.6; older files cannot be mapped


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU and as they are stored; a large file is mapped, not read.

    `path` may have a suffix or none: beside other formats the .safetensors file is taken. Of pickles only tensors are
    read. Raises errors.ModelBroken where there is no such file, or its content is not a table of tensors.
    """
    found = _find(path)
    try:
        loaded = load_file(found) if found.suffix == _SAFETENSORS else _unpickle(found)
    except MemoryError:
        raise
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise errors.ModelBroken(f"{found} cannot be read, fetch the model again: {said}") from error
    if not (isinstance(loaded, dict) and loaded and all(map(_is_entry, loaded.items()))):
        raise errors.ModelBroken(f"{found} holds no table of tensors; fetch the model again")
    return dict(loaded)


def _find(path: Path) -> Path:
    stem = path.with_suffix("") if path.suffix in (_SAFETENSORS, *_PICKLES) else path
    candidates = [Path(f"{stem}{suffix}") for suffix in (_SAFETENSORS, *_PICKLES)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    *others, last = (candidate.suffix for candidate in candidates)
    raise errors.ModelBroken(f"{stem} is there neither as {', '.join(others)} nor as {last}; run `sonic models verify`")


def _unpickle(path: Path) -> object:
    with path.open("rb") as file:
        mappable = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)


def _is_entry(entry: tuple[object, object]) -> bool:
    name, tensor = entry
    return isinstance(name, str) and isinstance(tensor, Tensor) and _is_there(tensor)


def _is_there(tensor: Tensor) -> bool:
    """Whether every number of it is in the file: a pickle may describe tensors that have none, or one for a million."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_complex():
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()
