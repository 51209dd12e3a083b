"""A job's way through the hub, told as conversations."""

from hub.core import events
from hub.core.faults import Fault
from hub.core.jobs import Ref, Requirement, Work
from hub.core.nodes import NodeState, SlotState

from .talk import Talk, slot

A1, A2, A3 = Ref("a", 1), Ref("a", 2), Ref("a", 3)


def given_up() -> Talk:
    """Job a was n1's, whose lease has run out."""
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.cut("n1")
    talk.wait(31, "requeue a#1 LEASE_EXPIRED tries 1")
    talk.wait(1)
    return talk


def test_a_job_waits_for_a_slot_and_ends_once() -> None:
    talk = Talk()
    talk.submit("a")
    talk.join("n1", "assign a#1 to n1 slot 0")
    talk.start("n1", A1, "running a#1")
    talk.succeed("n1", A1, "succeed a#1")
    assert not talk.hub.jobs


def test_a_freed_slot_takes_the_next_job_at_once() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.submit("b")
    talk.succeed("n1", A1, "succeed a#1", "assign b#1 to n1 slot 0")


def test_a_node_that_has_not_rendered_its_probe_gets_nothing() -> None:
    talk = Talk()
    talk.submit("a")
    talk.join("n1", slots=(slot(state=SlotState.STARTING),))
    assert talk.hub.nodes["n1"].state[0] is NodeState.JOINING
    talk.beat("n1", "assign a#1 to n1 slot 0")


def test_a_cut_is_not_a_death() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.start("n1", A1, "running a#1")
    talk.join("n2")
    talk.cut("n1")
    talk.wait(20)
    talk.join("n1", running=(A1,), slots=(slot(state=SlotState.BUSY),))
    talk.wait(29)
    talk.succeed("n1", A1, "succeed a#1")


def test_a_lost_node_gives_its_job_to_another() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.start("n1", A1, "running a#1")
    talk.cut("n1")
    talk.join("n2")
    talk.wait(31, "requeue a#1 LEASE_EXPIRED tries 1")
    talk.wait(1, "assign a#2 to n2 slot 0")


def test_heartbeats_keep_the_lease() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    for _ in range(10):
        talk.now += 9
        talk.beat("n1", slots=(slot(state=SlotState.BUSY),), holds=(A1,))
        talk.wait(0)


def test_a_hub_that_stood_still_takes_no_lease_for_lost() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.start("n1", A1, "running a#1")
    talk.now += 300
    talk.say(events.StoodStill(300))
    talk.wait(0)
    talk.wait(29)
    talk.wait(2, "stop a#1 on n1", "requeue a#1 LEASE_EXPIRED tries 1")


def test_what_a_node_said_before_it_was_given_a_job_counts_for_nothing_after_a_standstill() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.now += 15
    talk.say(events.StoodStill(15))
    talk.beat("n1")
    talk.start("n1", A1, "running a#1")
    talk.wait(11)
    talk.beat("n1", "requeue a#1 ATTEMPT_LOST tries 1")


def test_a_heartbeat_without_the_attempt_does_not_keep_its_lease() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.wait(5)
    talk.beat("n1")  # it may have crossed the assignment
    talk.wait(6)
    talk.beat("n1", "requeue a#1 ASSIGNMENT_LOST tries 0")


def test_a_job_given_up_for_lost_goes_on_where_it_is_if_nobody_has_taken_it() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.start("n1", A1, "running a#1")
    talk.cut("n1")
    talk.wait(31, "requeue a#1 LEASE_EXPIRED tries 1")
    talk.wait(5)
    talk.join("n1", "running a#1", running=(A1,), slots=(slot(state=SlotState.BUSY),))
    talk.succeed("n1", A1, "succeed a#1")


def test_a_slot_is_not_free_while_another_attempt_that_was_given_to_it_goes_on() -> None:
    """A line so slow that a heartbeat hides an assignment, and its slot is given away, before the render begins."""
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.now += 11
    talk.beat("n1", "requeue a#1 ASSIGNMENT_LOST tries 0")
    talk.submit("b", "assign b#1 to n1 slot 0")
    talk.start("n1", A1, "running a#1")
    talk.submit("c")
    talk.succeed("n1", A1, "succeed a#1")
    talk.start("n1", Ref("b", 1), "running b#1")
    talk.succeed("n1", Ref("b", 1), "succeed b#1", "assign c#1 to n1 slot 0")


def test_a_late_result_wins_if_nothing_else_has_and_the_other_try_is_stopped() -> None:
    talk = given_up()
    talk.join("n2", "assign a#2 to n2 slot 0")
    talk.join("n1", finished=(A1,))
    talk.succeed("n1", A1, "succeed a#1", "stop a#2 on n2")


