"""Who hears of what: by real amtool, and by a real Alertmanager for what inhibits what."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.promtool import RULES
from tests.processes import free_port, process, wait_until_ready
from tests.servers import binary

CONFIG = RULES.parent / "alertmanager" / "alertmanager.yml"
ALERTS = {
    rule["alert"]: rule
    for path in RULES.rglob("*.yml")
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def _amtool(*arguments: str) -> str:
    done = subprocess.run([binary("amtool"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_alertmanager_takes_it() -> None:
    assert "SUCCESS" in _amtool("check-config", str(CONFIG))


def test_mimir_takes_it() -> None:
    """It refuses every setting that names a file, and certificates in the text."""

    def keys(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from part
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from keys(inner)

    found = set(keys(yaml.safe_load(CONFIG.read_text())))
    assert {"receivers", "webhook_configs"} <= found
    assert not [key for key in found if key.endswith("_file") or key == "tls_config"]


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=RegionDown severity=page scope=region region=us-east", "pager"),
        ("alertname=RegionDown severity=page scope=region region=eu-west", "pager-eu"),
        ("alertname=NodeDown severity=ticket scope=node region=us-east node_id=a", "tickets"),
        ("alertname=NodeDown severity=ticket scope=node region=eu-west node_id=a", "tickets-eu"),
        ("alertname=HubDown severity=page scope=hub", "pager"),
        ("alertname=ForwardingLag severity=ticket scope=tenant tenant=studio", "tickets"),
        ("alertname=SomebodyElses", "tickets"),
    ],
)
def test_an_alert_goes_to_those_whom_it_concerns(labels: str, receiver: str) -> None:
    assert _amtool("config", "routes", "test", f"--config.file={CONFIG}", *labels.split()) == receiver


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, address = tmp_path_factory.mktemp("alertmanager"), f"127.0.0.1:{free_port()}"
    program = binary("prometheus-alertmanager")
    command = [str(program), f"--config.file={CONFIG}", f"--storage.path={folder}"]
    command += [f"--web.listen-address={address}", "--cluster.listen-address="]
    if not Path("/usr/share/prometheus/alertmanager").is_dir():  # Debian's reads its templates there
        apart = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount --bind "$0" /usr/share && exec "$@"']
        apart.append(str(program.parent.parent / "share"))
        if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
            pytest.skip("there are no mount namespaces here; install prometheus-alertmanager")
        command = apart + command
    with process(command, folder / "log") as running:
        wait_until_ready(f"http://{address}/-/ready", running)
        yield f"http://{address}/api/v2/alerts"


Alert = tuple[str, ...]  # its name, and what else it was given


def _check_inhibited(url: str, alerts: list[dict[str, str]], wanted: set[Alert]) -> None:
    """These alone are inhibited when all of the alerts fire, once Alertmanager has got through them."""
    body = [{"labels": {**ALERTS[alert["alertname"]]["labels"], **alert}} for alert in alerts]
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=30).close()
    until, found = time.monotonic() + 60, set[Alert]()
    while time.monotonic() < until:
        with urllib.request.urlopen(url, timeout=30) as answer:
            status = {frozenset(one["labels"].items()): one["status"] for one in json.load(answer)}
        mine = [status.get(frozenset(one["labels"].items())) for one in body]
        found = {tuple(alert.values()) for alert, one in zip(alerts, mine, strict=True) if one and one["inhibitedBy"]}
        if all(one and one["state"] != "unprocessed" for one in mine) and found == wanted:
            return
        time.sleep(0.1)
    raise AssertionError(f"of {body} are inhibited {found}, wanted were {wanted}")


def test_a_region_that_is_cut_off_is_one_message(alertmanager: str) -> None:
    _check_inhibited(
        alertmanager,
        [
            {"alertname": "RegionDown", "region": "r1"},
            {"alertname": "NodeDown", "region": "r1", "node_id": "a"},
            {"alertname": "NodeDown", "region": "r2", "node_id": "b"},
            {"alertname": "RegionLatencyAnomaly", "region": "r1", "model_version": "2"},
            {"alertname": "RegionLatencyAnomaly", "region": "r2", "model_version": "2"},
        ],
        {("NodeDown", "r1", "a"), ("RegionLatencyAnomaly", "r1", "2")},
    )


def test_of_a_node_that_is_away_nothing_else_is_said(alertmanager: str) -> None:
    _check_inhibited(
        alertmanager,
        [
            {"alertname": "NodeDown", "region": "r3", "node_id": "a"},
            {"alertname": "XidErrors", "region": "r3", "node_id": "a"},
            {"alertname": "XidErrors", "region": "r3", "node_id": "b"},
        ],
        {("XidErrors", "r3", "a")},
    )


def test_the_louder_of_two_is_heard(alertmanager: str) -> None:
    _check_inhibited(
        alertmanager,
        [
            {"alertname": "ErrorBudgetBurnFast", "region": "r4", "model_version": "2"},
            {"alertname": "ErrorBudgetBurnSlow", "region": "r4", "model_version": "2"},
            {"alertname": "ErrorBudgetBurnSlow", "region": "r4", "model_version": "1"},
            {"alertname": "ForwardingHeld", "tenant": "studio", "hub": "h1"},
            {"alertname": "ForwardingLag", "tenant": "studio", "hub": "h1"},
            {"alertname": "ForwardingLag", "tenant": "another", "hub": "h1"},
            {"alertname": "SpoolNearBound", "tenant": "studio", "hub": "h1"},
        ],
        {("ErrorBudgetBurnSlow", "r4", "2"), ("ForwardingLag", "studio", "h1")},
    )


def test_many_that_vanish_at_once_are_one_message(alertmanager: str) -> None:
    """Near the end, as it silences every NodeDown."""
    _check_inhibited(
        alertmanager,
        [
            {"alertname": "SessionsVanished", "hub": "h1"},
            {"alertname": "RegionDown", "region": "r6"},
            {"alertname": "NodeDown", "region": "r6", "node_id": "a"},
            {"alertname": "RegionLatencyAnomaly", "region": "r7", "model_version": "2"},
        ],
        {("RegionDown", "r6"), ("NodeDown", "r6", "a")},
    )


def test_without_a_hub_only_that_is_said(alertmanager: str) -> None:
    """The last, as it silences all others."""
    _check_inhibited(
        alertmanager,
        [
            {"alertname": "HubDown"},
            {"alertname": "RegionLatencyAnomaly", "region": "r5", "model_version": "2"},
            {"alertname": "NodeDown", "region": "r5", "node_id": "a"},
            {"alertname": "ForwardingHeld", "tenant": "studio2", "hub": "h1"},
            {"alertname": "StoreFailing", "hub": "h1"},
        ],
        {("RegionLatencyAnomaly", "r5", "2"), ("NodeDown", "r5", "a"), ("ForwardingHeld", "studio2", "h1")},
    )
