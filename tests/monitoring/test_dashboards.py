"""Every query of every dashboard finds something in a real Prometheus that a running fleet has filled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import pytest
import yaml
from prometheus_client import CollectorRegistry

from agent.core.attempts import Failure, Fault, Rendered
from agent.metrics import Metrics
from hub.forward.encoding import Encoder
from hub.forward.layouts import Layout
from hub.forward.spool import Batch
from hub.server.metrics import METRICS as METRICS_OF_A_HUB
from monitoring.dashboards.__main__ import FOLDER, files
from monitoring.dashboards.parts import RUNBOOK
from sonic import metrics
from sonic.metrics import Series
from sonic.v1 import jobs_pb2, nodes_pb2
from sonic_runtime.models.samples import Samples
from tests.integration.fleet import Fleet, running_fleet
from tests.integration.receivers import Prometheus, receivers, until

from .promtool import RULES

OPERATOR, TENANT = "operator", "acme"
BOARDS = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
MODEL = "stand-in-1"
REGION, NODE = "eu", "box-gpu"
CALM = "sonic_region:render_seconds_per_video_second:calm"
CALM_S, LATELY_S, STEP_S = 140 * 60, 15 * 60, 30


class Asked(NamedTuple):
    """A query and where it stands."""

    board: str
    panel: str
    expr: str
    instant: bool

    @property
    def tenant(self) -> str:
        return TENANT if self.board == "sonic-tenant" else OPERATOR


def test_the_files_are_what_the_code_says() -> None:
    assert {path: path.read_text() for path in FOLDER.glob("*")} == files(), "run `make docs`"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_a_board_explains_itself_and_leads_to_the_others(board) -> None:
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert [link["type"] for link in board["links"]] == ["dashboards", "link"]
    known = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)\b(?![.:])", json.dumps([panels, board["links"], board["annotations"]])))
    assert used <= known, f"{used - known} are no variables of this board"
    assert known - used <= {"region"}, f"{known - used} change nothing"
    assert f"`{board['uid']}`" in (FOLDER.parents[2] / "docs" / "dashboards.md").read_text()
    linked = re.findall(r"/d/([\w-]+)", json.dumps(board))
    assert set(linked) <= {other["uid"] for other in BOARDS}


def test_every_alert_leads_to_its_runbook() -> None:
    groups = [group for path in RULES.rglob("*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        name = re.fullmatch(RUNBOOK, rule["alert"])
        assert name
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name[1]}.md"


def asked() -> Iterator[Asked]:
    for board in BOARDS:
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield Asked(board["uid"], panel["title"], target["expr"], target.get("instant", False))
        for annotation in board["annotations"].get("list", ()):
            yield Asked(board["uid"], "annotations", annotation["expr"], False)


class Node:
    """A node with a GPU and every kind of trouble, as the agent's metrics tell of it; its region has become slow."""

    def __init__(self) -> None:
        self._metrics = Metrics(REGION, NODE)
        self._metrics.model(MODEL)
        self._events = 0

    def lives_on(self, seconds_per_video_second: float) -> None:
        """Another half minute."""
        told = self._metrics
        self._events += 1
        report = jobs_pb2.RenderReport(video_seconds=20).SerializeToString()
        for _ in range(3):
            told.ended(Rendered(report, 20 * seconds_per_video_second), TENANT)
            told.queued(2, TENANT)
        told.ended(Failure(Fault.CRASH, "WORKER_CRASHED", "it crashed"), TENANT)
        told.fetched(1_000_000, TENANT)
        told.worker_restarted("crash")
        told.reconnected()
        told.spool(1000, 100_000, {"too_old": 1})
        told.outbox(1)
        told.slots({"starting": 0, "ready": 1, "busy": 1, "backoff": 0})
        told.workers({0: 1_000_000_000})
        told.probes({"nvml": True})
        told.clock_offset(0.1)
        gpu = nodes_pb2.GpuHealth(
            uuid="GPU-0",
            utilization_percent=80,
            memory_used_bytes=8_000_000_000,
            temperature_celsius=85,
            power_watts=70,
            clock_hertz=1.5e9,
            throttle_reasons=["thermal"],
            ecc_corrected_errors=1,
            ecc_uncorrected_errors=0,
            pcie_generation=4,
            pcie_width=16,
            xid_events={79: self._events},
        )
        health = nodes_pb2.NodeHealth(
            cpu_percent=50, memory_available_bytes=1 << 33, disk_free_bytes=1 << 35, gpus=[gpu]
        )
        about = nodes_pb2.GpuInfo(
            uuid="GPU-0", name="NVIDIA L4", vendor="nvidia", memory_bytes=24_000_000_000, driver_version="570.86.15"
        )
        told.health(health, [about])

    def series(self) -> dict[Series, float]:
        return metrics.snapshot(self._metrics.registry)


