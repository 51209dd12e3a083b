"""Whether a history keeps what was promised: a pure function of what callers and nodes saw and what is stored.

LOST      a job that was acknowledged, or shown, is not stored
KEY       one idempotency key, several jobs
BACK      what somebody saw went back: a revision, a number of attempts, a state within a revision
ENDED     a final state changed: another state, another video, another reason
LISTED    a job that had been acknowledged or shown is missing from a later list of its tenant
CANCEL    a cancel was answered with a job that goes on
TWICE     several attempts' videos were taken, or the stored one is not the one that was taken
OPEN      two attempts of a job that goes on both count as not ended, or the tries overlap in the store
CAUSE     a job failed for a deadline that it did not have, or without having used up its tries
BROKEN    a call was answered with an error that no fault explains
STUCK     a job that was acknowledged has not ended, or its caller was not told
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.history import FINAL, Call, Note, Seen, Stored

_SAME_CLOCK_S = 0.001  # what the store's times may differ by within one transaction


@dataclass(frozen=True)
class Violation:
    """A promise that was not kept."""

    rule: str
    job_id: str
    told: str


def check(
    calls: Sequence[Call], stored: Iterable[Stored], notes: Iterable[Note], max_tries: int = 3
) -> list[Violation]:
    """Every violation found; an empty list is what is hoped for."""
    jobs = {job.job_id: job for job in stored}
    sightings = _sightings(calls)
    found = [
        *_lost(calls, sightings, jobs),
        *_keys(calls, jobs.values()),
        *_cancels(calls),
        *_lists(calls),
        *_untold(calls),
        *(
            Violation("BROKEN", call.job_id, f"{call.kind}: {call.detail}")
            for call in calls
            if call.outcome == "broken"
        ),
    ]
    for job_id, seen_at in sightings.items():
        found += _went_back(job_id, seen_at)
        found += _final_changed(job_id, [seen for _, seen in seen_at], jobs.get(job_id))
        found += _both_open(job_id, [seen for _, seen in seen_at])
    found += _taken_twice(jobs, notes)
    for job in jobs.values():
        found += _overlaps(job)
        found += _cause(job, max_tries)
        if job.state not in FINAL:
            found.append(Violation("STUCK", job.job_id, f"it is {job.state} for ever"))
    return found


def _sightings(calls: Iterable[Call]) -> dict[str, list[tuple[Call, Seen]]]:
    """Every answer that showed a job, by job."""
    found: dict[str, list[tuple[Call, Seen]]] = defaultdict(list)
    for call in calls:
        for job in call.jobs:
            found[job.job_id].append((call, job))
    return found


def _lost(
    calls: Iterable[Call], sightings: Mapping[str, list[tuple[Call, Seen]]], jobs: Mapping[str, Stored]
) -> Iterable[Violation]:
    for job_id, seen_at in sightings.items():
        call, shown = seen_at[0]
        if job_id not in jobs:
            yield Violation("LOST", job_id, f"{call.kind} of {call.caller} showed it {shown.state}; it is not stored")
        elif (jobs[job_id].tenant, jobs[job_id].key) != (call.tenant, shown.key):
            yield Violation("LOST", job_id, f"shown as {shown.key} of {call.tenant}; it is stored as another's")
    for call in calls:
        if call.kind == "submit" and call.outcome == "ok" and not call.jobs:
            yield Violation("LOST", "", f"the answer to key {call.key} named no job")


def _keys(calls: Iterable[Call], jobs: Iterable[Stored]) -> Iterable[Violation]:
    named: dict[tuple[str, str], set[str]] = defaultdict(set)
    for call in calls:
        if call.kind == "submit" and call.outcome == "ok":
            named[call.tenant, call.key] |= {job.job_id for job in call.jobs}
    for job in jobs:
        named[job.tenant, job.key].add(job.job_id)
    for (tenant, key), job_ids in named.items():
        if len(job_ids) > 1:
            yield Violation("KEY", min(job_ids), f"{tenant}'s key {key} stands for {sorted(job_ids)}")


def _went_back(job_id: str, seen_at: list[tuple[Call, Seen]]) -> Iterable[Violation]:
    """An answer to a call that began after another answer had come must not be older than it."""
    newest = Seen(job_id, "", "", 0)
    newest_of: dict[str, Seen] = {}
    ended: list[tuple[float, int, Seen]] = []
    for number, (call, seen) in enumerate(sorted(seen_at, key=lambda one: one[0].began_s)):
        while ended and ended[0][0] < call.began_s:
            newest = max(newest, heapq.heappop(ended)[2], key=lambda one: one.revision)
        yield from _older(job_id, call, newest, seen)
        heapq.heappush(ended, (call.ended_s, number, seen))
    for call, seen in sorted(seen_at, key=lambda one: one[0].ended_s):
        yield from _older(job_id, call, newest_of.get(call.caller, seen), seen)
        newest_of[call.caller] = seen


def _older(job_id: str, call: Call, before: Seen, seen: Seen) -> Iterable[Violation]:
    if seen.revision < before.revision or (seen.attempts < before.attempts and seen.revision >= before.revision):
        told = f"{call.kind} of {call.caller}: revision {seen.revision} {seen.state} with {seen.attempts} attempts"
        yield Violation("BACK", job_id, f"{told} after {before.revision} {before.state} with {before.attempts}")
    elif seen.revision == before.revision and seen.state != before.state:
        told = f"revision {seen.revision} was {before.state} and is {seen.state} to {call.kind} of {call.caller}"
        yield Violation("BACK", job_id, told)


def _final_changed(job_id: str, seen: list[Seen], stored: Stored | None) -> Iterable[Violation]:
    ends = {(one.state, one.digest, one.reason) for one in seen if one.final}
    if stored and ends:
        ends.add((stored.state, stored.digest, stored.reason))
    if len(ends) > 1:
        yield Violation("ENDED", job_id, f"it ended in several ways: {sorted(ends)}")


def _both_open(job_id: str, seen: list[Seen]) -> Iterable[Violation]:
    for one in seen:
        if not one.final and one.open_attempts > 1:
            yield Violation("OPEN", job_id, f"revision {one.revision} has {one.open_attempts} attempts that go on")
            return


def _lists(calls: Sequence[Call]) -> Iterable[Violation]:
    """What had been shown before a list was asked for is in the list."""
    by_tenant: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_tenant[call.tenant].append(call)
    for tenant, made in by_tenant.items():
        shown: set[str] = set()
        waiting = sorted(made, key=lambda call: call.ended_s)
        at = 0
        for call in sorted((one for one in made if one.kind == "list" and one.outcome == "ok"), key=_begin):
            while at < len(waiting) and waiting[at].ended_s < call.began_s:
                shown |= {job.job_id for job in waiting[at].jobs}
                at += 1
            for job_id in sorted(shown - {job.job_id for job in call.jobs}):
                yield Violation("LISTED", job_id, f"a list of {tenant} at {call.began_s:.3f} s lacks it")


def _begin(call: Call) -> float:
    return call.began_s


def _cancels(calls: Iterable[Call]) -> Iterable[Violation]:
    for call in calls:
        for job in call.jobs if call.kind == "cancel" and call.outcome == "ok" else ():
            if not job.final:
                yield Violation("CANCEL", job.job_id, f"{call.caller} cancelled it and was told that it is {job.state}")


def _untold(calls: Iterable[Call]) -> Iterable[Violation]:
    for call in calls:
        if call.kind == "follow" and call.outcome != "ok":
            yield Violation("STUCK", call.job_id, f"{call.caller} was not told its end: {call.detail}")


def _taken_twice(jobs: Mapping[str, Stored], notes: Iterable[Note]) -> Iterable[Violation]:
    finished: dict[tuple[str, int], Note] = {}
    taken: dict[str, set[int]] = defaultdict(set)
    for note in notes:
        ref = (note.job_id, note.attempt)
        if note.kind == "finished":
            finished[ref] = note
        elif note.kind == "acknowledged" and note.detail == "committed" and _is_video(finished.get(ref)):
            taken[note.job_id].add(note.attempt)
    for job_id, attempts in taken.items():
        job = jobs.get(job_id)
        if len(attempts) > 1:
            yield Violation("TWICE", job_id, f"the videos of attempts {sorted(attempts)} were all taken")
        elif job and (job.state != "succeeded" or job.won_by not in attempts):
            told = f"the video of attempt {min(attempts)} was taken; the job is {job.state}, won by {job.won_by}"
            yield Violation("TWICE", job_id, told)
    for job in jobs.values():
        made = finished.get((job.job_id, job.won_by or 0))
        if job.state == "succeeded" and (not job.won_by or (made and made.digest != job.digest)):
            yield Violation("TWICE", job.job_id, f"its video {job.digest} is not that of attempt {job.won_by}")


def _is_video(note: Note | None) -> bool:
    return note is not None and note.detail == "video"


def _overlaps(job: Stored) -> Iterable[Violation]:
    """A try begins only when the one before it has been given up; a late winner's end is told when it came."""
    for before, after in zip(job.tries, job.tries[1:], strict=False):
        if before.attempt == job.won_by:
            continue
        if before.ended_at_s is None or before.ended_at_s > after.assigned_at_s + _SAME_CLOCK_S:
            told = f"attempt {after.attempt} was given to {after.node_id} before {before.attempt} had ended"
            yield Violation("OPEN", job.job_id, told)


def _cause(job: Stored, max_tries: int) -> Iterable[Violation]:
    if job.state != "failed":
        return
    counted = sum(one.reason not in ("", "DECLINED", "ASSIGNMENT_LOST", "STOPPED") for one in job.tries)
    if job.reason == "DEADLINE_MISSED" and not job.has_deadline:
        yield Violation("CAUSE", job.job_id, "it missed a deadline that it did not have")
    elif job.reason != "DEADLINE_MISSED" and counted < max_tries:
        yield Violation("CAUSE", job.job_id, f"it failed for {job.reason} after {counted} of {max_tries} tries")
