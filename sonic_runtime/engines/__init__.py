"""The engines by name. Each is imported only when it is wanted."""

from __future__ import annotations

from collections.abc import Callable

from sonic_runtime import errors
from sonic_runtime.engines.base import Engine


def _warp() -> Engine:
    from sonic_runtime.engines.warp import WarpEngine

    return WarpEngine()


def _sonic() -> Engine:
    from sonic_runtime import models

    folder = models.whole("sonic")
    try:
        from sonic_runtime.engines.sonic import SonicEngine, options
    except ImportError as error:
        detail = f"{error.name or error} is not installed; run `pip install 'sonic-fleet[diffusion]'`"
        raise errors.ModelMissing(detail) from error
    return SonicEngine(folder, options.from_environment())


DEFAULT = "warp"
_ENGINES: dict[str, Callable[[], Engine]] = {DEFAULT: _warp, "sonic": _sonic}


def names() -> tuple[str, ...]:
    return tuple(_ENGINES)


def load(name: str) -> Engine:
    """The engine, ready to prepare takes. Raises errors.BadParameters for an unknown name, errors.ModelMissing,
    errors.ModelBroken."""
    if name not in _ENGINES:
        raise errors.BadParameters(f"there is no engine {name!r}; known are {', '.join(_ENGINES)}")
    return _ENGINES[name]()
