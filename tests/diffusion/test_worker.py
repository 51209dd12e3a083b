"""The diffusion engine in a real worker process: cancel, and memory that runs out."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from sonic.v1 import jobs_pb2, parameters_pb2
from sonic.v1 import worker_pb2 as pb
from sonic_runtime.models.samples import Samples
from tests.workers import Worker


@pytest.fixture(scope="module")
def worker(finder: object, tiny_sonic: str) -> Iterator[Worker]:
    made = Worker("sonic", SONIC_ENGINE_OPTIONS="window_frames=4,device=cpu", SONIC_MODEL_VERSION=tiny_sonic)
    made.hear("loaded")
    yield made
    made.kill()


@pytest.fixture
def command(samples: Samples, short_voice: Path, tmp_path: Path):
    def made(render_id: str, **about: object) -> pb.RenderCommand:
        chosen = {"min_resolution": 256, "inference_steps": 1, "lip_sync_correction": False} | about
        return pb.RenderCommand(
            render_id=render_id,
            engine="sonic",
            portrait_path=str(samples.smile),
            voice_path=str(short_voice),
            output_path=str(tmp_path / "out.mp4"),
            parameters=parameters_pb2.RenderParameters(**chosen),
        )

    return made


def test_a_cancel_ends_a_call_and_the_worker_goes_on(worker: Worker, command) -> None:
    worker.say(render=command("long", min_resolution=1024, inference_steps=50))
    while worker.hear("progress").progress.progress.stage != "denoising":
        pass
    worker.say(cancel=pb.CancelCommand(render_id="long"))  # the first call has begun, and would take many seconds
    told: list[int] = []
    while (event := worker.hear("progress", "failed", "rendered")).WhichOneof("event") == "progress":
        told.append(event.progress.progress.done)
    assert event.failed.failure.reason == "CANCELLED"
    assert max(told, default=0) == 0
    worker.say(render=command("next"))
    assert worker.hear("rendered", "failed").rendered.render_id == "next"


@pytest.mark.timeout(400)
def test_memory_that_runs_out_is_an_answer_and_the_next_render_has_it_back(worker: Worker, command) -> None:
    pid = worker.process.pid
    worker.say(render=command("warm"))
    assert worker.hear("rendered", "failed").rendered.report.model_version
    held = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (held + 1_200_000_000, resource.RLIM_INFINITY))
    for render_id in ("large", "large again"):
        worker.say(render=command(render_id, min_resolution=768))
        failure = worker.hear("rendered", "failed").failed.failure
        assert (failure.fault, failure.reason) == (jobs_pb2.FAULT_KIND_OUT_OF_MEMORY, "OUT_OF_MEMORY")
        assert "min_resolution" in failure.message
        worker.say(render=command(f"after {render_id}"))
        ended = worker.hear("rendered", "failed")
        assert ended.rendered.render_id == f"after {render_id}", ended
