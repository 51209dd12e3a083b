"""A network computes on the first provider that really opens, whatever onnxruntime lists."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from sonic.exceptions import BadSettings
from sonic_runtime import errors, mouth, providers


def mel(frames: int) -> dict[str, np.ndarray]:
    return {"mel": np.random.default_rng(1).standard_normal((1, frames, 40), np.float32)}


def test_on_the_cpu_a_network_gives_the_very_bits_of_a_plain_session() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    plain = onnxruntime.InferenceSession(str(mouth.WEIGHTS), options, providers=["CPUExecutionProvider"])
    ours = providers.open_session(mouth.WEIGHTS, "mouth")
    assert providers.opened()["mouth"] == "cpu"
    assert np.array_equal(ours.run(None, mel(333))[0], plain.run(None, mel(333))[0])


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_one_that_is_listed_and_falls_back_in_silence_is_passed_over(
    lists_cuda: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sonic_runtime.providers"):
        session = providers.open_session(mouth.WEIGHTS, "mouth")
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert providers.built_in("cuda")
    (record,) = caplog.records
    assert record.provider == "cpu"
    assert record.passed_over == {"cuda": "it has no device here, or no driver for it"}


@pytest.mark.parametrize(("value", "order"), [("", tuple(providers.NAMES)), (" CPU, cuda,cpu ", ("cpu", "cuda"))])
def test_the_order_is_ours_or_the_operators(monkeypatch: pytest.MonkeyPatch, value: str, order: tuple[str]) -> None:
    monkeypatch.setenv("SONIC_PROVIDERS", value)
    assert providers.wanted() == order


def test_a_name_that_does_not_exist_is_refused_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIC_PROVIDERS", "tensort,cpu")
    with pytest.raises(BadSettings, match="there is no provider 'tensort'; did you mean 'tensorrt'"):
        providers.open_session(mouth.WEIGHTS, "mouth")


def test_an_operator_who_leaves_out_the_cpu_is_told_why_nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIC_PROVIDERS", "cuda, rocm")
    with pytest.raises(errors.DeviceFailed, match=r"mouth opens with none .* cuda: this build .*; rocm: this build"):
        providers.open_session(mouth.WEIGHTS, "mouth")


def test_a_broken_model_is_no_fault_of_the_providers(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\0" * 100)
    with pytest.raises(Exception, match=r"broken\.onnx"):
        providers.open_session(tmp_path / "broken.onnx", "broken")
    assert "broken" not in providers.opened()


def test_the_graph_of_the_trial_is_a_sound_one() -> None:
    onnx.checker.check_model(onnx.load_from_string(providers.TWICE))
    assert providers.trial("cpu") == ""


def test_engines_of_another_gpu_driver_or_tensorrt_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    about = ("NVIDIA RTX A2000 / 12GB", "570.86.15", "101200")
    folder = providers.engine_folder(*about)
    assert str(folder.parent) == "/cache/sonic-fleet/engines"
    assert onnxruntime.__version__ in folder.name
    for part, other in enumerate(("NVIDIA L4", "580.1", "101300")):
        assert providers.engine_folder(*about[:part], other, *about[part + 1 :]) != folder


def test_an_engine_that_did_not_open_is_built_anew_next_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(providers, "_gpu", lambda: ("NVIDIA L4", "570"))
    with providers._engines("mouth") as folder:
        (folder / "mouth.engine").write_bytes(b"half")
    assert (folder / "mouth.engine").exists()
    with pytest.raises(RuntimeError), providers._engines("mouth"):
        raise RuntimeError("cannot be read")
    assert not folder.exists()


def test_tensorrt_is_told_the_shapes_that_vary() -> None:
    told = providers._tensorrt(Path("/engines"), {"mel": ((1, 1, 40), (1, 1064, 40), (1, 1064, 40))})
    assert told["trt_profile_min_shapes"] == "mel:1x1x40"
    assert told["trt_profile_max_shapes"] == "mel:1x1064x40"
    assert not [name for name in providers._tensorrt(Path("/engines"), {}) if "profile" in name]


def test_a_worker_with_a_bad_setting_says_so_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIC_PROVIDERS", "gpu")
    command = [sys.executable, "-m", "sonic_runtime.worker", "--engine", "warp"]
    ended = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=False)
    assert ended.returncode == 3
    assert b"there is no provider 'gpu'" in ended.stderr
    assert b"Traceback" not in ended.stderr
