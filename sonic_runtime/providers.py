"""Where networks compute: on the first of onnxruntime's execution providers that opens.

What onnxruntime lists is what it was built with; where that cannot work it computes on the CPU and says nothing. So
every provider is tried once in a process, on a graph of one addition, and only what a session says of itself when it is
made counts. What opened, and why the others did not, is kept for the worker's log, the agent's metrics and `sonic
doctor`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import io
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import platformdirs

from sonic.config import nearest
from sonic.exceptions import BadSettings
from sonic_runtime import errors

VARIABLE = "SONIC_PROVIDERS"
NAMES = {  # ours -> onnxruntime's, in the order in which they are tried
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_CUDA = {  # full float32, no search for kernels at every new shape, and no more memory than is asked for
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",
}
# y = x + x for float32 [2]: small enough to stand here, so that nothing need be installed to make it.
TWICE = bytes.fromhex(
    "08083a390a0e0a01780a01781201792203416464120574776963655a0f0a0178120a0a08080112040a0208"
    "02620f0a0179120a0a08080112040a02080242040a001011"
)
_FATAL, _WARNING = 4, 2  # onnxruntime's levels; it starts with the latter
_opened: dict[str, str] = {}
_log = logging.getLogger("sonic_runtime.providers")

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Of inputs whose shape varies: the smallest, the usual and the largest."""


def open_session(model: Path | bytes, network: str, threads: int = 1, shapes: Shapes | None = None) -> Any:
    """A session for a model, by the first provider that opens; `network` is what it is called in reports.

    `threads` bounds what the CPU spends on it. Inputs of varying shape are to be named in `shapes`: TensorRT builds for
    them once, not at every new shape. Raises errors.DeviceFailed where SONIC_PROVIDERS leaves none that opens,
    BadSettings for one that does not exist. What is wrong with the model itself is onnxruntime's own error.
    """
    passed_over: dict[str, str] = {}
    for name in wanted():
        problem = "" if name == "cpu" else trial(name)
        if not problem:
            try:
                session = _session(model, network, name, threads, shapes or {})
            except Exception as error:  # every provider fails in its own way
                if name == "cpu":
                    raise
                problem = _first_line(error)
            else:
                _opened[network] = name
                tried = {other: why for other, why in passed_over.items() if built_in(other)}
                _log.info("network opened", extra={"network": network, "provider": name, "passed_over": tried})
                return session
        passed_over[name] = problem
    raise errors.DeviceFailed(
        f"{network} opens with none of the providers in {VARIABLE}; "
        + "; ".join(f"{name}: {problem}" for name, problem in passed_over.items())
    )


def opened() -> dict[str, str]:
    """Networks that this process has opened, and the provider of each."""
    return dict(_opened)


def wanted() -> tuple[str, ...]:
    """The providers to try, in this order: what SONIC_PROVIDERS says, else all. Raises BadSettings."""
    text = os.environ.get(VARIABLE, "")
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in NAMES:
            raise BadSettings(f"{VARIABLE} is {text!r}: there is no provider {name!r}; {nearest(name, NAMES)}")
    return names or tuple(NAMES)


def built_in(name: str) -> bool:
    """Whether this build of onnxruntime has the provider at all; it may still not work here."""
    return NAMES[name] in ort.get_available_providers()


@functools.cache
def trial(name: str) -> str:
    """Why a provider does not compute here, found out once in a process by letting it; empty when it does."""
    if not built_in(name):
        return "this build of onnxruntime does not have it"
    try:
        with _quiet():
            if name in ("tensorrt", "cuda"):
                ort.preload_dlls()  # those that come in Python packages, which no loader would find
            session = _made(TWICE, [(NAMES[name], {})], threads=1)
            (twice,) = session.run(None, {"x": np.ones(2, np.float32)})
    except Exception as error:  # every provider fails in its own way
        return _missing_library(name) or _first_line(error)
    return "" if twice.tolist() == [2.0, 2.0] else "it computes something else than the CPU"


def _session(model: Path | bytes, network: str, name: str, threads: int, shapes: Shapes) -> Any:
    if name == "cpu":
        return _made(model, [(NAMES["cpu"], {})], threads)
    if name == "tensorrt":
        with _engines(network) as folder:  # what TensorRT does not know goes to CUDA
            return _made(model, [(NAMES[name], _tensorrt(folder, shapes)), (NAMES["cuda"], _CUDA)], threads)
    return _made(model, [(NAMES[name], _CUDA if name == "cuda" else {})], threads)


def _made(model: Path | bytes, chain: list[tuple[str, dict[str, str]]], threads: int) -> Any:
    """A session that computes by the first of the chain, or an error."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:  # those that wait must not take the cores from the encoder, or from another worker
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(source, options, providers=chain, enable_fallback=0)
    if session.get_providers()[0] != chain[0][0]:
        raise RuntimeError("it has no device here, or no driver for it")
    return session


def _tensorrt(folder: Path, shapes: Shapes) -> dict[str, str]:
    options = {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }
    for position, bound in enumerate(("min", "opt", "max")):
        if shapes:
            sides = {name: "x".join(map(str, bounds[position])) for name, bounds in shapes.items()}
            options[f"trt_profile_{bound}_shapes"] = ",".join(f"{name}:{side}" for name, side in sides.items())
    return options


@contextlib.contextmanager
def _engines(network: str) -> Iterator[Path]:
    """The folder of a network's engines, for one process at a time; an engine that did not open is not kept."""
    folder = engine_folder(*_gpu(), _tensorrt_version()) / network
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{network}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds what the first has built
        try:
            yield folder
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def engine_folder(gpu: str, driver: str, tensorrt: str) -> Path:
    """Where engines are kept: each is for one kind of GPU, one driver and one version of what has built it."""
    parts = (gpu, f"driver {driver}", f"onnxruntime {ort.__version__}", f"tensorrt {tensorrt}")
    name = "_".join(re.sub(r"[^\w.]+", "-", part) for part in parts)
    return Path(platformdirs.user_cache_dir("sonic-fleet")) / "engines" / name


def _gpu() -> tuple[str, str]:
    """The name of the GPU that CUDA gives this process first, and the version of its driver."""
    cuda = ctypes.CDLL("libcuda.so.1")
    device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(128)
    cuda.cuInit(0)
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    driver = Path("/sys/module/nvidia/version")  # absent under WSL: there CUDA's version must do
    return name.value.decode(), driver.read_text().strip() if driver.exists() else f"cuda-{version.value}"


def _tensorrt_version() -> str:
    """Of the library that TensorRT's trial has loaded."""
    loaded = re.search(r"\S*/libnvinfer\.so\S*", Path("/proc/self/maps").read_text())
    return str(ctypes.CDLL(loaded[0]).getInferLibVersion()) if loaded else "unknown"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What onnxruntime would print of a provider that does not open is said in our own words."""
    ort.set_default_logger_severity(_FATAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        ort.set_default_logger_severity(_WARNING)


def _missing_library(name: str) -> str:
    """What the provider's own library lacks, which onnxruntime tells its log only; empty when it is whole."""
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error) if library.exists() and "cannot open shared object" in str(error) else ""
    return ""


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
