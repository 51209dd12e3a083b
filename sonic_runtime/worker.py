"""The process on the node that holds an engine and renders: `python -m sonic_runtime.worker --engine warp`.

Commands come in on standard input and events go out on what was standard output, framed by `sonic.pipe`; the messages
are those of proto/sonic/v1/worker.proto. One thread reads commands, one says every second that the process lives, and
the main thread renders. The end of standard input, or SIGTERM, ends the process at once.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import queue
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from sonic import logs, pipe
from sonic.exceptions import BadSettings
from sonic.v1 import jobs_pb2, nodes_pb2, worker_pb2
from sonic_runtime import engines, errors, memory, probe, providers
from sonic_runtime.checkpoint import Checkpoint
from sonic_runtime.engines.base import Engine
from sonic_runtime.faces import FaceFinder
from sonic_runtime.media import encoders
from sonic_runtime.pipeline import Request, Tracker, render
from sonic_runtime.prepared import PreparedPortraits

ALIVE_INTERVAL_S = 1.0
EXIT_CANNOT_LOAD = 3
_PR_SET_PDEATHSIG = 1
_log = logging.getLogger("sonic_runtime.worker")


class Worker:
    """Loaded engines and the render under way."""

    def __init__(self, events: BinaryIO, engine_names: list[str]) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._cancelled: set[str] = set()
        self._work: queue.SimpleQueue[worker_pb2.RenderCommand | worker_pb2.ProbeCommand] = queue.SimpleQueue()
        self._ticks = 0
        encoders.candidates()  # a setting that cannot be used ends the worker before any render
        self._finder = FaceFinder()
        self._portraits = PreparedPortraits()
        self._engines: dict[str, Engine] = {name: engines.load(name) for name in engine_names}

    def run(self, commands: BinaryIO) -> None:
        """Until standard input ends; never returns."""
        threading.Thread(target=self._listen, args=(commands,), name="commands", daemon=True).start()
        threading.Thread(target=self._beat, name="alive", daemon=True).start()
        loaded = [nodes_pb2.EngineInfo(engine=e.name, model_version=e.model_version) for e in self._engines.values()]
        networks = [worker_pb2.NetworkInfo(network=n, provider=p) for n, p in providers.opened().items()]
        on_cpu = all(engine.on_cpu for engine in self._engines.values())
        self._send(loaded=worker_pb2.WorkerLoaded(engines=loaded, networks=networks, on_cpu=on_cpu))
        while True:
            command = self._work.get()
            try:
                self._carry_out(command)
            except errors.RenderError as error:
                _log.warning("render failed", extra={"render_id": command.render_id, "reason": error.reason})
                failed = worker_pb2.WorkerFailed(render_id=command.render_id, failure=error.to_wire())
                self._send(failed=failed)

    def _carry_out(self, command: worker_pb2.RenderCommand | worker_pb2.ProbeCommand) -> None:
        engine = self._engines.get(command.engine)
        if engine is None:
            raise errors.BadParameters(f"engine {command.engine!r} is not loaded here")
        tracker = self._tracker(command.render_id)
        if isinstance(command, worker_pb2.ProbeCommand):
            clip = probe.run(engine, self._finder, tracker)
            probed = worker_pb2.WorkerProbed(
                render_id=command.render_id, realtime_factor=clip.realtime_factor, digest=clip.digest
            )
            self._send(probed=probed)
            return
        portrait, voice = Path(command.portrait_path), Path(command.voice_path)
        checkpoint = self._checkpoint(command, portrait, voice) if command.checkpoint_path else None
        request = Request(portrait, voice, Path(command.output_path), command.parameters, checkpoint)
        memory.forget_peak()
        report = render(request, engine, self._finder, tracker, self._portraits)
        report.peak_memory_bytes = memory.peak_bytes()
        self._send(rendered=worker_pb2.WorkerRendered(render_id=command.render_id, report=report))

    def _checkpoint(self, command: worker_pb2.RenderCommand, *inputs: Path) -> Checkpoint:
        def kept(done: int, total: int) -> None:
            checkpointed = worker_pb2.WorkerCheckpointed(render_id=command.render_id, done=done, total=total)
            self._send(checkpointed=checkpointed)

        return Checkpoint(Path(command.checkpoint_path), inputs, kept)

    def _tracker(self, render_id: str) -> Tracker:
        def tell(progress: jobs_pb2.Progress) -> None:
            self._send(progress=worker_pb2.WorkerProgress(render_id=render_id, progress=progress))

        def cancelled() -> bool:
            self._ticks += 1
            return render_id in self._cancelled

        return Tracker(tell, cancelled)

    def _listen(self, commands: BinaryIO) -> None:
        try:
            while (message := pipe.read(commands, worker_pb2.WorkerCommand)) is not None:
                match message.WhichOneof("command"):
                    case "render":
                        self._work.put(message.render)
                    case "probe":
                        self._work.put(message.probe)
                    case "cancel":
                        self._cancelled.add(message.cancel.render_id)
        except pipe.BrokenMessage:
            _log.exception("the agent sent something that is not a command")
        os._exit(0)  # whatever is half-written is a hidden file that the agent wipes

    def _beat(self) -> None:
        stop = threading.Event()
        while not stop.wait(ALIVE_INTERVAL_S):
            self._send(alive=worker_pb2.WorkerAlive(resident_bytes=_resident_bytes(), progress_ticks=self._ticks))

    def _send(self, **event: object) -> None:
        data = pipe.encode(worker_pb2.WorkerEvent(**event))  # type: ignore[arg-type]
        with self._lock:
            self._events.write(data)
            self._events.flush()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _take_stdout() -> BinaryIO:
    """Keep standard output for events alone: whatever else prints goes to standard error."""
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return events


def main(arguments: list[str] | None = None) -> int:
    """Exit status EXIT_CANNOT_LOAD: an engine, a model that it needs or a setting cannot be used; the log says why."""
    parser = argparse.ArgumentParser(prog="sonic_runtime.worker", description=__doc__)
    parser.add_argument("--engine", action="append", choices=engines.names(), help="engine to load; may be repeated")
    wanted = parser.parse_args(arguments)
    events = _take_stdout()
    logs.configure("json", "info")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # no agent, no worker
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent to act on
    try:
        worker = Worker(events, wanted.engine or [engines.DEFAULT])
    except errors.RenderError as error:
        _log.error("cannot start", extra={"reason": error.reason, "detail": error.message})
        return EXIT_CANNOT_LOAD
    except BadSettings as error:
        _log.error("cannot start", extra={"detail": str(error)})
        return EXIT_CANNOT_LOAD
    worker.run(sys.stdin.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
