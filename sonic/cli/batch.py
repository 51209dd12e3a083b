"""`sonic batch`: a manifest of thousands of rows, run as often as it takes."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonic import config, deadlines, manifest, parameters
from sonic.cli import options, output, running
from sonic.cli.exit_codes import ExitCode
from sonic.cli.progress import ProgressBar
from sonic.cli.submit import connect

if TYPE_CHECKING:
    from sonic.batch import Failure, Summary

_LEAVING = "stopped; what was submitted goes on: run the same command again to fetch it and to submit the rest"


@options.of(options.JOB, options.PARAMETERS, options.CLIENT)
def batch(
    rows: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A .csv or .jsonl file, one video a row.")],
    preset: Annotated[Path | None, typer.Option(help="A TOML file with parameters for every row.")] = None,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Render every row of a manifest. A rerun skips what is done and tries again what failed.

    A row's own cells win over the options given here, and these over the preset.
    """
    settings = options.client_of(given)
    parameters.complete(options.parameters_of(given), given.get("engine") or "")
    defaults = (manifest.read_preset(preset) if preset else {}) | options.job_of(given)
    if deadline := given.get("deadline"):
        if isinstance(deadline, timedelta):  # a rerun would ask for other jobs
            raise typer.BadParameter(f"for a batch, {deadlines.TIME_WANTED} is wanted", param_hint="--deadline")
        defaults["deadline"] = deadline.isoformat()
    summary = running.run(_run(settings, rows, defaults), _LEAVING)
    if json:
        output.print_json(dataclasses.asdict(summary))
    else:
        count = f"{summary.rows} row{'s' * (summary.rows != 1)}"
        skipped = f"{summary.skipped} skipped (already there)"
        output.line(f"{count}: {summary.succeeded} rendered, {skipped}, {summary.failed} without a video")
    if summary.failed:
        raise typer.Exit(ExitCode.NOT_DONE)


async def _run(settings: config.ClientConfig, path: Path, defaults: dict[str, Any]) -> Summary:
    from sonic.batch import Batch

    with ProgressBar(path.name) as bar:

        def report(summary: Summary, failures: tuple[Failure, ...]) -> None:
            for failure in failures:
                bar.note(f"{path}:{failure.line}: {failure.field} {failure.message}")
            bar.show(summary.done / summary.rows, f"{summary.done} of {summary.rows}, {summary.failed} failed", "")

        async with connect(settings) as client:
            folder = path.with_name(f"{path.stem}-videos")
            inputs = await asyncio.to_thread(manifest.inputs, path)
            return await Batch(client, folder, inputs, report).run(manifest.read(path, defaults))
