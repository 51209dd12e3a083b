"""Inputs that break nodes: when the same portrait, voice and engine have broken two different nodes, they are to blame.

The job fails then instead of going on to break a third node, and others with the same inputs do at their first failure
for a day; the nodes get their faults back. A set of inputs that rendered anywhere is innocent. The loss of a node says
nothing of its input, as lines break more often than agents; neither does memory, as the next node may have more.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from hub.core.faults import Failure, Fault
from hub.core.jobs import Job

_REMEMBERED = 4096
_FOR_S = 86_400.0
_SUSPICIOUS = frozenset({Fault.CRASH, Fault.DEVICE, Fault.TIMEOUT, Fault.BROKEN_OUTPUT, Fault.INTERNAL})
_Inputs = tuple[str, ...]  # hashes, and the engine


@dataclass
class _Suspicion:
    nodes: dict[str, Fault] = field(default_factory=dict)
    jobs: set[str] = field(default_factory=set)
    since_s: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The inputs are to blame: how the job fails, and whose faults to take back for which jobs."""

    failure: Failure
    nodes: dict[str, Fault]
    jobs: frozenset[str]


class Quarantine:
    """What is suspected of which inputs."""

    def __init__(self) -> None:
        self._suspicions: OrderedDict[_Inputs, _Suspicion] = OrderedDict()

    def failed(self, job: Job, fault: Fault, now: float) -> Verdict | None:
        """An attempt of the job failed on its node."""
        if fault not in _SUSPICIOUS:
            return None
        key = _key(job)
        found = self._suspicions.get(key)
        if found is None or now - found.since_s > _FOR_S:
            found = self._suspicions[key] = _Suspicion(since_s=now)
        self._suspicions.move_to_end(key)
        if len(self._suspicions) > _REMEMBERED:
            self._suspicions.popitem(last=False)
        found.nodes[job.node_id] = fault
        found.jobs.add(job.job_id)
        if len(found.nodes) < 2:
            return None
        broke = " and ".join(f"{node_id} ({kind.name})" for node_id, kind in found.nodes.items())
        told = (
            f"these inputs broke two different nodes, {broke}; they are quarantined: check the portrait and the voice"
        )
        return Verdict(Failure(Fault.BAD_INPUT, "INPUT_QUARANTINED", told), dict(found.nodes), frozenset(found.jobs))

    def succeeded(self, job: Job) -> None:
        """The same inputs have rendered."""
        self._suspicions.pop(_key(job), None)


def _key(job: Job) -> _Inputs:
    """Jobs without known inputs are suspected each for itself."""
    inputs = tuple(item.sha256 for item in job.inputs) or (job.job_id,)
    return (*inputs, job.requirement.engine)
