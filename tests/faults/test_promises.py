"""Promises of time and of taking results once, on real agents that render; what is measured is printed (pytest -s)."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sonic.client import SonicClient
from sonic.v1 import jobs_pb2, nodes_pb2
from sonic_runtime.models.samples import Samples
from tests.faults import world
from tests.integration.fleet import SONIC, Fleet, running_fleet
from tests.processes import process

pytestmark = pytest.mark.integration
LARGE, SMALL = 1024, 256  # pixels: long enough to be struck in the middle, and quick
LEASE_S = 3.0
LOOSELY_S = 20.0  # on a machine that does other things, too
DISK_BYTES = 24 << 20


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, finder: object) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@pytest.fixture
def client(fleet: Fleet) -> Iterator[SonicClient]:
    until_at_work(fleet, *fleet.agents)
    with fleet.client() as made:
        yield made


def until_at_work(fleet: Fleet, *names: str) -> None:
    """A node that was lost a moment ago is trusted with less for a while, but it works."""
    for name in names:
        fleet.until(lambda name=name: [slot.state for slot in fleet.node(name).slots] == [nodes_pb2.SLOT_STATE_READY])


def ends(job: jobs_pb2.Job) -> list[str]:
    return [attempt.failure.reason for attempt in job.attempts]


def measured(what: str, seconds: float) -> None:
    print(f"\n{what}: {seconds:.3f} s")


def test_a_cancel_is_acknowledged_at_once_and_frees_the_slot(
    fleet: Fleet, client: SonicClient, samples: Samples
) -> None:
    job = client.submit(samples.smile, samples.voice, min_resolution=LARGE)
    node = fleet.until_rendering(client, job.job_id)
    began_s = time.monotonic()
    cancelled = client.cancel(job.job_id)
    acknowledged_s = time.monotonic() - began_s
    fleet.until(lambda: fleet.node(node).slots[0].state == nodes_pb2.SLOT_STATE_READY)
    freed_s = time.monotonic() - began_s
    measured("cancel acknowledged", acknowledged_s)
    measured("slot free again", freed_s)
    assert cancelled.state == jobs_pb2.JOB_STATE_CANCELLED
    assert acknowledged_s < LOOSELY_S
    assert freed_s < LOOSELY_S
    assert client.get(job.job_id).state == jobs_pb2.JOB_STATE_CANCELLED


def test_what_a_frozen_agent_had_is_rendered_elsewhere_and_its_late_result_is_not_taken(
    fleet: Fleet, client: SonicClient, samples: Samples
) -> None:
    """Its worker goes on while the agent stands still, and has the video ready when it comes back."""
    job = client.submit(samples.smile, samples.voice, min_resolution=LARGE)
    first = fleet.until_rendering(client, job.job_id)
    frozen = fleet.agents[first].running
    assert frozen
    frozen.send_signal(signal.SIGSTOP)
    began_s = time.monotonic()
    try:
        done = client.wait(job.job_id)
    finally:
        frozen.send_signal(signal.SIGCONT)
    measured("frozen in the middle of a render, video from another node", time.monotonic() - began_s)
    assert ends(done) == ["LEASE_EXPIRED", ""]
    assert done.attempts[1].node_id != first
    until_at_work(fleet, first)
    fleet.until(lambda: fleet.leftovers() == [])
    assert client.get(job.job_id) == done


def test_what_was_finished_while_the_hub_stood_still_is_taken_without_rendering_again(
    fleet: Fleet, client: SonicClient, samples: Samples
) -> None:
    """The hub is frozen for longer than a lease: it must not take the silence for the node's."""
    job = client.submit(samples.smile, samples.voice, min_resolution=LARGE)
    first = fleet.until_rendering(client, job.job_id)
    frozen = fleet.hub.running
    assert frozen
    frozen.send_signal(signal.SIGSTOP)
    try:
        until_s = time.monotonic() + LEASE_S + 1
        fleet.until(lambda: any(path.name == "result.pb" for path in fleet.leftovers()))
        time.sleep(max(until_s - time.monotonic(), 0))
    finally:
        frozen.send_signal(signal.SIGCONT)
    began_s = time.monotonic()
    done = client.wait(job.job_id)
    measured("hub back, result finished meanwhile taken", time.monotonic() - began_s)
    assert [(attempt.node_id, attempt.failure.reason) for attempt in done.attempts] == [(first, "")]


@pytest.mark.skipif(bool(world.why_not()), reason=world.why_not() or "-")
def test_a_box_whose_disk_is_full_hands_its_job_on_and_comes_back(
    fleet: Fleet, client: SonicClient, samples: Samples, tmp_path: Path
) -> None:
    data_dir = tmp_path / "tight"
    data_dir.mkdir()
    agent = [*SONIC, "agent", "--insecure", "--hub", fleet.address, "--node-id", "tight", "--region", "narrow"]
    agent += ["--data-dir", str(data_dir), "--http-listen", "127.0.0.1:0"]
    with process(world.on_small_disk(data_dir, DISK_BYTES, agent), tmp_path / "tight.log") as tight:
        fleet.until(lambda: any(node.node_id == "tight" for node in client.nodes()))
        until_at_work(fleet, "tight")
        for name in fleet.agents:
            client.drain(name)
        job = client.submit(samples.smile, samples.voice, min_resolution=LARGE)
        disk = world.Disk(Path(f"/proc/{tight.pid}/root{data_dir}"))
        try:
            fleet.until(lambda: client.get(job.job_id).state == jobs_pb2.JOB_STATE_RUNNING)
            disk.fill()
            for name in fleet.agents:
                client.resume(name)
            done = client.wait(job.job_id)
        finally:
            disk.clear()
        tries = [(attempt.node_id, attempt.failure.reason) for attempt in done.attempts]
        print(f"\nfull disk of a box: {tries}")
        assert tries[0][0] == "tight"
        assert tries[0][1]
        assert tries[-1][0] != "tight"
        until_at_work(fleet, "tight")
        again = client.submit(samples.smile, samples.voice, min_resolution=SMALL, require_regions=["narrow"])
        assert client.wait(again.job_id).attempts[-1].node_id == "tight"
        assert tight.stop() == 0
