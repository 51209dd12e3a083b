"""Progress says something new with every line, and ends at the end."""

from __future__ import annotations

from sonic.cli import progress
from sonic.cli.progress import ProgressBar, describe
from sonic.v1 import jobs_pb2


def test_no_line_is_told_twice(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    with ProgressBar("render") as bar:
        for fraction, detail, phase in ((0.0, "queued", "a"), (0.0, "queued", "b"), (0.1, "queued", "b")):
            bar.show(fraction, detail, phase)
    assert capsys.readouterr().err.splitlines() == ["render   0% queued", "render  10% queued"]


def test_a_job_that_waits_says_within_what_time_it_should_be_done() -> None:
    within = jobs_pb2.SecondsRange(expected=150, low=95, high=300)
    job = jobs_pb2.Job(state=jobs_pb2.JOB_STATE_QUEUED, queue_position=3, eta_seconds=150)
    assert describe(job) == "queued, number 3 in the queue, about 2 min 30 s left"
    job.forecast.finish.CopyFrom(within)
    assert describe(job) == "queued, number 3 in the queue, done in 1 min 35 s to 5 min"
    job.state = jobs_pb2.JOB_STATE_RUNNING
    assert "about 2 min 30 s left" in describe(job)
