"""`python -m sonic_runtime.golden`: whether this release renders right on this box, and how fast.

The golden clip is the probe clip. It is rendered several times by one worker's means, and what is printed is one JSON
object: {"engine", "model_version", "right", "why", "realtime_factor", "digest"}. The factor is of the fastest, as what
else a box does makes clips slower and never faster. Exit status 1 when the clip is not right.

A release is tried by this before it takes over, beside the one that it replaces.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

from sonic import logs
from sonic_runtime import engines, errors, probe
from sonic_runtime.faces import FaceFinder
from sonic_runtime.pipeline import Tracker


@dataclass(frozen=True)
class Verdict:
    """What came of it. `realtime_factor` is seconds of video per second of work, 0 when the clip is not right."""

    engine: str
    model_version: str = ""
    right: bool = False
    why: str = ""  # it is not right
    realtime_factor: float = 0.0
    digest: str = ""  # empty where nobody knows how the clip should look


def judge(name: str, times: int) -> Verdict:
    """Render the clip so often with an engine, after once for the caches. Never raises errors.RenderError."""
    try:
        engine, finder = engines.load(name), FaceFinder()
        clips = [probe.run(engine, finder, Tracker(lambda _: None, lambda: False)) for _ in range(times + 1)]
    except errors.RenderError as error:
        return Verdict(name, why=error.message)
    version, digest = engine.model_version, clips[-1].digest
    if (expected := probe.expected_blocks(version)) is not None and digest != probe.digest_of(expected, expected):
        return Verdict(name, version, why="the clip does not look as it does on a sound box", digest=digest)
    return Verdict(name, version, True, "", max(clip.realtime_factor for clip in clips[1:]), digest)


def main() -> int:
    parser = argparse.ArgumentParser(prog="sonic_runtime.golden", description=__doc__)
    parser.add_argument("--engine", choices=engines.names(), default=engines.DEFAULT)
    parser.add_argument("--times", type=int, default=3)
    wanted = parser.parse_args()
    logs.configure("json", "warning")
    verdict = judge(wanted.engine, wanted.times)
    print(json.dumps(asdict(verdict)))
    return 0 if verdict.right else 1


if __name__ == "__main__":
    sys.exit(main())