def test_a_result_that_comes_home_is_waited_for_when_nobody_has_taken_the_job_since() -> None:
    talk = given_up()
    talk.join("n1", "running a#1", finished=(A1,))
    talk.succeed("n1", A1, "succeed a#1")


def test_a_superseded_attempt_is_stopped_when_its_node_returns() -> None:
    talk = given_up()
    talk.join("n2", "assign a#2 to n2 slot 0")
    talk.join("n1", "stop a#1 on n1", running=(A1,), slots=(slot(state=SlotState.BUSY),))
    talk.say(events.AttemptStopped("n1", A1), "tell n1 a#1 superseded")


def test_a_node_that_comes_back_without_its_attempt_has_lost_it() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.start("n1", A1, "running a#1")
    talk.cut("n1")
    talk.join("n1", "requeue a#1 ATTEMPT_LOST tries 1")
    talk.wait(1, "assign a#2 to n1 slot 0")  # there is no other node


def test_tries_are_bounded_and_move_to_another_node() -> None:
    talk = Talk()
    talk.join("n1", slots=(slot(speed=9.0),))
    talk.join("n2", slots=(slot(speed=1.0),))
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.fail("n1", A1, Fault.OUT_OF_MEMORY, "requeue a#1 OUT_OF_MEMORY tries 1", "tell n1 a#1 committed")
    talk.beat("n1", slots=(slot(speed=9.0),))
    talk.wait(1, "assign a#2 to n2 slot 0")
    talk.fail("n2", A2, Fault.OUT_OF_MEMORY, "requeue a#2 OUT_OF_MEMORY tries 2", "tell n2 a#2 committed")
    talk.wait(2, "assign a#3 to n1 slot 0")
    talk.fail("n1", A3, Fault.OUT_OF_MEMORY, "note derated n1", "fail a#3 OUT_OF_MEMORY", "tell n1 a#3 committed")


def test_what_would_not_fit_goes_elsewhere_and_is_held_against_no_node() -> None:
    talk = Talk()
    talk.join("n1", slots=(slot(speed=9.0),))
    talk.join("n2", slots=(slot(speed=1.0),))
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.fail("n1", A1, Fault.WOULD_NOT_FIT, "requeue a#1 WOULD_NOT_FIT tries 1", "tell n1 a#1 committed")
    talk.wait(1, "assign a#2 to n2 slot 0")  # without a heartbeat: no worker was restarted
    talk.fail("n2", A2, Fault.WOULD_NOT_FIT, "requeue a#2 WOULD_NOT_FIT tries 2", "tell n2 a#2 committed")
    talk.wait(2, "assign a#3 to n1 slot 0")
    talk.fail("n1", A3, Fault.WOULD_NOT_FIT, "fail a#3 WOULD_NOT_FIT", "tell n1 a#3 committed")  # and no note


def test_bad_input_is_final_at_once() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.fail("n1", A1, Fault.BAD_INPUT, "fail a#1 BAD_INPUT", "tell n1 a#1 committed")


def test_declining_costs_no_try() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.fail("n1", A1, Fault.DECLINED, "requeue a#1 DECLINED tries 0", "tell n1 a#1 committed")
    talk.beat("n1")
    talk.wait(1, "assign a#2 to n1 slot 0")


def test_a_repeated_failure_report_changes_nothing() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.fail("n1", A1, Fault.CRASH, "requeue a#1 CRASH tries 1", "tell n1 a#1 committed")
    talk.fail("n1", A1, Fault.CRASH, "tell n1 a#1 superseded")


def test_cancel_stops_what_runs_and_forgets_what_waits() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.submit("b")
    talk.say(events.CancelRequested("b"), "cancel b")
    talk.say(events.CancelRequested("a"), "cancel a", "stop a#1 on n1")
    talk.submit("c")  # the slot is not free before the node says so
    talk.say(events.AttemptStopped("n1", A1), "tell n1 a#1 superseded", "assign c#1 to n1 slot 0")
    talk.say(events.CancelRequested("a"))


def test_a_drained_node_finishes_what_it_has_and_gets_nothing_new() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.say(events.DrainSet("n1", True), "drain n1")
    talk.submit("b")
    talk.succeed("n1", A1, "succeed a#1")
    talk.cut("n1")
    talk.join("n1", "drain n1")  # the wish outlives the session
    talk.say(events.DrainSet("n1", False), "resume n1", "assign b#1 to n1 slot 0")


def test_an_agent_that_is_leaving_gets_nothing_new() -> None:
    talk = Talk()
    talk.join("n1")
    talk.say(events.NodeLeaving("n1", talk.hub.nodes["n1"].session_id))
    talk.submit("a")
    assert talk.hub.nodes["n1"].state[0] is NodeState.DRAINING


