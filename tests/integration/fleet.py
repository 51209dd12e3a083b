"""A hub and agents as real processes that can be killed and started again."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from sonic.client import SonicClient
from sonic.v1 import jobs_pb2, nodes_pb2
from tests.folders import files_below
from tests.processes import Process, free_port, process, wait_until_ready

SONIC = [str(Path(sys.executable).parent / "sonic")]
PATIENCE_S = 120.0


@dataclass
class Fleet:
    """Every part by name."""

    hub: Process
    agents: dict[str, Process]
    address: str
    hub_url: str
    folder: Path

    def client(self, tenant: str = "acme") -> SonicClient:
        return SonicClient(self.address, tenant, insecure=True)

    def restart_hub(self) -> None:
        self.hub.start()
        wait_until_ready(self.hub_url, self.hub)

    def worker_of(self, name: str) -> int:
        """The process id of an agent's worker."""
        (pid,) = workers_below(self.agents[name].pid)
        return pid

    def metrics_of(self, name: str) -> str:
        """What an agent serves to scrapers."""
        started = next(line for line in self.agents[name].log.read_text().splitlines() if "agent started" in line)
        address = json.loads(started)["http"]
        return str(urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read(), "utf-8")

    def until(self, told: Callable[[], bool]) -> None:
        """Until something has come true."""
        limit = time.monotonic() + PATIENCE_S
        while not told():
            assert time.monotonic() < limit, "\n".join(log.read_text()[-3000:] for log in self.folder.glob("*.log"))
            time.sleep(0.05)

    def node(self, name: str) -> nodes_pb2.Node:
        with self.client() as client:
            return client.node(name)

    def until_ready(self, *names: str) -> None:
        for name in names or tuple(self.agents):
            self.until(lambda name=name: self.node(name).state == nodes_pb2.NODE_STATE_READY)

    def until_serving(self, *names: str) -> None:
        """Until they take work again; one that was struck twice is trusted less for a while, and works all the same."""
        for name in names or tuple(self.agents):
            self.until(lambda name=name: _serves(self.node(name)))

    def until_rendering(self, client: SonicClient, job_id: str) -> str:
        """The node that renders a job, as soon as frames are made."""

        def rendering() -> bool:
            job = client.get(job_id)
            assert job.state not in (jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED), "it was too quick"
            return job.progress.stage == "rendering" and job.progress.fraction > 0.15

        self.until(rendering)
        return str(client.get(job_id).attempts[-1].node_id)

    def leftovers(self) -> list[Path]:
        """Files of jobs on the boxes: there must be none once every job has ended."""
        found = [self.folder / name / part for name in self.agents for part in ("inputs", "outbox", "scratch")]
        return files_below(*found)


def _serves(node: nodes_pb2.Node) -> bool:
    up = {nodes_pb2.SLOT_STATE_READY, nodes_pb2.SLOT_STATE_BUSY}
    takes_work = node.state in (nodes_pb2.NODE_STATE_READY, nodes_pb2.NODE_STATE_DEGRADED)
    return takes_work and bool(node.slots) and all(slot.state in up for slot in node.slots)


def workers_below(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"sonic_runtime.worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def running_fleet(
    folder: Path, names: tuple[str, ...] = ("box-1", "box-2"), options: tuple[str, ...] = (), **environment: str
) -> Iterator[Fleet]:
    """`options` and `environment` are the agents'."""
    address, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    hub = [*SONIC, "hub", "--insecure", "--listen", address, "--http-listen", http, "--data-dir", str(folder / "hub")]
    hub += ["--heartbeat-interval-s", "0.5", "--lease-s", "3"]
    with contextlib.ExitStack() as stack:
        made = Fleet(
            stack.enter_context(process(hub, folder / "hub.log")), {}, address, f"http://{http}/readyz", folder
        )
        wait_until_ready(made.hub_url, made.hub)
        for name in names:
            agent = [*SONIC, "agent", "--insecure", "--hub", address, "--node-id", name, "--region", "test"]
            agent += ["--data-dir", str(folder / name), "--http-listen", "127.0.0.1:0", "--log-format", "json"]
            agent += options
            made.agents[name] = stack.enter_context(process(agent, folder / f"{name}.log", **environment))
        made.until(lambda: _all_known(made, names))
        made.until_ready()
        yield made


def _all_known(fleet: Fleet, names: tuple[str, ...]) -> bool:
    with fleet.client() as client:
        return {node.node_id for node in client.nodes()} == set(names)


def check_video(path: Path, seconds: float, fps: int = 25) -> None:
    """Every frame can be decoded, and picture and sound are as long as the recording, within a frame."""
    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    with av.open(str(path)) as container:
        sound = container.streams.audio[0]
        assert abs(float(sound.duration * sound.time_base) - seconds) <= 1 / fps
    assert abs(frames / fps - seconds) <= 1 / fps
