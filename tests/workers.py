"""A real worker process, spoken to as an agent does."""

from __future__ import annotations

import os
import subprocess
import sys

from sonic import pipe
from sonic.v1 import worker_pb2 as pb

PLAIN = ("-m", "sonic_runtime.worker")
# Keeps the state of a render after every call of the network.
EAGER = (
    "-c",
    "import sys; import sonic_runtime.worker as worker; from sonic_runtime.engines.sonic import resuming; "
    "resuming.INTERVAL_S = 0.0; sys.exit(worker.main())",
)


class Worker:
    """To be killed by whoever made it."""

    def __init__(self, engine: str, program: tuple[str, ...] = PLAIN, **settings: str) -> None:
        command = [sys.executable, *program, "--engine", engine]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | settings,
        )

    def say(self, **command: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(pipe.encode(pb.WorkerCommand(**command)))  # type: ignore[arg-type]
        self.process.stdin.flush()

    def hear(self, *kinds: str) -> pb.WorkerEvent:
        """The next event of one of these kinds."""
        assert self.process.stdout
        while (event := pipe.read(self.process.stdout, pb.WorkerEvent)) is not None:
            if event.WhichOneof("event") in kinds:
                return event
        raise AssertionError(f"the worker ended with {self.process.wait()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
