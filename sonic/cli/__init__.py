"""The `sonic` command."""

from __future__ import annotations


def main() -> None:
    """The entry point."""
    from sonic.cli import app, running

    running.prepare()
    app.app(prog_name="sonic")
