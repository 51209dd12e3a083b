"""`sonic jobs`: look at jobs, follow them, stop them, fetch their videos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonic import config, exceptions, files, parameters
from sonic.cli import decisions, options, output, running
from sonic.cli.progress import describe, state_name
from sonic.cli.submit import FIRST_ANSWER_S, connect, follow

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from sonic.v1 import decisions_pb2, jobs_pb2

app = typer.Typer(help="Look at jobs, follow them, stop them, fetch their videos.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job, or as much of it as no other begins with.")]
_ID_CHARACTERS = 32
_SHOWN_AT_MOST = 5


@app.command("list")
@options.of(options.CLIENT)
def list_jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest first.")] = 50,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="For operators: the jobs of everybody.")] = False,
    json: options.Json = False,
    **given: Any,
) -> None:
    """List the tenant's jobs, the newest first."""
    settings = options.client_of(given)
    jobs = running.run(_list(settings, _states(state or ()), limit, all_tenants))
    if json:
        output.print_json([output.plain(job) for job in jobs])
        return
    rows = [
        (job.job_id, job.tenant, _clock(job.submitted_at), _node(job), describe(job, job.failure.reason))
        for job in jobs
    ]
    output.table(("JOB", "TENANT", "SUBMITTED (UTC)", "NODE", "STATE"), rows)


@app.command()
@options.of(options.CLIENT)
def show(job: JobId, json: options.Json = False, **given: Any) -> None:
    """Show one job: its state, its attempts and why each went where it went."""
    settings = options.client_of(given)
    job = _whole(settings, job)

    async def get() -> jobs_pb2.Job:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.get(job)

    found = running.run(get())
    output.print_json(output.plain(found)) if json else _print(found)


@app.command()
@options.of(options.CLIENT)
def explain(job: JobId, json: options.Json = False, **given: Any) -> None:
    """Tell why a job went where it went and not to any other node, or why it waits."""
    settings = options.client_of(given)
    job = _whole(settings, job)

    async def ask() -> list[decisions_pb2.Decision]:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.explain(job)

    found = running.run(ask())
    if json:
        output.print_json([output.plain(decision) for decision in found])
        return
    for decision in found:
        output.line(decisions.told(decision))
        for passed in decision.passed_over:
            output.line(f"    {decisions.passed_over(passed)}")


@app.command()
@options.of(options.CLIENT)
def cancel(job: JobId, json: options.Json = False, **given: Any) -> None:
    """Cancel a job that has not ended; one that has is left as it is."""
    settings = options.client_of(given)
    job = _whole(settings, job)

    async def stop() -> jobs_pb2.Job:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.cancel(job)

    found = running.run(stop())
    output.print_json(output.plain(found)) if json else output.line(f"{found.job_id} {describe(found)}")


@app.command()
@options.of(options.CLIENT)
def watch(job: JobId, json: options.Json = False, **given: Any) -> None:
    """Follow a job until it has ended. With --json, one object a line for every change."""
    settings = options.client_of(given)
    job = _whole(settings, job)
    if json:
        running.run(_stream(settings, job))
    else:
        _print(running.run(follow(settings, job)))


