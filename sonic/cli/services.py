"""`sonic hub` and `sonic agent`: the two long-running programs, and what else is done for them."""

from __future__ import annotations

import importlib
from typing import Any

import typer

from sonic import config, exceptions, logs
from sonic.cli import options, output, rules, running, serving, tokens

hub_app = typer.Typer(invoke_without_command=True)
hub_app.add_typer(rules.app, name="rules")
hub_app.add_typer(tokens.app, name="token")
agent_app = typer.Typer(invoke_without_command=True)


@hub_app.callback()
@options.of(options.service("hub", "forward"))
def hub(context: typer.Context, **given: Any) -> None:
    """Run a hub until it is told to stop (SIGTERM or Ctrl-C)."""
    _become("hub", context, given)


@agent_app.callback()
@options.of(options.service("agent"))
def agent(context: typer.Context, **given: Any) -> None:
    """Run an agent on this machine; SIGTERM drains it."""
    _become("agent", context, given)


@agent_app.command()
@options.of(options.service("agent"))
def enrol(**given: Any) -> None:
    """Join with the token in join_token_file, and do no more. The agent does it by itself when it starts."""
    settings = config.of_options(given, "agent")
    log, chosen = settings.build(config.LogConfig), settings.build(config.kind_of("agent"))
    enrolment = running.need("agent.enrolment", "agent")
    logs.configure(log.format, log.level)
    try:
        identity = running.run(enrolment.join(chosen))
    except importlib.import_module("agent.config").InvalidConfig as error:
        raise exceptions.BadSettings(str(error)) from error
    if identity:
        output.note(f"this box is {', '.join(sorted(identity.names))}")


def _become(name: str, context: typer.Context, given: dict[str, Any]) -> None:
    if context.invoked_subcommand is None:
        serving.become(name, given)
    elif any(given.values()):
        raise exceptions.BadSettings(
            f"put the options behind the command: sonic {name} {context.invoked_subcommand} … "
        )
