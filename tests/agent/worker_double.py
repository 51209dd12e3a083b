"""A worker that speaks worker.proto and renders nothing: what it does is written in the voice, or told by --does.

`ok`, `slow` (seconds), `until` (a file is there), `steps` (how many, each a little work), `crash`, `oom`, `hang` (with
signs of life, no progress), `silent` (stopped as a whole), `stubborn` (does not let go on cancel), `no face`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

from sonic import pipe
from sonic.v1 import jobs_pb2, nodes_pb2
from sonic.v1 import worker_pb2 as pb


class Worker:
    def __init__(self, does: str = "") -> None:
        self.does = does
        self.ticks = 0
        self.cancelled: set[str] = set()
        self._lock = threading.Lock()

    def say(self, **event: object) -> None:
        with self._lock:
            sys.stdout.buffer.write(pipe.encode(pb.WorkerEvent(**event)))
            sys.stdout.buffer.flush()

    def live(self) -> None:
        while True:
            self.say(alive=pb.WorkerAlive(resident_bytes=1, progress_ticks=self.ticks))
            time.sleep(0.1)

    def fail(self, render_id: str, fault: jobs_pb2.FaultKind.ValueType, reason: str) -> None:
        failure = jobs_pb2.JobFailure(fault=fault, reason=reason, message=f"{reason} in a double")
        self.say(failed=pb.WorkerFailed(render_id=render_id, failure=failure))

    def render(self, command: pb.RenderCommand) -> None:
        does = self.does or Path(command.voice_path).read_text()
        word, _, given = does.partition(" ")
        print(f"rendering {command.render_id}: {word}", file=sys.stderr, flush=True)
        if word == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)  # another thread may be the one that takes the signal
        if word == "oom":
            return self.fail(command.render_id, jobs_pb2.FAULT_KIND_OUT_OF_MEMORY, "OUT_OF_MEMORY")
        if word == "no":
            return self.fail(command.render_id, jobs_pb2.FAULT_KIND_BAD_INPUT, "NO_FACE")
        if word == "silent":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(60)
        for _ in range(int(given) if word == "steps" else 0):
            time.sleep(0.01)
        until = time.monotonic() + (float(given) if word == "slow" else 0.0)
        while (
            word in ("hang", "stubborn") or (word == "until" and not Path(given).exists()) or time.monotonic() < until
        ):
            if word != "stubborn" and command.render_id in self.cancelled:
                return self.fail(command.render_id, jobs_pb2.FAULT_KIND_INTERNAL, "CANCELLED")
            if word != "hang":
                self.ticks += 1
                progress = jobs_pb2.Progress(stage="rendering", done=self.ticks, total=100, fraction=0.5)
                self.say(progress=pb.WorkerProgress(render_id=command.render_id, progress=progress))
            time.sleep(0.05)
        draft = Path(f"{command.output_path}.part")
        draft.write_bytes(b"video of " + Path(command.portrait_path).read_bytes())
        draft.rename(command.output_path)
        report = jobs_pb2.RenderReport(engine="warp", model_version="double", frames=12, fps=25)
        self.say(rendered=pb.WorkerRendered(render_id=command.render_id, report=report))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--does", default="", help="instead of what is written in the voice")
    parser.add_argument("--broken-while", type=Path, help="the probe clip fails while this file is there")
    arguments = parser.parse_args()
    worker = Worker(arguments.does)
    engines = [nodes_pb2.EngineInfo(engine="warp", model_version="double")]
    networks = [pb.NetworkInfo(network="mouth", provider="cuda")]
    worker.say(loaded=pb.WorkerLoaded(engines=engines, networks=networks))
    threading.Thread(target=worker.live, daemon=True).start()
    while command := pipe.read(sys.stdin.buffer, pb.WorkerCommand):
        if command.HasField("probe"):
            if arguments.broken_while and arguments.broken_while.exists():
                worker.fail(command.probe.render_id, jobs_pb2.FAULT_KIND_BROKEN_OUTPUT, "OUTPUT_BROKEN")
            else:
                probed = pb.WorkerProbed(render_id=command.probe.render_id, realtime_factor=3.0, digest="double")
                worker.say(probed=probed)
        if command.HasField("cancel"):
            worker.cancelled.add(command.cancel.render_id)
        if command.HasField("render"):
            threading.Thread(target=worker.render, args=(command.render,), daemon=True).start()


if __name__ == "__main__":
    main()
