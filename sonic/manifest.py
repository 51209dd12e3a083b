"""The rows of a batch: a CSV or JSONL file, read as a stream, each row judged by itself.

Columns: portrait, voice (or audio), output, priority, engine, model_version, prefer_regions, require_regions,
avoid_regions, deadline and every render parameter. A path that is not absolute is relative to the manifest; an empty
cell was not given. A deadline is a time, never a duration: a rerun must ask for the same.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sonic import deadlines, files, parameters, texts
from sonic.config import nearest
from sonic.exceptions import BadManifest
from sonic.parameters import SPECS, InvalidParameters, Problem, told

PRIORITY_LIMIT = 10
_REGIONS = ("prefer_regions", "require_regions", "avoid_regions")
_KINDS: dict[str, type] = {"priority": int, "engine": str, "model_version": str, "deadline": datetime}
_KINDS |= dict.fromkeys(_REGIONS, tuple) | {s.name: s.kind for s in SPECS}
_PRIORITIES = f"{-PRIORITY_LIMIT} to {PRIORITY_LIMIT}"
_WANTED = {"priority": f"a whole number from {_PRIORITIES}", "engine": "a name", "model_version": "a name"}
_WANTED |= {"deadline": deadlines.TIME_WANTED} | dict.fromkeys(_REGIONS, "names of regions with spaces between them")
_WANTED |= {s.name: s.wanted for s in SPECS}
_PATHS = ("portrait", "voice", "audio", "output")
_COLUMNS = (*_PATHS, *_KINDS)
Found = tuple[int, Mapping[str, Any], tuple[Problem, ...]]
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Row:
    """One video wanted."""

    line: int  # where the row begins, 1 is the first line of the file
    portrait: Path
    voice: Path
    output: Path | None
    wanted: Mapping[str, Any]  # parameters, priority, engine, model_version, regions, deadline (as it is written)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be submitted, with everything that is wrong with it."""

    line: int
    problems: tuple[Problem, ...]


def read(path: Path, defaults: Mapping[str, Any]) -> Iterator[Row | BadRow]:
    """The rows of a manifest, one after another; what a row says wins over `defaults`. Raises BadManifest."""
    for line, cells, problems in _cells(path):
        yield BadRow(line, problems) if problems else _judge(path.parent, line, cells, defaults)


def _cells(path: Path) -> Iterator[Found]:
    kinds = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows}
    if path.suffix.lower() not in kinds:
        raise BadManifest(f"{path} is neither .csv nor .jsonl; rename it, or convert it")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from kinds[path.suffix.lower()](path, file)
    except UnicodeDecodeError as error:
        raise BadManifest(f"{path} is not UTF-8 text: {error.reason} near byte {error.start}; convert it") from error
    except OSError as error:
        raise BadManifest(f"{path} cannot be read: {error.strerror}") from error


def inputs(path: Path) -> frozenset[Path]:
    """Every portrait and voice that a manifest names and that is there, resolved. Raises BadManifest."""
    named = {
        cells.get(field)
        for _, cells, problems in _cells(path)
        for field in ("portrait", "voice", "audio")
        if not problems and isinstance(cells.get(field), str)
    }
    found = (_file(path.parent, "", name, []) for name in named)
    return frozenset(file.resolve() for file in found if file)


