"""Exported, the small networks compute what torch computes, at any size, and the engine takes them where they lie."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from sonic_runtime import errors, providers
from sonic_runtime.engines.sonic import export, exported, weights
from sonic_runtime.engines.sonic.audio import SpeechEncoder
from sonic_runtime.engines.sonic.interpolation import FrameInterpolator
from sonic_runtime.models import tiny

pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def interpolator(tmp_path_factory: pytest.TempPathFactory) -> tuple[export.Network, Path]:
    torch.manual_seed(1)
    network = export.frame_interpolator(FrameInterpolator(8))
    file = tmp_path_factory.mktemp("interpolator") / "onnx" / "frame-interpolator.onnx"
    assert export.export(network, file) < 1e-4
    return network, file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "sonic-tiny"
    tiny.write(folder)
    return folder


@pytest.mark.parametrize("size", [(16, 16), (64, 96), (80, 48), (112, 176), (16, 272)])
def test_frames_of_any_size_are_interpolated_as_by_torch(interpolator, size: tuple[int, int]) -> None:
    network, file = interpolator
    shape = (1, 3, *size)
    assert export.apart(network, file, {"first": shape, "second": shape}) < 1e-4
    ours = exported.ExportedInterpolator(exported.open_session(file, network.name))
    first, second = torch.rand(2, 1, 3, *size).unbind()
    middle = ours(first, second)
    assert middle.shape == shape
    assert not torch.equal(middle, ours(second, second))
    pairs = ours(torch.cat((first, second)), torch.cat((second, second)))
    assert torch.equal(pairs, torch.cat((middle, ours(second, second))))


def test_all_hidden_states_are_those_of_torch(tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = WhisperConfig(d_model=12, encoder_layers=4, encoder_attention_heads=2, encoder_ffn_dim=24)
    encoder = WhisperEncoder(config).eval()
    network = export.speech_encoder(encoder)
    file = exported.path(tmp_path, network.name)
    export.export(network, file)
    ours = exported.speech(tmp_path, WhisperFeatureExtractor())
    theirs = SpeechEncoder(encoder)
    assert ours is not None
    voice = (torch.randn(37 * 16_000) * 0.1).numpy()  # two chunks
    heard, expected = ours.hear(voice), theirs.hear(voice)
    assert heard.shape == expected.shape == (1850, 5, 12)
    assert (heard - expected).abs().max() < 1e-4
    assert providers.opened()["speech-encoder"] in providers.NAMES


def test_an_export_that_is_off_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = WhisperConfig(d_model=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8)
    network = export.speech_encoder(WhisperEncoder(config))
    monkeypatch.setattr(export, "apart", lambda *_: 0.01)
    with pytest.raises(errors.ModelBroken, match=r"speech-encoder by onnxruntime is 1\.0e-02 off torch"):
        export.export(network, tmp_path / "onnx" / "net.onnx")
    assert not list((tmp_path / "onnx").iterdir())


def test_without_an_export_torch_computes(model: Path) -> None:
    networks = weights.load(model, torch.float32)
    assert type(networks.speech) is SpeechEncoder
    assert type(networks.interpolator) is FrameInterpolator


def test_the_command_keeps_what_is_faster_and_the_engine_takes_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {exported.SPEECH: (0.2, 0.3), exported.INTERPOLATOR: (0.5, 0.1)}
    monkeypatch.setattr(export, "seconds", lambda network, *_: measured[network.name])
    assert export.main([str(model)]) == 0
    said = capsys.readouterr().out.splitlines()
    provider = providers.opened()[exported.SPEECH]
    assert said[-2].startswith(f"speech-encoder: torch 0.200 s, onnxruntime by {provider} 0.300 s, ")
    assert said[-2].endswith("; not kept")
    assert said[-1].endswith("; kept")
    assert [path.name for path in (model / "onnx").iterdir()] == ["frame-interpolator.onnx"]
    networks = weights.load(model, torch.float32)
    assert type(networks.speech) is SpeechEncoder
    assert type(networks.interpolator) is exported.ExportedInterpolator
    first, second = torch.rand(2, 1, 3, 64, 64).unbind()
    with torch.inference_mode():
        expected = weights.small_networks(model)[1](first, second)
    assert (networks.interpolator(first, second) - expected).abs().max() < 1e-4


def test_both_are_timed_here(interpolator) -> None:
    network, file = interpolator
    assert min(export.seconds(network, file, torch.device("cpu"))) > 0


def test_an_export_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    file = exported.path(tmp_path, exported.INTERPOLATOR)
    file.parent.mkdir()
    file.write_bytes(b"torn")
    with pytest.raises(errors.ModelBroken, match=r"frame-interpolator\.onnx cannot be opened; export it again"):
        exported.interpolator(tmp_path)


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(tmp_path)]) == 1
    assert "error: " in capsys.readouterr().err
