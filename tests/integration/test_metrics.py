"""What the nodes have sampled is what the receivers hold: sample by sample, under the right tenant, whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from sonic.client import AsyncSonicClient
from sonic.v1 import nodes_pb2
from sonic_runtime.models.samples import Samples
from tests.client.proxy import Proxy, proxy_to
from tests.processes import Process, free_port, process, wait_until_ready

from .fleet import SONIC
from .receivers import Gateway, Stored, receivers, until

pytestmark = pytest.mark.integration
OPERATOR, TENANTS, POISONED = "operator", ("acme", "beta"), "gamma"
INTERVAL_S, LEASE_S = 0.5, 2.0
JOURNALED = [sys.executable, str(Path(__file__).with_name("journaled_agent.py"))]


@dataclass
class Fleet:
    """A hub that forwards, and two agents, the second behind a line that can be cut."""

    hub: Process
    agents: dict[str, Process]
    address: str
    http: str
    line: Proxy
    gateway: Gateway
    folder: Path

    def journal(self, tenant: str) -> dict[Stored, float]:
        """What the agents have sampled of a tenant's series; the operator has those that name none."""
        found = {}
        for name in self.agents:
            for line in (self.folder / f"{name}.journal").read_text().splitlines():
                at_unix_ms, samples = json.loads(line)
                for labels, value in samples:
                    if labels.get("tenant", OPERATOR) == tenant:
                        found[Stored(frozenset(labels.items()), at_unix_ms)] = value
        return found

    async def restart_hub(self) -> None:
        self.hub.start()
        await asyncio.to_thread(wait_until_ready, f"http://{self.http}/readyz", self.hub)

    async def until_sampled_since(self, at_s: float) -> None:
        """Until samples of every agent from after that time have arrived."""

        async def sampled() -> bool:
            found = await self.gateway.tenants[OPERATOR].query('timestamp(sonic_slots{node_id!=""})')
            newer = {one["metric"]["node_id"] for one in found if float(one["value"][1]) > at_s}
            return newer == set(self.agents)

        await until(sampled, "an agent is not heard of any more")

    async def delivered(self) -> bool:
        """Whether every sample of the agents has arrived."""
        for tenant in (OPERATOR, *TENANTS):
            stored = await self.gateway.tenants[tenant].stored('{node_id!="",hub=""}')
            if self.journal(tenant).keys() - stored.keys():
                return False
        return True

    async def metrics(self) -> list[str]:
        async with aiohttp.ClientSession() as http, http.get(f"http://{self.http}/metrics") as answer:
            return (await answer.text()).splitlines()


@contextlib.asynccontextmanager
async def running(folder: Path, gateway: Gateway) -> AsyncIterator[Fleet]:
    address, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    hub = [*SONIC, "hub", "--insecure", "--listen", address, "--http-listen", http, "--data-dir", str(folder / "hub")]
    hub += ["--heartbeat-interval-s", "0.5", "--lease-s", str(LEASE_S), "--hub-id", "hub-1"]
    hub += ["--forward-url", gateway.url, "--forward-interval-s", str(INTERVAL_S)]
    async with proxy_to(address) as line:
        with contextlib.ExitStack() as stack:
            program = stack.enter_context(process(hub, folder / "hub.log"))
            await asyncio.to_thread(wait_until_ready, f"http://{http}/readyz", program)
            agents = {}
            for name, hub_address in (("box-1", address), ("box-2", line.address)):
                agent = [*JOURNALED, "agent", "--insecure", "--hub", hub_address, "--node-id", name, "--region", "test"]
                agent += ["--data-dir", str(folder / name), "--http-listen", "127.0.0.1:0"]
                journal = str(folder / f"{name}.journal")
                agents[name] = stack.enter_context(process(agent, folder / f"{name}.log", JOURNAL=journal))
            yield Fleet(program, agents, address, http, line, gateway, folder)


async def rendered_for_every_tenant(fleet: Fleet, samples: Samples) -> None:
    """Until every tenant has series of its own."""
    async with AsyncSonicClient(fleet.address, OPERATOR, insecure=True) as client:

        async def ready() -> bool:
            nodes = await client.nodes()
            return sum(node.state == nodes_pb2.NODE_STATE_READY for node in nodes) == len(fleet.agents)

        await until(ready, "the agents are not ready")
    for tenant in (*TENANTS, POISONED):
        async with AsyncSonicClient(fleet.address, tenant, insecure=True) as client:
            job = await client.submit(samples.smile, samples.voice, min_resolution=256)
            await client.wait(job.job_id)


