"""The worker process: its pipe, cancel, and what it leaves when it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sonic.v1 import jobs_pb2, parameters_pb2
from sonic.v1 import worker_pb2 as pb
from sonic_runtime.engines.warp import WarpEngine
from sonic_runtime.models.samples import Samples
from sonic_runtime.providers import NAMES
from tests.workers import Worker


@pytest.fixture
def worker(finder: object) -> Iterator[Worker]:
    made = Worker("warp")
    yield made
    made.kill()


def command(samples: Samples, output: Path, render_id: str = "r1", **about: object) -> pb.RenderCommand:
    return pb.RenderCommand(
        render_id=render_id,
        engine="warp",
        portrait_path=str(samples.smile),
        voice_path=str(samples.voice),
        output_path=str(output),
        parameters=parameters_pb2.RenderParameters(**({"min_resolution": 256} | about)),  # type: ignore[arg-type]
    )


def test_it_loads_probes_and_renders(worker: Worker, samples: Samples, tmp_path: Path) -> None:
    loaded = worker.hear("loaded").loaded
    assert [(e.engine, e.model_version) for e in loaded.engines] == [("warp", WarpEngine.model_version)]
    providers = {one.network: one.provider for one in loaded.networks}
    assert set(providers) == {"face-detector", "face-mesh", "mouth"}
    assert set(providers.values()) <= set(NAMES)
    worker.say(probe=pb.ProbeCommand(render_id="p", engine="warp"))
    probed = worker.hear("probed", "failed").probed
    assert probed.realtime_factor > 0
    assert len(probed.digest) == 16
    worker.say(render=command(samples, tmp_path / "out.mp4"))
    done = worker.hear("rendered", "failed")
    assert done.rendered.report.frames == 70
    assert done.rendered.report.peak_memory_bytes > 50_000_000
    assert (tmp_path / "out.mp4").exists()


def test_bad_input_is_an_answer_not_a_crash(worker: Worker, samples: Samples, tmp_path: Path) -> None:
    bad = Samples(samples.voice, samples.voice, samples.voice)
    worker.say(render=command(bad, tmp_path / "out.mp4"))
    failure = worker.hear("rendered", "failed").failed.failure
    assert (failure.fault, failure.reason) == (jobs_pb2.FAULT_KIND_BAD_INPUT, "PORTRAIT_UNREADABLE")
    assert [problem.field for problem in failure.problems] == ["portrait"]
    worker.say(render=command(samples, tmp_path / "out.mp4", "r2"))
    assert worker.hear("rendered", "failed").rendered.render_id == "r2"


def test_cancel_is_answered_and_the_worker_goes_on(worker: Worker, samples: Samples, tmp_path: Path) -> None:
    worker.say(render=command(samples, tmp_path / "a.mp4", min_resolution=1024))
    worker.hear("progress")
    worker.say(cancel=pb.CancelCommand(render_id="r1"))
    assert worker.hear("rendered", "failed").failed.failure.reason == "CANCELLED"
    worker.say(render=command(samples, tmp_path / "b.mp4", "r2"))
    assert worker.hear("rendered", "failed").rendered.render_id == "r2"
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4"]


def test_it_ends_when_its_agent_does(worker: Worker) -> None:
    worker.hear("loaded")
    assert worker.process.stdin
    worker.process.stdin.close()
    assert worker.process.wait(10) == 0


def test_a_killed_worker_leaves_no_output(worker: Worker, samples: Samples, tmp_path: Path) -> None:
    worker.say(render=command(samples, tmp_path / "out.mp4", min_resolution=1024))
    while worker.hear("progress").progress.progress.stage != "rendering":
        pass
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait()
    assert not (tmp_path / "out.mp4").exists()


def test_no_agent_no_worker(finder: object) -> None:
    code = """
import subprocess, sys
command = [sys.executable, "-m", "sonic_runtime.worker", "--engine", "warp"]
worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
worker.stdout.read(8)
print(worker.pid, flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.02)
