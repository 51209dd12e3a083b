"""`sonic hub` and `sonic agent`: the two long-running programs."""

from __future__ import annotations

from typing import Any

from sonic.cli import options, serving


@options.of(options.service("hub", "forward"))
def hub(**given: Any) -> None:
    """Run a hub until it is told to stop (SIGTERM or Ctrl-C)."""
    serving.become("hub", given)


@options.of(options.service("agent"))
def agent(**given: Any) -> None:
    """Run an agent on this machine; SIGTERM drains it."""
    serving.become("agent", given)
