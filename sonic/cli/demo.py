"""`sonic demo`: everything at once on this machine, from a picture and a voice to a video."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonic import config, exceptions, files
from sonic.cli import options, output, running
from sonic.cli.submit import connect, follow

if TYPE_CHECKING:
    from sonic.cli.local_fleet import Fleet
    from sonic.cli.local_prometheus import Answer, Prometheus, Value
    from sonic.v1 import jobs_pb2

_AGENTS = ["demo-1", "demo-2"]


class Stopwatch:
    """What each stage took, in the order in which they ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started_s = self._lap_s = time.monotonic()

    def lap(self, name: str) -> None:
        now_s = time.monotonic()
        self.seconds[name] = now_s - self._lap_s
        self._lap_s = now_s

    @property
    def total_s(self) -> float:
        return time.monotonic() - self._started_s


def demo(
    out: Annotated[Path, options.out("Where the video goes.")] = Path("out/demo.mp4"),
    portrait: Annotated[Path | None, typer.Option(help="A picture of a face; a sample when not given.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A voice recording; a sample when not given.")] = None,
    json: options.Json = False,
) -> None:
    """Start a hub and two agents on this machine, render a video through them, and stop them again."""
    watch = Stopwatch()
    _check(out, portrait, audio)
    portrait, audio = _material(portrait, audio)
    watch.lap("models and material")
    job, metrics = running.run(_demo(portrait, audio, out, watch), "stopped, and everything that was started with it")
    if json:
        told = {"output": str(out), "seconds": watch.seconds, "job": output.plain(job), "metrics": metrics}
        output.print_json(told)
        return
    for name, seconds in watch.seconds.items():
        output.note(f"{name:<22} {seconds:7.2f} s")
        if name == "render":
            for stage in job.report.stages:
                output.note(f"  {stage.stage:<20} {stage.seconds:7.2f} s")
    output.note(f"{'in all':<22} {watch.total_s:7.2f} s")
    output.line(str(out))


def _check(out: Path, portrait: Path | None, audio: Path | None) -> None:
    """What is given is of use, before anything is started. Raises FileTrouble, errors.BadInput."""
    running.need("hub.service", "hub")
    running.need("agent.service", "agent")
    media = [running.need(f"sonic_runtime.media.{name}", "runtime") for name in ("portraits", "voices")]
    given = [path for path in (portrait, audio) if path]
    files.check_inputs(*given)
    files.check_output(out, *given)
    if portrait:
        media[0].read(portrait)
    if audio:
        next(media[1].frames(audio), None)


def _material(portrait: Path | None, audio: Path | None) -> tuple[Path, Path]:
    """The models are put in their place, and what is not given is a sample."""
    models = running.need("sonic_runtime.models", "runtime")
    for model in models.listing():
        if model.problem and not model.optional:
            models.fetch(model.name, output.note)
    if portrait and audio:
        return portrait, audio
    samples = running.need("sonic_runtime.models.samples", "runtime")
    found = samples.fetch_samples(models.root() / "samples")
    return portrait or found.portrait, audio or found.voice


async def _demo(portrait: Path, audio: Path, out: Path, watch: Stopwatch) -> tuple[jobs_pb2.Job, list[Answer]]:
    from sonic.cli.local_fleet import Fleet
    from sonic.client import AsyncSonicClient

    with tempfile.TemporaryDirectory(prefix="sonic-demo-") as folder:
        async with Fleet(Path(folder)) as fleet:
            _stop_on_signals(fleet)
            prometheus = await fleet.start_prometheus()
            if prometheus:
                watch.lap("start of Prometheus")
            address = await fleet.start_hub(prometheus)
            watch.lap("start of the hub")
            async with AsyncSonicClient(address, "demo", insecure=True) as client:
                await fleet.start_agents(address, _AGENTS)
                output.note(f"hub at {address}; waiting for {len(_AGENTS)} agents to render their probe clip …")
                await fleet.all_ready(client)
                watch.lap("start of the agents")
                job = await client.submit(portrait, audio)
                watch.lap("upload and submission")
                job = await _rendered(config.ClientConfig(address, "demo", insecure=True), job.job_id)
                watch.lap("render")
                await client.download(job, out)
                watch.lap("download")
                metrics = await _metrics(prometheus)
                if metrics:
                    watch.lap("metrics")
                output.note(f"rendered by {job.attempts[-1].node_id}; stopping the hub and the agents …")
    watch.lap("stop")
    return job, metrics


async def _metrics(prometheus: Prometheus | None) -> list[Answer]:
    """What has become of the metrics, asked and told."""
    if not prometheus:
        output.note("install Prometheus (apt-get install prometheus) and the demo shows its metrics in it")
        return []
    answers = await prometheus.answers()
    output.note("metrics, as Prometheus has them:")
    for answer in answers:
        output.note(f"  {answer['query']}")
        for told in map(_told, answer["series"]) if answer["series"] else ["no series"]:
            output.note(f"    {told}")
    return answers


def _told(series: Value) -> str:
    labels = ", ".join(f'{name}="{value}"' for name, value in series["labels"].items())
    return f"{{{labels}}} {series['value']:g}"


async def _rendered(settings: config.ClientConfig, job_id: str) -> jobs_pb2.Job:
    try:
        return await follow(settings, job_id)
    except asyncio.CancelledError:
        async with connect(settings, at_most_s=0) as client:
            with contextlib.suppress(exceptions.HubError):  # a hub that has been killed meanwhile
                await client.cancel(job_id)  # an agent that renders nothing stops sooner
        raise


def _stop_on_signals(fleet: Fleet) -> None:
    """The first one stops the demo, the next one ends what has not stopped yet."""
    task = asyncio.current_task()
    assert task

    def stop() -> None:
        if fleet.stopping:
            fleet.kill()
            return
        fleet.stopping = True
        output.note("stopping the hub and the agents … (once more ends them at once)")
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup a hangup means nothing
            asyncio.get_running_loop().add_signal_handler(number, stop)
