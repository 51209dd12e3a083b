"""Every alert fires when it should, and is silent where it would most likely cry wolf: by real promtool."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import yaml

from tests.monitoring import promtool
from tests.monitoring.promtool import RULES

from .stories import errors, gpus, hubs, nodes
from .stories.case import DAY, HOUR, Case

FILES = sorted(str(path.relative_to(RULES)) for path in RULES.rglob("*.yml"))
CASES = (*errors.CASES, *nodes.CASES, *gpus.CASES, *hubs.CASES)


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
