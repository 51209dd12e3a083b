"""`sonic hub` and `sonic agent`: the two long-running programs, and what else is done for a hub."""

from __future__ import annotations

from typing import Any

import typer

from sonic import exceptions
from sonic.cli import options, rules, serving

hub_app = typer.Typer(invoke_without_command=True)
hub_app.add_typer(rules.app, name="rules")


@hub_app.callback()
@options.of(options.service("hub", "forward"))
def hub(context: typer.Context, **given: Any) -> None:
    """Run a hub until it is told to stop (SIGTERM or Ctrl-C)."""
    if context.invoked_subcommand is None:
        serving.become("hub", given)
    elif any(given.values()):
        raise exceptions.BadSettings(f"put the options behind the command: sonic hub {context.invoked_subcommand} … ")


@options.of(options.service("agent"))
def agent(**given: Any) -> None:
    """Run an agent on this machine; SIGTERM drains it."""
    serving.become("agent", given)
