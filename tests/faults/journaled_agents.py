"""`sonic agent --simulate`, which also writes down in JOURNAL what its nodes render and what the hub answers.

Each attempt's video has bytes of its own, so that it can be told whose video was taken.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from typing import Any

from agent import simulation
from sonic.cli import main, serving
from sonic.simulated_node import SimulatedNode
from sonic.simulated_profile import NodeProfile, unlike
from sonic.v1 import fleet_service_pb2 as pb

_render, _finish, _acknowledged = SimulatedNode._render, SimulatedNode._finish, SimulatedNode._acknowledged
_journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def note(node: SimulatedNode, kind: str, ref: Any, **about: str) -> None:
    values = {"at_s": time.monotonic(), "node_id": node.node_id, "kind": kind}
    line = json.dumps(values | {"job_id": ref.job_id, "attempt": ref.attempt} | about)
    os.write(_journal, line.encode() + b"\n")


def render(self: SimulatedNode, slot: Any, attempt: Any) -> None:
    note(self, "began", attempt.assignment.ref)
    _render(self, slot, attempt)


def finish(self: SimulatedNode, ref: Any, *about: Any, **outcome: Any) -> None:
    (how,) = outcome
    digest = outcome[how].video.sha256 if how == "video" else ""
    note(self, "finished", ref, detail=how, digest=digest)
    _finish(self, ref, *about, **outcome)


def acknowledged(self: SimulatedNode, ack: pb.ResultAck) -> None:
    verdict = pb.ResultVerdict.Name(ack.verdict).removeprefix("RESULT_VERDICT_").lower()
    note(self, "acknowledged", ack.ref, detail=verdict)
    _acknowledged(self, ack)


def own_videos(*about: Any) -> list[NodeProfile]:
    return [replace(profile, own_videos=True) for profile in unlike(*about)]


SimulatedNode._render, SimulatedNode._finish = render, finish  # type: ignore[method-assign]
SimulatedNode._acknowledged = acknowledged  # type: ignore[method-assign]
simulation.unlike = own_videos  # type: ignore[attr-defined]
serving.become = serving.serve  # type: ignore[assignment] # another process would have the node as it is
main()
