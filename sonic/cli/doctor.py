"""`sonic doctor`: is everything here that is needed, and what to do where it is not."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import typer

from sonic import config
from sonic.cli import options, output
from sonic.cli.exit_codes import ExitCode


@options.of(options.CHECKS)
def doctor(json: options.Json = False, **given: Any) -> None:
    """Check GPUs, driver, codecs, models, disks, the hub and the clock, and say what to do."""
    from sonic.doctor import State, examine

    logging.getLogger("sonic.retries").setLevel(logging.ERROR)  # what it would tell is a finding
    found = []
    for finding in examine(config.of_options(given)):
        found.append(finding)
        if not json:
            output.line(f"{finding.state.upper():<8} {finding.name}: {finding.found}")
            if finding.advice:
                output.line(f"{'':<8} → {finding.advice}")
    if json:
        output.print_json([dataclasses.asdict(finding) for finding in found])
    if any(finding.state is State.PROBLEM for finding in found):
        raise typer.Exit(ExitCode.NOT_DONE)
