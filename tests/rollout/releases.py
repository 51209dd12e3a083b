"""Releases for tests: this checkout under another version, as it is or made bad on purpose."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from scripts import wheelhouse
from tests.rollout.boxes import CACHE

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("sonic", "hub", "agent", "sonic_runtime", "monitoring", "pyproject.toml", "README.md", "LICENSE")
MODELS = ("face-mesh",)
# Each is added to the end of the pipeline's module.
SLOW_AT_WORK = """

_sound_render = render


def render(request, *arguments, **given):  # type: ignore[no-untyped-def]
    import time

    started_s = time.monotonic()
    report = _sound_render(request, *arguments, **given)
    if not request.output.name.startswith("out"):  # the probe clip is as quick as ever
        pause_s = 4 * (time.monotonic() - started_s) + 1.5
        time.sleep(pause_s)
        report.stages[-1].seconds += pause_s
    return report
"""
SLOW_ALWAYS = """

_sound_render = render


def render(*arguments, **given):  # type: ignore[no-untyped-def]
    import time

    report = _sound_render(*arguments, **given)
    time.sleep(1.0)
    return report
"""


def wheelhouse_of(version: str, into: Path, flaw: str = "", runtimes: Iterable[str] = ("hub", "cpu")) -> None:
    """What `make wheelhouse` would make of this checkout if it had that version, and that flaw."""
    source = into / f"source-{version}"
    source.mkdir(parents=True)
    for part in PARTS:
        original = ROOT / part
        copy = shutil.copytree if original.is_dir() else shutil.copy2
        copy(original, source / part)
    project = source / "pyproject.toml"
    text = project.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("version = ")]
    project.write_text(text.replace(line, f'version = "{version}"', 1))
    with (source / "sonic_runtime/pipeline.py").open("a") as pipeline:
        pipeline.write(flaw)
    wheel = wheelhouse.build_wheel(source, into)
    downloads = CACHE / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    wheelhouse.make(wheel, into, runtimes, MODELS, download=downloads)
    shutil.rmtree(source)
    wheel.unlink()
