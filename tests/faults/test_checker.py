"""The checker refuses bad histories, each for its own rule, and takes good ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.checker import check
from tests.faults.history import Call, Note, Seen, Stored, Try

QUEUED = Seen("j", "k", "queued", 1)
RUNNING = Seen("j", "k", "running", 3, attempts=1, open_attempts=1)
DONE = Seen("j", "k", "succeeded", 4, attempts=1, digest="d1")
CANCELLED = Seen("j", "k", "cancelled", 4, attempts=1)
STORED = Stored("j", "acme", "k", "succeeded", 4, won_by=1, digest="d1", tries=(Try(1, "n1", 1.0, 3.0),))


def call(kind: str, began_s: float, *jobs: Seen, caller: str = "a", outcome: str = "ok", **about: str) -> Call:
    """A call of half a second."""
    return Call(kind, caller, "acme", began_s, began_s + 0.5, outcome, jobs=jobs, **about)


def finished(attempt: int, digest: str, detail: str = "video") -> Note:
    return Note(2.0, f"n{attempt}", "finished", "j", attempt, detail, digest)


def committed(attempt: int) -> Note:
    return Note(3.0, f"n{attempt}", "acknowledged", "j", attempt, "committed")


GOOD = [
    call("submit", 0, key="k", outcome="unclear"),
    call("submit", 1, QUEUED, key="k"),
    call("watch", 2, RUNNING),
    call("list", 2.1, RUNNING, caller="l"),
    call("watch", 2.2, DONE),
    call("submit", 5, DONE, key="k"),
    call("list", 6, DONE, caller="l"),
    call("cancel", 7, DONE),
    call("follow", 8, job_id="j"),
]
NOTES = [finished(1, "d1"), committed(1), committed(1)]


def rules(calls: list[Call], stored: Stored | None = STORED, notes: list[Note] = NOTES, tries: int = 3) -> set[str]:
    return {violation.rule for violation in check(calls, [stored] if stored else [], notes, tries)}


def test_a_good_history_is_taken() -> None:
    assert rules(GOOD) == set()


def test_a_late_winner_is_no_overlap_and_its_rival_may_stay_open() -> None:
    stored = replace(STORED, tries=(Try(1, "n1", 1.0, 9.0), Try(2, "n2", 4.0, None)))
    assert rules(GOOD[:3], stored) == set()


def test_answers_of_calls_at_the_same_time_may_come_in_any_order() -> None:
    assert rules([call("get", 1, RUNNING, caller="b"), call("get", 1.2, QUEUED, caller="c"), *GOOD[4:]]) == set()


@pytest.mark.parametrize(
    ("rule", "calls"),
    [
        ("LOST", [call("submit", 0, key="k")]),
        ("KEY", [call("submit", 0, replace(QUEUED, job_id="other"), key="k"), *GOOD]),
        ("BACK", [call("get", 1, RUNNING, caller="b"), call("get", 2, QUEUED, caller="c")]),
        ("BACK", [call("watch", 1, RUNNING), call("watch", 1.2, QUEUED)]),
        ("BACK", [call("get", 1, RUNNING), call("get", 2, replace(RUNNING, state="queued"))]),
        ("BACK", [call("get", 1, RUNNING), call("get", 2, replace(RUNNING, revision=4, attempts=0))]),
        (
            "ENDED",
            [call("get", 1, DONE), call("get", 2, replace(RUNNING, state="failed", revision=9, open_attempts=0))],
        ),
        ("ENDED", [call("get", 1, replace(DONE, digest="d2"))]),
        ("ENDED", [call("cancel", 1, CANCELLED)]),
        ("LISTED", [call("submit", 1, QUEUED, key="k"), call("list", 2, caller="l")]),
        ("CANCEL", [call("cancel", 1, RUNNING)]),
        ("OPEN", [call("get", 1, replace(RUNNING, attempts=2, open_attempts=2))]),
        ("BROKEN", [call("get", 1, outcome="broken", detail="INTERNAL")]),
        ("STUCK", [call("follow", 1, outcome="unclear", job_id="j", detail="no answer")]),
    ],
)
def test_bad_answers_are_refused(rule: str, calls: list[Call]) -> None:
    assert rule in rules(calls)


@pytest.mark.parametrize(
    ("rule", "stored"),
    [
        ("LOST", None),
        ("LOST", replace(STORED, tenant="rival")),
        ("ENDED", replace(STORED, state="cancelled", won_by=None, digest="")),
        ("STUCK", replace(STORED, state="running", won_by=None)),
        ("TWICE", replace(STORED, won_by=None)),
        ("TWICE", replace(STORED, digest="d9")),
        ("TWICE", replace(STORED, won_by=2)),
        ("OPEN", replace(STORED, won_by=2, tries=(Try(1, "n1", 1.0, None), Try(2, "n2", 2.0, 3.0)))),
        ("OPEN", replace(STORED, won_by=2, tries=(Try(1, "n1", 1.0, 2.5, "LEASE_EXPIRED"), Try(2, "n2", 2.0, 3.0)))),
        ("CAUSE", replace(STORED, state="failed", reason="DEADLINE_MISSED")),
        ("CAUSE", replace(STORED, state="failed", reason="LEASE_EXPIRED", tries=(Try(1, "n", 1, 2, "LEASE_EXPIRED"),))),
    ],
)
def test_a_bad_store_is_refused(rule: str, stored: Stored | None) -> None:
    assert rule in rules(GOOD, stored)


@pytest.mark.parametrize(
    "notes",
    [
        [finished(1, "d1"), finished(2, "d2"), committed(1), committed(2)],
        [finished(2, "d2"), committed(2)],
        [finished(1, "d2"), committed(1)],
    ],
)
def test_videos_taken_twice_or_mixed_up_are_refused(notes: list[Note]) -> None:
    assert "TWICE" in rules(GOOD, notes=notes)


def test_an_acknowledged_failure_is_no_video_taken() -> None:
    stored = replace(STORED, won_by=2, digest="d2", tries=(Try(1, "n1", 1.0, 2.0, "CRASH"), Try(2, "n2", 2.5, 3.0)))
    notes = [finished(1, "", "failure"), committed(1), finished(2, "d2"), committed(2)]
    assert rules(GOOD[:3], stored, notes) == set()
