"""The tiny model has the published one's files, names and shapes, and the same seed draws the same."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionModelWithProjection, WhisperFeatureExtractor, WhisperModel

from sonic_runtime import models
from sonic_runtime.engines.sonic import checkpoints
from sonic_runtime.models import folder, sonic, tiny

SVD = "stable-video-diffusion-img2vid-xt"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("tiny")
    tiny.write(at)
    return at


def test_it_has_the_published_files_and_loads_as_they_do(drawn: Path) -> None:
    stems = {path.relative_to(drawn).as_posix().rpartition(".")[0] for path in drawn.rglob("*") if path.is_file()}
    assert stems == {file.path.rpartition(".")[0] for file in sonic.FILES if not file.optional}
    kinds = {path.suffix for path in (drawn / "Sonic").iterdir()}
    assert kinds == {".pth", ".safetensors"}
    svd = drawn / SVD
    AutoencoderKLTemporalDecoder.from_pretrained(svd / "vae", variant="fp16", use_safetensors=True)
    CLIPVisionModelWithProjection.from_pretrained(svd / "image_encoder", variant="fp16", use_safetensors=True)
    scheduler = EulerDiscreteScheduler.from_pretrained(svd / "scheduler")
    scheduler.set_timesteps(25)
    assert scheduler.sigmas[0] == 700
    hearing = WhisperModel.from_pretrained(drawn / "whisper-tiny").float()
    features = WhisperFeatureExtractor.from_pretrained(drawn / "whisper-tiny")([0.0] * 16_000, sampling_rate=16_000)
    heard = hearing.encoder(torch.tensor(features.input_features[0])[None], output_hidden_states=True)
    assert [tuple(state.shape) for state in heard.hidden_states] == [(1, 1500, 12)] * 5
    unet = UNetSpatioTemporalConditionModel.from_config(UNetSpatioTemporalConditionModel.load_config(svd / "unet"))
    missing, adapters = unet.load_state_dict(checkpoints.load(drawn / "Sonic/unet.pth"), strict=False)
    assert missing == []
    assert len(adapters) == 64
    assert all("attn2.processor.to_" in name for name in adapters)


def test_the_same_seed_draws_the_same_and_another_does_not(drawn: Path, tmp_path: Path) -> None:
    tiny.write(tmp_path / "same")
    assert [(f.path, f.sha256) for f in folder.listed(tmp_path / "same")] == [
        (f.path, f.sha256) for f in folder.listed(drawn)
    ]
    tiny.write(tmp_path / "other", seed=1)
    other = checkpoints.load(tmp_path / "other/Sonic/unet")
    assert not torch.equal(other["conv_in.weight"], checkpoints.load(drawn / "Sonic/unet")["conv_in.weight"])


def test_a_disk_without_room_is_said_and_no_model_stays(tmp_path: Path) -> None:
    env = os.environ | {"SONIC_MODELS": str(tmp_path)}
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    command = [sys.executable, "-m", "sonic", "models", "tiny"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert (ended.returncode, "set SONIC_MODELS to a folder with room" in ended.stderr) == (1, True), ended.stderr
    assert not (tmp_path / "sonic" / tiny.VERSION).exists()


def parameters(shapes: tiny.Shapes) -> tuple[int, int]:
    return len(shapes), sum(math.prod(shape) for shape in shapes.values())


def test_the_same_rules_give_the_published_sizes() -> None:
    """Tensors and parameters of the published files, as counted there."""
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel()
    assert parameters(tiny.unet_shapes(unet)) == (1492, 1_575_741_162)
    assert parameters(tiny.head_shapes(10 * 5 * 384, 1024, 32 * 1024, norm=1024)) == (8, 54_300_672)
    assert parameters(tiny.head_shapes(50 * 384 + 1024, 1024, 2)) == (6, 21_762_050)
    assert parameters(tiny.flow_shapes(90)) == (160, 3_038_015)


def test_it_takes_the_place_of_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    first = models.draw_tiny(0)
    assert (first.path, first.problem) == (tmp_path / "sonic/sonic-tiny", "")
    kept = folder.read_manifest(first.path)
    second = models.draw_tiny(1)
    assert second.problem == ""
    assert folder.read_manifest(second.path) != kept
    assert [path.name for path in (tmp_path / "sonic").iterdir()] == ["sonic-tiny"]
