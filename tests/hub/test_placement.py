"""Where a job goes, and why not elsewhere."""

from dataclasses import replace

from hub.core.jobs import Ref, Requirement
from hub.core.nodes import Busy, Node, Slot, SlotState
from hub.core.placement import place

from .talk import job, slot


def node(name: str, *slots: Slot, **about: object) -> Node:
    made = Node(name, "eu", session_id=f"{name}-session", slots={s.index: s for s in slots}, was_ready=True)
    return replace(made, **about)  # type: ignore[arg-type]


def test_the_fastest_free_slot_wins() -> None:
    choice = place(job("a"), [node("n1", slot(speed=2.0)), node("n2", slot(speed=5.0))])
    assert choice.node_id == "n2"
    assert "5.0 x realtime" in choice.reason
    assert [(p.node_id, p.reason) for p in choice.passed_over] == [("n1", "slower: 2.0 x realtime on its probe clip")]


def test_equals_share_by_how_busy_they_are() -> None:
    busy = node("n1", slot(0), slot(1), busy={1: Busy(Ref("b", 1), 0.0)})
    assert place(job("a"), [busy, node("n2", slot(0), slot(1))]).node_id == "n2"


def test_every_node_passed_over_has_its_reason() -> None:
    nodes = [
        node("offline", slot(), session_id=""),
        node("draining", slot(), drain_wanted=True),
        node("joining", slot(state=SlotState.STARTING), was_ready=False),
        node("other", slot(engine=Requirement("sonic", "1"))),
        node("full", slot(), busy={0: Busy(Ref("b", 1), 0.0)}),
        node("failing", slot(state=SlotState.BACKOFF)),
    ]
    choice = place(job("a"), nodes)
    assert not choice.node_id
    assert {p.node_id: p.reason for p in choice.passed_over} == {
        "offline": "offline: no session",
        "draining": "draining: an operator asked for it",
        "joining": "joining: has not rendered its probe clip yet",
        "other": "has no engine warp at 1",
        "full": "no free slot of 1",
        "failing": "no free slot of 1",
    }


def test_the_node_of_the_last_try_is_avoided_while_another_could_take_it() -> None:
    again = replace(job("a"), attempt=1, node_id="n1")
    busy = node("n2", slot(), busy={0: Busy(Ref("b", 1), 0.0)})
    assert place(again, [node("n1", slot()), busy]).node_id == ""
    assert place(again, [node("n1", slot()), node("n2", slot(), session_id="")]).node_id == "n1"
