"""What the exit code of every `sonic` command says; docs/cli.md lists them."""

from __future__ import annotations

import sys
from enum import IntEnum

from sonic import exceptions
from sonic.parameters import InvalidParameters


class ExitCode(IntEnum):
    """Stable, for scripts."""

    OK = 0
    NOT_DONE = 1  # a job or render failed or was cancelled, a batch has rows without a video, a check failed
    USAGE = 2  # the command line or a setting cannot be used
    BAD_INPUT = 3  # a file or a parameter cannot be used
    UNREACHABLE = 4  # the hub did not answer
    NOT_FOUND = 5  # there is no such job, node or artifact
    REFUSED = 6  # the hub does not allow it, or a limit is reached
    NOT_INSTALLED = 7  # an extra or a model is missing
    INTERNAL = 70  # a fault of the program or of the hub
    INTERRUPTED = 130  # Ctrl-C


_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (exceptions.BadSettings, ExitCode.USAGE),
    (exceptions.FileTrouble, ExitCode.BAD_INPUT),
    (exceptions.BadManifest, ExitCode.BAD_INPUT),
    (exceptions.ExtraMissing, ExitCode.NOT_INSTALLED),
    (exceptions.Interrupted, ExitCode.INTERRUPTED),
    (exceptions.InvalidRequest, ExitCode.BAD_INPUT),
    (exceptions.NotFound, ExitCode.NOT_FOUND),
    (exceptions.HubUnreachable, ExitCode.UNREACHABLE),
    (exceptions.HubFailed, ExitCode.INTERNAL),
    (exceptions.HubError, ExitCode.REFUSED),
    (exceptions.SonicError, ExitCode.NOT_DONE),
    (InvalidParameters, ExitCode.BAD_INPUT),
)


def of(error: Exception) -> ExitCode:
    """The exit code of a command that ended with an error."""
    for kind, code in (*_render_codes(), *_CODES):
        if isinstance(error, kind):
            return code
    return ExitCode.INTERNAL


def _render_codes() -> tuple[tuple[type[Exception], ExitCode], ...]:
    """Those of a render's errors, if anything was rendered in this process."""
    errors = sys.modules.get("sonic_runtime.errors")
    if errors is None:
        return ()
    return (
        (errors.BadInput, ExitCode.BAD_INPUT),
        (errors.Cancelled, ExitCode.INTERRUPTED),
        (errors.ModelMissing, ExitCode.NOT_INSTALLED),
        (errors.RenderError, ExitCode.NOT_DONE),
    )
