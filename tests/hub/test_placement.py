"""Where a job goes, and why not elsewhere."""

from __future__ import annotations

from dataclasses import replace

from hub.core import events, placement
from hub.core.board import Board
from hub.core.decisions import PassedOver
from hub.core.dispatch import Dispatch
from hub.core.forecast import Forecasts, Kind
from hub.core.jobs import Input, Job, Ref, RegionRules, Requirement, Work
from hub.core.nodes import Busy, Gpu, Node, Slot, SlotState
from hub.core.placement import Placement, Round, place

from .talk import job, slot

NOW = 1000.0
GIB = 1 << 30
TEN_SECONDS = Work(10.0, 512)


class Fleet:
    """Nodes as the board has them."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = nodes
        self.forecasts = Forecasts()
        self.board = Board(self.pace)
        for node in nodes:
            for each in node.slots.values():
                if each.realtime_factor:
                    self.forecasts.calibrated(self.kind(node, each), node.node_id, each.realtime_factor)
        for node in nodes:
            self.board.file(node, NOW)

    def kind(self, node: Node, each: Slot) -> Kind:
        return Kind(*each.engines[0], node.gpu_class(each))

    def pace(self, node: Node, each: Slot) -> float:
        return self.forecasts.ratio(self.kind(node, each), node.node_id)

    def round(self) -> Round:
        return Round(self.board, self.forecasts, NOW)

    def place(self, wanted: Job) -> Placement:
        return place(wanted, self.round())

    def why_not(self, wanted: Job) -> dict[str, str]:
        at = self.round()
        return {p.node_id: p.reason for p in placement.explain(wanted, place(wanted, at).option, self.nodes, at)}


def node(name: str, *slots: Slot, gpu: str = "", memory_bytes: int = 0, **about: object) -> Node:
    gpus = (Gpu(f"GPU-{name}", gpu, memory_bytes),) if gpu else ()
    made = Node(name, "eu", session_id=f"{name}-session", slots={s.index: s for s in slots}, gpus=gpus, was_ready=True)
    return replace(made, **about)  # type: ignore[arg-type]


def wanted(**about: object) -> Job:
    return replace(job("a"), work=TEN_SECONDS, **about)  # type: ignore[arg-type]


def busy(seconds: float) -> dict[Ref, Busy]:
    return {Ref("b", 1): Busy(0, NOW - 1, NOW + seconds)}


def test_the_slot_wins_on_which_the_job_is_expected_to_finish_first() -> None:
    fleet = Fleet(node("slow", slot(speed=2.0), gpu="T4"), node("fast", slot(speed=8.0), gpu="L4"))
    choice = fleet.place(wanted())
    assert choice.node_id == "fast"
    assert choice.free
    assert "render" in choice.reason
    assert "on L4" in choice.reason
    assert fleet.why_not(wanted())["slow"].startswith("expected to finish in")


def test_a_job_waits_for_a_fast_slot_that_is_soon_free_and_those_behind_it_take_the_slow_one() -> None:
    fleet = Fleet(
        node("slow", slot(speed=1.0), gpu="T4"), node("fast", slot(speed=20.0), gpu="L4", busy=busy(seconds=1.0))
    )
    at = fleet.round()
    went = []
    for _ in range(40):
        choice = place(wanted(), at)
        went.append((choice.node_id, choice.free))
        assert choice.option
        if choice.free:
            break
        at.promise(choice.option)
    assert went[0] == ("fast", False)
    assert went[-1] == ("slow", True), "no queue is too long for the fast one"
    assert "waits for fast: " in fleet.place(wanted()).reason


def test_nodes_of_one_class_are_told_apart_by_their_own_pace() -> None:
    fleet = Fleet(*(node(f"n{i}", slot(speed=5.0)) for i in range(5)), node("old", slot(speed=1.0)))
    assert fleet.place(wanted()).node_id != "old"
    assert all(
        fleet.place(wanted()).option.rank <= option.rank for option in placement.options(wanted(), fleet.round())
    )  # type: ignore[union-attr]


def test_every_node_passed_over_has_its_reason() -> None:
    fleet = Fleet(
        node("offline", slot(), session_id=""),
        node("draining", slot(), drain_wanted=True),
        node("joining", slot(state=SlotState.STARTING), was_ready=False),
        node("other", slot(engine=Requirement("sonic", "1"))),
        node("small", slot(), gpu="T4", memory_bytes=2 * GIB),
        node("abroad", slot(), region="us"),
        node("failing", slot(state=SlotState.BACKOFF)),
    )
    fleet.forecasts.used_memory("warp", "1", TEN_SECONDS, 3 * GIB)
    asked = wanted(regions=RegionRules(require=frozenset({"eu"})))
    assert not fleet.place(asked).node_id
    assert fleet.why_not(asked) == {
        "offline": "offline: no session",
        "draining": "draining: an operator asked for it",
        "joining": "joining: has not rendered its probe clip yet",
        "other": "has no engine warp at 1",
        "small": "its 2 GiB are less than the 3.0 GiB that such jobs need",
        "abroad": "is in us; the job must run in eu",
        "failing": "no slot is ready: slot 0: its worker failed",
    }


def test_the_node_of_the_last_try_is_avoided_while_another_could_take_it() -> None:
    again = wanted(attempt=1, node_id="n1")
    free, taken = node("n1", slot()), node("n2", slot(), busy=busy(seconds=5.0))
    assert not Fleet(free, taken).place(again).free, "it waits for the other"
    assert Fleet(free, node("n2", slot(), session_id="")).place(again).node_id == "n1"


def test_a_preferred_region_wins_unless_it_costs_more_than_a_fifth() -> None:
    rather = wanted(regions=RegionRules(prefer=frozenset({"us"})))
    here = node("here", slot(speed=5.0), gpu="A")
    near = Fleet(here, node("there", slot(speed=4.9), gpu="B", region="us"))
    assert near.place(rather).node_id == "there"
    far = Fleet(here, node("there", slot(speed=0.5), gpu="B", region="us"))
    assert far.place(rather).node_id == "here"
    assert "not in a region that the job prefers" in far.place(rather).reason


def test_jobs_that_prefer_different_regions_are_told_apart_within_one_round() -> None:
    fleet = Fleet(*(node(name, slot(speed=5.0), gpu=name, region=name) for name in ("eu", "us", "asia")))
    at = fleet.round()
    for name in ("eu", "us", "asia", "eu"):
        assert place(wanted(regions=RegionRules(prefer=frozenset({name}))), at).node_id == name


def test_jobs_that_fit_nowhere_are_looked_at_together_whatever_they_prefer() -> None:
    """The names of regions are the caller's: a look at each job alone would keep the hub busy for minutes."""
    looked_at: list[str] = []

    def watched(wanted: Job, at: Round) -> Placement:
        looked_at.append(wanted.job_id)
        return place(wanted, at)

    hub = Dispatch(place=watched)
    hub.handle(events.NodeJoined("n1", "eu", "s1", (slot(),), (), ()), NOW)
    for number in range(50):
        regions = RegionRules(prefer=frozenset({f"r{number}"}), require=frozenset({"us"}))
        hub.handle(events.JobStored(job(f"a{number}", regions=regions)), NOW)
    assert hub.assign(NOW) == []
    assert looked_at == ["a0"]


