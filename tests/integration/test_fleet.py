"""Whatever is killed in the middle of jobs, every acknowledged job ends exactly once, with a correct video."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sonic import exceptions
from sonic.client import SonicClient
from sonic.v1 import jobs_pb2, nodes_pb2
from sonic_runtime.media import voices
from sonic_runtime.models.samples import Samples

from .fleet import Fleet, check_video, running_fleet, workers_below

pytestmark = pytest.mark.integration
LARGE, SMALL = 1024, 256  # pixels: long enough to be killed in the middle, and quick


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, finder: object) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@pytest.fixture
def client(fleet: Fleet) -> Iterator[SonicClient]:
    fleet.until_serving()
    with fleet.client() as made:
        yield made


def fetched(client: SonicClient, job: jobs_pb2.Job, samples: Samples, folder: Path) -> jobs_pb2.Job:
    """The job once it has ended well and its video has been fetched and checked."""
    done = client.wait(job.job_id)
    path = client.download(done, folder / f"{job.job_id}.mp4")
    check_video(path, voices.load(samples.voice).duration_s)
    return done


def ends(job: jobs_pb2.Job) -> list[str]:
    return [attempt.failure.reason for attempt in job.attempts]


def test_a_job_becomes_a_video(fleet: Fleet, client: SonicClient, samples: Samples, tmp_path: Path) -> None:
    done = fetched(client, client.submit(samples.smile, samples.voice, min_resolution=SMALL), samples, tmp_path)
    assert ends(done) == [""]
    assert done.report.engine == "warp"
    fleet.until(lambda: fleet.leftovers() == [])


def test_kill_9_of_a_worker(fleet: Fleet, client: SonicClient, samples: Samples, tmp_path: Path) -> None:
    job = client.submit(samples.smile, samples.voice, min_resolution=LARGE)
    first = fleet.until_rendering(client, job.job_id)
    os.kill(fleet.worker_of(first), signal.SIGKILL)
    done = fetched(client, job, samples, tmp_path)
    assert ends(done) == ["WORKER_CRASHED", ""]
    assert done.attempts[1].node_id != first
    fleet.until_serving(first)


def test_kill_9_of_an_agent(fleet: Fleet, client: SonicClient, samples: Samples, tmp_path: Path) -> None:
    job = client.submit(samples.smile, samples.voice, min_resolution=LARGE)
    first = fleet.until_rendering(client, job.job_id)
    workers = workers_below(fleet.agents[first].pid)
    fleet.agents[first].kill()
    done = fetched(client, job, samples, tmp_path)
    assert ends(done) == ["LEASE_EXPIRED", ""]
    assert done.attempts[1].node_id != first
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    fleet.agents[first].start()
    fleet.until_serving(first)
    fleet.until(lambda: fleet.leftovers() == [])


def test_an_agent_that_is_back_at_once_says_what_it_lost(
    fleet: Fleet, client: SonicClient, samples: Samples, tmp_path: Path
) -> None:
    job = client.submit(samples.smile, samples.voice, min_resolution=LARGE)
    first = fleet.until_rendering(client, job.job_id)
    fleet.agents[first].kill()
    fleet.agents[first].start()
    done = fetched(client, job, samples, tmp_path)
    assert ends(done)[0] in ("ATTEMPT_LOST", "LEASE_EXPIRED")
    assert ends(done)[1:] == [""]


def test_kill_9_of_the_hub(fleet: Fleet, client: SonicClient, samples: Samples, tmp_path: Path) -> None:
    job = client.submit(samples.smile, samples.voice, min_resolution=LARGE)
    fleet.until_rendering(client, job.job_id)
    fleet.hub.kill()
    fleet.restart_hub()
    done = fetched(client, job, samples, tmp_path)
    assert ends(done) == [""]  # the agent went on, and nothing was rendered twice


def test_a_result_finished_while_the_hub_is_away_is_taken(
    fleet: Fleet, client: SonicClient, samples: Samples, tmp_path: Path
) -> None:
    job = client.submit(samples.smile, samples.voice, min_resolution=LARGE)
    first = fleet.until_rendering(client, job.job_id)
    fleet.hub.kill()
    fleet.until(lambda: any(path.name == "result.pb" for path in fleet.leftovers()))
    fleet.restart_hub()
    done = fetched(client, job, samples, tmp_path)
    assert [(attempt.node_id, attempt.failure.reason) for attempt in done.attempts] == [(first, "")]


def test_cancel_frees_the_slot(fleet: Fleet, client: SonicClient, samples: Samples, tmp_path: Path) -> None:
    jobs = [client.submit(samples.smile, samples.voice, min_resolution=LARGE) for _ in range(2)]
    fleet.until_rendering(client, jobs[0].job_id)
    assert client.cancel(jobs[0].job_id).state == jobs_pb2.JOB_STATE_CANCELLED
    with pytest.raises(exceptions.JobCancelled):
        client.wait(jobs[0].job_id)
    fetched(client, jobs[1], samples, tmp_path)
    quick = client.submit(samples.smile, samples.voice, min_resolution=SMALL)
    fetched(client, quick, samples, tmp_path)


def test_bad_input_fails_once_with_the_field_and_harms_no_node(
    fleet: Fleet, client: SonicClient, samples: Samples, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (300, 300), "grey").save(tmp_path / "empty.png")

    def states() -> dict[str, nodes_pb2.NodeState.ValueType]:
        return {name: fleet.node(name).state for name in fleet.agents}

    before = states()
    job = client.submit(tmp_path / "empty.png", samples.voice)
    with pytest.raises(exceptions.JobFailed) as caught:
        client.wait(job.job_id)
    assert "No face was found" in str(caught.value)
    failed = client.get(job.job_id)
    assert (failed.failure.reason, failed.failure.problems[0].field) == ("NO_FACE", "portrait")
    assert len(failed.attempts) == 1
    fleet.until(lambda: states() == before)


def test_a_storm(fleet: Fleet, client: SonicClient, samples: Samples, tmp_path: Path) -> None:
    """Jobs of two tenants come in while workers, agents and the hub are killed at random."""
    chance = random.Random(3)
    quiet = threading.Event()

    def disturb() -> None:
        for blow in ("worker", "hub", "agent", "worker", "hub", "agent"):
            if quiet.wait(chance.uniform(0.8, 2.0)):
                return
            name = chance.choice(sorted(fleet.agents))
            if blow == "hub":
                fleet.hub.kill()
                fleet.restart_hub()
            elif blow == "agent":
                fleet.agents[name].kill()
                fleet.agents[name].start()
            else:
                for pid in workers_below(fleet.agents[name].pid):
                    os.kill(pid, signal.SIGKILL)

    storm = threading.Thread(target=disturb)
    storm.start()
    with fleet.client("rival") as rival:
        callers = [client, rival]
        jobs = [
            (caller, caller.submit(samples.smile, samples.voice, min_resolution=512, idempotency_key=f"storm-{n}"))
            for n in range(6)
            for caller in callers
        ]
        again = [
            caller.submit(samples.smile, samples.voice, min_resolution=512, idempotency_key="storm-0")
            for caller in callers
        ]
        assert [job.job_id for job in again] == [job.job_id for _, job in jobs[:2]]
        ended = [caller.wait(job.job_id) for caller, job in jobs]
        quiet.set()
        storm.join()
        assert len({job.job_id for job in ended}) == 12
        for (caller, _), job in zip(jobs, ended, strict=True):
            winners = [
                attempt for attempt in job.attempts if not attempt.HasField("failure") and attempt.HasField("ended_at")
            ]
            assert len(winners) == 1, job.attempts
            check_video(caller.download(job, tmp_path / f"{job.job_id}.mp4"), voices.load(samples.voice).duration_s)
    fleet.until_serving()
    fleet.until(lambda: fleet.leftovers() == [])


def test_sigterm_drains(tmp_path: Path, samples: Samples, finder: object) -> None:
    with running_fleet(tmp_path, ("only",)) as fleet, fleet.client() as client:
        job = client.submit(samples.smile, samples.voice, min_resolution=LARGE)
        fleet.until_rendering(client, job.job_id)
        later = client.submit(samples.smile, samples.voice, min_resolution=SMALL)
        assert fleet.agents["only"].stop(60) == 0
        assert ends(fetched(client, job, samples, tmp_path)) == [""]
        assert client.get(later.job_id).state == jobs_pb2.JOB_STATE_QUEUED
        assert fleet.leftovers() == []
        assert fleet.hub.stop() == 0
