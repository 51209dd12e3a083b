"""When jobs are expected to start and to finish, and why those that wait do."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from hub.core import placement
from hub.core.board import Board
from hub.core.decisions import Decision
from hub.core.decisions import Kind as DecisionKind
from hub.core.fair_queue import FairQueue
from hub.core.forecast import Estimate, Forecasts
from hub.core.jobs import Job, Progress
from hub.core.nodes import Node
from hub.core.placement import Placement, Round


@dataclass(frozen=True)
class Outlook:
    """What a caller is told of a job that has not ended; zeros and None where nothing is known."""

    progress: Progress = field(default_factory=Progress)
    queue_position: int = 0
    start: Estimate | None = None  # from now on; None once it runs
    finish: Estimate | None = None


class Prospects:
    """Looks at the queue and the board, and changes neither. `not_before` tells when next tries may start."""

    def __init__(
        self,
        board: Board,
        forecasts: Forecasts,
        queue: FairQueue,
        place: Callable[[Job, Round], Placement],
        not_before: Mapping[str, float],
    ) -> None:
        self._board = board
        self._forecasts = forecasts
        self._queue = queue
        self._place = place
        self._not_before = not_before

    def outlooks(self, jobs: Iterable[Job | None], now: float) -> list[Outlook]:
        """Queue position, progress, and when each job is expected to start and to finish; of None nothing is known.

        A page or a batch is mostly of jobs that are alike to every slot: a place is sought once for all of these.
        """
        at = Round(self._board, self._forecasts, now)
        options: dict[Hashable, placement.Option | None] = {}
        return [self._outlook(job, at, options) if job else Outlook() for job in jobs]

    def _outlook(self, job: Job, at: Round, options: dict[Hashable, placement.Option | None]) -> Outlook:
        if job.held:
            return Outlook(job.progress, 0, None, self._remaining(job, at.now))
        position = self._queue.position(job)
        alike = (job.needs, job.regions.prefer, job.work, job.inputs, job.attempt > 0, job.node_id)
        if alike not in options:
            options[alike] = self._place(job, at).option
        option = options[alike]
        if option is None:
            return Outlook(job.progress, position)
        start = self._wait(job, option, position, at.now)
        work = (option.fetch + option.render).scaled(1 / option.pool.traits.trust)
        return Outlook(job.progress, position, start, start + work)

    def explain(self, job: Job, nodes: Iterable[Node], now: float) -> Decision:
        """Why a job waits, and for what."""
        at = Round(self._board, self._forecasts, now)
        choice = self._place(job, at)
        passed_over = placement.explain(job, choice.option, nodes, at)
        finish_s = choice.option.finish_s if choice.option else 0.0
        reason = self._why_it_waits(job, choice, now)
        return Decision(DecisionKind.WAITS, reason, job.job_id, job.attempt, choice.node_id, passed_over, finish_s)

    def least_work_s(self, job: Job, now: float) -> float:
        """At the fast end of what is expected of the fastest slot; 0 when there is none to tell by."""
        at = Round(self._board, self._forecasts, now)
        return min((option.fetch.low_s + option.render.low_s for option in placement.options(job, at)), default=0.0)

    def expected_end_s(self, job: Job, now: float) -> float:
        """When an attempt ends that the node has had for an unknown time."""
        remaining = self._remaining(job, now)
        return now + remaining.expected_s if remaining else 0.0

    def _remaining(self, job: Job, now: float) -> Estimate | None:
        """By the forecast at first, and by the attempt's own progress once half of it is done."""
        elapsed_s, done = now - job.started_at_s, job.progress.fraction
        foretold = self._foretold(job, elapsed_s)
        if done <= 0 or elapsed_s <= 0:
            return foretold
        left_s = elapsed_s * (1 - done) / done
        seen = Estimate(left_s, left_s * (0.6 + 0.4 * done), left_s * (1.6 - 0.6 * done))
        if foretold is None or done >= 0.5:
            return seen
        return Estimate(*(a * 2 * done + b * (1 - 2 * done) for a, b in zip(seen, foretold, strict=True)))

    def _foretold(self, job: Job, elapsed_s: float) -> Estimate | None:
        pool = next((pool for i, (pool, _) in self._board.slots_of(job.node_id).items() if i == job.slot), None)
        if pool is None or not pool.offer(job.requirement):
            return None
        fetch, render, _ = placement.forecast(job, pool, job.node_id, self._board, self._forecasts)
        work = (fetch + render).scaled(1 / max(pool.traits.trust, 0.1))
        return Estimate(*(max(seconds - elapsed_s, 0.0) for seconds in work))

    def _wait(self, job: Job, option: placement.Option, position: int, now: float) -> Estimate:
        """Until a job that waits starts: its slot is free, and those ahead of it have gone."""
        slots = sum(len(pool) for pool in self._board.pools(job.requirement))
        ahead = max(position - 1, 0)
        wait_s = max(option.wait_s, self._not_before.get(job.job_id, now) - now)
        queued_s = ahead * option.work_s / max(slots, 1)
        return Estimate(wait_s + queued_s, 0.6 * wait_s + 0.5 * queued_s, 1.6 * wait_s + 2 * queued_s)

    def _why_it_waits(self, job: Job, choice: Placement, now: float) -> str:
        if until_s := self._not_before.get(job.job_id):
            return f"its last try failed; the next one may begin in {max(until_s - now, 0.0):.1f} s"
        if choice.option is None:
            return "no slot can take it as the fleet is now"
        position = self._queue.position(job)
        ahead = f"{position - 1} jobs start before it; then it " if position > 1 else "it "
        return (
            ahead + ("goes to " if choice.free else "") + (f"{choice.node_id}: " if choice.free else "") + choice.reason
        )
