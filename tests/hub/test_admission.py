"""What no node could ever run is refused with the nearest change that would make it fit; anything else is let in."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hub.core.admission import Admitted, Capability, Fleet, Refused, admit
from hub.core.forecast import Forecasts, Kind
from hub.core.jobs import Job, RegionRules, Requirement, Work

GIB = 1 << 30
NOW = 100.0
SONIC = Requirement("sonic", "1.2")
FLEET = (
    Capability("n1", "eu-west", True, (Requirement("warp", "1"),), "cpu"),
    Capability("n2", "eu-west", False, (Requirement("warp", "1"), SONIC), "a10", 24 * GIB),
    Capability("n3", "us-east", True, (SONIC, Requirement("sonic", "1.3")), "l4", 16 * GIB),
)


def a_job(engine: str = "warp", version: str = "", **about: Any) -> Job:
    return replace(Job("j", "acme", Requirement(engine, version), 0, 0.0, 0), **about)


def refused(job: Job, *nodes: Capability, forecasts: Forecasts | None = None) -> dict[str, str]:
    decision = admit(job, Fleet(nodes or FLEET), forecasts or Forecasts(), NOW)
    assert isinstance(decision, Refused), decision
    return {problem.field: problem.description for problem in decision.problems}


def cautions(job: Job, *nodes: Capability, forecasts: Forecasts | None = None) -> list[str]:
    decision = admit(job, Fleet(nodes), forecasts or Forecasts(), NOW)
    assert isinstance(decision, Admitted), decision
    return [caution.reason for caution in decision.cautions]


def require(*regions: str) -> RegionRules:
    return RegionRules(require=frozenset(regions))


def test_an_unknown_engine_names_the_nearest() -> None:
    said = refused(a_job("sonik"))
    assert list(said) == ["spec.engine"]
    assert "'sonic'" in said["spec.engine"]
    assert "'sonik'" in said["spec.engine"]


def test_a_version_that_no_node_has_names_those_that_are_there() -> None:
    said = refused(a_job("sonic", "1.1"))["spec.model_version"]
    assert "'1.2'" in said
    assert "'1.3'" in said


def test_a_region_without_nodes_names_the_nearest() -> None:
    assert "'eu-west'" in refused(a_job(regions=require("eu-wset")))["spec.regions.require"]


def test_a_region_whose_nodes_lack_the_engine_names_where_it_is() -> None:
    said = refused(a_job("sonic", "1.3", regions=require("eu-west")))["spec.regions.require"]
    assert "'us-east'" in said
    assert "sonic 1.3" in said


def test_all_problems_are_named_at_once() -> None:
    assert set(refused(a_job("nix", regions=require("mars")))) == {"spec.engine", "spec.regions.require"}


def test_nodes_that_are_away_count_and_are_said_to_be_away() -> None:
    assert cautions(a_job("sonic", "1.2", regions=require("eu-west")), *FLEET) == ["NODES_AWAY"]
    assert cautions(a_job("sonic"), *FLEET) == []


def test_a_node_that_is_not_known_yet_could_be_anything() -> None:
    new = Capability("n4", "ap-south", True)
    assert cautions(a_job("whatever", regions=require("ap-south")), *FLEET, new) == []


def test_before_any_node_has_joined_all_is_let_in_with_a_caution() -> None:
    assert cautions(a_job("whatever")) == ["NO_NODES_YET"]


def test_a_video_that_fits_no_device_names_the_largest_that_does() -> None:
    forecasts = Forecasts()
    for side_px, peak_gib in ((512, 10), (1024, 20), (2048, 60)):
        forecasts.used_memory("sonic", "1.2", Work(5.0, side_px), peak_gib * GIB)
    assert cautions(a_job("sonic", "1.2", work=Work(5.0, 1024)), *FLEET, forecasts=forecasts) == ["NODES_AWAY"]
    said = refused(a_job("sonic", "1.2", work=Work(5.0, 2048)), forecasts=forecasts)["spec.parameters.min_resolution"]
    assert "60.0 GiB" in said
    assert "24.0 GiB" in said
    side_px = int(said.rpartition("choose ")[2].split()[0])
    assert 1024 <= side_px < 1344
    assert side_px % 64 == 0
    fits = a_job("sonic", "1.2", work=Work(5.0, side_px))
    assert cautions(fits, *FLEET, forecasts=forecasts) == ["NODES_AWAY"]


def test_memory_is_never_refused_on_a_guess() -> None:
    forecasts = Forecasts()
    forecasts.used_memory("sonic", "1.3", Work(5.0, 512), 10 * GIB)  # by pixels 2048 would take 160
    assert cautions(a_job("sonic", "1.3", work=Work(5.0, 2048)), *FLEET, forecasts=forecasts) == []


def test_a_deadline_that_the_fastest_node_cannot_meet_is_refused_with_what_it_needs() -> None:
    forecasts = Forecasts()
    work = Work(60.0, 512)
    for kind, took_s in ((Kind("warp", "1", "cpu"), 200.0), (Kind("warp", "1", "a10"), 40.0)):
        for _ in range(40):
            forecasts.rendered(kind, "n1" if kind.gpu_class == "cpu" else "n2", work, took_s, True)
    said = refused(a_job(work=work, deadline_s=NOW + 20), forecasts=forecasts)["spec.deadline"]
    assert "20 s from now" in said
    assert "need 40 s" in said
    assert cautions(a_job(work=work, deadline_s=NOW + 60), *FLEET, forecasts=forecasts) == []
    assert cautions(a_job(work=work, deadline_s=math.inf), *FLEET, forecasts=forecasts) == []


def test_a_deadline_is_not_refused_where_nothing_was_measured() -> None:
    assert cautions(a_job(deadline_s=NOW + 0.01), *FLEET) == []
