"""Who goes next: tenants share by weight, and within a tenant the earliest goes first, moved by its priority.

Start-time fair queueing: every tenant has a virtual time that grows by cost / weight with each job of its that is
started, and the tenant whose virtual time is least goes next. A tenant that comes back after being idle starts at the
present virtual time: it cannot have saved up a claim. (Goyal, Vin, Cheng: Start-time Fair Queueing, SIGCOMM 1996.)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from hub.core.jobs import Job, Needs

Entry = tuple[tuple[float, int], str]  # queue key, job_id


@dataclass
class _Tenant:
    weight: float
    virtual_time: float = 0.0
    waiting: dict[Needs, list[Entry]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def first(self, skip: Collection[Needs]) -> Entry | None:
        heads = [entries[0] for wanted, entries in self.waiting.items() if entries and wanted not in skip]
        return min(heads, default=None)


class FairQueue:
    """Jobs that wait. Weights are relative; a tenant without one has 1."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = weights or {}
        self._tenants: dict[str, _Tenant] = {}
        self._now = 0.0  # the virtual time of the tenant that went last

    def __len__(self) -> int:
        return sum(map(len, self._tenants.values()))

    def __contains__(self, job: Job) -> bool:
        entries = self._entries(job)
        at = bisect_left(entries, (job.queue_key, job.job_id))
        return at < len(entries) and entries[at][1] == job.job_id

    def waiting(self, tenant: str) -> int:
        return len(self._tenants.get(tenant, ()))

    def add(self, job: Job) -> None:
        """Let a job wait. Adding a job twice is an error of the caller."""
        tenant = self._tenants.setdefault(job.tenant, _Tenant(self._weights.get(job.tenant, 1.0)))
        if not len(tenant):
            tenant.virtual_time = max(tenant.virtual_time, self._now)
        insort(tenant.waiting.setdefault(job.needs, []), (job.queue_key, job.job_id))

    def remove(self, job: Job) -> None:
        """Take a job out, if it waits; its tenant is charged nothing."""
        if job in self:
            entries = self._entries(job)
            del entries[bisect_left(entries, (job.queue_key, job.job_id))]

    def next(self, skip: Collection[Needs] = (), passed: Collection[str] = ()) -> str | None:
        """The job_id that goes next, left in the queue; requirements in `skip` and jobs in `passed` are looked past."""
        candidates = []
        for name, tenant in self._tenants.items():
            entry = tenant.first(skip) if not passed else self._first_not(tenant, skip, passed)
            if entry:
                candidates.append((tenant.virtual_time, name, entry[1]))
        return min(candidates)[2] if candidates else None

    def start(self, job: Job, cost: float = 1.0) -> None:
        """Take a job out because it starts, and charge its tenant."""
        self.remove(job)
        tenant = self._tenants[job.tenant]
        self._now = max(self._now, tenant.virtual_time)
        tenant.virtual_time += cost / tenant.weight

    def position(self, job: Job) -> int:
        """How many starts until this job's, itself included, if nothing else arrives; 0 if it does not wait here."""
        if job not in self:
            return 0
        own = self._tenants[job.tenant]
        rank = sum(bisect_left(entries, (job.queue_key, job.job_id)) for entries in own.waiting.values())
        starts_at = own.virtual_time + rank / own.weight
        ahead = rank
        for name, other in self._tenants.items():
            if other is not own and starts_at >= other.virtual_time:
                turns = (starts_at - other.virtual_time) * other.weight
                ahead += min(len(other), int(turns) + (name < job.tenant or turns % 1 > 0))
        return ahead + 1

    @staticmethod
    def _first_not(tenant: _Tenant, skip: Collection[Needs], passed: Collection[str]) -> Entry | None:
        firsts = [
            next((entry for entry in entries if entry[1] not in passed), None)
            for wanted, entries in tenant.waiting.items()
            if wanted not in skip
        ]
        return min((entry for entry in firsts if entry), default=None)

    def _entries(self, job: Job) -> list[Entry]:
        tenant = self._tenants.get(job.tenant)
        return tenant.waiting.get(job.needs, []) if tenant else []