class Hub:
    """A hub whose receiver refuses a tenant, and whose nodes fail."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._made: dict[str, Any] = dict(metrics.register(METRICS_OF_A_HUB, ("hub",), self._registry))

    def lives_on(self) -> None:
        for name, labels in (("refused_samples", ("sample-out-of-order",)), ("dropped_samples", ("too_old",))):
            self._made[f"sonic_hub_forward_{name}_total"].labels("stand-in", TENANT, *labels).inc(5)
        self._made["sonic_hub_forward_held"].labels("stand-in", TENANT, "401").set(1)
        self._made["sonic_hub_requeues_total"].labels("stand-in", "WORKER_CRASHED").inc()
        self._made["sonic_hub_node_up"].labels("stand-in", REGION, NODE).set(1)

    def series(self) -> dict[Series, float]:
        return metrics.snapshot(self._registry)


async def remember(stores: Mapping[str, Prometheus]) -> None:
    """Give the stores a past: a calm region, of which a node has become slow in the last quarter of an hour."""
    node, hub = Node(), Hub()
    calm = Series(CALM, (("model_version", MODEL), ("region", REGION)), "gauge", "")
    now_s = round(time.time())
    async with aiohttp.ClientSession() as http:
        for at_s in range(now_s - CALM_S, now_s + 1, STEP_S):
            if at_s < now_s - LATELY_S:
                await write(http, stores[OPERATOR], at_s, {calm: 0.4 + 0.01 * (at_s // STEP_S % 3)})
                continue
            node.lives_on(1.2)
            hub.lives_on()
            of_node = node.series()
            of_tenant = {series: value for series, value in of_node.items() if dict(series.labels).get("tenant")}
            others = {series: value for series, value in of_node.items() if series not in of_tenant}
            await write(http, stores[OPERATOR], at_s, others | hub.series())
            await write(http, stores[TENANT], at_s, of_tenant)


async def write(http: aiohttp.ClientSession, store: Prometheus, at_s: int, values: Mapping[Series, float]) -> None:
    layout = Layout("past", tuple(metrics.message(series).SerializeToString(deterministic=True) for series in values))
    (request,) = Encoder(1).requests([Batch(layout, at_s * 1000, np.array([*values.values()], float))], 10_000)
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    headers["X-Prometheus-Remote-Write-Version"] = "0.1.0"
    async with http.post(f"{store.url}/api/v1/write", data=request.body, headers=headers) as answer:
        assert answer.status == 204, await answer.text()


def load_rules(store: Prometheus, kind: str) -> None:
    """The rules of the operator or of tenants, evaluated every second and without waiting before an alert."""
    folder = store.folder / "rules"
    folder.mkdir()
    for path in RULES.glob(f"{kind}/*.yml"):
        content = yaml.safe_load(path.read_text())
        for group in content["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                rule.pop("for", None)
        (folder / path.name).write_text(yaml.safe_dump(content))
    (store.folder / "prometheus.yml").write_text(f"rule_files: ['{folder}/*.yml']\n")
    assert store.process.running
    store.process.running.send_signal(signal.SIGHUP)


async def render(fleet: Fleet, samples: Samples) -> None:
    def work() -> None:
        with fleet.client(TENANT) as client:
            client.wait(client.submit(samples.smile, samples.voice, min_resolution=256).job_id)

    await asyncio.to_thread(work)


def filled_in(text: str) -> str:
    text = text.replace("$__rate_interval", "2m")
    return re.sub(r"\$\{?[a-z_]+\}?", ".*", text)


async def finds(http: aiohttp.ClientSession, store: Prometheus, one: Asked) -> bool:
    """Whether there is a number in the answer, as Grafana would ask."""
    now_s = time.time()
    path, when = (
        ("query", {"time": now_s}) if one.instant else ("query_range", {"start": now_s - 600, "end": now_s, "step": 15})
    )
    params = {"query": filled_in(one.expr), **when}
    async with http.get(f"{store.url}/api/v1/{path}", params=params) as answer:
        found = await answer.json()
    assert found["status"] == "success", f"{one}: {found}"
    values = [value for series in found["data"]["result"] for _, value in series.get("values") or [series["value"]]]
    return any(value not in ("NaN", "+Inf", "-Inf") for value in values)


async def offers(http: aiohttp.ClientSession, store: Prometheus, query: str) -> list[str]:
    """The values of a variable."""
    match = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
    assert match, query
    params = {"match[]": filled_in(match[1])}
    async with http.get(f"{store.url}/api/v1/label/{match[2]}/values", params=params) as answer:
        return list((await answer.json())["data"])


@pytest.mark.integration
async def test_every_query_finds_something(
    samples: Samples, finder: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receivers(tmp_path, OPERATOR, TENANT) as gateway:
        stores = gateway.tenants
        await remember(stores)
        load_rules(stores[OPERATOR], "operator")
        load_rules(stores[TENANT], "tenant")
        monkeypatch.setenv("SONIC_FORWARD_URL", gateway.url)
        monkeypatch.setenv("SONIC_FORWARD_INTERVAL_S", "0.5")
        with contextlib.ExitStack() as stack:
            fleet = await asyncio.to_thread(stack.enter_context, running_fleet(tmp_path, ("box-1",)))
            async with aiohttp.ClientSession() as http:
                missing = list(asked())
                assert len(missing) > 100

                async def nothing_is_missing() -> bool:
                    await render(fleet, samples)  # a counter that is born with its first event grows with the next
                    missing[:] = [one for one in missing if not await finds(http, stores[one.tenant], one)]
                    return not missing

                with contextlib.suppress(AssertionError):
                    await until(nothing_is_missing, "", patience_s=120)
                assert not missing, "\n".join(f"{one.board}, {one.panel}: {filled_in(one.expr)}" for one in missing)

                assert {"box-1", NODE} <= set(
                    await offers(http, stores[OPERATOR], "label_values(sonic_slots, node_id)")
                )
                for board in BOARDS:
                    for variable in board["templating"]["list"]:
                        if variable["type"] == "query":
                            store = stores[TENANT if board["uid"] == "sonic-tenant" else OPERATOR]
                            assert await offers(http, store, variable["query"]["query"]), (
                                board["uid"],
                                variable["name"],
                            )
