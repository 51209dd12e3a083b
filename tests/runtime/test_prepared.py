"""A portrait that was prepared once is not prepared again, and renders to the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

from sonic.v1 import jobs_pb2, parameters_pb2
from sonic_runtime import engines
from sonic_runtime.faces import FaceFinder
from sonic_runtime.models.samples import Samples
from sonic_runtime.pipeline import Request, Tracker, render
from sonic_runtime.prepared import PreparedPortraits


def test_the_same_face_again(samples: Samples, finder: FaceFinder, tmp_path: Path) -> None:
    engine, kept = engines.load("warp"), PreparedPortraits(most=2)
    copy = shutil.copy(samples.portrait, tmp_path / "copy.jpg")

    def report(portrait: Path, name: str, side: int) -> jobs_pb2.RenderReport:
        wanted = parameters_pb2.RenderParameters(min_resolution=side)
        request = Request(portrait, samples.voice, tmp_path / name, wanted)
        return render(request, engine, finder, Tracker(lambda _progress: None, lambda: False), kept)

    first, again = report(samples.portrait, "a.mp4", 256), report(Path(copy), "b.mp4", 256)
    assert (first.portrait_was_prepared, again.portrait_was_prepared) == (False, True)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert not report(samples.portrait, "c.mp4", 320).portrait_was_prepared  # another size is other work
    assert not report(samples.smile, "d.mp4", 320).portrait_was_prepared
    assert not report(samples.portrait, "e.mp4", 256).portrait_was_prepared  # two are kept, and it was not of them
