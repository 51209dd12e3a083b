"""Whether the diffusion engine can be loaded here: its packages, its model, and a device that computes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from sonic.config import Settings
from sonic.doctor.findings import Finding, State

_NAME = "engine sonic"
_PACKAGES = ("torch", "diffusers", "transformers")


def check_diffusion(settings: Settings) -> list[Finding]:
    """A problem only where the agent is set to this engine: all others need neither its packages nor its model."""
    wanted = settings.resolve("agent")["engine"].value == "sonic"
    absent = State.PROBLEM if wanted else State.SKIPPED
    if missing := [name for name in _PACKAGES if not find_spec(name)]:
        advice = "to render with it: pip install 'sonic-fleet[diffusion]'"
        return [Finding(_NAME, absent, f"{missing[0]} is not installed", advice)]
    try:
        from sonic_runtime import errors, models
    except ImportError as error:
        advice = "to render with it: pip install 'sonic-fleet[diffusion]'"
        return [Finding(_NAME, absent, f"{error.name or error} is not installed", advice)]
    try:
        version = models.path("sonic").name
    except errors.ModelMissing as error:
        return [Finding(_NAME, absent, str(error), "sonic models fetch sonic")]
    if problem := models.folder.problem(models.folder.place("sonic", version), read="small"):
        return [Finding(_NAME, State.PROBLEM, f"{version}: {problem}", f"sonic models fetch {version}")]
    return [_computing(version)]


def _computing(version: str) -> Finding:
    """Compute something where and as the engine would; loading its gigabytes would disturb a worker that runs."""
    from sonic_runtime import errors

    try:
        from sonic_runtime.engines.sonic import options

        chosen: Any = options.from_environment()
        import torch

        device, dtype = chosen.torch_device, chosen.torch_dtype
        twice = torch.ones(2, device=device, dtype=dtype) * 2
        if twice.tolist() != [2.0, 2.0]:
            raise RuntimeError(f"{device} computes 1 x 2 = {twice.tolist()[0]:g}")
    except errors.BadParameters as error:
        return Finding(_NAME, State.PROBLEM, str(error), "correct SONIC_ENGINE_OPTIONS, or unset it")
    except Exception as error:  # torch and what is under it fail in many ways, and all are to be reported
        advice = "install the torch build for this driver, or set SONIC_ENGINE_OPTIONS=device=cpu"
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding(_NAME, State.PROBLEM, f"does not compute: {said}", advice)
    return Finding(_NAME, State.OK, f"{version}, computes on {device} in {str(dtype).removeprefix('torch.')}")
