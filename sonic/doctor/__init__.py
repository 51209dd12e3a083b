"""What `sonic doctor` looks at: each check tries the real thing, and says what to do when it does not work."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sonic.config import Settings
from sonic.doctor.diffusion import check_diffusion
from sonic.doctor.findings import Finding, State
from sonic.doctor.hub import check_clock, check_hub
from sonic.doctor.machine import check_disk, check_gpus
from sonic.doctor.runtime import check_codecs, check_inference, check_models

__all__ = ["Finding", "State", "examine"]

_CHECKS: tuple[Callable[[Settings], list[Finding]], ...] = (
    check_gpus,
    check_inference,
    check_codecs,
    check_models,
    check_diffusion,
    check_disk,
    check_hub,
    check_clock,
)


def examine(settings: Settings) -> Iterator[Finding]:
    """Run every check, one after another."""
    for check in _CHECKS:
        yield from check(settings)
