"""`sonic gameday`: let a node suffer a fault, to see what the fleet makes of it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

import typer

from sonic.cli import options, output, running
from sonic.cli.submit import FIRST_ANSWER_S, connect

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600}


class Fault(StrEnum):
    """The contract's GameDayFault, by its last word."""

    HEAT = "heat"
    XID = "xid"
    LEAK = "leak"
    SLOW = "slow"
    CUT = "cut"
    SKEW = "skew"


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([smh]?)", text)
    if not found or not 0 < int(found[1]) * _UNITS_S[found[2]] <= 86_400:
        raise typer.BadParameter(f"{text!r}; a time of up to a day is wanted, for example 90s, 5m or 1h")
    return float(int(found[1]) * _UNITS_S[found[2]])


@options.of(options.OPERATOR)
def gameday(
    fault: Annotated[Fault, typer.Argument(help="What the node is to suffer.")],
    node: Annotated[str, typer.Option(metavar="NODE", help="The id of a node whose agent runs with --plays-faults.")],
    seconds: Annotated[
        Any, typer.Option("--for", parser=_seconds, metavar="TIME", help="How long: 90s, 5m, 1h.")
    ] = "5m",
    end: Annotated[bool, typer.Option("--end", help="End the fault before its time.")] = False,
    **given: Any,
) -> None:
    """Let a node suffer a fault for a while: docs/game-days.md says what you will see."""
    settings = options.client_of(given)

    async def play() -> None:
        async with connect(settings, FIRST_ANSWER_S) as client:
            await client.play_fault(node, fault, 0.0 if end else seconds)

    running.run(play())
    if end:
        output.note(f"{node} ends {fault}")
    else:
        output.note(
            f"{node} plays {fault} for {output.seconds(seconds)}; to end it: sonic gameday {fault} --node {node} --end"
        )
