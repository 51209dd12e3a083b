"""Published files are read as tensors and as nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sonic.v1 import jobs_pb2
from sonic_runtime import errors
from sonic_runtime.engines.sonic import checkpoints

TENSORS = {"module.a.weight": torch.arange(1000.0), "b": torch.ones(2, 2)}


def same(loaded: dict[str, torch.Tensor]) -> bool:
    return loaded.keys() == TENSORS.keys() and all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".bin"])
@pytest.mark.parametrize("named", ["with its suffix", "without"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_either_age_are_read(suffix: str, named: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    assert same(checkpoints.load(path if named == "with its suffix" else path.with_suffix("")))


def test_the_safe_form_wins(tmp_path: Path) -> None:
    (tmp_path / "model.fp16.pth").write_bytes(b"never looked at")
    save_file(TENSORS, tmp_path / "model.fp16.safetensors")
    assert same(checkpoints.load(tmp_path / "model.fp16.pth"))
    assert same(checkpoints.load(tmp_path / "model.fp16"))


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_does_nothing(zipped: bool, tmp_path: Path) -> None:
    torch.save({"a": Hostile(tmp_path / "owned")}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(errors.ModelBroken, match=r"a\.pth cannot be read"):
        checkpoints.load(tmp_path / "a.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 60, 0.5, 0.999])
def test_a_truncated_file_is_named(suffix: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    save_file(TENSORS, path) if suffix == ".safetensors" else torch.save(TENSORS, path)
    os.truncate(path, int(kept * path.stat().st_size) if isinstance(kept, float) else kept)
    with pytest.raises(errors.ModelBroken, match=rf"a\{suffix} cannot be read"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(1 << 20, 1 << 20),
        torch.ones(2, 2, device="meta"),
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, 2, dtype=torch.complex64),
    ],
    ids=["a terabyte of one number", "no numbers", "sparse", "complex"],
)
def test_a_tensor_whose_numbers_are_not_in_the_file_is_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"a": tensor}, tmp_path / "a.pth")
    with pytest.raises(errors.ModelBroken, match=r"a\.pth holds no table of tensors"):
        checkpoints.load(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [[torch.ones(1)], {}, {"a": 1}, {1: torch.ones(1)}, torch.ones(1)])
def test_what_is_no_table_of_tensors_is_named(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(errors.ModelBroken, match=r"a\.pth holds no table of tensors"):
        checkpoints.load(tmp_path / "a.pth")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ModelBroken, match="a is there neither as") as raised:
        checkpoints.load(tmp_path / "a.pth")
    assert raised.value.fault == jobs_pb2.FAULT_KIND_INTERNAL
    assert raised.value.reason == "MODEL_BROKEN"
