"""`sonic render`: a video on this machine, without a hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonic import exceptions, files
from sonic.cli import options, output, running
from sonic.cli.progress import ProgressBar

if TYPE_CHECKING:
    from sonic.v1 import jobs_pb2, parameters_pb2


@options.of(options.PARAMETERS)
def render(
    portrait: Annotated[Path, typer.Option(help="A picture of a face: JPEG, PNG, WebP or HEIC.")],
    audio: Annotated[Path, typer.Option(help="A voice recording: WAV, MP3, M4A, FLAC, OGG …")],
    out: Annotated[Path, options.out("Where the video goes.")],
    engine: Annotated[str, typer.Option(help="Which engine renders.")] = "warp",
    json: options.Json = False,
    **given: Any,
) -> None:
    """Render one video on this machine; no hub is needed."""
    from sonic.client import wire_parameters

    wanted = wire_parameters(options.parameters_of(given), engine)
    files.check_inputs(portrait, audio)
    files.check_output(out, portrait, audio)
    try:
        report = _render(portrait, audio, out, engine, wanted)
    except KeyboardInterrupt:
        kept = "; the same command goes on where it was" if _state_of(out).exists() else ""
        raise exceptions.Interrupted(f"stopped; {out} was not written{kept}") from None
    for warning in report.warnings:
        output.note(f"warning: {warning.message}")
    if json:
        output.print_json(output.plain(report) | {"output": str(out)})
        return
    for stage in report.stages:
        output.note(f"{stage.stage:<10} {stage.seconds:7.2f} s")
    output.line(str(out))


def _state_of(out: Path) -> Path:
    """Where the state of a long render is kept until the video is there."""
    return out.with_name(f".{out.name}.state")


def _render(
    portrait: Path, audio: Path, out: Path, engine: str, wanted: parameters_pb2.RenderParameters
) -> jobs_pb2.RenderReport:
    running.need("sonic_runtime.pipeline", "runtime")
    from sonic_runtime import engines, faces, pipeline
    from sonic_runtime.checkpoint import Checkpoint

    logging.getLogger("sonic_runtime").setLevel(logging.ERROR)
    request = pipeline.Request(portrait, audio, out, wanted, Checkpoint(_state_of(out), (portrait, audio)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise exceptions.FileTrouble(f"{out.parent} cannot be made: {error.strerror}") from error
    with ProgressBar("render") as bar:
        tracker = pipeline.Tracker(bar.show_progress, lambda: False)
        report = pipeline.render(request, engines.load(engine), faces.FaceFinder(), tracker)
        bar.show(1.0, "done", "done")
        return report
