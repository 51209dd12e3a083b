"""Every alert fires when it should, and is silent where it would most likely cry wolf: by real promtool."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import yaml

from tests.monitoring import promtool
from tests.monitoring.promtool import RULES

FILES = sorted(str(path.relative_to(RULES)) for path in RULES.rglob("*.yml"))
HOUR, DAY = 60, 24 * 60
GIB = 2**30

A = 'region="eu",node_id="a",model_version="2"'
B = 'region="eu",node_id="b",model_version="2"'
GPU = f'{A},gpu="0",uuid="GPU-1"'
TENANT = 'hub="h1",tenant="studio"'


class Case(NamedTuple):
    """An alert at some minutes of a story: the labels that those have for which it fires; none, and it is silent."""

    name: str
    alert: str
    series: dict[str, str]
    at: Sequence[int]  # minutes
    fires: tuple[dict[str, str], ...] = ()
    every: int = 1  # minutes from sample to sample, and from evaluation to evaluation


def growing(per_step: float, steps: int, begin: float = 0) -> str:
    return f"{begin}{per_step:+}x{steps}"


def nodes_up(hub: str = "0x200", **by_node: str) -> dict[str, str]:
    nodes = {f'sonic_hub_node_up{{region="eu",node_id="{node}"}}': values for node, values in by_node.items()}
    return {'sonic_hub_store_failures_total{hub="h1"}': hub, **nodes}


def errors(requests: str, by_reason: dict[str, str]) -> dict[str, str]:
    failed = {f'sonic_node_error_total{{{A},reason="{reason}"}}': values for reason, values in by_reason.items()}
    return {f"sonic_node_request_total{{{A}}}": requests, **failed}


def renders(seconds_each: str) -> dict[str, str]:
    """A render every ten seconds; `seconds_each` is the growth of the sum per step of five minutes."""
    steps = sum(map(int, re.findall(r"x(\d+)", seconds_each)))
    name = "sonic_node_render_seconds_per_video_second"
    return {f"{name}_sum{{{A}}}": seconds_each, f"{name}_count{{{A}}}": growing(30, steps + 5)}


EU, NODE_A, NODE_B = {"region": "eu"}, {"region": "eu", "node_id": "a"}, {"region": "eu", "node_id": "b"}
STUDIO = {"tenant": "studio"}
HOT, COOL = "88x100", "70x100"
# Two hours and more at 0.2 seconds of work per second of video, then half an hour at 0.2 or at 0.4.
STEADY, SLOWED = "0+6x60", "0+6x48 300+12x12"
LEAK = {f"sonic_gpu_memory_total_bytes{{{GPU}}}": f"{80 * GIB}x200"}

CASES = (
    # Errors.
    Case(
        "a fifth of the attempts crash",
        "ErrorBudgetBurnFast",
        errors(growing(10, 120), {"WORKER_CRASHED": f"_x59 {growing(2, 60, 2)}"}),
        (45, 90),
        (EU,),
    ),
    Case(
        "eight of a hundred attempts crash for hours",
        "ErrorBudgetBurnFast",
        errors(growing(10, 300), {"WORKER_CRASHED": growing(0.8, 300)}),
        (240,),
        (EU,),
    ),
    Case(
        "callers send pictures without faces",
        "ErrorBudgetBurnFast",
        errors(growing(10, 120), {"NO_FACE": growing(8, 120), "VOICE_TOO_LONG": growing(1, 120)}),
        (30, 90),
    ),
    Case(
        "two of the four attempts of a quiet night fail",
        "ErrorBudgetBurnFast",
        errors("0x30 1x2 2x2 3x2 4x100", {"DEVICE_FAILED": "_x31 1x2 2x100"}),
        range(30, 60),
    ),
    Case(
        "an agent that has failed a lot comes back from a cut, and another is restarted",
        "ErrorBudgetBurnFast",
        {
            f"sonic_node_request_total{{{A}}}": f"{growing(10, 60, 5000)} _x30 {growing(10, 60, 6000)}",
            f'sonic_node_error_total{{{A},reason="WORKER_HUNG"}}': "900x60 _x30 900x60",
            f"sonic_node_request_total{{{B}}}": f"{growing(10, 60, 5000)} {growing(10, 90)}",
            f'sonic_node_error_total{{{B},reason="WORKER_HUNG"}}': "900x60",
        },
        (62, 92, 95, 110),
    ),
    Case(
        "three of a hundred fail for two days",
        "ErrorBudgetBurnSlow",
        errors(growing(100, 800), {"OUT_OF_MEMORY": growing(4, 800)}),
        (2 * DAY,),
        (EU,),
        every=5,
    ),
    Case(
        "two of a hundred fail for days",
        "ErrorBudgetBurnSlow",
        errors(growing(100, 900), {"OUT_OF_MEMORY": growing(2, 900)}),
        (3 * DAY,),
        (EU,),
        every=5,
    ),
    Case(
        "an incident was over hours ago",
        "ErrorBudgetBurnSlow",
        errors(growing(100, 800), {"OUT_OF_MEMORY": f"0x60 {growing(50, 24)} 1200x700"}),
        (DAY, DAY + 8 * HOUR),
        every=5,
    ),
    # Nodes.
    Case("one node of three is cut off", "NodeDown", nodes_up(a="1x30 0x30", b="1x60", c="1x60"), (40,), (NODE_A,)),
    Case(
        "a node is cut off while the hub is away for half an hour",
        "NodeDown",
        nodes_up(hub="0x30 stale _x30 0x60", a="1x30 stale _x30 0x60", b="1x30 stale _x30 1x60"),
        (75,),
        (NODE_A,),
    ),
    Case(
        "a node reboots, another leaves, and the hub that is restarted shows those that have left",
        "NodeDown",
        nodes_up(
            hub="0x60 stale _x2 0x60",
            a="1x20 0x3 1x36 stale _x2 0 1x60",
            b="1x20 stale _x42 0x60",
            c="1x58 stale _x4 0x60",
        ),
        range(120),
    ),
    Case(
        "all of a region are cut off",
        "RegionDown",
        nodes_up(a="1x30 0x30", b="1x30 0x30", c="1x60"),
        (40,),
        (EU,),
    ),
    Case(
        "one of three is away, and the hub is restarted",
        "RegionDown",
        nodes_up(hub="0x30 _x1 0x60", a="1x30 0x60", b="1x30 _x1 0 1x30", c="1x30 _x1 0 1x30"),
        range(60),
    ),
    Case(
        "a region is stopped for good, and the hub is restarted",
        "RegionDown",
        nodes_up(hub="0x60 stale _x2 0x60", a="1x50 stale _x12 0x60", b="1x20 stale _x42 0x60"),
        range(120),
    ),
    Case(
        "a worker dies every ten minutes",
        "WorkerRestarts",
        {
            f"sonic_node_request_total{{{A}}}": growing(1, 120),
            f'sonic_worker_restarts_total{{{A},reason="crashed"}}': "_x70 1x10 2x10 3x50",
        },
        (100,),
        (NODE_A,),
    ),
    Case(
        "one crash, and an agent whose count starts again",
        "WorkerRestarts",
        {
            f"sonic_node_request_total{{{A}}}": growing(1, 120),
            f'sonic_worker_restarts_total{{{A},reason="crashed"}}': "_x10 1x90",
            f'sonic_worker_restarts_total{{{B},reason="crashed"}}': "7x30 stale _x5 1x60",
        },
        (15, 40, 90),
    ),
    Case("a clock runs a minute ahead", "ClockSkew", {f"sonic_clock_offset_seconds{{{A}}}": "60x60"}, (30,), (NODE_A,)),
    Case(
        "a slow handshake, and a clock that is put right",
        "ClockSkew",
        {f"sonic_clock_offset_seconds{{{A}}}": "1.5x60", f"sonic_clock_offset_seconds{{{B}}}": "-30x10 0.1x60"},
        range(30),
    ),
    Case(
        "a spool was full while a node was cut off",
        "NodeDroppingSamples",
        {f'sonic_metric_samples_dropped_total{{{A},reason="spool_full"}}': "_x20 4000x40"},
        (25,),
        (NODE_A,),
    ),
    Case(
        "a loss of yesterday, and an agent whose count starts again",
        "NodeDroppingSamples",
        {
            f'sonic_metric_samples_dropped_total{{{A},reason="spool_full"}}': "4000x90",
            f'sonic_metric_samples_dropped_total{{{B},reason="disk"}}': "4000x40 0x50",
        },
        (35, 45, 80),
    ),
    Case(
        "the hub acknowledges nothing",
        "NodeSpoolNearBound",
        {
            f"sonic_metric_spool_bytes{{{A}}}": growing(1, 60, 70),
            f"sonic_metric_spool_limit_bytes{{{A}}}": "100x60",
        },
        (25,),
        (NODE_A,),
    ),
    Case(
        "a node comes back from a day's cut",
        "NodeSpoolNearBound",
        {
            f"sonic_metric_spool_bytes{{{A}}}": f"{growing(-1, 40, 99)} 0x20",
            f"sonic_metric_spool_limit_bytes{{{A}}}": "100x60",
        },
        range(40),
    ),
    Case(
        "a node is left behind by a release",
        "OldModelVersion",
        {
            'sonic_slots{region="eu",node_id="a",model_version="1",state="ready"}': "1x700",
            **{
                f'sonic_slots{{region="eu",node_id="{node}",model_version="{version}",state="ready"}}': values
                for node in "bcd"
                for version, values in (("1", "1x100 stale"), ("2", "_x101 1x600"))
            },
        },
        (100 * 5 + DAY + 30,),
        (NODE_A,),
        every=5,
    ),
    Case(
        "a canary takes its time, a release rolls on for hours, and a region has no version in common",
        "OldModelVersion",
        {
            'sonic_slots{region="eu",node_id="a",model_version="3",state="ready"}': "1x700",
            **{f'sonic_slots{{region="eu",node_id="{n}",model_version="2",state="ready"}}': "1x700" for n in "bcd"},
            'sonic_slots{region="us",node_id="e",model_version="1",state="ready"}': "1x700",
            **{
                f'sonic_slots{{region="us",node_id="{node}",model_version="{version}",state="ready"}}': values
                for node in "fgh"
                for version, values in (("1", "1x400 stale"), ("2", "_x401 1x300"))
            },
            'sonic_slots{region="ap",node_id="i",model_version="1",state="ready"}': "1x700",
            **{
                f'sonic_slots{{region="ap",node_id="{node}",model_version="{version}",state="ready"}}': values
                for node, later in (("j", "2"), ("k", "3"))
                for version, values in (("1", "1x100 stale"), (later, "_x101 1x600"))
            },
        },
        (DAY, 400 * 5 + HOUR, 400 * 5 + 6 * HOUR, 2 * DAY),
        every=5,
    ),
    Case(
        "two drivers for one kind of card",
        "DriverMismatch",
        {
            f'sonic_gpu_info{{{A},gpu="0",uuid="1",name="L4",vendor="nvidia",driver="550"}}': "1x300",
            f'sonic_gpu_info{{{B},gpu="0",uuid="2",name="L4",vendor="nvidia",driver="535"}}': "1x300",
        },
        (13 * HOUR,),
        ({"region": "eu", "name": "L4"},),
        every=5,
    ),
    Case(
        "unlike cards, another region, and a rollout of four hours",
        "DriverMismatch",
        {
            f'sonic_gpu_info{{{A},gpu="0",uuid="1",name="L4",vendor="nvidia",driver="535"}}': "1x50 stale",
            f'sonic_gpu_info{{{A},gpu="0",uuid="1",name="L4",vendor="nvidia",driver="550"}}': "_x50 1x250",
            f'sonic_gpu_info{{{B},gpu="0",uuid="2",name="L4",vendor="nvidia",driver="535"}}': "1x98 stale",
            f'sonic_gpu_info{{{B},gpu="0",uuid="2",name="L4",vendor="nvidia",driver="550"}}': "_x98 1x200",
            f'sonic_gpu_info{{{B},gpu="1",uuid="3",name="Orin",vendor="nvidia",driver="36.4"}}': "1x300",
            'sonic_gpu_info{region="us",node_id="c",model_version="2",name="L4",driver="560"}': "1x300",
        },
        (6 * HOUR, 14 * HOUR, 20 * HOUR),
        every=5,
    ),
    # GPUs.
    Case(
        "a hot GPU on a node that has become slow",
        "GPUHot",
        {f"sonic_gpu_temperature_celsius{{{GPU}}}": HOT, **renders(SLOWED)},
        (290,),
        (NODE_A,),
        every=5,
    ),
    Case(
        "a hot GPU that works as fast as ever",
        "GPUHot",
        {f"sonic_gpu_temperature_celsius{{{GPU}}}": HOT, **renders(STEADY)},
        (200, 290),
        every=5,
    ),
    Case(
        "a slow node whose GPU is cool",
        "GPUHot",
        {f"sonic_gpu_temperature_celsius{{{GPU}}}": COOL, **renders(SLOWED)},
        (290,),
        every=5,
    ),
    Case(
        "clocks are held down for heat, and the node is slow",
        "GPUThrottled",
        {
            f"sonic_gpu_utilization{{{GPU}}}": "90x100",
            f'sonic_gpu_throttled{{{GPU},reason="thermal"}}': "_x48 1x50",
            **renders(SLOWED),
        },
        (290,),
        ({**NODE_A, "reason": "thermal"},),
        every=5,
    ),
    Case(
        "a card at its power limit that works as fast as ever",
        "GPUThrottled",
        {
            f"sonic_gpu_utilization{{{GPU}}}": "90x100",
            f'sonic_gpu_throttled{{{GPU},reason="power"}}': "1x100",
            **renders(STEADY),
        },
        (200, 290),
        every=5,
    ),
    Case(
        "clocks that somebody has set, on a node that is slow",
        "GPUThrottled",
        {
            f"sonic_gpu_utilization{{{GPU}}}": "90x100",
            f'sonic_gpu_throttled{{{GPU},reason="setting"}}': "1x100",
            **renders(SLOWED),
        },
        (290,),
        every=5,
    ),
    Case(
        "a GPU falls off the bus",
        "XidErrors",
        {f'sonic_gpu_xid_total{{{GPU},code="79"}}': "_x20 1 stale"},
        (25,),
        ({**NODE_A, "code": "79"},),
    ),
    Case(
        "a render is killed, and an error of last week is still counted",
        "XidErrors",
        {
            f'sonic_gpu_xid_total{{{GPU},code="45"}}': growing(1, 60),
            f'sonic_gpu_xid_total{{{GPU},code="63"}}': "2x60",
        },
        (35, 50),
    ),
    Case(
        "bits are lost",
        "ECCErrors",
        {f'sonic_gpu_ecc_errors{{{GPU},kind="uncorrected"}}': "0x30 2x60"},
        (35,),
        (NODE_A,),
    ),
    Case(
        "errors are corrected, and the driver is loaded anew",
        "ECCErrors",
        {
            f'sonic_gpu_ecc_errors{{{GPU},kind="corrected"}}': growing(3, 90),
            f'sonic_gpu_ecc_errors{{{GPU},kind="uncorrected"}}': "5x30 0x60",
        },
        (35, 80),
    ),
    Case(
        "two GB of GPU memory are lost every hour",
        "GPUMemoryLeak",
        LEAK | {f"sonic_gpu_memory_used_bytes{{{GPU}}}": growing(GIB / 6, 200, 10 * GIB)},
        (9 * HOUR,),
        (NODE_A,),
        every=5,
    ),
    Case(
        "a model is loaded, and large jobs come and go",
        "GPUMemoryLeak",
        LEAK
        | {
            f"sonic_gpu_memory_used_bytes{{{GPU}}}": f"{GIB}x20 {20 * GIB}x40 "
            + " ".join(f"{20 * GIB} {size * GIB}" for size in range(25, 75))
        },
        tuple(hour * HOUR for hour in range(3, 13)),
        every=5,
    ),
    Case(
        "a worker grows without end",
        "WorkerMemoryLeak",
        {f'sonic_worker_memory_bytes{{{A},slot="0"}}': growing(1e7, 200, 1e9)},
        (9 * HOUR,),
        (NODE_A,),
        every=5,
    ),
    Case(
        "a worker warms up, and another is started again",
        "WorkerMemoryLeak",
        {
            f'sonic_worker_memory_bytes{{{A},slot="0"}}': f"{growing(2e7, 40, 1e9)} 1.8e9x160",
            f'sonic_worker_memory_bytes{{{B},slot="0"}}': f"{growing(1e7, 50, 1e9)} {growing(1e7, 50, 1e9)} 1.5e9x100",
        },
        tuple(hour * HOUR for hour in range(1, 16)),
        every=5,
    ),
    # Hubs.
    Case(
        "the only hub is gone",
        "HubDown",
        {'sonic_hub_store_failures_total{hub="h1"}': "0x20"},
        (30,),
        ({"scope": "hub"},),
    ),
    Case(
        "one hub of two is gone, and the other is restarted",
        "HubDown",
        {
            'sonic_hub_store_failures_total{hub="h1"}': "0x20",
            'sonic_hub_store_failures_total{hub="h2"}': "3x40 _x3 0x40",
        },
        range(20, 60),
    ),
    Case(
        "the store's disk is full",
        "StoreFailing",
        {'sonic_hub_store_failures_total{hub="h1"}': f"0x20 {growing(10, 30)}"},
        (35,),
        ({"hub": "h1"},),
    ),
    Case(
        "a switch dies, and half of the sessions with it",
        "SessionsVanished",
        {'sonic_hub_requeue_freezes_total{hub="h1"}': "0x20 1x40", 'sonic_hub_requeue_freezes_total{hub="h2"}': "3x60"},
        (22,),
        ({"hub": "h1"},),
    ),
    Case(
        "a hub is restarted that has frozen before",
        "SessionsVanished",
        {'sonic_hub_requeue_freezes_total{hub="h1"}': "2x20 0x40"},
        tuple(range(15, 40)),
    ),
    Case(
        "a node fails every probe",
        "NodesEjected",
        {'sonic_hub_nodes{hub="h1",region="eu",state="ejected"}': "0x10 1x60"},
        (45,),
        (EU,),
    ),
    Case(
        "nodes are ejected and come back by their probe",
        "NodesEjected",
        {'sonic_hub_nodes{hub="h1",region="eu",state="ejected"}': "0x10 1x20 0 2x20 0x30"},
        tuple(range(10, 70)),
    ),
    Case(
        "a database is switched over, and a hub is restarted",
        "StoreFailing",
        {
            'sonic_hub_store_failures_total{hub="h1"}': "0x20 4 8 12x60",
            'sonic_hub_store_failures_total{hub="h2"}': "50x20 0x60",
        },
        tuple(range(15, 50)),
    ),
    Case(
        "the token of a tenant is revoked",
        "ForwardingHeld",
        {f'sonic_hub_forward_held{{{TENANT},code="401"}}': "_x10 1x30"},
        (15,),
        ({**STUDIO, "code": "401"},),
    ),
    Case(
        "a gateway refuses for a minute",
        "ForwardingHeld",
        {f'sonic_hub_forward_held{{{TENANT},code="403"}}': "_x10 1 stale _x30"},
        range(9, 20),
    ),
    Case(
        "a tenant over its limits",
        "ForwardingLag",
        {f"sonic_hub_forward_lag_seconds{{{TENANT}}}": f"0x10 {growing(50, 60)}"},
        (40,),
        (STUDIO,),
    ),
    Case(
        "an hour of Mimir's absence is made good",
        "ForwardingLag",
        {f"sonic_hub_forward_lag_seconds{{{TENANT}}}": f"10x10 _x60 {growing(-100, 35, 3600)} 10x30"},
        tuple(range(70, 120, 3)),
    ),
    Case(
        "a receiver does not get through what it is sent",
        "SpoolNearBound",
        {
            f"sonic_hub_forward_spool_bytes{{{TENANT}}}": growing(1, 60, 60),
            f"sonic_hub_forward_spool_limit_bytes{{{TENANT}}}": "100x60",
        },
        (30,),
        (STUDIO,),
    ),
    Case(
        "a small tenant's samples wait for 20 hours",
        "SpoolNearBound",
        {
            f"sonic_hub_forward_spool_bytes{{{TENANT}}}": "1x60",
            f"sonic_hub_forward_spool_limit_bytes{{{TENANT}}}": "100x60",
            f"sonic_hub_forward_lag_seconds{{{TENANT}}}": growing(60, 60, 20 * 3600),
        },
        (30,),
        (STUDIO,),
    ),
    Case(
        "half of a spool is used, and then it empties",
        "SpoolNearBound",
        {
            f"sonic_hub_forward_spool_bytes{{{TENANT}}}": "50x10 85x2 10x60",
            f"sonic_hub_forward_spool_limit_bytes{{{TENANT}}}": "100x60",
            f"sonic_hub_forward_lag_seconds{{{TENANT}}}": "3600x60",
        },
        (5, 12, 14, 30),
    ),
    Case(
        "a spool overflows",
        "ForwardingDropping",
        {f'sonic_hub_forward_dropped_samples_total{{{TENANT},reason="spool_full"}}': "_x20 7000x30"},
        (22,),
        ({**STUDIO, "reason": "spool_full"},),
    ),
    Case(
        "what comes back from an outage is beyond the receiver's window",
        "ForwardingDropping",
        {
            f'sonic_hub_forward_refused_samples_total{{{TENANT},reason="sample-timestamp-too-old"}}': (
                f"_x20 {growing(500, 5, 500)} 3000x30"
            )
        },
        (22,),
        ({**STUDIO, "reason": "sample-timestamp-too-old"},),
    ),
    Case(
        "a loss of yesterday, and a hub that is restarted",
        "ForwardingDropping",
        {
            f'sonic_hub_forward_dropped_samples_total{{{TENANT},reason="spool_full"}}': "7000x60",
            f'sonic_hub_forward_dropped_samples_total{{{TENANT},reason="too_old"}}': "7000x30 stale _x30",
            f'sonic_hub_forward_refused_samples_total{{{TENANT},reason="sample-out-of-order"}}': growing(9, 60),
        },
        (20, 32, 50),
    ),
    Case(
        "a tenant has more series than it may",
        "ForwardingRefused",
        {f'sonic_hub_forward_refused_samples_total{{{TENANT},reason="max-series-per-user"}}': growing(100, 60)},
        (30,),
        ({**STUDIO, "reason": "max-series-per-user"},),
    ),
    Case(
        "a hub that died repeats what it had sent",
        "ForwardingRefused",
        {
            f'sonic_hub_forward_refused_samples_total{{{TENANT},reason="sample-out-of-order"}}': (
                "0x19 2000 4000 4000x40"
            )
        },
        tuple(range(18, 45)),
    ),
)


def groups(file: str) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load((RULES / file).read_text())["groups"]
    return groups


def rules(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Rules of a kind, `alert` or `record`, each with its file."""
    return [(file, rule) for file in FILES for group in groups(file) for rule in group["rules"] if kind in rule]


