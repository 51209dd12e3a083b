"""The diffusion engine: Sonic (Ji et al., CVPR 2025), from the published weights."""

from sonic_runtime.engines.sonic.engine import SonicEngine

__all__ = ["SonicEngine"]
