"""`sonic demo`: everything at once on this machine, from a picture and a voice to a video."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonic import config
from sonic.cli import options, output, running
from sonic.cli.submit import follow

if TYPE_CHECKING:
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
    portrait, audio = _material(portrait, audio)
    watch.lap("models and material")
    job = running.run(_demo(portrait, audio, out, watch), "stopped, and everything that was started with it")
    if json:
        output.print_json({"output": str(out), "seconds": watch.seconds, "job": output.plain(job)})
        return
    for name, seconds in watch.seconds.items():
        output.note(f"{name:<22} {seconds:7.2f} s")
        if name == "render":
            for stage in job.report.stages:
                output.note(f"  {stage.stage:<20} {stage.seconds:7.2f} s")
    output.note(f"{'in all':<22} {watch.total_s:7.2f} s")
    output.line(str(out))


def _material(portrait: Path | None, audio: Path | None) -> tuple[Path, Path]:
    """The models are put in their place, and what is not given is a sample."""
    running.need("hub.service", "hub")
    running.need("agent.service", "agent")
    models = running.need("sonic_runtime.models", "runtime")
    for model in models.listing():
        if model.problem:
            models.fetch(model.name, output.note)
    if portrait and audio:
        return portrait, audio
    samples = running.need("sonic_runtime.models.samples", "runtime")
    found = samples.fetch_samples(models.root() / "samples")
    return portrait or found.portrait, audio or found.voice


async def _demo(portrait: Path, audio: Path, out: Path, watch: Stopwatch) -> jobs_pb2.Job:
    from sonic.cli import local_fleet
    from sonic.client import AsyncSonicClient

    _stop_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="sonic-demo-") as folder:
        async with (
            local_fleet.hub(Path(folder)) as address,
            local_fleet.agents(Path(folder), address, _AGENTS) as programs,
            AsyncSonicClient(address, "demo") as client,
        ):
            watch.lap("start of the hub")
            output.note(f"hub at {address}; waiting for {len(programs)} agents to render their probe clip …")
            await local_fleet.all_ready(client, programs)
            watch.lap("start of the agents")
            job = await client.submit(portrait, audio)
            watch.lap("upload and submission")
            job = await follow(config.ClientConfig(hub=address, tenant="demo"), job.job_id)
            watch.lap("render")
            await client.download(job, out)
            watch.lap("download")
            output.note(f"rendered by {job.attempts[-1].node_id}; stopping the hub and the agents …")
    watch.lap("stop")
    return job


def _stop_on_sigterm() -> None:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