@functools.cache
def _fired(file: str, every: int) -> dict[tuple[str, int], list[dict[str, str]]]:
    """What fires in each case at each minute: promtool is told that all is silent, and says what is not."""
    alerts = {rule["alert"] for of, rule in rules("alert") if of == file}
    cases = [case for case in CASES if case.alert in alerts and case.every == every]
    output = promtool.run([file], [_as_test(case) for case in cases], f"{every}m")
    assert "error expanding" not in output, output
    fired: dict[tuple[str, int], list[dict[str, str]]] = {}
    name, at = "", 0
    for line in output.splitlines():
        if found := re.match(r"\s+name: (.*),$", line):
            name = found[1]
        elif found := re.match(r"\s+alertname: \S+, time: (\S+?),", line):
            at = _minutes(found[1])
        elif found := re.match(r"\s+Labels:(\{.*\})$", line):
            fired.setdefault((name, at), []).append(dict(re.findall(r'(\w+)="(.*?)"[,}]', found[1])))
    return fired


def _as_test(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "interval": f"{case.every}m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [{"alertname": case.alert, "eval_time": f"{at}m", "exp_alerts": []} for at in case.at],
    }


def _minutes(text: str) -> int:
    units = {"d": DAY, "h": HOUR, "m": 1, "s": 0}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([dhms])", text))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.name}")
def test_an_alert_fires_when_it_should_and_not_when_it_is_tempted(case: Case) -> None:
    file, rule = next((file, rule) for file, rule in rules("alert") if rule["alert"] == case.alert)
    told = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    got = [_fired(file, case.every).get((case.name, at), []) for at in case.at]
    if case.fires:
        last = got[-1]
        assert len(last) == len(case.fires), last
        for labels, wanted in zip(last, case.fires, strict=True):
            assert wanted.items() <= labels.items()
            assert told <= labels.keys(), "the annotations name labels that it does not have"
    else:
        assert not any(got), {at: labels for at, labels in zip(case.at, got, strict=True) if labels}
