"""What the exit code of every `sonic` command says; docs/cli.md lists them."""

from __future__ import annotations

import sys
from enum import IntEnum

from sonic import exceptions
from sonic.parameters import InvalidParameters


class ExitCode(IntEnum):
    """Stable, for scripts."""

    OK = 0
    NOT_DONE = 1  # a job or render is without a video, a batch has such rows, rules differ, a check failed
    USAGE = 2  # the command line or a setting cannot be used
    BAD_INPUT = 3  # a file or a parameter cannot be used
    UNREACHABLE = 4  # the hub, or Mimir, did not answer
    NOT_FOUND = 5  # there is no such job, node or artifact
    REFUSED = 6  # the hub, or Mimir, does not allow it, a limit is reached, or a licence is not accepted
    NOT_INSTALLED = 7  # an extra or a model is missing
    INTERNAL = 70  # a fault of the program or of the hub
    INTERRUPTED = 130  # Ctrl-C, SIGTERM, SIGHUP


_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (exceptions.BadSettings, ExitCode.USAGE),
    (exceptions.FileTrouble, ExitCode.BAD_INPUT),
    (exceptions.BadManifest, ExitCode.BAD_INPUT),
    (exceptions.BadRules, ExitCode.BAD_INPUT),
    (exceptions.MimirUnreachable, ExitCode.UNREACHABLE),
    (exceptions.MimirRefused, ExitCode.REFUSED),
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
    for kind, code in (*_runtime_codes(), *_CODES):
        if isinstance(error, kind):
            return code
    return ExitCode.INTERNAL


def _runtime_codes() -> list[tuple[type[Exception], ExitCode]]:
    """Those of the runtime's errors, as far as it is loaded in this process."""
    named = (
        ("sonic_runtime.errors", "BadInput", ExitCode.BAD_INPUT),
        ("sonic_runtime.errors", "Cancelled", ExitCode.INTERRUPTED),
        ("sonic_runtime.errors", "ModelMissing", ExitCode.NOT_INSTALLED),
        ("sonic_runtime.errors", "ModelBroken", ExitCode.NOT_INSTALLED),
        ("sonic_runtime.errors", "RenderError", ExitCode.NOT_DONE),
        ("sonic_runtime.models.catalogue", "UnknownModel", ExitCode.USAGE),
        ("sonic_runtime.models.licences", "LicenceNotAccepted", ExitCode.REFUSED),
        ("sonic_runtime.models.folder", "FetchFailed", ExitCode.NOT_DONE),
    )
    return [(getattr(sys.modules[module], name), code) for module, name, code in named if module in sys.modules]
