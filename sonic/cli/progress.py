"""Progress of a job or a render, on stderr: a bar at a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sonic.cli import output
from sonic.v1 import jobs_pb2

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_INTERVAL_S = 5.0


class ProgressBar:
    """A share from 0 to 1 and what is being done. As lines, a change of `phase` is always worth one."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Progress | None = None
        self._phase = self._line = ""
        self._last_line_s = 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = _rich_bar()
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=1.0, detail="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, fraction: float, detail: str, phase: str) -> None:
        if self._bar:
            self._bar.update(self._task, completed=fraction, detail=detail)
            return
        now = time.monotonic()
        line = f"{self._title} {fraction:4.0%} {detail}"
        if line != self._line and (phase != self._phase or now - self._last_line_s >= LINE_INTERVAL_S):
            self._line, self._phase, self._last_line_s = line, phase, now
            output.note(line)

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            output.note(text)

    def show_job(self, job: jobs_pb2.Job) -> None:
        fraction = 1.0 if job.state == jobs_pb2.JOB_STATE_SUCCEEDED else job.progress.fraction
        self.show(fraction, describe(job), f"{job.state} {job.progress.stage} {job.queue_position}")

    def show_progress(self, progress: jobs_pb2.Progress) -> None:
        """A render in this process."""
        self.show(progress.fraction, _stage(progress), progress.stage)


def state_name(state: jobs_pb2.JobState.ValueType) -> str:
    """queued, running and so on."""
    return jobs_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower()


def describe(job: jobs_pb2.Job, why: str = "") -> str:
    """State, place in the queue, stage and when it should be done; `why` in the place of what a failure says."""
    said = [state_name(job.state)]
    if job.queue_position:
        said.append(f"number {job.queue_position} in the queue")
    if job.state == jobs_pb2.JOB_STATE_RUNNING and job.progress.stage:
        said.append(_stage(job.progress))
    if job.state == jobs_pb2.JOB_STATE_FAILED:
        said.append(why or job.failure.message)
    finish = job.forecast.finish
    if job.state == jobs_pb2.JOB_STATE_QUEUED and finish.high > 0:
        said.append(f"done in {output.seconds_range(finish.low, finish.high)}")
    elif job.eta_seconds > 0:
        said.append(f"about {output.seconds(job.eta_seconds)} left")
    return ", ".join(said)


def _stage(progress: jobs_pb2.Progress) -> str:
    return f"{progress.stage} {progress.done}/{progress.total}" if progress.total else progress.stage


def _rich_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
