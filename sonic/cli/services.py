"""`sonic hub` and `sonic agent`: the two long-running programs."""

from __future__ import annotations

import importlib
from typing import Any

from sonic import config, exceptions, logs
from sonic.cli import options, running


@options.of(options.service("hub", "forward"))
def hub(**given: Any) -> None:
    """Run a hub until it is told to stop (SIGTERM or Ctrl-C)."""
    _serve("hub", given, "forward")


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
