"""`sonic models`: the weights that the engines need on this machine."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from sonic.cli import options, output, running
from sonic.cli.exit_codes import ExitCode
from sonic.exceptions import BadSettings

app = typer.Typer(help="See and fetch the models that the engines need.", no_args_is_help=True)
STORE_VARIABLE = "SONIC_MODEL_STORE"
Name = Annotated[
    str, typer.Argument(metavar="MODEL", help="The name of a model or of a version, see `sonic models list`.")
]


@app.command("list")
def list_models(json: options.Json = False) -> None:
    """List every model and whether it is here; files above 64 MiB are only measured."""
    found = _models().listing()
    if json:
        output.print_json([dataclasses.asdict(model) for model in found])
        return
    rows = [(model.name, model.version, model.problem or "ok", model.licence, str(model.path)) for model in found]
    output.table(("MODEL", "VERSION", "STATE", "LICENCE", "PATH"), rows)


@app.command()
@options.of(options.CLIENT)
def fetch(
    name: Name,
    folder: Annotated[
        Path | None,
        typer.Option("--from", exists=True, file_okay=False, help="Take it from this folder and from nowhere else."),
    ] = None,
    store: Annotated[
        str, typer.Option(envvar=STORE_VARIABLE, help="What `sonic models push` printed: take it from the hub's store.")
    ] = "",
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="Accept the terms of the model.")] = False,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Fetch a model and check it; one that is here and whole is left alone."""
    if store and not re.fullmatch(r"[0-9a-f]{64}", store):
        given_as = f"--store or {STORE_VARIABLE}"
        raise BadSettings(
            f"{given_as} is {store!r}; the 64 hexadecimal digits are wanted that `sonic models push` printed"
        )
    models = _models()
    running.need(*models.find(name).needs)

    def agree() -> bool:
        return accept_licence or (sys.stdin.isatty() and typer.confirm("Do you accept these terms?", err=True))

    shelf = running.need("sonic.cli.model_store", "runtime").Shelf(options.client_of(given), store) if store else None
    model = models.fetch(name, output.note, folder, shelf, agree)
    output.print_json(dataclasses.asdict(model)) if json else output.line(str(model.path))


@app.command()
@options.of(options.CLIENT)
def push(name: Name, json: options.Json = False, **given: Any) -> None:
    """Put a model that is here into the hub's store, for `sonic models fetch --store`."""
    models = _models()
    models.path(*models.named(name))  # says how to get one that is not here
    model = models.verify(name)
    if model.problem:
        output.note(f"error: {model.name} {model.version}: {model.problem}")
        raise typer.Exit(ExitCode.NOT_DONE)
    store = running.need("sonic.cli.model_store", "runtime")
    sha256 = running.run(store.push(options.client_of(given), model.path, output.note))
    output.print_json({"name": model.name, "version": model.version, "store": sha256}) if json else output.line(sha256)


@app.command()
def tiny(
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which weights are drawn.")] = 0,
    json: options.Json = False,
) -> None:
    """Draw a tiny Sonic in the layout of the published one, for tests and dry runs: it renders noise."""
    models = _models()
    running.need(*models.find("sonic-tiny").needs)
    model = models.draw_tiny(seed)
    output.print_json(dataclasses.asdict(model)) if json else output.line(str(model.path))


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A model or a version; without it all that are here.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Check a model's files against their hashes."""
    models = _models()
    names = [name] if name else [model.version for model in models.listing() if model.path.exists()]
    found = [models.verify(each) for each in names]
    if json:
        listed = [dataclasses.asdict(model) for model in found]
        output.print_json(listed[0] if name else listed)
    else:
        for model in found:
            output.line(f"{model.name} {model.version}: {model.problem or 'ok'}")
    if any(model.problem for model in found):
        raise typer.Exit(ExitCode.NOT_DONE)


@app.command()
def path(name: Name, json: options.Json = False) -> None:
    """Print where a model's files are."""
    models = _models()
    where = str(models.path(*models.named(name)))
    output.print_json({"path": where}) if json else output.line(where)


def _models() -> ModuleType:
    return running.need("sonic_runtime.models", "runtime")
