"""What forwarding costs: samples per CPU-second through the hub, beside a Prometheus agent and vmagent.

All forward the same series at the same rate into the same sink, one after another in each round. The hub takes them
from the sessions of nodes, spools them on disk, and sends remote write 2.0; the peers take remote write 1.0, 2,000
samples a request, and send 1.0, which is what they can. CPU time and memory are the forwarder's process alone, from
/proc. `lost` counts samples that were handed over and are not in the sink a while after the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import numpy as np
from aiohttp import web

from agent.core.attempts import Rendered
from agent.metrics import Metrics
from hub.forward.encoding import Encoder
from hub.forward.layouts import Layout, packed
from hub.forward.spool import Batch
from sonic.metrics import message, snapshot
from sonic.v1 import fleet_service_pb2, fleet_service_pb2_grpc, jobs_pb2, metrics_pb2, nodes_pb2
from tests.processes import free_port
from tests.remote_write import decode
from tests.servers import binary

SETTLE_S = 12.0  # for what is on its way at the end
WARM_UP_ROUNDS = 2
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Node:
    """A node's series and how they move."""

    node_id: str
    region: str
    series: list[metrics_pb2.Series]
    values: np.ndarray

    def step(self, rng: np.random.Generator) -> list[float]:
        grow = rng.integers(0, 3, len(self.values))
        self.values = self.values + grow
        return self.values.tolist()


def fleet(series_count: int) -> list[Node]:
    """As many nodes, each with the series of a real agent, as make up the count."""
    nodes: list[Node] = []
    while sum(len(node.series) for node in nodes) < series_count:
        number = len(nodes)
        region, node_id, uuid = f"region-{number % 8}", f"edge-{number:05d}", f"GPU-{number:036d}"
        numbers = Metrics(region, node_id)
        numbers.model("warp-2")
        for _ in range(random.randrange(50)):
            report = jobs_pb2.RenderReport(video_seconds=random.random() * 20).SerializeToString()
            numbers.ended(Rendered(report, random.random() * 20), "acme")
            numbers.queued(random.random() * 3, "acme")
        gpu = nodes_pb2.GpuHealth(uuid=uuid, utilization_percent=random.randrange(100), temperature_celsius=50)
        info = nodes_pb2.GpuInfo(uuid=uuid, name="NVIDIA L4", vendor="nvidia", memory_bytes=24 << 30)
        numbers.health(nodes_pb2.NodeHealth(cpu_percent=random.random() * 100, gpus=[gpu]), [info])
        found = snapshot(numbers.registry)
        nodes.append(Node(node_id, region, list(map(message, found)), np.array(list(found.values()))))
    return nodes


async def sink_main(port: int, folder: Path) -> None:
    """Takes everything, says what remote write 2.0 wants said, and keeps what came."""
    count = 0
    wire = 0

    async def push(request: web.Request) -> web.Response:
        nonlocal count, wire
        body = await request.read()
        head = sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
        wire += len(body) + head + len(request.path_qs) + len("POST  HTTP/1.1\r\n\r\n")
        (folder / f"{count:06d}{'.2' if 'v2' in request.content_type + str(request.headers) else '.1'}").write_bytes(
            body
        )
        count += 1
        return web.Response(status=204, headers={"X-Prometheus-Remote-Write-Samples-Written": "1"})

    async def size(_request: web.Request) -> web.Response:
        return web.json_response({"wire": wire})

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/{tail:.*}", push)
    app.router.add_get("/size", size)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


class Process:
    """A program, its CPU time and its memory."""

    def __init__(self, command: list[str], log: Path) -> None:
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        self._log = log

    @property
    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS

    @property
    def rss_mb(self) -> float:
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * _PAGE_BYTES / 1e6

    async def answers(self, url: str) -> None:
        async with aiohttp.ClientSession() as http:
            for _ in range(300):
                with contextlib.suppress(aiohttp.ClientError):
                    await http.get(url)
                    return
                assert self._process.poll() is None, self._log.read_text()[-2000:]
                await asyncio.sleep(0.1)
        raise TimeoutError(url)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


Round = Callable[[], Awaitable[int]]


@asynccontextmanager
async def hub(folder: Path, sink: str, nodes: list[Node]) -> AsyncIterator[tuple[Process, Round]]:
    grpc_port, http_port = free_port(), free_port()
    command = [sys.executable, "-m", "sonic", "hub", "--insecure", "--listen", f"127.0.0.1:{grpc_port}"]
    command += ["--http-listen", f"127.0.0.1:{http_port}", "--data-dir", str(folder / "data")]
    command += ["--forward-url", f"{sink}/api/v1/push", "--forward-interval-s", "15", "--heartbeat-interval-s", "60"]
    process = Process([*command, "--lease-s", "300"], folder / "log")
    await process.answers(f"http://127.0.0.1:{http_port}/healthz")
    rng = np.random.default_rng(1)
    acked = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
        calls = [await _joined(stub, node) for node in nodes]

        async def listen(call: Any) -> None:
            nonlocal acked
            while isinstance(answer := await call.read(), fleet_service_pb2.SessionResponse):
                acked += len(answer.samples_ack.sequences)

        listeners = [asyncio.create_task(listen(call)) for call in calls]
        sequence = 0

        async def play() -> int:
            nonlocal sequence
            sequence += 1
            for node, call in zip(nodes, calls, strict=True):
                values = node.step(rng)
                batch = metrics_pb2.Samples(table_id=1, sequence=sequence, at_unix_ms=_now_ms(), values=values)
                await call.write(fleet_service_pb2.SessionRequest(samples=batch))
            return sum(len(node.series) for node in nodes)

        try:
            yield process, play
        finally:
            for listener in listeners:
                listener.cancel()
            process.stop()


