"""`sonic hub` and `sonic agent`: the two long-running programs, and what else is done for a hub."""

from __future__ import annotations

import importlib
from typing import Any

import typer

from sonic import config, exceptions, logs
from sonic.cli import options, rules, running

hub_app = typer.Typer(invoke_without_command=True)
hub_app.add_typer(rules.app, name="rules")


@hub_app.callback()
@options.of(options.service("hub", "forward"))
def hub(context: typer.Context, **given: Any) -> None:
    """Run a hub until it is told to stop (SIGTERM or Ctrl-C)."""
    if context.invoked_subcommand is None:
        _serve("hub", given, "forward")
    elif any(given.values()):
        raise exceptions.BadSettings(f"put the options behind the command: sonic hub {context.invoked_subcommand} … ")


@options.of(options.service("agent"))
def agent(**given: Any) -> None:
    """Run an agent on this machine; SIGTERM drains it."""
    _serve("agent", given)


def _serve(name: str, given: dict[str, Any], *more: str) -> None:
    settings = options.settings_of(given, name)
    log = settings.build(config.LogConfig)
    chosen: list[Any] = [settings.build(config.kind_of(table)) for table in (name, *more)]
    logs.configure(log.format, log.level)
    service = running.need(f"{name}.service", name)
    try:
        running.run(service.run(*chosen))
    except importlib.import_module(f"{name}.config").InvalidConfig as error:
        raise exceptions.BadSettings(str(error)) from error
