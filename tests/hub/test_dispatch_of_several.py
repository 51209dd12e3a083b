"""Conversations with the decisions of a hub that is not alone."""

from __future__ import annotations

from dataclasses import replace

from hub.core import events
from hub.core.jobs import Job, Ref, State
from hub.core.nodes import Node, NodeState

from .talk import Talk, job, slot

A1 = Ref("a", 1)


def held(name: str, node_id: str, attempt: int = 1) -> Job:
    return replace(job(name), state=State.RUNNING, attempt=attempt, node_id=node_id, slot=0)


def elsewhere(name: str, drain: bool = False) -> Node:
    return Node(name, "eu", slots={0: slot()}, drain_wanted=drain, hub_id="b", state_there=NodeState.READY)


def test_a_lost_claim_frees_the_slot_at_once() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.say(events.ClaimLost(A1))
    talk.say(events.Diverged("a", held("a", "n9")))
    talk.submit("b", "assign b#1 to n1 slot 0")


def test_what_another_hub_has_begun_is_not_begun_here() -> None:
    talk = Talk()
    talk.submit("a")
    talk.say(events.Diverged("a", held("a", "n9")))
    talk.join("n1")
    assert talk.hub.jobs["a"].held


def test_what_another_hub_has_cancelled_is_stopped_here() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.say(events.Diverged("a", None), "stop a#1 on n1")


def test_what_another_hub_took_for_lost_goes_on_where_it_is() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.start("n1", A1, "running a#1")
    talk.say(events.Diverged("a", replace(held("a", "n1"), state=State.QUEUED, tries=1)), "running a#1")


def test_a_next_try_waits_here_as_long_as_where_the_last_one_failed() -> None:
    talk = Talk()
    talk.join("n1")
    talk.say(events.Diverged("a", replace(held("a", "n9"), state=State.QUEUED, tries=1)))
    talk.wait(2.0, "assign a#2 to n1 slot 0")


def test_leases_at_another_hub_hold_while_it_is_alive() -> None:
    talk = Talk()
    talk.say(events.NodesSeen((elsewhere("n9"),)))
    talk.say(events.Diverged("a", held("a", "n9")))
    for _ in range(4):
        talk.wait(20.0)
        talk.say(events.HubsAlive(frozenset({"b"})))
    talk.say(events.HubsAlive(frozenset()))
    talk.wait(20.0)
    talk.wait(20.0, "requeue a#1 LEASE_EXPIRED tries 1")


def test_a_lease_on_a_node_that_was_never_seen_runs_out() -> None:
    talk = Talk()
    talk.say(events.Diverged("a", held("a", "n9")))
    talk.wait(31.0, "requeue a#1 LEASE_EXPIRED tries 1")


def test_a_node_of_another_hub_gets_nothing_from_here_but_spares_the_last_one_a_repeat() -> None:
    talk = Talk()
    talk.say(events.NodesSeen((elsewhere("n9"),)))
    talk.join("n1")
    talk.say(events.Diverged("a", replace(held("a", "n1"), state=State.QUEUED, tries=1)))
    talk.wait(2.0)  # n9 could take it, and its hub will give it
    talk.submit("b", "assign b#1 to n1 slot 0")


def test_a_wish_stored_through_another_hub_reaches_the_node() -> None:
    talk = Talk()
    talk.join("n1")
    wish = Node("n1", "eu", drain_wanted=True)
    talk.say(events.NodesSeen((wish,)), "drain n1")
    talk.say(events.NodesSeen((wish,)))
    talk.say(events.NodesSeen((Node("n1", "eu"),)), "resume n1")


def test_a_tenant_has_had_its_turn_whichever_hub_gave_it() -> None:
    talk = Talk()
    for number in range(3):
        talk.say(events.JobStored(job(f"a{number}", tenant="a", at=number)))
        talk.say(events.JobStored(job(f"b{number}", tenant="b", at=number)))
    for number in range(2):
        talk.say(events.Diverged(f"a{number}", held(f"a{number}", "n9")))
    talk.join("n1", "assign b0#1 to n1 slot 0")
