"""How every command runs: one place where an error becomes a sentence and an exit code."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any, TypeVar

from sonic import exceptions
from sonic.cli import exit_codes, output
from sonic.cli.exit_codes import ExitCode

T = TypeVar("T")


def prepare() -> None:
    """Before anything else: whatever asks the process to end is like Ctrl-C, so that it clears away."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup a hangup means nothing
            signal.signal(number, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that is no text is shown escaped, as stderr does it
        sys.stdout.reconfigure(errors="backslashreplace")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC would print is said in our own words
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def guarded(work: Callable[[], T]) -> T:
    """What `work` returns. No traceback gets past this, unless SONIC_DEBUG=1 asks for it."""
    try:
        return work()
    except KeyboardInterrupt:
        sys.exit(report(exceptions.Interrupted()))
    except Exception as error:
        sys.exit(report(error))


def report(error: Exception) -> ExitCode:
    """Say what went wrong on stderr; the answer is the exit code."""
    if os.environ.get("SONIC_DEBUG") == "1":
        traceback.print_exception(error)
    code = exit_codes.of(error)
    if code is ExitCode.INTERNAL and not isinstance(error, exceptions.SonicError):
        output.note(f"error: this should not have happened: {type(error).__name__}: {error}")
        output.note("Run the command again with SONIC_DEBUG=1 to see where, and report it.")
        return code
    output.note(f"error: {error}".replace("\n", "\n       "))
    for problem in getattr(error, "problems", ()):
        if problem.description not in str(error):
            output.note(f"  {problem.field}: {problem.description}")
    return code


def run(work: Coroutine[Any, Any, T], interrupted: str = "") -> T:
    """Run a command's work; `interrupted` is what to say when the user stops it."""
    try:
        return asyncio.run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise exceptions.Interrupted(interrupted) from None


def need(module: str, extra: str) -> ModuleType:
    """Import a part that an extra brings. Raises ExtraMissing."""
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise exceptions.ExtraMissing(
            f"{error.name} is not installed, which this command needs; run: pip install 'sonic-fleet[{extra}]'"
        ) from error
