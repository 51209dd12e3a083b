"""Progress says something new with every line, and ends at the end."""

from __future__ import annotations

from sonic.cli import progress
from sonic.cli.progress import ProgressBar


def test_no_line_is_told_twice(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    with ProgressBar("render") as bar:
        for fraction, detail, phase in ((0.0, "queued", "a"), (0.0, "queued", "b"), (0.1, "queued", "b")):
            bar.show(fraction, detail, phase)
    assert capsys.readouterr().err.splitlines() == ["render   0% queued", "render  10% queued"]
