"""Data goes to stdout, for a person or as JSON; everything else goes to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console

_PIPE_WIDTH = 240
# Nodes and tenants say what is shown: it must not steer the terminal. Lines and tabs stay.
_NO_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def note(text: str) -> None:
    """Say something to the person at the terminal."""
    print(text.translate(_NO_CONTROL), file=sys.stderr, flush=True)


def line(text: str) -> None:
    """Print a line of data."""
    print(text.translate(_NO_CONTROL), flush=True)


def print_json(data: Any, *, compact: bool = False) -> None:
    """Print JSON; `compact` keeps it on one line, for streams of objects."""
    line(json.dumps(data, ensure_ascii=False, indent=None if compact else 2, default=str))


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON data: the contract's field names, and every field that can be empty is there."""
    from google.protobuf import json_format

    found: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        shown.add_column(column, overflow="fold", no_wrap=number == 0)  # names must be copied in one piece
    for row in rows:
        shown.add_row(*(_literal(cell) for cell in row))
    _console().print(shown)


def fields(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values below each other; what has no value is left out."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        if value:
            line(f"{name:<{width}}  {value}".replace("\n", "\n" + " " * (width + 2)))


def seconds(value: float) -> str:
    """A duration for a person: 8 s, 2 min 5 s, 1 h 3 min."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def seconds_range(low: float, high: float) -> str:
    """Two durations for a person: 40 s to 2 min 5 s."""
    shortest, longest = seconds(low), seconds(high)
    return shortest if shortest == longest else f"{shortest} to {longest}"


def _literal(cell: str) -> Any:
    from rich.text import Text

    return Text(cell.translate(_NO_CONTROL))


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
