"""Sound at any rate -> what Whisper hears. The one place that knows of torchaudio.

Wheels of torchaudio are built for CUDA and do not load beside a CPU-only torch. Then `import transformers` fails too,
which imports it wherever it is installed. So this module, which is to be imported before transformers, tries it, and
where it does not load hides it from the process: to all others it is then as if it were not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import sys
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from sonic_runtime.engines.base import SPEECH_RATE_HZ

# What comes nearest to soxr's "HQ": both pass all below 0.913 of half the lower rate and nothing above that half.
_KAISER = {
    "resampling_method": "sinc_interp_kaiser",
    "lowpass_filter_width": 96,
    "rolloff": 0.957,
    "beta": 14.0,
}
_MOST_PHASES = 1000  # torchaudio has a filter for each; rates with no measure in common would take gigabytes
_log = logging.getLogger("sonic_runtime.resampling")


def to_16k_mono(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """The mean of the channels of [channels, n], band-limited to 16 kHz: [ceil(n * 16000 / rate_hz)].

    By torchaudio where it loads and there is a CUDA device, else by soxr, whose "HQ" is the reference. Of full scale
    the two differ by at most 2e-4 for speech (root mean square 4e-5) and 2e-3 for noise that is as loud at every pitch;
    in the first 20 ms by up to 1e-2, where soxr settles at rates such as 44.1 kHz. Measured with torchaudio 2.9.1.

    Ten minutes of stereo at 48 kHz, 230 MB as they are given, take 150 MB more.
    """
    mono: NDArray[np.float32] = samples.mean(axis=0, dtype=np.float32)
    if rate_hz == SPEECH_RATE_HZ or not mono.size:
        return mono
    if _on_the_gpu(rate_hz):
        return by_torchaudio(mono, rate_hz, "cuda")
    return by_soxr(mono, rate_hz)


def by_soxr(mono: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """[n] at any rate to 16 kHz, on the CPU."""
    return _fitted(soxr.resample(mono, rate_hz, SPEECH_RATE_HZ, quality="HQ"), len(mono), rate_hz)


def by_torchaudio(mono: NDArray[np.float32], rate_hz: int, device: str) -> NDArray[np.float32]:
    """The same by torchaudio, which must have loaded, on a device of torch."""
    import torch

    given = torch.from_numpy(mono).to(device)
    resampled = _TORCHAUDIO.functional.resample(given, rate_hz, SPEECH_RATE_HZ, **_KAISER)
    return _fitted(resampled.cpu().numpy(), len(mono), rate_hz)


def _fitted(resampled: NDArray[np.float32], samples: int, rate_hz: int) -> NDArray[np.float32]:
    """As long as the reference makes it: a last sample of which less than half is known is 0."""
    known = (2 * samples * SPEECH_RATE_HZ + rate_hz) // (2 * rate_hz)
    wanted = -(-samples * SPEECH_RATE_HZ // rate_hz)
    return np.pad(resampled[:known], (0, wanted - known)) if wanted > known else resampled


def _on_the_gpu(rate_hz: int) -> bool:
    if _TORCHAUDIO is None or SPEECH_RATE_HZ // math.gcd(rate_hz, SPEECH_RATE_HZ) > _MOST_PHASES:
        return False
    import torch

    return torch.cuda.is_available()


def _load() -> Any:
    """torchaudio, or None where it is not installed or does not load; the latter is then hidden from everybody."""
    if importlib.util.find_spec("torchaudio") is None:
        return None
    try:
        return importlib.import_module("torchaudio")
    except Exception as error:  # the loader's OSError, torch's RuntimeError for another version, ...
        _log.warning("torchaudio does not load; soxr is used", extra={"why": str(error)})
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
        sys.modules["torchaudio"] = None  # type: ignore[assignment] # what `import` takes for "there is none"
        return None


_TORCHAUDIO = _load()
