"""A worker's end is noticed and told for what it was, whatever it leaves behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.core import events
from agent.folders import claimed
from agent.workers import WorkerId, Workers

LEFT_BEHIND = "setsid sleep 1000 & echo $! > {pid}; exit 3"  # it holds the pipes of the worker


async def end_of(folder: Path, script: str) -> events.WorkerExited:
    told: list[events.Event] = []
    with claimed(folder) as folders:
        workers = Workers(("/bin/sh", "-c", script), "warp", folders, told.append)
        await asyncio.wait_for(workers.live(WorkerId(0, 1), {}, False), 60)
    (exited,) = told
    assert isinstance(exited, events.WorkerExited)
    return exited


async def test_a_worker_that_has_ended_is_gone_although_a_child_of_it_lives_on(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    exited = await end_of(tmp_path / "data", LEFT_BEHIND.format(pid=pid))
    try:
        assert exited.detail == "it ended with exit status 3"
    finally:
        await (await asyncio.create_subprocess_exec("kill", pid.read_text().strip())).wait()


@pytest.mark.parametrize(("number", "name"), [(11, "SIGSEGV"), (40, "signal 40")])
async def test_the_signal_that_ended_a_worker_is_named(tmp_path: Path, number: int, name: str) -> None:
    exited = await end_of(tmp_path / "data", f"kill -{number} $$")
    assert (exited.cause, exited.detail) == (events.ExitCause.CRASHED, f"it was ended by {name}")
