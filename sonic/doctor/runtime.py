"""What renders here: onnxruntime's providers, the codecs and the models, each by using it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sonic.config import Settings
from sonic.doctor.findings import Finding, State, not_installed

if TYPE_CHECKING:
    from sonic_runtime.models import Model

_ENCODERS = ("libx264", "aac")
_DECODERS = ("pcm_s16le", "mp3", "aac", "flac", "vorbis", "opus")
_PROVIDERS = ("CPU", "CUDA", "Tensorrt", "ROCM", "MIGraphX", "OpenVINO")


def check_inference(_settings: Settings) -> list[Finding]:
    """Every provider of onnxruntime computes something: one that is only listed falls back to the CPU in silence."""
    try:
        import sonic_runtime  # noqa: F401 - before onnxruntime: it keeps it from calling home
        import onnxruntime  # isort: skip
        from onnx import TensorProto, helper
    except ImportError as error:
        return not_installed("inference", error.name or "onnxruntime", "runtime")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "twice", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    providers = onnxruntime.get_available_providers()
    return [
        _provider(onnxruntime, name, model.SerializeToString()) for name in providers if name.startswith(_PROVIDERS)
    ]


def _provider(onnxruntime: Any, name: str, model: bytes) -> Finding:
    import numpy as np

    advice = "install the CUDA and cuDNN versions that onnxruntime-gpu asks for; the CPU is used until then"
    label = f"onnxruntime {name.removesuffix('ExecutionProvider')}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[name])
        (twice,) = session.run(None, {"x": np.ones(2, np.float32)})
    except Exception as error:  # every provider fails in its own way, and all are to be reported
        return Finding(label, State.WARNING, f"does not work: {str(error).splitlines()[0]}", advice)
    if session.get_providers()[0] != name or twice.tolist() != [2.0, 2.0]:
        return Finding(label, State.WARNING, "does not work: it fell back to the CPU", advice)
    return Finding(label, State.OK, f"computes, version {onnxruntime.__version__}")


def check_codecs(_settings: Settings) -> list[Finding]:
    """The encoders of the video, and the decoders of what people record with."""
    try:
        import av
    except ImportError:
        return not_installed("codecs", "av", "runtime")
    missing = [name for name, mode in _codecs() if not _opens(av, name, mode)]
    if missing:
        advice = "install PyAV's own wheel, which brings them: pip install --force-reinstall --only-binary av av"
        return [Finding("codecs", State.PROBLEM, f"cannot be opened: {', '.join(missing)}", advice)]
    return [Finding("codecs", State.OK, f"{', '.join(dict.fromkeys(name for name, _ in _codecs()))} open")]


def _codecs() -> list[tuple[str, str]]:
    return [(name, "w") for name in _ENCODERS] + [(name, "r") for name in _DECODERS]


def _opens(av: Any, name: str, mode: str) -> bool:
    try:
        context = av.CodecContext.create(name, mode)
        if name == "libx264":
            context.width = context.height = 64
            context.pix_fmt, context.framerate = "yuv420p", 25
        else:
            context.sample_rate, context.layout = 48_000, "mono"
        if name == "aac" and mode == "w":
            context.format = "fltp"
        if name != "vorbis":  # opens only with the beginning of a recording
            context.open()
    except (av.FFmpegError, ValueError):
        return False
    return True


def check_models(_settings: Settings) -> list[Finding]:
    """Every model is here and unchanged."""
    try:
        from sonic_runtime import models
    except ImportError as error:
        return not_installed("models", error.name or "sonic_runtime", "runtime")
    return [_of_model(model) for model in models.listing()]


def _of_model(model: Model) -> Finding:
    name = f"model {model.name}"
    if not model.problem:
        return Finding(name, State.OK, f"{model.version} in {model.path}")
    if model.optional and not model.path.exists():
        return Finding(
            name, State.SKIPPED, f"{model.version} is not here", f"to use it: sonic models fetch {model.name}"
        )
    return Finding(name, State.PROBLEM, model.problem, f"sonic models fetch {model.name}")
