"""A fleet with the diffusion engine, all real but the weights: drawn at random, and small enough for the CPU."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sonic.v1 import jobs_pb2
from sonic_runtime import probe
from sonic_runtime.models.samples import Samples
from tests.folders import files_below
from tests.workers import EAGER

from .fleet import Fleet, check_video, running_fleet

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
QUICK = {"engine": "sonic", "min_resolution": 256, "inference_steps": 2}
STEPS_AND_WINDOWS = 2 * 2  # half a second is 8 frames at 12.5 a second, denoised 4 at a time


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, finder: object, tiny_sonic: str) -> Iterator[Fleet]:
    environment = {"SONIC_ENGINE_OPTIONS": "window_frames=4", "SONIC_MODEL_VERSION": tiny_sonic}
    options = ("--engine", "sonic", *(f"--worker-command={part}" for part in (sys.executable, *EAGER)))
    with running_fleet(tmp_path_factory.mktemp("fleet"), ("box-1", "box-2"), options, **environment) as made:
        yield made


def test_a_job_becomes_a_video_and_its_denoising_is_told(
    fleet: Fleet, samples: Samples, short_voice: Path, tiny_sonic: str, tmp_path: Path
) -> None:
    with fleet.client() as client:
        job = client.submit(samples.smile, short_voice, **QUICK)
        assert job.spec.parameters.expand_ratio == 0.5, "a default of this engine"
        told = [update.progress for update in client.watch(job.job_id)]
        done = client.get(job.job_id)
        assert done.state == jobs_pb2.JOB_STATE_SUCCEEDED
        check_video(client.download(done, tmp_path / "out.mp4"), probe.DURATION_S)
    assert (done.report.engine, done.report.model_version) == ("sonic", tiny_sonic)
    denoising = [progress for progress in told if progress.stage == "denoising"]
    assert {progress.total for progress in denoising} == {STEPS_AND_WINDOWS}
    counts = [progress.done for progress in denoising]
    assert counts == sorted(counts)
    assert len(set(counts)) > 1
    fleet.until(lambda: fleet.leftovers() == [])


def test_nodes_and_metrics_carry_the_model_version(fleet: Fleet, tiny_sonic: str) -> None:
    fleet.until_ready()
    (slot,) = fleet.node("box-1").slots
    assert [(one.engine, one.model_version) for one in slot.engines] == [("sonic", tiny_sonic)]
    assert slot.probe_realtime_factor > 0
    assert slot.gpu_uuid == ""
    assert f'model_version="{tiny_sonic}"' in fleet.metrics_of("box-1")


def frames_of(video: Path) -> NDArray[np.uint8]:
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


@pytest.mark.parametrize("killed", ["worker", "agent"])
def test_kill_9_in_the_middle_and_another_node_goes_on(
    fleet: Fleet, samples: Samples, short_voice: Path, tmp_path: Path, killed: str
) -> None:
    """The states lie on the hub while the job runs; the video is the one that an undisturbed render makes."""
    fleet.until_serving()
    states = fleet.folder / "hub" / "artifacts" / "states"
    wanted = QUICK | {"inference_steps": 4, "seed": len(killed)}
    calls = 4 * 2
    with fleet.client() as client:
        job = client.submit(samples.smile, short_voice, **wanted)
        fleet.until(lambda: files_below(states))
        fleet.until(lambda: client.get(job.job_id).progress.done > 2)
        first = client.get(job.job_id).attempts[0].node_id
        if killed == "agent":
            fleet.agents[first].kill()
        else:
            os.kill(fleet.worker_of(first), signal.SIGKILL)
        told = [update for update in client.watch(job.job_id) if len(update.attempts) == 2]
        done = client.get(job.job_id)
        assert done.state == jobs_pb2.JOB_STATE_SUCCEEDED
        assert done.attempts[1].node_id != first
        assert 0 < done.report.resumed_from < calls
        counts = [update.progress.done for update in told if update.progress.stage == "denoising"]
        assert min(counts) >= done.report.resumed_from, "it began anew"
        resumed = client.download(done, tmp_path / "resumed.mp4")
        fleet.until(lambda: not files_below(states))
        if killed == "agent":
            fleet.agents[first].start()
        whole = client.wait(client.submit(samples.smile, short_voice, **wanted).job_id)
        assert whole.report.resumed_from == 0
        undisturbed = client.download(whole, tmp_path / "whole.mp4")
    assert np.array_equal(frames_of(resumed), frames_of(undisturbed))
