"""What renders here: onnxruntime's providers, the codecs and the models, each by using it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sonic.config import Settings
from sonic.doctor.findings import Finding, State, not_installed
from sonic.exceptions import BadSettings

if TYPE_CHECKING:
    from sonic_runtime.models import Model

_ENCODERS = ("libx264", "aac")
_DECODERS = ("pcm_s16le", "mp3", "aac", "flac", "vorbis", "opus")


def check_inference(_settings: Settings) -> list[Finding]:
    """Every provider that onnxruntime lists computes something, and the one that the networks get is named."""
    try:
        from sonic_runtime import providers
    except ImportError as error:
        return not_installed("inference", error.name or "onnxruntime", "runtime")
    found = [_provider(name) for name in providers.NAMES if providers.built_in(name)]
    try:
        wanted = providers.wanted()
    except BadSettings as error:
        advice = f"name some of {', '.join(providers.NAMES)}, or unset {providers.VARIABLE}"
        return [*found, Finding("inference", State.PROBLEM, str(error), advice)]
    chosen = next((name for name in wanted if not providers.trial(name)), None)
    if chosen is None:
        text = f"{providers.VARIABLE} names {', '.join(wanted)}, and none of them computes here"
        return [*found, Finding("inference", State.PROBLEM, text, "add cpu to it, or unset it")]
    return [*found, Finding("inference", State.OK, f"networks compute by {chosen}")]


def _provider(name: str) -> Finding:
    import onnxruntime

    from sonic_runtime import providers

    label = f"onnxruntime {providers.NAMES[name].removesuffix('ExecutionProvider')}"
    if problem := providers.trial(name):
        advice = f"install what onnxruntime {onnxruntime.__version__} needs for it; until then another provider is used"
        return Finding(label, State.WARNING, f"does not compute: {problem}", advice)
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
    names = ", ".join(dict.fromkeys(name for name, _ in _codecs()))
    return [Finding("codecs", State.OK, f"{names} open"), _encoder()]


def _encoder() -> Finding:
    from sonic_runtime import errors
    from sonic_runtime.media import encoders

    try:
        first, *_ = encoders.candidates()
    except (BadSettings, errors.DeviceFailed) as error:
        return Finding("encoder", State.PROBLEM, str(error), f"unset {encoders.VARIABLE}, or set it to x264")
    found = f"{first.codec} encodes the picture"
    if first is encoders.X264 and (problem := encoders.trial(encoders.NVENC)):
        found += f"; NVENC does not ({problem})"
    return Finding("encoder", State.OK, found)


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
    wanted = model.version if model.path.exists() else model.name
    return Finding(name, State.PROBLEM, f"{model.version}: {model.problem}", f"sonic models fetch {wanted}")
