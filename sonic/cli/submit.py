"""`sonic submit`: one video, and with --wait the file."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonic import config, exceptions, files
from sonic.cli import options, output, running
from sonic.cli.progress import ProgressBar

if TYPE_CHECKING:
    from sonic.client import AsyncSonicClient
    from sonic.v1 import jobs_pb2

FIRST_ANSWER_S = 5.0  # somebody is looking at a terminal: a hub that is not there is said soon


@options.of(options.JOB, options.PARAMETERS, options.CLIENT)
def submit(
    portrait: Annotated[Path, typer.Argument(metavar="PORTRAIT", help="A picture of a face: JPEG, PNG, WebP or HEIC.")],
    audio: Annotated[Path, typer.Argument(metavar="AUDIO", help="A voice recording: WAV, MP3, M4A, FLAC, OGG …")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job, then fetch the video.")] = False,
    out: Annotated[Path | None, options.out("Where the video goes; implies --wait.")] = None,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Submit one job; prints its id. With --wait, shows its progress and fetches the video."""
    settings = options.client_of(given)
    files.check_inputs(portrait, audio)
    destination = out or (Path(audio.name).with_suffix(".mp4") if wait else None)
    if destination:
        files.check_output(destination, portrait, audio)
    if destination and not out:
        files.check_unused(destination)
    wanted = options.job_of(given) | {"deadline": _deadline(given)}
    job = running.run(_submit(settings, portrait, audio, wanted))
    if not destination:
        output.print_json(output.plain(job)) if json else output.line(job.job_id)
        return
    leaving = f"stopped waiting; the job goes on: sonic jobs watch {job.job_id}, or sonic jobs cancel {job.job_id}"
    try:
        job = running.run(_fetch(settings, job.job_id, destination, replace=out is not None), leaving)
    except exceptions.JobEnded as error:
        if json:
            output.print_json(output.plain(error.job))
        raise
    output.print_json(output.plain(job) | {"output": str(destination)}) if json else output.line(str(destination))


def _deadline(given: dict[str, Any]) -> datetime | None:
    deadline: datetime | timedelta | None = given.get("deadline")
    if not isinstance(deadline, timedelta):
        return deadline
    try:
        return datetime.now(UTC) + deadline
    except OverflowError:
        said = f"{deadline.days} days from now is after the year 9999; choose a sooner time"
        raise typer.BadParameter(said, param_hint="--deadline") from None


def connect(settings: config.ClientConfig, at_most_s: float = math.inf) -> AsyncSonicClient:
    """A client as the settings say, with less patience if need be; imported here because gRPC takes its time."""
    from sonic.client import AsyncSonicClient

    return AsyncSonicClient(
        settings.hub,
        settings.tenant,
        patience_s=min(at_most_s, settings.patience_s),
        insecure=settings.insecure,
        ca_file=settings.ca_file,
        api_key_file=settings.api_key_file,
        token_file=settings.token_file,
    )


async def follow(settings: config.ClientConfig, job_id: str) -> jobs_pb2.Job:
    """Show a job's progress until it has ended. Raises JobEnded, HubError."""
    from sonic.v1 import jobs_pb2

    job = jobs_pb2.Job()
    async with connect(settings) as client:
        with ProgressBar(f"job {job_id[:8]}") as bar:
            async for update in client.watch(job_id):
                job = update
                bar.show_job(job)
        for warning in job.warnings:
            output.note(f"warning: {warning.message}")
        if failure := exceptions.from_job(job):
            raise failure
    return job


async def _fetch(settings: config.ClientConfig, job_id: str, destination: Path, replace: bool) -> jobs_pb2.Job:
    job = await follow(settings, job_id)
    if not replace:  # somebody else's video may have come here meanwhile
        files.check_unused(destination, f"fetch the video with: sonic jobs fetch {job_id} -o FILE")
    async with connect(settings) as client:
        await client.download(job, destination)
    return job


async def _submit(settings: config.ClientConfig, portrait: Path, audio: Path, wanted: dict[str, Any]) -> jobs_pb2.Job:
    async with connect(settings, FIRST_ANSWER_S) as client:
        return await client.submit(portrait, audio, **wanted)
