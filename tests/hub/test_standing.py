"""Which nodes get work: derated, ejected, probed, readmitted; and what the hub does when many vanish."""

from __future__ import annotations

import pytest

from hub.core import events
from hub.core.faults import Failure, Fault
from hub.core.health import GpuReading
from hub.core.jobs import Input, Ref, Work
from hub.core.nodes import Gpu, NodeState, SlotState

from .talk import Talk, job, slot

GIB = 1 << 30

FAULTS = 3  # open a breaker


def broken(talk: Talk, node: str, name: str, *expected: str) -> None:
    """A job of its own crashes on the node."""
    ref = Ref(name, talk.hub.jobs[name].attempt)
    talk.fail(node, ref, Fault.CRASH, *expected, f"requeue {name}#{ref.attempt} CRASH tries {ref.attempt}",
              f"tell {node} {name}#{ref.attempt} committed")  # fmt: skip


def ejected() -> Talk:
    """n1 has crashed three jobs; n2 and n3 are there, and busy."""
    talk = Talk()
    for name in ("n2", "n3"):
        talk.join(name)
    for name in ("b2", "b3"):
        talk.hub.handle(events.JobStored(job(name, work=Work(600.0))), talk.now)
    talk.hub.assign(talk.now)
    talk.join("n1")
    for i in range(FAULTS):
        talk.submit(f"a{i}", f"assign a{i}#1 to n1 slot 0")
        notes = {FAULTS - 1: ["note ejected n1"], 1: ["note derated n1"]}.get(i, [])
        broken(talk, "n1", f"a{i}", *notes)
        talk.say(events.CancelRequested(f"a{i}"), f"cancel a{i}")
        talk.beat("n1")
    return talk


def later(talk: Talk, seconds: float, *expected: str) -> None:
    """Time goes by in which n2 and n3 go on with what they have."""
    talk.now += seconds
    for name in ("2", "3"):
        talk.hub.handle(
            events.NodeHeard(
                f"n{name}", talk.hub.nodes[f"n{name}"].session_id, (slot(state=SlotState.BUSY),), (Ref(f"b{name}", 1),)
            ),
            talk.now,
        )
    talk.wait(0, *expected)


def answer(talk: Talk, factor: float = 1.0, failure: Failure | None = None, digest: str = "") -> events.Probed:
    probe_id = talk.hub.standing._asked["n1"].probe_id
    return events.Probed("n1", probe_id, 0, factor, digest, failure)


def test_a_node_that_breaks_what_it_gets_is_ejected_and_comes_back_by_its_probe() -> None:
    talk = ejected()
    state, why = talk.hub.nodes["n1"].state
    assert state is NodeState.EJECTED
    assert "3 CRASH) of 3 attempts within 10 min" in why
    talk.submit("c")  # nobody else is free
    later(talk, 31, "note probing n1", "probe n1 slot 0")
    talk.say(answer(talk), "note readmitted n1", "assign c#1 to n1 slot 0")


def test_a_probe_that_fails_or_is_slow_keeps_it_out_for_longer_each_time() -> None:
    talk = ejected()
    later(talk, 31, "note probing n1", "probe n1 slot 0")
    talk.say(answer(talk, failure=Failure(Fault.DEVICE, "CUDA", "no")), "note ejected n1")
    later(talk, 25)
    later(talk, 25)
    later(talk, 11, "note probing n1", "probe n1 slot 0")
    talk.say(answer(talk, factor=0.2), "note ejected n1")
    assert "0.20 x realtime, its first clip had 1.00" in talk.hub.nodes["n1"].state[1]
    for _ in range(5):
        later(talk, 23)
    later(talk, 6, "note probing n1", "probe n1 slot 0")
    talk.say(answer(talk), "note readmitted n1")


def test_a_probe_that_was_cut_off_is_asked_for_again() -> None:
    talk = ejected()
    later(talk, 31, "note probing n1", "probe n1 slot 0")
    stale = answer(talk)
    talk.cut("n1")
    talk.join("n1")
    talk.say(stale)
    assert talk.hub.nodes["n1"].state[0] is NodeState.EJECTED
    later(talk, 31, "note probing n1", "probe n1 slot 0")


@pytest.mark.parametrize("fault", [Fault.BAD_INPUT, Fault.DECLINED, Fault.TRANSFER])
def test_what_is_not_the_nodes_doing_never_ejects_it(fault: Fault) -> None:
    talk = Talk()
    talk.join("n1")
    for i in range(20):
        name = f"a{i}"
        talk.submit(name, f"assign {name}#1 to n1 slot 0")
        talk.hub.handle(events.AttemptFailed("n1", Ref(name, 1), Failure(fault, fault.name, "")), talk.now)
        talk.hub.handle(events.CancelRequested(name), talk.now)
        talk.beat("n1")
    assert talk.hub.nodes["n1"].state[0] is NodeState.READY