def test_a_restarted_hub_waits_a_lease_for_its_agents() -> None:
    before = Talk()
    before.join("n1")
    before.submit("a", "assign a#1 to n1 slot 0")
    after = Talk()
    after.say(events.Loaded((before.hub.jobs["a"],), ()))
    after.wait(29)
    after.join("n1", running=(A1,), slots=(slot(state=SlotState.BUSY),))
    after.succeed("n1", A1, "succeed a#1")


def test_only_slots_with_the_engine_and_version_are_offered() -> None:
    talk = Talk()
    talk.submit("a", wants=Requirement("sonic", ""))
    talk.submit("b", wants=Requirement("warp", "2"))
    talk.join("n1")
    talk.join("n2", "assign b#1 to n2 slot 0", slots=(slot(engine=Requirement("warp", "2")),))
    talk.join("n3", "assign a#1 to n3 slot 0", slots=(slot(engine=Requirement("sonic", "7")),))


def test_a_message_of_an_older_session_is_ignored() -> None:
    talk = Talk()
    talk.join("n1")
    old = talk.hub.nodes["n1"].session_id
    talk.now += 1
    talk.join("n1")
    talk.say(events.NodeCut("n1", old))
    talk.submit("a", "assign a#1 to n1 slot 0")


def test_a_decision_overtaken_by_the_store_is_dropped() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.say(events.Diverged("a", None), "stop a#1 on n1")
    assert not talk.hub.jobs


def test_progress_never_goes_back_and_tells_the_eta() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.start("n1", A1, "running a#1")
    talk.now += 10
    talk.progress("n1", A1, 0.5)
    talk.progress("n1", A1, 0.4)
    outlook = talk.hub.outlook("a", talk.now)
    assert outlook.finish
    assert (outlook.progress.fraction, outlook.finish.expected_s) == (0.5, 10.0)
    assert outlook.finish.low_s < 10.0 < outlook.finish.high_s


def test_jobs_shown_together_are_told_what_each_would_be_told_alone() -> None:
    talk = Talk()
    talk.join("n1", slots=(slot(speed=2.0),))
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.submit("b", work=Work(10, 256))
    talk.submit("c", work=Work(10, 256))
    talk.submit("d", work=Work(80, 512))
    talk.submit("e", wants=Requirement("none", "1"))
    names = ["a", "b", "c", "d", "e", "gone"]
    together = talk.hub.outlooks(names, talk.now)
    assert together == [talk.hub.outlook(name, talk.now) for name in names]
    assert len({outlook.finish for outlook in together}) == 5


def test_a_job_that_cannot_be_done_in_time_is_dropped_from_the_queue() -> None:
    talk = Talk()
    talk.join("n1", slots=(slot(speed=5.0),))
    talk.submit("a", "assign a#1 to n1 slot 0")
    talk.submit("b", deadline_s=talk.now + 20)
    talk.wait(2)
    talk.wait(17.5)
    talk.wait(2, "fail b#0 DEADLINE_MISSED")
    talk.succeed("n1", A1, "succeed a#1")


def test_a_job_begun_in_time_is_not_dropped() -> None:
    talk = Talk()
    talk.join("n1")
    talk.submit("a", "assign a#1 to n1 slot 0", deadline_s=talk.now + 5)
    talk.wait(6)
    talk.succeed("n1", A1, "succeed a#1")


def test_a_hub_that_has_done_many_jobs_keeps_the_deadlines_of_those_that_wait_alone() -> None:
    talk = Talk()
    talk.submit("waits", deadline_s=talk.now + 100)
    for number in range(3000):
        talk.submit(f"a{number}", deadline_s=talk.now + 30 * 86_400)
    talk.wait(1)
    for number in range(3000):
        talk.say(events.CancelRequested(f"a{number}"), f"cancel a{number}")
    talk.wait(1)
    assert len(talk.hub._deadlines) < 1000
    talk.wait(99, "fail waits#0 DEADLINE_MISSED")


def test_a_node_that_is_lost_again_and_again_is_ejected_when_it_is_back() -> None:
    talk = Talk()
    for name in ("a", "b", "c"):
        derated = ["note derated n1"] if name == "c" else []
        talk.join("n1", *derated)
        talk.submit(name, f"assign {name}#1 to n1 slot 0")
        talk.cut("n1")
        talk.wait(40, f"requeue {name}#1 LEASE_EXPIRED tries 1")
        talk.say(events.CancelRequested(name), f"cancel {name}")
    talk.join("n2")
    talk.join("n1", "note ejected n1")