def read_preset(path: Path) -> dict[str, Any]:
    """What holds for every row that does not say otherwise, from a TOML file. Raises BadManifest."""
    try:
        content = texts.toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadManifest(f"the preset {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadManifest(f"the preset {path} cannot be read: {error}") from error
    for name in content:
        if name not in _KINDS:
            raise BadManifest(f"the preset {path} has {name!r}, which does not exist; {nearest(name, _KINDS)}")
    problems: list[Problem] = []
    wanted = _values(content, problems)
    problems += _range_problems(wanted)
    if problems:
        raise BadManifest("\n".join(f"the preset {path}: {line}" for line in told(problems).splitlines()))
    return wanted


def _csv_rows(path: Path, file: Iterable[str]) -> Iterator[Found]:
    reader = csv.reader(file)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as error:
        raise BadManifest(f"{path} has a header that is not CSV: {error}; is a quote left open?") from error
    _check_header(path, header)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, {}, (Problem("row", f"is not CSV: {error}"),)
            continue
        if len(cells) > len(header):
            yield line, {}, (Problem("row", f"has {len(cells)} cells for {len(header)} columns; quote commas"),)
        elif any(cell.strip() for cell in cells):
            yield line, dict(zip(header, (cell.strip() for cell in cells), strict=False)), ()


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if name not in _COLUMNS:
            raise BadManifest(f"{path} has a column {name!r}, which does not exist; {nearest(name, _COLUMNS)}")
        if header.count(name) > 1:
            raise BadManifest(f"{path} has the column {name!r} twice; remove one")
    if "portrait" not in header or not {"voice", "audio"} & set(header):
        raise BadManifest(f"{path} needs the columns portrait and voice in its first line")


def _jsonl_rows(path: Path, file: Iterable[str]) -> Iterator[Found]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            cells = texts.parsed_json(text.strip())
        except ValueError as error:
            said = str(error).replace("line 1 column", "column")  # it has seen this line alone
            yield line, {}, (Problem("row", f"is not JSON: {said}"),)
            continue
        if not isinstance(cells, dict):
            yield line, {}, (Problem("row", 'is no JSON object; write {"portrait": …, "voice": …}'),)
            continue
        unknown = [name for name in cells if name not in _COLUMNS]
        yield line, cells, tuple(Problem(name, f"does not exist; {nearest(name, _COLUMNS)}") for name in unknown)


def _judge(folder: Path, line: int, cells: Mapping[str, Any], defaults: Mapping[str, Any]) -> Row | BadRow:
    problems: list[Problem] = []
    portrait = _file(folder, "portrait", cells.get("portrait"), problems)
    voice = _file(folder, "voice", cells.get("voice") or cells.get("audio"), problems)
    output = _video(folder, cells.get("output"), problems)
    wanted = dict(defaults) | _values({name: value for name, value in cells.items() if name in _KINDS}, problems)
    problems += _range_problems(wanted)
    if problems or not portrait or not voice:
        return BadRow(line, tuple(problems))
    return Row(line, portrait, voice, output, wanted)


def _file(folder: Path, field: str, value: Any, problems: list[Problem]) -> Path | None:
    if not isinstance(value, str) or not value:
        problems.append(Problem(field, f"is {value!r}; a path is wanted" if value else "is missing; a path is wanted"))
        return None
    path = folder / value
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):  # a name that no file can have
        pass
    problems.append(Problem(field, f"is {value!r}; there is no file {path}"))
    return None


def _video(folder: Path, value: Any, problems: list[Problem]) -> Path | None:
    if not value:
        return None
    if not isinstance(value, str) or not _is_possible(value):
        problems.append(Problem("output", f"is {value!r}; a path is wanted"))
        return None
    if problem := files.name_problem(value):
        problems.append(Problem("output", problem))
    return folder / value


def _is_possible(name: str) -> bool:
    """Whether any file can be called so."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # JSON can write half a character
        return False


def _values(cells: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """Cells as values of their kind; CSV has only texts."""
    found: dict[str, Any] = {}
    for name, value in cells.items():
        if value is None or value == "":
            continue
        try:
            found[name] = _value(_KINDS[name], value)
        except (ValueError, KeyError, TypeError, OverflowError):
            problems.append(Problem(name, f"is {value!r}; {_WANTED[name]} is wanted"))
    return found


def _value(kind: type, value: Any) -> Any:
    if kind is datetime:
        if isinstance(value, datetime):  # TOML has times
            value = value.isoformat()
        deadlines.parse_time(value)
        return value
    if kind is tuple:
        names = value.split() if isinstance(value, str) else value
        if not all(isinstance(name, str) for name in names):
            raise ValueError
        " ".join(names).encode()  # raises ValueError for half a character, which JSON can write and nobody can send
        return tuple(names)
    if isinstance(value, str):
        value.encode()  # likewise
        return _TRUTH[value.lower()] if kind is bool else kind(value)
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise ValueError


def _range_problems(wanted: Mapping[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    if abs(wanted.get("priority", 0)) > PRIORITY_LIMIT:
        problems.append(Problem("priority", f"is {wanted['priority']}; choose a value from {_PRIORITIES}"))
    try:
        given = {spec.name: wanted[spec.name] for spec in SPECS if spec.name in wanted}
        parameters.complete(given, wanted.get("engine", ""))
    except InvalidParameters as error:
        problems += [Problem(p.field.removeprefix("parameters."), p.description) for p in error.problems]
    return problems
