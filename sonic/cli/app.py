"""The tree of commands. Heavy imports wait until a command needs them, so that help comes at once."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sonic.cli import (
    batch,
    demo,
    doctor,
    gameday,
    jobs,
    keys,
    models,
    nodes,
    render,
    running,
    services,
    settings,
    submit,
    tenants,
)


class Commands(TyperGroup):
    """The top of the command tree. No traceback gets past it, unless SONIC_DEBUG=1 asks for it."""

    def main(self, *args: Any, **more: Any) -> Any:
        return running.guarded(lambda: super(Commands, self).main(*args, **more))


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


app.command()(submit.submit)
app.command()(batch.batch)
app.command()(render.render)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command()(gameday.gameday)
app.add_typer(jobs.app, name="jobs")
app.add_typer(nodes.app, name="nodes")
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")
app.add_typer(models.app, name="models")
app.add_typer(settings.app, name="config")
app.add_typer(services.hub_app, name="hub", rich_help_panel="Services")
app.add_typer(services.agent_app, name="agent", rich_help_panel="Services")
