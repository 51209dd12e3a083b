"""The `sonic` command. Heavy imports wait until a command needs them, so that help comes at once."""

from __future__ import annotations

import logging
import os
import signal
from typing import Annotated

import typer

from sonic.cli import batch, demo, doctor, jobs, models, nodes, render, services, settings, submit
from sonic.cli.running import Commands

app = typer.Typer(
    name="sonic",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(metadata.version("sonic-fleet"))
        raise typer.Exit


@app.callback()
def sonic(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A portrait and a voice recording in, a talking video out, on a fleet of GPUs."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC would print is said in our own words
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


app.command()(submit.submit)
app.command()(batch.batch)
app.command()(render.render)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.add_typer(jobs.app, name="jobs")
app.add_typer(nodes.app, name="nodes")
app.add_typer(models.app, name="models")
app.add_typer(settings.app, name="config")
app.add_typer(services.hub_app, name="hub", rich_help_panel="Services")
app.command(rich_help_panel="Services")(services.agent)


def main() -> None:
    """The entry point of the `sonic` command; whatever asks it to end is like Ctrl-C, so that it clears away."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup a hangup means nothing
            signal.signal(number, signal.default_int_handler)
    app(prog_name="sonic")