def test_an_avoided_region_is_the_last_resort() -> None:
    rather_not = wanted(regions=RegionRules(avoid=frozenset({"eu"})))
    slow = node("abroad", slot(speed=0.5), gpu="B", region="us")
    assert Fleet(node("here", slot(speed=9.0), gpu="A"), slow).place(rather_not).node_id == "abroad"
    assert Fleet(node("here", slot(speed=9.0), gpu="A")).place(rather_not).node_id == "here"


def test_a_node_that_has_the_portrait_is_worth_its_saving() -> None:
    asked = wanted(inputs=(Input("face", 2_000_000), Input("voice", 500_000)))
    fleet = Fleet(*(node(f"n{i}", slot()) for i in range(8)))
    fleet.board.note_inputs(fleet.nodes[6], ("face",))
    choice = fleet.place(asked)
    assert choice.node_id == "n6"
    assert "the portrait is prepared there" in choice.reason


def test_large_fleets_are_told_kind_by_kind() -> None:
    nodes = [node(f"n{i}", slot(speed=5.0), gpu="L4") for i in range(30)]
    nodes += [node(f"o{i}", slot(), session_id="") for i in range(9)]
    fleet = Fleet(*nodes)
    at = fleet.round()
    told = placement.summarise(wanted(), place(wanted(), at).option, fleet.board.unusable, at)
    assert sum(passed.nodes for passed in told) == 38
    assert PassedOver("", "offline", 9) in told