async def poison(fleet: Fleet) -> None:
    """The tenant's store has newer samples of all its series than any that will come: it refuses every request."""
    import numpy as np

    from hub.forward.encoding import Encoder
    from hub.forward.layouts import Layout
    from hub.forward.spool import Batch
    from sonic import metrics

    store = fleet.gateway.tenants[POISONED]
    found = await store.query('{tenant="gamma"}')
    assert found
    series = []
    for one in found:
        labels = tuple(sorted((name, value) for name, value in one["metric"].items() if name != "__name__"))
        made = metrics.message(metrics.Series(one["metric"]["__name__"], labels, "gauge", ""))
        series.append(made.SerializeToString(deterministic=True))
    batch = Batch(Layout("poison", tuple(series)), round((time.time() + 3600) * 1000), np.zeros(len(series)))
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    headers["X-Prometheus-Remote-Write-Version"] = "0.1.0"
    (request,) = Encoder(1).requests([batch], 10_000)
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{store.url}/api/v1/write", data=request.body) as answer,
    ):
        assert answer.status == 204, await answer.text()


async def test_every_sample_arrives_once_under_its_tenant_whatever_breaks(
    samples: Samples, finder: object, tmp_path: Path
) -> None:
    async with (
        receivers(tmp_path, OPERATOR, *TENANTS, POISONED) as gateway,
        running(tmp_path, gateway) as fleet,
    ):
        await rendered_for_every_tenant(fleet, samples)

        async def arrives() -> bool:
            return bool(await gateway.tenants[POISONED].query('{tenant="gamma"}'))

        await until(arrives, "nothing arrives")
        await poison(fleet)

        async def counted() -> bool:
            refused = 'refused_samples_total{reason="sample-out-of-order",tenant="gamma"}'
            return any(refused in line for line in await fleet.metrics())

        await until(counted, "what was refused is not counted")

        acme = gateway.tenants["acme"].process  # its receiver is away for a while, and comes back
        await asyncio.to_thread(acme.stop)
        gateway.faults["beta"].extend([429, 500, 429, 500, 503])

        async def missed() -> bool:
            return gateway.answers["acme"][502] > 1

        await until(missed, "nothing was to go to the receiver that was away")
        acme.start()
        await gateway.tenants["acme"].ready()

        fleet.hub.kill()
        await asyncio.sleep(2 * INTERVAL_S)
        await fleet.restart_hub()
        await fleet.until_sampled_since(time.time())

        journal = tmp_path / "box-1.journal"
        before_bytes = journal.stat().st_size

        async def has_sampled() -> bool:
            return journal.stat().st_size > before_bytes

        await until(has_sampled, "it does not sample")  # so what it has sampled is in its journal, too
        fleet.agents["box-1"].kill()
        fleet.agents["box-1"].start()
        fleet.line.open = False
        fleet.line.cut()
        await asyncio.sleep(LEASE_S + 1)  # the graphs of the node end, and go on when it is back
        fleet.line.open = True

        await asyncio.to_thread(gateway.tenants[OPERATOR].process.stop)
        fleet.hub.kill(signal.SIGKILL)
        await asyncio.sleep(2 * INTERVAL_S)
        gateway.tenants[OPERATOR].process.start()
        await gateway.tenants[OPERATOR].ready()
        await fleet.restart_hub()
        await fleet.until_sampled_since(time.time())

        for agent in fleet.agents.values():
            assert await asyncio.to_thread(agent.stop) == 0
        with contextlib.suppress(AssertionError):  # what is missing is told below
            await until(fleet.delivered, "")

        for tenant in (OPERATOR, *TENANTS):
            sampled = fleet.journal(tenant)
            stored = await gateway.tenants[tenant].stored('{node_id!="",hub=""}')
            assert len(sampled) > 100
            missing = [sample for sample in sampled if sample not in stored]
            assert not missing, f"{tenant}: {len(missing)} of {len(sampled)} are missing, first {missing[:2]}"
            assert not [sample for sample in stored if sample not in sampled]
            assert stored == sampled
            everything = await gateway.tenants[tenant].stored('{__name__!=""}')
            own = {dict(sample.labels).get("tenant") for sample in everything if tenant != OPERATOR}
            assert own <= {tenant}
        assert gateway.answers[POISONED][400] > 3
        assert gateway.answers["beta"][429] == 2
        assert ("beta", "1") in gateway.retries
