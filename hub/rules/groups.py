"""Rule files, read and brought into one form, so that what is the same reads the same whoever wrote it.

Prometheus' format: https://prometheus.io/docs/prometheus/latest/configuration/recording_rules/, with Mimir's additions
to a group (source_tenants, align_evaluation_time_on_interval, evaluation_delay).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sonic.exceptions import BadRules

Group = dict[str, Any]
Namespaces = dict[str, dict[str, Group]]  # groups by name, by namespace

OURS = ("sonic-operator-", "sonic-tenant-")  # begin the namespaces of ours; all others are somebody else's
_GROUP_KEYS = (
    "name",
    "interval",
    "query_offset",
    "evaluation_delay",
    "align_evaluation_time_on_interval",
    "limit",
    "source_tenants",
    "labels",
    "rules",
)
_RULE_KEYS = ("record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations")
_DURATIONS = ("interval", "query_offset", "evaluation_delay", "for", "keep_firing_for")
_ZERO_IS_NONE = ("interval", "for", "keep_firing_for", "limit", "align_evaluation_time_on_interval")
_UNITS_MS = {"y": 31_536_000_000, "w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile("".join(rf"(?:(\d+){unit})?" for unit in _UNITS_MS))


def shipped() -> Path:
    """The rules that come with the program: in its package once it is installed, else in the checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "monitoring" / "rules"
    return installed if installed.is_dir() else package.parent / "monitoring" / "rules"


def read(folder: Path, kind: str) -> Namespaces:
    """The groups of every file of a kind of tenant, operator or tenant. Raises BadRules.

    The kind is in the namespace's name, so that one tenant can have the rules of both.
    """
    if strays := sorted((folder / kind).glob("*.yaml")):
        raise BadRules(f"{strays[0]} would be passed over; call it {strays[0].stem}.yml")
    return {f"sonic-{kind}-{path.stem}": _read_file(path) for path in sorted((folder / kind).glob("*.yml"))}


def parsed(text: str, where: str) -> Any:
    """YAML with every scalar as the text that it is: a label `yes` or `1` is text to Mimir too. Raises BadRules."""
    try:
        return yaml.load(text, yaml.BaseLoader)  # noqa: S506 (it makes texts, lists and mappings only)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise BadRules(f"{where}{line} is not YAML: {getattr(error, 'problem', error)}") from error


def dumped(data: Any) -> str:
    """YAML, with texts of several lines as such."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return text


def normalised(group: Mapping[str, Any]) -> Group:
    """A group in the one form. Raises ValueError for a value that cannot be one of its key."""
    rules = [_ordered(rule, _RULE_KEYS) for rule in group.get("rules", ())]
    return _ordered({**group, "rules": rules}, _GROUP_KEYS)


def _read_file(path: Path) -> dict[str, Group]:
    try:
        content = parsed(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadRules(f"{path} cannot be read: {error}") from error
    listed = content.get("groups") if isinstance(content, dict) else None
    if not isinstance(listed, list) or set(content) != {"groups"}:
        raise BadRules(f"{path} is not a file of rules: a list called groups, and nothing beside it, is wanted")
    groups: dict[str, Group] = {}
    for number, group in enumerate(listed, 1):
        _check_mapping(path, f"group {number}", group, _GROUP_KEYS, ("name", "rules"))
        where = f"group {group['name']!r}"
        if group["name"] in groups:
            raise BadRules(f"{path} has {where} twice; give each a name of its own")
        if not isinstance(group["rules"], list):
            raise BadRules(f"{path}: {where} has no list of rules")
        for rule_number, rule in enumerate(group["rules"], 1):
            _check_rule(path, f"{where}, rule {rule_number}", rule)
        try:
            groups[group["name"]] = normalised(group)
        except ValueError as error:
            raise BadRules(f"{path}: {where}: {error}") from error
    return groups


def _check_rule(path: Path, where: str, rule: Any) -> None:
    _check_mapping(path, where, rule, _RULE_KEYS, ("expr",))
    if ("record" in rule) == ("alert" in rule):
        raise BadRules(f"{path}: {where} needs either record or alert, which names it")


def _check_mapping(path: Path, where: str, data: Any, known: Iterable[str], needed: Iterable[str]) -> None:
    if not isinstance(data, dict):
        raise BadRules(f"{path}: {where} is not a mapping")
    if missing := [key for key in needed if not data.get(key)]:
        raise BadRules(f"{path}: {where} has no {missing[0]}")
    if unknown := [key for key in data if key not in known]:
        raise BadRules(f"{path}: {where} has {unknown[0]!r}, which does not exist; known are {', '.join(known)}")


def _ordered(data: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    found = {key: _value(key, data[key]) for key in keys if data.get(key)}
    return {key: value for key, value in found.items() if value or key not in _ZERO_IS_NONE}


def _value(key: str, value: Any) -> Any:
    if key in _DURATIONS:
        return _duration(key, value)
    if key == "expr":
        return value.strip()
    if key == "limit":
        return int(value)
    if key == "align_evaluation_time_on_interval":
        return value == "true"
    return dict(sorted(value.items())) if isinstance(value, dict) else value


def _duration(key: str, text: str) -> str:
    """In hours, minutes, seconds and milliseconds; empty when it is no time and that is the same as none."""
    found = _DURATION.fullmatch(text)
    if text != "0" and not (found and any(found.groups())):
        raise ValueError(f"{key} is {text!r}; a duration is wanted, for example 5m")
    left = sum(int(n or 0) * unit for n, unit in zip(found.groups(), _UNITS_MS.values(), strict=True)) if found else 0
    said = ""
    for unit in ("h", "m", "s", "ms"):
        count, left = divmod(left, _UNITS_MS[unit])
        said += f"{count}{unit}" if count else ""
    return said or ("" if key in _ZERO_IS_NONE else "0s")


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
