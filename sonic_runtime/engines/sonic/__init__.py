"""The diffusion engine: Sonic (Ji et al., CVPR 2025), from the published weights."""

from sonic_runtime.engines.sonic import resampling  # first: see there what would otherwise break transformers
from sonic_runtime.engines.sonic.engine import SonicEngine

__all__ = ["SonicEngine", "resampling"]
