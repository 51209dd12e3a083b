"""The rules as such: valid, within limits, of metrics that there are, each alert tried and explained."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.metrics import COMMON
from agent.metrics import METRICS as OF_NODES
from hub.server.metrics import METRICS as OF_HUBS
from tests.monitoring import promtool
from tests.monitoring.promtool import RULES
from tests.monitoring.stories.case import growing
from tests.monitoring.test_rules_stories import CASES, FILES, groups, rules
from tests.servers import binary

ROOT = RULES.parent.parent


@pytest.mark.parametrize("alert", sorted(rule["alert"] for _, rule in rules("alert")))
def test_every_alert_is_tried_both_ways(alert: str) -> None:
    ways = {bool(case.fires) for case in CASES if case.alert == alert}
    elsewhere = [path for path in Path(__file__).parent.glob("test_*latency*.py") if f'"{alert}"' in path.read_text()]
    assert ways == {True, False} or elsewhere


@pytest.mark.parametrize(
    ("file", "rule"), rules("alert"), ids=lambda one: one["alert"] if isinstance(one, dict) else ""
)
def test_an_alert_says_whom_it_concerns_and_what_to_do(file: str, rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["labels"]["scope"] in ("region", "node", "tenant", "hub")
    assert {"summary", "description", "runbook_url"} == rule["annotations"].keys()
    assert (ROOT / rule["annotations"]["runbook_url"]).is_file(), f"{file}: {rule['annotations']['runbook_url']}"


def test_every_runbook_belongs_to_an_alert() -> None:
    wanted = {rule["annotations"]["runbook_url"] for _, rule in rules("alert")}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "docs/runbooks").glob("*.md")} <= wanted


def test_rules_are_valid() -> None:
    done = subprocess.run(
        [binary("promtool"), "check", "rules", *(RULES / file for file in FILES)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_keep_mimirs_limits() -> None:
    """20 rules in a group, 70 groups in a tenant, and no two groups of a tenant with one name."""
    for folder in ("operator", "tenant"):
        found = [group for file in FILES if file.startswith(folder) for group in groups(file)]
        assert 0 < len(found) <= 70
        assert len({group["name"] for group in found}) == len(found)
        assert all(len(group["rules"]) <= 20 for group in found)


def test_rules_name_only_what_there_is() -> None:
    metrics = {metric.name for metric in (*OF_NODES, *OF_HUBS)}
    histograms = {metric.name for metric in (*OF_NODES, *OF_HUBS) if metric.kind == "histogram"}
    known = (metrics - histograms) | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    for folder in ("operator", "tenant"):
        records = {rule["record"] for file, rule in rules("record") if file.startswith(folder)}
        for file, rule in [*rules("record"), *rules("alert")]:
            if file.startswith(folder):
                named = set(re.findall(r"\bsonic_[\w:]+", rule["expr"]))
                assert named <= known | records, f"{file}: {named - known - records}"


def test_rules_use_only_labels_that_there_are() -> None:
    known = {label for metric in (*OF_NODES, *OF_HUBS) for label in metric.labels}
    known |= {*COMMON, "hub", "le"} | {label for _, rule in rules("record") for label in rule.get("labels", ())}
    for file, rule in [*rules("record"), *rules("alert")]:
        matched = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', rule["expr"]))
        grouped = re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", rule["expr"])
        named = matched | {label.strip() for labels in grouped for label in labels.split(",")} - {""}
        assert named <= known, f"{file}: {named - known}"


def test_runbooks_ask_only_what_can_be_answered(tmp_path: Path) -> None:
    """Their queries are PromQL, of series that there are."""
    records = {rule["record"] for _, rule in rules("record")}
    metrics = {metric.name for metric in (*OF_NODES, *OF_HUBS)}
    queries = []
    for page in [*(ROOT / "docs/runbooks").glob("*.md"), ROOT / "docs/mimir-was-down.md"]:
        text = page.read_text()
        blocks = re.findall(r"```promql\n(.*?)```", text, re.S)
        inline = re.findall(r"`([^`\n]*\bsonic_[^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
        found = [*blocks, *(query for query in inline if not re.search("…|curl", query))]
        for name in re.findall(r"\bsonic_[\w:]+", " ".join(found)):
            assert {name, re.sub("_(bucket|sum|count)$", "", name)} & (metrics | records), f"{page.name}: {name}"
        queries += found
    assert len(queries) > 30
    asked = [{"record": "asked", "expr": one} for query in queries for one in _each(query)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "runbooks", "rules": asked}]}))
    done = subprocess.run([binary("promtool"), "check", "rules", file], capture_output=True, text=True)
    assert "parse error" not in done.stdout + done.stderr, done.stdout + done.stderr


def _each(block: str) -> list[str]:
    """The queries of a block: a new one begins where all brackets are closed and a line is not indented."""
    queries, depth = [""], 0
    for line in textwrap.dedent(block).splitlines():
        code = line.partition("#")[0]
        if depth == 0 and code and not code[0].isspace() and queries[-1]:
            queries.append("")
        queries[-1] += code + "\n"
        depth += sum(map(code.count, "([{")) - sum(map(code.count, ")]}"))
    return queries


def test_series_of_jobs_and_of_nodes_are_asked_for_where_they_are() -> None:
    """Those that carry a tenant go to that tenant, and all others to the operator."""
    jobs = {metric.name for metric in OF_NODES if "tenant" in metric.labels}
    for file, rule in [*rules("record"), *rules("alert")]:
        raw = {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"\bsonic_\w+(?![\w:])", rule["expr"])}
        assert raw <= jobs if file.startswith("tenant") else not raw & jobs, (file, raw)


def test_faults_leave_out_what_the_caller_caused_and_nothing_else() -> None:
    reasons = re.findall(
        r"\| `(\w+)` \| `(\w+)` \|", (ROOT / "docs/errors.md").read_text().partition("# A job fails")[2]
    )
    faults = next(rule["expr"] for _, rule in rules("record") if rule["record"] == "sonic_model:faults:rate5m")
    patterns = set(re.findall(r'reason!~"([^"]+)"', faults))
    assert len(patterns) == 1
    left_out = re.compile(patterns.pop())
    assert {reason for reason, _ in reasons if left_out.fullmatch(reason)} == {
        reason for reason, fault in reasons if fault == "BAD_INPUT" and reason != "INPUT_QUARANTINED"
    }  # which the hub says of a job; what nodes said of its attempts were faults


def test_records_say_what_their_names_say() -> None:
    """Two nodes of one model version and one of another, at known rates."""
    per_minute = {("a", "2"): (60, 6, 1), ("b", "2"): (60, 0, 3), ("c", "1"): (12, 0, 0)}
    inputs: dict[str, str] = {}
    for (node, version), (requests, failed, busy) in per_minute.items():
        labels = f'region="eu",node_id="{node}",model_version="{version}"'
        name = "sonic_node_error_total"
        inputs |= {
            f"sonic_node_request_total{{{labels}}}": growing(requests, 30),
            f'{name}{{{labels},reason="WORKER_CRASHED"}}': growing(failed / 2, 30),
            f'{name}{{{labels},reason="NO_FACE"}}': growing(failed / 2, 30),
            f'sonic_slots{{{labels},state="busy"}}': f"{busy}x30",
            f'sonic_slots{{{labels},state="ready"}}': f"{4 - busy}x30",
            f'sonic_gpu_utilization{{{labels},gpu="0",uuid="{node}"}}': f"{busy * 25}x30",
        }
        jobs = f'{labels},tenant="studio"'
        inputs |= {
            f"sonic_request_total{{{jobs}}}": growing(requests, 30),
            f'sonic_error_total{{{jobs},reason="NO_FACE"}}': growing(failed, 30),
            f'sonic_render_seconds_per_video_second_bucket{{{jobs},le="0.2"}}': growing(requests / 2, 30),
            f'sonic_render_seconds_per_video_second_bucket{{{jobs},le="0.3"}}': growing(requests, 30),
            f'sonic_render_seconds_per_video_second_bucket{{{jobs},le="+Inf"}}': growing(requests, 30),
        }
    one, two = '{region="eu", model_version="1"}', '{region="eu", model_version="2"}'
    of_operator: dict[str, dict[str, float]] = {
        "sonic_region:requests:rate5m": {'{region="eu"}': 132 / 60},
        "sonic_region:slots:busy_ratio": {'{region="eu"}': 4 / 12},
        "sonic_model:slots:busy_ratio": {one: 0, two: 4 / 8},
        "sonic_model:gpu_utilization:avg": {one: 0, two: 50},
        "sonic_model:error_ratio:5m": {one: 0, two: 6 / 120},
        "sonic_model:fault_ratio:5m": {one: 0, two: 3 / 120},
        "sonic_model:fault_ratio:1h": {one: 0, two: 3 / 120},
    }
    of_tenant: dict[str, dict[str, float]] = {
        "sonic_region:requests:rate5m": {'{region="eu"}': 132 / 60},
        "sonic_model:error_ratio:5m": {one: 0, two: 6 / 120},
        "sonic_model:render_seconds_per_video_second:p50": {one: 0.2, two: 0.2},
        "sonic_model:render_seconds_per_video_second:p95": {one: 0.29, two: 0.29},
        "sonic_model:render_seconds_per_video_second:p99": {one: 0.298, two: 0.298},
    }
    for files, wanted in (
        (["operator/errors.yml", "operator/capacity.yml"], of_operator),
        (["tenant/renders.yml"], of_tenant),
    ):
        test = {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in inputs.items()],
            "promql_expr_test": [
                {
                    "expr": f"round({record}, 0.0001)",
                    "eval_time": "20m",
                    "exp_samples": [{"labels": labels, "value": round(value, 4)} for labels, value in by.items()],
                }
                for record, by in wanted.items()
            ],
        }
        output = promtool.run(files, [test], "1m")
        assert "FAILED" not in output, output