async def _joined(stub: Any, node: Node) -> Any:
    call = stub.Session()
    hello = fleet_service_pb2.Hello(node_id=node.node_id, region=node.region)
    await call.write(fleet_service_pb2.SessionRequest(hello=hello))
    await call.read()
    table = metrics_pb2.SeriesTable(table_id=1, series=node.series)
    await call.write(fleet_service_pb2.SessionRequest(series_table=table))
    return call


@asynccontextmanager
async def peer(command: list[str], port: int, path: str, folder: Path, nodes: list[Node]) -> AsyncIterator[Any]:
    """A forwarder that takes remote write 1.0."""
    process = Process(command, folder / "log")
    await process.answers(f"http://127.0.0.1:{port}/")
    encoder, rng = Encoder(1), np.random.default_rng(1)
    layouts = [Layout(node.node_id, tuple(packed(one) for one in node.series)) for node in nodes]
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    headers["X-Prometheus-Remote-Write-Version"] = "0.1.0"
    async with aiohttp.ClientSession(headers=headers) as http:

        async def play() -> int:
            batches = [
                Batch(layout, _now_ms(), np.array(node.step(rng))) for layout, node in zip(layouts, nodes, strict=True)
            ]
            for request in encoder.requests(batches, 2000):
                async with http.post(f"http://127.0.0.1:{port}{path}", data=request.body) as answer:
                    assert answer.status < 300, await answer.text()
            return sum(len(node.series) for node in nodes)

        try:
            yield process, play
        finally:
            process.stop()


def prometheus_agent(folder: Path, sink: str, nodes: list[Node]) -> Any:
    port, settings = free_port(), folder / "prometheus.yml"
    settings.write_text(f"remote_write:\n  - url: {sink}/api/v1/write\n")
    command = [str(binary("prometheus")), "--enable-feature=agent", "--web.enable-remote-write-receiver"]
    command += [f"--config.file={settings}", f"--storage.agent.path={folder / 'data'}"]
    return peer([*command, f"--web.listen-address=127.0.0.1:{port}"], port, "/api/v1/write", folder, nodes)


def vmagent(folder: Path, sink: str, nodes: list[Node]) -> Any:
    port = free_port()
    command = [str(binary("vmagent")), f"-remoteWrite.url={sink}/api/v1/write", f"-httpListenAddr=127.0.0.1:{port}"]
    command += [f"-remoteWrite.tmpDataPath={folder / 'data'}"]
    return peer(command, port, "/api/v1/write", folder, nodes)


FORWARDERS = {"hub": hub, "prometheus_agent": prometheus_agent, "vmagent": vmagent}


async def measure(name: str, nodes: list[Node], rounds: int, interval_s: float) -> dict[str, float]:
    """One forwarder over some rounds of all series."""
    with tempfile.TemporaryDirectory(prefix="sonic-bench-") as temporary:
        folder = Path(temporary)
        received = folder / "sink"
        received.mkdir()
        sink_port = free_port()
        sink = Process(
            [sys.executable, "-m", "bench.forward", "--sink", str(sink_port), str(received)], folder / "s.log"
        )
        url = f"http://127.0.0.1:{sink_port}"
        await sink.answers(f"{url}/size")
        handed = 0
        rss_mb: list[float] = []
        async with FORWARDERS[name](folder, url, nodes) as (process, play), aiohttp.ClientSession() as http:
            for number in range(WARM_UP_ROUNDS + rounds):
                if number == WARM_UP_ROUNDS:
                    began_s, handed_before = process.cpu_s, handed
                due_s = time.monotonic() + interval_s
                handed += await play()
                rss_mb.append(process.rss_mb)
                await asyncio.sleep(max(due_s - time.monotonic(), 0))
            await asyncio.sleep(SETTLE_S)
            cpu_s = process.cpu_s - began_s
            async with http.get(f"{url}/size") as answer:
                wire = (await answer.json())["wire"]
        sink.stop()
        distinct = await asyncio.to_thread(_distinct, received)
        return {
            "samples_per_cpu_s": round((handed - handed_before) / cpu_s),
            "bytes_per_sample": round(wire / max(distinct, 1), 2),
            "rss_mb": round(statistics.mean(rss_mb), 1),
            "lost": handed - distinct,
        }


def _distinct(folder: Path) -> int:
    """How many samples are in the sink, but those that a hub tells of itself."""
    seen = set()
    for path in sorted(folder.iterdir()):
        kind = "proto=io.prometheus.write.v2.Request" if path.suffix == ".2" else ""
        for sample in decode(path.read_bytes(), kind):
            if not sample.labels[0][1].startswith("sonic_hub"):
                seen.add(hash((sample.labels, sample.timestamp_ms)))
    return len(seen)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--only", nargs="+", choices=FORWARDERS, default=list(FORWARDERS))
    parser.add_argument("--sink", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sink:
        await sink_main(int(arguments.sink[0]), Path(arguments.sink[1]))
    result: dict[str, dict[str, Any]] = {name: {} for name in arguments.only}
    for count in arguments.series:
        interval_s = 1.0 if count <= 10_000 else 5.0
        for name in arguments.only:
            measured = await measure(name, fleet(count), max(int(arguments.seconds / interval_s), 1), interval_s)
            result[name][str(count)] = measured
            print(name, count, measured, flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
