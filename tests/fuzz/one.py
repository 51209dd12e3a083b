"""One target in a process of its own, which may be lost: `python -m tests.fuzz.one NAME --seconds S`.

Each input lies in a file before it is tried, so that it is known after a crash of the process. With `--engine atheris`
inputs are chosen by the code that they reach. The last line says how many inputs were tried.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import hashlib
import json
import logging
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from random import Random

from tests.fuzz.mutations import MOST_BYTES
from tests.fuzz.targets import TARGETS, Target

SLOWEST_S = 20.0  # for one input
MOST_MEMORY_BYTES = 3 << 30
MOST_FINDINGS = 20
LIVE = {
    "calls of a real hub": "rpc",
    "calls with credentials": "secured",
    "requests to its HTTP listener": "http",
}


class Runner:
    """Tries inputs and keeps those that are findings."""

    def __init__(self, target: Target, folder: Path) -> None:
        self._target = target
        self._current = folder / "current"
        self._folder = folder
        self.tried = 0
        self.findings: dict[str, str] = {}  # by where it happened: what, and in which file

    def try_one(self, data: bytes) -> None:
        self._current.write_bytes(data)
        faulthandler.dump_traceback_later(SLOWEST_S, exit=True)
        self.tried += 1
        try:
            self._target.run(data)
        except Exception as error:
            self._note(error, data)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _note(self, error: Exception, data: bytes) -> None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        kept = self._folder / f"finding-{hashlib.sha256(data).hexdigest()[:12]}"
        if where not in self.findings and len(self.findings) < MOST_FINDINGS:
            kept.write_bytes(data)
            self.findings[where] = f"{type(error).__name__}: {str(error)[:200]} ({kept})"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=(*TARGETS, *LIVE))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--engine", choices=("drawn", "atheris"), default="drawn")
    given = parser.parse_args()
    faulthandler.enable()
    logging.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if given.name in LIVE:
        from tests.fuzz.live import attack

        print(json.dumps(asyncio.run(attack(given.seconds, given.seed, LIVE[given.name]))))
        return 0
    target = TARGETS[given.name]
    given.folder.mkdir(parents=True, exist_ok=True)
    runner = Runner(target, given.folder)
    with _watched() if given.engine == "atheris" else contextlib.nullcontext():
        seeds = target.seeds()
        for seed in seeds:  # what a target needs is imported now
            runner.try_one(seed)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    if given.engine == "atheris":
        _by_coverage(runner, seeds, given.seconds, given.folder)
        return 0
    draw, until = Random(given.seed), time.monotonic() + given.seconds
    while time.monotonic() < until:
        runner.try_one(target.draw(seeds, draw))
    print(json.dumps({"tried": runner.tried, "findings": runner.findings}))
    return 0


def _watched() -> contextlib.AbstractContextManager[None]:
    import atheris

    watched: contextlib.AbstractContextManager[None] = atheris.instrument_imports(
        include=["sonic", "hub", "agent", "sonic_runtime", "csv", "tomllib", "json", "jwt"]
    )
    return watched


def _by_coverage(runner: Runner, seeds: list[bytes], seconds: float, folder: Path) -> None:
    """Never returns: the engine ends the process, and what was found is told on the way."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed[:MOST_BYTES])
    until, told_s = time.monotonic() + seconds, [0.0]

    def one(data: bytes) -> None:
        runner.try_one(data)
        now = time.monotonic()
        if now > until or now - told_s[0] > 2:
            told_s[0] = now
            print(json.dumps({"tried": runner.tried, "findings": runner.findings}), flush=True)
        if now > until:
            sys.stdout.flush()
            os._exit(0)

    atheris.Setup([sys.argv[0], str(corpus), f"-max_len={MOST_BYTES}", "-rss_limit_mb=0", "-verbosity=0"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