def test_inputs_that_break_two_nodes_are_to_blame_and_the_nodes_are_not() -> None:
    talk = Talk()
    talk.join("n1")
    inputs = (Input("face", 1), Input("voice", 1))
    talk.submit("a", "assign a#1 to n1 slot 0", inputs=inputs)
    broken(talk, "n1", "a")
    talk.join("n2")
    talk.wait(1, "assign a#2 to n2 slot 0")
    talk.fail("n2", Ref("a", 2), Fault.DEVICE, "fail a#2 INPUT_QUARANTINED", "tell n2 a#2 committed")
    for name in ("n1", "n2"):
        assert talk.hub.nodes[name].trust[""] > 0.95
        talk.beat(name)
    talk.submit("b", "assign b#1 to n1 slot 0", inputs=inputs)
    talk.fail("n1", Ref("b", 1), Fault.CRASH, "fail b#1 INPUT_QUARANTINED", "tell n1 b#1 committed")


def test_inputs_that_rendered_once_are_innocent() -> None:
    talk = Talk()
    talk.join("n1")
    inputs = (Input("face", 1), Input("voice", 1))
    talk.submit("a", "assign a#1 to n1 slot 0", inputs=inputs)
    broken(talk, "n1", "a")
    talk.beat("n1")
    talk.submit("b", "assign b#1 to n1 slot 0", inputs=inputs)
    talk.succeed("n1", Ref("b", 1), "succeed b#1")
    talk.join("n2")
    talk.wait(1, "assign a#2 to n2 slot 0")
    broken(talk, "n2", "a")


def test_many_that_vanish_at_once_freeze_requeueing_and_one_that_is_lost_does_not() -> None:
    talk = Talk()
    for i in range(6):
        talk.join(f"n{i}")
    talk.submit("a", "assign a#1 to n0 slot 0")
    talk.cut("n5")
    talk.wait(15)
    talk.cut("n0")
    talk.cut("n1")
    talk.say(events.NodeCut("n2", talk.hub.nodes["n2"].session_id), "note frozen")
    talk.wait(20)  # the lease of a runs out in the freeze
    talk.wait(11, "note thawed", "requeue a#1 LEASE_EXPIRED tries 1")
    talk.wait(1, "assign a#2 to n3 slot 0")


def test_a_freeze_ends_when_those_that_vanished_are_back() -> None:
    talk = Talk()
    for i in range(4):
        talk.join(f"n{i}")
    talk.submit("a", "assign a#1 to n0 slot 0")
    for name in ("n1", "n2"):
        talk.cut(name)
    talk.say(events.NodeCut("n3", talk.hub.nodes["n3"].session_id), "note frozen")
    for name in ("n1", "n2"):
        talk.join(name)
    talk.join("n3", "note thawed")


def test_nodes_that_leave_of_their_own_will_freeze_nothing() -> None:
    talk = Talk()
    for i in range(4):
        talk.join(f"n{i}")
    for i in range(4):
        talk.say(events.NodeLeaving(f"n{i}", talk.hub.nodes[f"n{i}"].session_id))
        talk.cut(f"n{i}")


def test_a_gpu_that_has_fallen_off_the_bus_ejects_its_node_at_once() -> None:
    talk = Talk()
    talk.join("n2")
    talk.join("n1", gpus=(Gpu("g", "L4", 24 * GIB),))
    sound = GpuReading("g", "L4", "550", 24 * GIB, GIB, 60.0)
    session = talk.hub.nodes["n1"].session_id
    talk.say(events.NodeHeard("n1", session, (slot(),), (), (sound,)))
    gone = GpuReading("g", "L4", "550", 24 * GIB, GIB, 60.0, xid_events={79: 1})
    talk.say(events.NodeHeard("n1", session, (slot(),), (), (gone,)), "note ejected n1")
    assert "Xid 79" in talk.hub.nodes["n1"].state[1]


def test_a_node_that_lost_one_lease_is_ready_when_it_is_back() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.cut("n1")
    talk.wait(31, "requeue a#1 LEASE_EXPIRED tries 1")
    talk.join("n1")
    assert talk.hub.nodes["n1"].state[0] is NodeState.READY


def test_renders_that_come_fast_are_judged_together() -> None:
    talk = Talk()
    talk.join("n1")
    node, judged_at_s = talk.hub.nodes["n1"], []
    for name in ("a", "b"):
        talk.submit(name, f"assign {name}#1 to n1 slot 0")
        talk.now += 1.0 if name == "a" else 0.1
        talk.hub.handle(events.AttemptSucceeded("n1", Ref(name, 1), b""), talk.now)
        judged_at_s.append(node.judged_at_s)
    assert judged_at_s == [talk.now - 0.1, talk.now - 0.1]
    talk.hub.handle(events.Ticked(), talk.now + 0.3)
    assert node.judged_at_s == talk.now + 0.3
