"""The diffusion engine: Sonic (Ji et al., CVPR 2025), from the published weights."""

import os

# Threads that wait must not spin: beside an encoder or another worker that made the CPU path thirty times as slow.
# OpenMP reads this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Without it, memory that torch has and cannot use (fragments) broke renders that the plan lets through.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

from sonic_runtime.engines.sonic import resampling  # first: see there what would otherwise break transformers
from sonic_runtime.engines.sonic.engine import SonicEngine

__all__ = ["SonicEngine", "resampling"]