@app.command()
@options.of(options.CLIENT)
def fetch(
    job: JobId,
    out: Annotated[Path | None, options.out("Where the video goes; JOB.mp4 when not given.")] = None,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Fetch the video of a job that has succeeded."""
    settings = options.client_of(given)
    job = _whole(settings, job)
    destination = out or Path(f"{job}.mp4")
    files.check_output(destination)
    if not out:
        files.check_unused(destination)

    async def get() -> None:
        async with connect(settings, FIRST_ANSWER_S) as client:
            await client.download(await client.get(job), destination)

    running.run(get())
    output.print_json({"job_id": job, "output": str(destination)}) if json else output.line(str(destination))


def _whole(settings: config.ClientConfig, given: str) -> str:
    """The one id that begins with what was given; what begins none is for the hub to judge."""
    if not given:  # it begins every id: a variable that is not set would cancel somebody's only job
        raise typer.BadParameter("the id is empty; give the id of a job, or its beginning", param_hint="JOB")
    if len(given) >= _ID_CHARACTERS:
        return given

    async def beginning() -> list[str]:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return [job.job_id async for job in client.jobs() if job.job_id.startswith(given)]

    found = running.run(beginning())
    if len(found) > 1:
        some = ", ".join(found[:_SHOWN_AT_MOST]) + (" …" if len(found) > _SHOWN_AT_MOST else "")
        raise typer.BadParameter(f"{given!r} begins the ids of {len(found)} jobs, {some}; give more of it")
    return found[0] if found else given


def _states(names: Iterable[str]) -> list[jobs_pb2.JobState.ValueType]:
    from sonic.v1 import jobs_pb2

    known = {state_name(value): value for value in jobs_pb2.JobState.values() if value}
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is no state of a job; {config.nearest(name, known)}")
    return [known[name] for name in names]


async def _list(
    settings: config.ClientConfig, states: list[jobs_pb2.JobState.ValueType], limit: int, all_tenants: bool
) -> list[jobs_pb2.Job]:
    found: list[jobs_pb2.Job] = []
    async with connect(settings, FIRST_ANSWER_S) as client:
        async for job in client.all_jobs(states) if all_tenants else client.jobs(states):
            found.append(job)
            if len(found) == limit:
                break
    return found


async def _stream(settings: config.ClientConfig, job_id: str) -> None:
    async with connect(settings) as client:
        async for job in client.watch(job_id):
            output.print_json(output.plain(job), compact=True)
    if failure := exceptions.from_job(job):
        raise failure


def _print(job: jobs_pb2.Job) -> None:
    output.fields(
        [
            ("job", job.job_id),
            ("state", describe(job)),
            ("tenant", job.tenant),
            ("priority", str(job.spec.priority)),
            ("engine", f"{job.spec.engine} {job.spec.model_version}".strip()),
            ("parameters", _parameters(job)),
            ("regions", _regions(job)),
            ("deadline", _utc(job.spec.deadline)),
            ("submitted", _utc(job.submitted_at)),
            ("queue", f"number {job.queue_position}" if job.queue_position else ""),
            ("starts", _expected(job.forecast.start)),
            ("started", _utc(job.started_at)),
            ("finishes", _expected(job.forecast.finish)),
            ("ended", _utc(job.ended_at)),
            ("video", _video(job)),
        ]
    )
    for attempt in job.attempts:
        output.line(f"attempt {attempt.attempt} on {attempt.node_id} ({attempt.region}): {attempt.placement_reason}")
        if attempt.HasField("failure"):
            output.line(f"  failed: {attempt.failure.message} ({attempt.failure.reason})")
    for stage in job.report.stages:
        output.line(f"  {stage.stage:<12} {stage.seconds:8.2f} s")
    for problem in job.failure.problems:
        output.line(f"  {problem.field}: {problem.description}")
    for warning in job.warnings:
        output.line(f"warning: {warning.message} ({warning.reason})")


def _parameters(job: jobs_pb2.Job) -> str:
    return ", ".join(f"{field.name} {_short(value)}" for field, value in job.spec.parameters.ListFields())


def _regions(job: jobs_pb2.Job) -> str:
    return "; ".join(f"{rule.name} {', '.join(names)}" for rule, names in job.spec.regions.ListFields())


def _expected(within: jobs_pb2.SecondsRange) -> str:
    """From now on: what is expected, and what nine of ten such jobs take."""
    if not within.high:
        return ""
    return f"in about {output.seconds(within.expected)} ({output.seconds_range(within.low, within.high)})"


def _short(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else parameters.plain(value)


def _video(job: jobs_pb2.Job) -> str:
    if not job.HasField("video"):
        return ""
    facts = job.report
    size = f"{facts.width}x{facts.height}, {facts.fps} frames/s, {facts.video_seconds:.2f} s"
    return f"{size}, {job.video.size_bytes} bytes, sha256 {job.video.sha256}"


def _node(job: jobs_pb2.Job) -> str:
    return job.attempts[-1].node_id if job.attempts else ""


def _utc(when: Timestamp) -> str:
    return f"{_clock(when)} UTC" if when.seconds else ""


def _clock(when: Timestamp) -> str:
    return when.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if when.seconds else ""
