"""Real promtool on the rules that are shipped."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers import binary

RULES = Path(__file__).resolve().parent.parent.parent / "monitoring" / "rules"
_GOT = re.compile(r"alertname: (\S+), time: (\S+),|^ +Labels:\{(.*)\}$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Check(NamedTuple):
    """An alert at a minute: whether it fires, for which of its series."""

    alert: str
    minute: float
    fires: bool


def series(name: str, labels: Mapping[str, str], values: Iterable[float]) -> dict[str, str]:
    """An input series, one value for each interval; none where it is NaN."""
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {
        "series": f"{name}{{{inside}}}",
        "values": " ".join("_" if value != value else f"{value:.9g}" for value in values),
    }


def firing(
    rules: Iterable[str], inputs: list[dict[str, str]], alert: str, minutes: Iterable[float], interval: str = "30s"
) -> dict[float, bool]:
    """At which of these minutes the alert fires, by asking promtool to find it silent at each."""
    minutes = list(minutes)
    return {m: fired for (_, m), fired in firing_all(rules, inputs, [alert], minutes, interval).items()}


def firing_all(
    rules: Iterable[str], inputs: list[dict[str, str]], alerts: Iterable[str], minutes: Iterable[float], interval: str
) -> dict[tuple[str, float], bool]:
    asked = [(alert, minute) for alert in alerts for minute in minutes]
    found = fired(rules, inputs, asked, interval)
    return {one: bool(found[one]) for one in asked}


def fired(
    rules: Iterable[str],
    inputs: list[dict[str, str]],
    asked: Iterable[tuple[str, float]],
    interval: str,
    evaluation_interval: str | None = None,
) -> dict[tuple[str, float], list[dict[str, str]]]:
    """The labels of all that fires of an alert at a minute, for each that is asked for."""
    found: dict[tuple[str, float], list[dict[str, str]]] = {one: [] for one in asked}
    test = {
        "interval": interval,
        "input_series": inputs,
        "alert_rule_test": [
            {"alertname": alert, "eval_time": f"{round(minute * 60)}s", "exp_alerts": []} for alert, minute in found
        ],
    }
    output = run(rules, [test], evaluation_interval or interval)
    for alert, at, labels in _GOT.findall(output):
        if alert:
            current = found[alert, _minutes(at)]
        else:
            current.append(dict(_LABEL.findall(labels)))
    return found


def run(rules: Iterable[str], tests: list[dict[str, Any]], interval: str) -> str:
    """What `promtool test rules` says."""
    import tempfile

    files = [str(RULES / name) for name in rules]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump({"rule_files": files, "evaluation_interval": interval, "tests": tests}, file)  # JSON is YAML
        file.flush()
        done = subprocess.run(
            [binary("promtool"), "test", "rules", file.name], capture_output=True, text=True, check=False
        )
    output = done.stdout + done.stderr
    assert "error" not in output.lower() or "FAILED" in output, output[:3000]
    return output


def _minutes(text: str) -> float:
    units = {"h": 60.0, "m": 1.0, "s": 1 / 60, "ms": 1 / 60_000, "d": 1440.0, "w": 10_080.0, "y": 525_600.0}
    return round(sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|[ywdhms])", text)), 4)
