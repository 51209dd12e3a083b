"""Worker processes: confined, in a session of their own, spoken to over their pipes, ended with all their children."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent import confinement, memory, wire
from agent.core import events
from agent.folders import Folders
from sonic import pipe
from sonic.v1 import worker_pb2

STOP_GRACE_S = 5.0  # after the end of its input
LAST_WORDS_S = 2.0  # to read what a dead worker had said
LOOK_S = 1.0
_log = logging.getLogger("agent.workers")
_said = logging.getLogger("agent.workers.stderr")

Post = Callable[[events.Event], None]


@dataclass(frozen=True)
class WorkerId:
    """One process: the slot that it serves and how many served it before."""

    slot: int
    generation: int

    def __str__(self) -> str:
        return f"worker-{self.slot}.{self.generation}"


class Workers:
    """The processes by slot and generation."""

    def __init__(self, command: tuple[str, ...], engine: str, folders: Folders, post: Post) -> None:
        self._command = (*command, "--engine", engine)
        self._folders = folders
        self._post = post
        self._processes: dict[WorkerId, Process] = {}

    async def live(self, worker: WorkerId, settings: Mapping[str, str], has_gpu: bool) -> None:
        """Start a worker, with `settings` in its environment, and report what it says, until it is gone."""
        kills_before = memory.oom_kills()
        temporary = self._folders.temporary(str(worker))
        environment = {
            **confinement.environment(os.environ),
            "TMPDIR": str(temporary),
            "TORCHINDUCTOR_CACHE_DIR": str(self._folders.compiled),  # else it would go with the worker
            **settings,
        }
        limits = confinement.Limits(address_bytes=None if has_gpu else 2 * confinement.physical_bytes())
        if not shutil.which(self._command[0]):
            why = f"{self._command[0]} could not be started: No such file or directory"
            self._exited(worker, events.ExitCause.CRASHED, why)
            return
        try:
            temporary.mkdir(mode=0o700)
            process = await asyncio.create_subprocess_exec(
                *confinement.command(limits, self._command),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            self._exited(worker, events.ExitCause.CRASHED, f"it could not be started: {error.strerror}")
            return
        _log.info("worker started", extra={"worker": str(worker), "pid": process.pid} | dict(settings))
        self._processes[worker] = process
        last_words = ""
        try:
            last_words = await self._attend(worker, process)
        finally:
            del self._processes[worker]
            _kill(process)
            process._transport.close()  # type: ignore[attr-defined] # its pipes, which would stay open as long
            shutil.rmtree(temporary, ignore_errors=True)
        cause, detail = _verdict(process.returncode or 0, memory.oom_kills() > kills_before)
        self._exited(worker, cause, detail, last_words)

    def memory_bytes(self) -> dict[int, int]:
        """Resident memory of the processes by slot."""
        held = {worker.slot: memory.resident_bytes(process.pid) for worker, process in self._processes.items()}
        return {slot: count for slot, count in held.items() if count}

    def send(self, worker: WorkerId, command: worker_pb2.WorkerCommand) -> None:
        """Say something to a worker; one that is gone does not hear it."""
        process = self._processes.get(worker)
        if process and process.stdin and not process.stdin.is_closing():
            process.stdin.write(pipe.encode(command))

    def kill(self, worker: WorkerId, why: str) -> None:
        """End a worker and its children at once."""
        _log.warning("worker killed", extra={"worker": str(worker), "why": why})
        if process := self._processes.get(worker):
            _kill(process)

    def hold(self, still: bool) -> None:
        """Stop all workers where they are, or let them go on."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGSTOP if still else signal.SIGCONT)

    async def stop(self) -> None:
        """Let all workers end by themselves, then by force."""
        processes = list(self._processes.values())
        for process in processes:
            if process.stdin:
                process.stdin.close()
        waiting = [asyncio.create_task(_exit(process), name=f"end of {process.pid}") for process in processes]
        if waiting:
            await asyncio.wait(waiting, timeout=STOP_GRACE_S)
        for process in processes:
            _kill(process)

    async def _attend(self, worker: WorkerId, process: Process) -> str:
        """Read both pipes until the process ends, and then what is left in them; the last line of its errors."""
        assert process.stdout
        assert process.stderr
        stderr = _Words(worker, process.stderr)
        readers = [
            asyncio.create_task(self._hear(worker, process, process.stdout), name=f"{worker} events"),
            asyncio.create_task(stderr.forward(), name=f"{worker} stderr"),
        ]
        try:
            await _exit(process)
            await asyncio.wait(readers, timeout=LAST_WORDS_S)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)
        return stderr.last

    async def _hear(self, worker: WorkerId, process: Process, stdout: asyncio.StreamReader) -> None:
        try:
            while message := await pipe.read_async(stdout, worker_pb2.WorkerEvent):
                if event := wire.from_worker(worker.slot, worker.generation, message):
                    self._post(event)
        except pipe.BrokenMessage as error:
            _log.error("worker is not understood", extra={"worker": str(worker), "why": str(error)})
            _kill(process)

    def _exited(self, worker: WorkerId, cause: events.ExitCause, detail: str, last_words: str = "") -> None:
        _log.info("worker gone", extra={"worker": str(worker), "cause": str(cause), "detail": detail})
        self._post(events.WorkerExited(worker.slot, worker.generation, cause, detail, last_words))


class _Words:
    """What a worker writes to its standard error, which goes into the agent's log line by line."""

    def __init__(self, worker: WorkerId, stderr: asyncio.StreamReader) -> None:
        self._worker = str(worker)
        self._stderr = stderr
        self.last = ""

    async def forward(self) -> None:
        """Until the end; an overlong line is left out."""
        while True:
            try:
                line = await self._stderr.readline()
            except ValueError:
                continue
            if not line:
                return
            self._relay(line.decode("utf-8", "replace").rstrip())

    def _relay(self, line: str) -> None:
        """Log a line again, with its level and fields if the worker logs in JSON as the agent does."""
        try:
            told = dict(json.loads(line))
            level = logging.getLevelNamesMapping()[told.pop("level").upper()]
            message = told.pop("message")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.last = line
            _said.info(line, extra={"worker": self._worker})
            return
        self.last = f"{message} {told.get('detail', '')}".rstrip()
        _said.log(level, message, extra={"worker": self._worker, "told": told})


async def _exit(process: Process) -> None:
    """Until a process has ended. asyncio's `wait` also waits for its pipes, which a child that it left may hold."""
    waiting = asyncio.create_task(process.wait(), name=f"end of {process.pid}")
    try:
        while process.returncode is None:
            await asyncio.wait([waiting], timeout=LOOK_S)
    finally:
        waiting.cancel()


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _verdict(status: int, out_of_memory: bool) -> tuple[events.ExitCause, str]:
    if status >= 0:
        return events.ExitCause.CRASHED, f"it ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    if status == -signal.SIGKILL and out_of_memory:
        return events.ExitCause.OUT_OF_MEMORY, "the kernel ended it because memory ran out"
    return events.ExitCause.CRASHED, f"it was ended by {name}"
