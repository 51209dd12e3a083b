"""Who goes next: tenants share by weight, and within a tenant the earliest goes first, moved by its priority.

Start-time fair queueing: every tenant has a virtual time that grows by cost / weight with each job of its that is
started, and the tenant whose virtual time is least goes next. A tenant that comes back after being idle starts at the
present virtual time: it cannot have saved up a claim. (Goyal, Vin, Cheng: Start-time Fair Queueing, SIGCOMM 1996.)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from hub.core.jobs import Job, Needs

Entry = tuple[tuple[float, int], str]  # queue key, job_id
_BLOCK = 512
_COST_SHARE = 0.1


class _Line:
    """Entries in order, in blocks, so that no step costs more than a block or a walk along the blocks."""

    def __init__(self) -> None:
        self._blocks: list[list[Entry]] = []  # none is empty

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def __iter__(self) -> Iterator[Entry]:
        for block in self._blocks:
            yield from block

    def __contains__(self, entry: Entry) -> bool:
        block = self._blocks[self._block_of(entry)] if self._blocks else []
        at = bisect_left(block, entry)
        return at < len(block) and block[at] == entry

    @property
    def first(self) -> Entry:
        return self._blocks[0][0]

    def add(self, entry: Entry) -> None:
        if not self._blocks:
            self._blocks.append([entry])
            return
        at = self._block_of(entry)
        block = self._blocks[at]
        insort(block, entry)
        if len(block) > 2 * _BLOCK:
            self._blocks[at : at + 1] = [block[:_BLOCK], block[_BLOCK:]]

    def remove(self, entry: Entry) -> None:
        at = self._block_of(entry)
        block = self._blocks[at]
        del block[bisect_left(block, entry)]
        if not block:
            del self._blocks[at]

    def rank(self, entry: Entry) -> int:
        """How many go before it."""
        if not self._blocks:
            return 0
        at = self._block_of(entry)
        return sum(map(len, self._blocks[:at])) + bisect_left(self._blocks[at], entry)

    def _block_of(self, entry: Entry) -> int:
        if entry <= self._blocks[0][-1]:  # most are among those that go next
            return 0
        return min(bisect_left(self._blocks, entry, key=_last), len(self._blocks) - 1)


@dataclass
class _Tenant:
    name: str
    weight: float
    virtual_time: float = 0.0
    waiting: dict[Needs, _Line] = field(default_factory=dict)  # none is empty
    count: int = 0
    started: int = 0
    cost: float = 0.0  # of its jobs, a moving average; 0 before the first
    was_held_back: bool = False

    @property
    def turn(self) -> tuple[float, str]:
        return (self.virtual_time, self.name)

    def first(self, skip: Collection[Needs], passed: Collection[str]) -> Entry | None:
        lines = (line for group, line in self.waiting.items() if group not in skip)
        heads = (next((entry for entry in line if entry[1] not in passed), None) for line in lines)
        return min((entry for entry in heads if entry), default=None)


class FairQueue:
    """Jobs that wait. Weights are relative; a tenant without one has 1."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._weight = 1.0  # of a tenant without one of its own
        self._tenants: dict[str, _Tenant] = {}
        self._order: list[tuple[float, str]] = []  # the turns of those that have jobs waiting
        self._groups: Counter[Needs] = Counter()  # how many wait in each; none is 0
        self._now = 0.0  # the virtual time of the tenant that went last in its turn
        self._cost = 1.0  # of a job, a moving average

    def __len__(self) -> int:
        return self._groups.total()

    def __contains__(self, job: Job) -> bool:
        line = self._line(job)
        return line is not None and _entry(job) in line

    def waiting(self, tenant: str) -> int:
        known = self._tenants.get(tenant)
        return known.count if known else 0

    def started(self, tenant: str) -> int:
        """How many of its jobs have ever been started."""
        known = self._tenants.get(tenant)
        return known.started if known else 0

    def weigh(self, tenant: str, weight: float) -> None:
        """What the tenant's jobs are charged from now on."""
        self._weights[tenant] = weight
        if known := self._tenants.get(tenant):
            known.weight = weight

    def weigh_all(self, weights: Mapping[str, float], default: float = 1.0) -> None:
        """`weigh` for every tenant; those without a weight of their own get the default."""
        self._weights, self._weight = dict(weights), default
        for tenant in self._tenants.values():
            tenant.weight = weights.get(tenant.name, default)

    def add(self, job: Job) -> None:
        """Let a job wait. Adding a job twice is an error of the caller."""
        tenant = self._tenants.get(job.tenant)
        if tenant is None:
            tenant = self._tenants[job.tenant] = _Tenant(job.tenant, self._weights.get(job.tenant, self._weight))
        if not tenant.count:
            tenant.virtual_time = max(tenant.virtual_time, self._now)
            insort(self._order, tenant.turn)
        group = job.needs
        tenant.waiting.setdefault(group, _Line()).add(_entry(job))
        tenant.count += 1
        self._groups[group] += 1

    def remove(self, job: Job) -> None:
        """Take a job out, if it waits; its tenant is charged nothing."""
        if job not in self:
            return
        tenant, group = self._tenants[job.tenant], job.needs
        line = tenant.waiting[group]
        line.remove(_entry(job))
        if not line:
            del tenant.waiting[group]
        tenant.count -= 1
        if not tenant.count:
            del self._order[bisect_left(self._order, tenant.turn)]
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]

    def next(
        self,
        skip: Collection[Needs] = (),
        passed: Collection[str] = (),
        held_back: Collection[str] = (),
    ) -> str | None:
        """The job_id that goes next, left in the queue.

        Needs in `skip`, jobs in `passed` and tenants in `held_back` are looked past.
        """
        if all(group in skip for group in self._groups):
            return None
        for _, name in self._order:
            tenant = self._tenants[name]
            if name in held_back:
                tenant.was_held_back = True
            elif entry := tenant.first(skip, passed):
                return entry[1]
        return None

    def has_claim(self, tenant: str, cost: float) -> bool:
        """Whether the tenant has had no more, but for so much, than the one that went last in its turn."""
        known = self._tenants.get(tenant)
        return known is not None and known.virtual_time <= self._now + cost / known.weight

    def start(self, job: Job, cost: float = 1.0, in_turn: bool = True) -> None:
        """Take a job out because it starts, and charge its tenant: for example the seconds that it should take.

        One that goes ahead of its turn gives nobody a further claim.
        """
        self.remove(job)
        tenant = self._tenants[job.tenant]
        if tenant.was_held_back:  # it had no claim to what others were given meanwhile
            self._move(tenant, max(tenant.virtual_time, self._now))
            tenant.was_held_back = False
        if in_turn:
            self._now = max(self._now, tenant.virtual_time)
        self._move(tenant, tenant.virtual_time + cost / tenant.weight)
        tenant.started += 1
        tenant.cost += (cost - tenant.cost) * (_COST_SHARE if tenant.cost else 1.0)
        self._cost += (cost - self._cost) * _COST_SHARE

    def correct(self, tenant: str, cost: float) -> None:
        """Charge what a job has cost beyond what was charged at its start; less than 0 gives back."""
        if known := self._tenants.get(tenant):
            self._move(known, known.virtual_time + cost / known.weight)

    def position(self, job: Job) -> int:
        """How many starts until this job's, itself included, if nothing else arrives; 0 if it does not wait here.

        Exact when all jobs cost the same; otherwise each of a tenant is taken to cost what its last ones did.
        """
        if job not in self:
            return 0
        own, entry = self._tenants[job.tenant], _entry(job)
        ahead = rank = sum(line.rank(entry) for line in own.waiting.values())
        starts_at = own.virtual_time + rank * (own.cost or self._cost) / own.weight
        for virtual_time, name in self._order:
            if virtual_time > starts_at:
                break
            other = self._tenants[name]
            if other is not own:
                turns = (starts_at - virtual_time) * other.weight / (other.cost or self._cost)
                ahead += min(other.count, int(turns) + (name < job.tenant or turns % 1 > 0))
        return ahead + 1

    def _line(self, job: Job) -> _Line | None:
        tenant = self._tenants.get(job.tenant)
        return tenant.waiting.get(job.needs) if tenant else None

    def _move(self, tenant: _Tenant, virtual_time: float) -> None:
        if tenant.count:
            del self._order[bisect_left(self._order, tenant.turn)]
        tenant.virtual_time = virtual_time
        if tenant.count:
            insort(self._order, tenant.turn)


def _entry(job: Job) -> Entry:
    return (job.queue_key, job.job_id)


def _last(block: list[Entry]) -> Entry:
    return block[-1]
