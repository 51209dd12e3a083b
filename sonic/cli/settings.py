"""`sonic config`: which settings hold, and where each came from."""

from __future__ import annotations

from typing import Any

import typer

from sonic import config, exceptions
from sonic.cli import options, output

app = typer.Typer(help="See which settings hold and where they come from.", no_args_is_help=True)


@app.command()
@options.of(options.CHECKS)
def show(json: options.Json = False, **given: Any) -> None:
    """Show every setting with its value and where it came from; secrets are masked."""
    settings = config.of_options(given)
    found = [setting for table in config.tables() for setting in settings.resolve(table).values()]
    if json:
        output.print_json(
            [{"key": f"{s.table}.{s.name}", "value": s.shown, "origin": s.origin, "source": s.source} for s in found]
        )
    else:
        rows = [(f"{s.table}.{s.name}", str(s.shown), s.origin, s.source) for s in found]
        output.table(("SETTING", "VALUE", "FROM", ""), rows)
    _check(settings)


def _check(settings: config.Settings) -> None:
    """Raises BadSettings with every table that cannot be used."""
    problems = []
    for table in config.tables():
        try:
            settings.build(config.kind_of(table))
        except exceptions.BadSettings as error:
            problems.append(str(error))
    if problems:
        raise exceptions.BadSettings("\n".join(problems))


@app.command()
@options.of(options.CONFIG)
def path(json: options.Json = False, **given: Any) -> None:
    """Print where the configuration file is, or would be."""
    where = config.of_options(given).path
    output.print_json({"path": str(where), "exists": where.exists()}) if json else output.line(str(where))
