"""Whether the inputs or the nodes are to blame."""

import pytest

from hub.core.faults import Fault
from hub.core.quarantine import Conviction, Inputs, Quarantine, Witness

POISON = Inputs("portrait", "voice", "warp")
OTHER = Inputs("another portrait", "another voice", "warp")


class Ward:
    """A quarantine whose clock goes on by a second with each event."""

    def __init__(self) -> None:
        self.quarantine = Quarantine()
        self.now = 0.0

    def breaks(
        self, node: str, inputs: Inputs = POISON, fault: Fault = Fault.CRASH, *, job: str = "a", rendering: bool = True
    ) -> Conviction | None:
        self.now += 1
        return self.quarantine.failed(self.now, inputs, Witness(node, job, fault), rendering)

    def renders(self, node: str, inputs: Inputs) -> None:
        self.now += 1
        self.quarantine.rendered(inputs, node)


def test_inputs_that_break_two_different_nodes_are_the_cause() -> None:
    ward = Ward()
    assert ward.breaks("n1", job="a") is None
    assert ward.breaks("n1", job="a") is None  # the same node twice is one witness
    found = ward.breaks("n2", fault=Fault.TIMEOUT, job="b")
    assert found
    assert {(witness.node_id, witness.job_id) for witness in found.witnesses} == {("n1", "a"), ("n2", "b")}
    assert found.failure.fault.final
    assert found.failure.reason == "INPUT_QUARANTINED"
    assert "n1 (CRASH), n2 (TIMEOUT)" in found.failure.message


def test_they_are_known_for_hours_and_not_for_ever() -> None:
    ward = Ward()
    ward.breaks("n1")
    ward.breaks("n2")
    assert ward.quarantine.conviction(ward.now + 3600, POISON)
    assert ward.quarantine.conviction(ward.now + 24 * 3600, POISON) is None


def test_the_case_that_nothing_was_heard_of_for_longest_makes_room() -> None:
    ward, old = Ward(), Inputs("p", "old", "warp")
    ward.breaks("n1", old)
    ward.breaks("n2")
    for number in range(5000):
        if number == 3000:
            ward.breaks("n2")
        ward.renders("n3", OTHER)
        ward.breaks("n3", Inputs("p", f"v{number}", "warp"))
    assert ward.breaks("n4", old) is None
    assert ward.breaks("n5")


@pytest.mark.parametrize("other", [POISON._replace(voice_sha256="v2"), POISON._replace(engine="sonic"), OTHER])
def test_neither_file_is_suspected_alone(other: Inputs) -> None:
    ward = Ward()
    ward.breaks("n1")
    ward.breaks("n2")
    assert ward.quarantine.conviction(ward.now, other) is None


def test_what_anybody_has_rendered_is_not_guilty() -> None:
    ward = Ward()
    ward.breaks("n1")
    ward.renders("n2", POISON)
    assert ward.breaks("n3") is None


@pytest.mark.parametrize(
    "fault", [Fault.BAD_INPUT, Fault.DECLINED, Fault.TRANSFER, Fault.DEADLINE, Fault.WOULD_NOT_FIT]
)
def test_what_says_nothing_of_rendering_does_not_count(fault: Fault) -> None:
    ward = Ward()
    assert not any(ward.breaks(node, fault=fault) for node in ("n1", "n2", "n3", "n4"))


@pytest.mark.parametrize("fault", [Fault.OUT_OF_MEMORY, Fault.NODE_LOST])
def test_small_gpus_and_power_cuts_convict_only_beside_a_crash_or_thrice(fault: Fault) -> None:
    ward = Ward()
    assert [bool(ward.breaks(node, fault=fault)) for node in ("n1", "n2", "n3")] == [False, False, True]
    beside = Ward()
    beside.breaks("n1", fault=fault)
    assert beside.breaks("n2")


def test_nodes_lost_with_several_jobs_convict_nothing() -> None:
    """One power cut takes a whole rack, whatever its nodes render."""
    ward = Ward()
    assert not any(ward.breaks(f"n{number}", fault=Fault.NODE_LOST, job=f"j{number}") for number in range(20))
    assert not ward.breaks("n1", fault=Fault.CRASH, job="another")


def test_a_node_lost_before_it_rendered_is_no_witness() -> None:
    ward = Ward()
    ward.breaks("n1", fault=Fault.NODE_LOST, rendering=False)
    assert ward.breaks("n2") is None


def test_an_ill_node_is_no_witness() -> None:
    ward = Ward()
    ward.breaks("ill")
    ward.breaks("ill", OTHER)
    assert ward.breaks("n2") is None
    ward.renders("ill", Inputs("p3", "v3", "warp"))
    assert ward.quarantine.conviction(ward.now, POISON) is None  # what it said while ill stays worthless
    assert ward.breaks("ill")


def test_a_bad_release_is_not_excused_by_its_victims() -> None:
    """Everything breaks everywhere: hardly any inputs may be blamed for it."""
    ward = Ward()
    nodes = [f"n{number}" for number in range(10)]
    jobs = [Inputs(f"p{number}", f"v{number}", "warp") for number in range(200)]
    blamed = {
        inputs
        for turn, inputs in enumerate(jobs)
        for attempt in range(3)
        if ward.breaks(nodes[(turn + attempt) % len(nodes)], inputs)
    }
    assert len(blamed) <= len(nodes) / 2


def test_a_portrait_that_breaks_with_many_voices_is_found_with_each() -> None:
    ward = Ward()
    voices = [POISON._replace(voice_sha256=f"v{number}") for number in range(5)]
    assert not any(ward.breaks("n1", inputs) for inputs in voices)
    assert all(ward.breaks("n2", inputs) for inputs in voices)
