"""The model is the published one: what the reference gave for random weights comes out again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, WhisperConfig, WhisperModel

from sonic_runtime.engines.sonic import parity, published
from sonic_runtime.engines.sonic.audio import AudioProjector, MotionBuckets
from sonic_runtime.engines.sonic.interpolation import FrameInterpolator
from sonic_runtime.engines.sonic.unet import SonicUNet

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("*/config.json"))


def case_id(folder: Path) -> str:
    return folder.name


@pytest.mark.parametrize("folder", CASES, ids=case_id)
def test_a_golden_case_is_reproduced(folder: Path) -> None:
    case = parity.run(folder)
    assert case.errors
    assert case.passed, case.worst


def test_one_wrong_value_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("01_audio2token", "15_frame_interpolation"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    expected = load_file(GOLDEN / "01_audio2token/outputs.safetensors")
    expected["tokens"][0, 0, 0, 0] += 1e-3
    save_file(expected, tmp_path / "01_audio2token/outputs.safetensors")
    assert parity.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("FAILED 01_audio2token")
    assert said[1].startswith("ok     15_frame_interpolation")
    assert said[-1] == "1 of 2 cases reproduced"


def changed(tmp_path: Path, name: str, file: str, change: Callable[[dict[str, Tensor]], object]) -> int:
    """The exit status for a case of whose tensors some are changed."""
    shutil.copytree(GOLDEN / name, tmp_path / name, dirs_exist_ok=True)
    tensors = load_file(GOLDEN / name / f"{file}.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / name / f"{file}.safetensors")
    return parity.main([str(tmp_path)])


@pytest.mark.parametrize("name", ["flow_last", "mask_last", "merged_unclamped", "middle"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_is_an_error_wherever_it_is(tmp_path: Path, name: str, value: float) -> None:
    assert changed(tmp_path, "15_frame_interpolation", "outputs", lambda tensors: tensors[name].fill_(value)) == 1


def test_inputs_may_be_stored_in_another_precision(tmp_path: Path) -> None:
    def widened(tensors: dict[str, Tensor]) -> None:
        tensors |= {name: tensor.double() for name, tensor in tensors.items()}

    for file in ("inputs", "weights", "outputs"):
        assert changed(tmp_path, "15_frame_interpolation", file, widened) == 0


def test_what_nothing_was_compared_with_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, more = "15_frame_interpolation", {"another": torch.ones(1)}
    assert changed(tmp_path, name, "outputs", lambda tensors: tensors.update(more)) == 0
    assert "; not compared: another" in capsys.readouterr().out


def test_a_case_without_its_configuration_or_of_no_known_kind_fails_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("01_audio2token", "02_audio2bucket", "15_frame_interpolation"):
        shutil.copytree(GOLDEN / "01_audio2token", tmp_path / name)
    (tmp_path / "01_audio2token" / "config.json").unlink()
    (tmp_path / "15_frame_interpolation" / "config.json").write_text("[]")
    shutil.copytree(GOLDEN / "01_audio2token", tmp_path / "03_other")
    assert parity.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line[:25].split(":")[0] for line in said[:3]] == [
        "FAILED 01_audio2token",
        "FAILED 02_audio2bucket",
        "FAILED 03_other",
    ]
    assert "FileNotFoundError" in said[0]
    assert "UnknownCase: known are audio2token" in said[2]
    assert said[3].startswith("FAILED 15_frame_interpolation: TypeError")
    assert said[4:] == ["0 of 4 cases reproduced"]


def test_a_case_that_cannot_run_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(GOLDEN / "08_unet_nonsquare_scaled", tmp_path / "08_unet_nonsquare_scaled")
    shutil.copytree(GOLDEN / "09_scheduler", tmp_path / "09_scheduler")
    assert parity.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "FAILED 08_unet_nonsquare_scaled: MissingWeights" in said[0]
    assert said[1].startswith("ok     09_scheduler")


def test_a_folder_without_cases_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main([str(tmp_path)]) == 2
    assert "has no case folders" in capsys.readouterr().err


def _vae() -> nn.Module:
    return AutoencoderKLTemporalDecoder.from_config(published.VAE)


FULL_SIZE: dict[str, Any] = {
    "unet_full": lambda: SonicUNet.build(published.UNET),
    "vae_full": _vae,
    "clip_vith_full": lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**published.CLIP)),
    "whisper_tiny_full": lambda: WhisperModel(WhisperConfig(**published.WHISPER)),
    "audio2token_full": lambda: AudioProjector(**published.AUDIO_PROJECTOR),
    "audio2bucket_full": lambda: MotionBuckets(**published.MOTION_BUCKETS),
    "rife_full": lambda: FrameInterpolator(published.INTERPOLATOR_CHANNELS),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_full_size_networks_have_the_published_keys_and_shapes(name: str) -> None:
    published_shapes = json.loads((GOLDEN / "keys" / f"{name}.json").read_text())["shapes"]
    with torch.device("meta"):
        network = FULL_SIZE[name]()
    found = {key: list(value.shape) for key, value in network.state_dict().items()}
    prefix = "module." if name == "rife_full" else ""
    assert {prefix + key: shape for key, shape in found.items()} == published_shapes
