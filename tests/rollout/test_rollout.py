"""A fleet from bare boxes to serving, and from one version to the next under load. The tests go on from each other."""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.rollout.conftest import REGIONS, SONIC, Fleet

READY = {name: ("READY", "1.0.0") for name in REGIONS}
WORKS = {"READY", "DEGRADED"}  # the hub trusts a box that was slow with less, until it has shown better
NOT_A_FAULT = {"DECLINED"}  # the box was told to stop: the job goes elsewhere, and it does not count as a try


def test_a_check_run_on_bare_boxes_changes_nothing(fleet: Fleet) -> None:
    done = fleet.play("site", "--check", "--diff", version="1.0.0")
    _passed(done)
    assert "1.0.0-cpu would be installed" in done.stdout
    for box in fleet.boxes.values():
        assert not (box.root / "opt/sonic").exists()
        assert not (box.root / "etc/sonic").exists()


def test_a_box_that_is_not_fit_is_told_what_to_do_and_left_as_it_is(fleet: Fleet) -> None:
    box = fleet.boxes["us-1"]
    smi = box.root / "usr/local/bin/nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n")
    smi.chmod(0o755)
    try:
        done = fleet.play("site", "--limit", "us-1", version="1.0.0")
    finally:
        smi.unlink()
    assert done.returncode != 0
    assert "Reboot the box" in " ".join(done.stdout.split())
    assert not (box.root / "opt/sonic").exists()


def test_one_command_takes_bare_boxes_to_serving(fleet: Fleet) -> None:
    done = fleet.play("site", version="1.0.0")
    _passed(done)
    assert fleet.nodes() == READY
    assert "sonic-join-1." not in (fleet.folder / "plays.log").read_text()
    for name in REGIONS:
        said = fleet.boxes[name].ssh("systemd-analyze security sonic-agent.service --no-pager | tail -1").stdout
        assert float(re.search(r"([\d.]+) ", said.partition(":")[2])[1]) <= 2.5, said  # type: ignore[index]
        assert fleet.boxes[name].ssh("stat -c '%a %U' /etc/sonic/agent.env").stdout == "600 root\n"
        assert fleet.boxes[name].ssh("ls /etc/sonic").stdout.split() == ["agent.env"]  # no token is left behind


def test_a_worker_can_leave_the_network_and_make_nothing_else(fleet: Fleet) -> None:
    box = fleet.boxes["us-1"]
    for spaces, allowed in (("--user --net", True), ("--user --mount", False), ("--user --pid --fork", False)):
        # As the agent's unit lets its processes, and at another time than the agent itself.
        box.ssh(
            "sed -e 's/^Type=.*/Type=oneshot/' -e '/^WatchdogSec=/d' -e '/^Restart/d'"
            f" -e 's|^ExecStart=.*|ExecStart=/usr/bin/unshare {spaces} true|'"
            " /etc/systemd/system/sonic-agent.service > /run/systemd/system/try.service && systemctl daemon-reload"
        )
        done = box.ssh("systemctl start try.service", check=False)
        assert (done.returncode == 0) == allowed, box.ssh("journalctl --unit try --lines 20 --no-pager").stdout
    box.ssh("rm /run/systemd/system/try.service && systemctl daemon-reload")


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    _changes_nothing(fleet, "1.0.0")


def test_jobs_are_rendered_everywhere(fleet: Fleet) -> None:
    fleet.hub.ssh(f"{SONIC} tenants create tester")
    load = fleet.submit_until_stopped("first", every_s=0.05)  # more than two of them could take
    _until(lambda: (load / "submitted").exists() and int((load / "submitted").read_text() or 0) >= 90)
    nodes = _ended_once(fleet.stop_load("first"))
    assert set(nodes) == set(REGIONS)


def test_a_slow_canary_is_rolled_back_by_itself(fleet: Fleet) -> None:
    fleet.submit_until_stopped("second", every_s=0.1)  # more than the others do at once, so that the canary has work
    done = fleet.play("upgrade", version="1.1.0")
    jobs = fleet.stop_load("second")
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert re.search(
        r"1\.1\.0 has not passed on eu-1; the wave eu-1 runs the release before again\. .* times as long", said
    ), done.stdout[-20_000:]
    assert _all_work(fleet, "1.0.0")
    _ended_once(jobs)


def test_a_sound_release_goes_through_all_waves(fleet: Fleet) -> None:
    fleet.submit_until_stopped("third")
    done = fleet.play("upgrade", version="1.1.1")
    jobs = fleet.stop_load("third")
    _passed(done)
    assert _all_work(fleet, "1.1.1")
    _ended_once(jobs)
    _changes_nothing(fleet, "1.1.1")


def test_a_box_that_was_cut_off_comes_back_without_a_hand(fleet: Fleet) -> None:
    box = fleet.boxes["eu-2"]
    fleet.submit_until_stopped("fourth", every_s=0.2)  # all boxes are at work
    time.sleep(3)
    box.cut()
    _until(lambda: fleet.nodes()["eu-2"][0] == "OFFLINE", timeout_s=120)
    box.mend()
    _until(lambda: fleet.nodes()["eu-2"][0] in WORKS, timeout_s=120)
    _ended_once(fleet.stop_load("fourth"), "LEASE_EXPIRED", "ASSIGNMENT_LOST")


def test_a_box_that_lost_its_power_comes_back_without_a_hand(fleet: Fleet) -> None:
    box = fleet.boxes["us-1"]
    box.power_off()
    _until(lambda: fleet.nodes()["us-1"][0] == "OFFLINE", timeout_s=120)
    box.start()
    _until(lambda: _all_work(fleet, "1.1.1"), timeout_s=120)


def test_the_release_before_is_seconds_away(fleet: Fleet) -> None:
    fleet.submit_until_stopped("fifth")
    began_s = time.monotonic()
    done = fleet.play("rollback", version="1.1.1")
    took_s = time.monotonic() - began_s
    jobs = fleet.stop_load("fifth")
    _passed(done)
    assert took_s < 60  # on a machine that all boxes share
    _until(lambda: _all_work(fleet, "1.0.0"))
    _ended_once(jobs)


def test_a_box_is_enrolled_anew_while_the_others_work(fleet: Fleet) -> None:
    before = fleet.boxes["eu-1"].ssh("sha256sum /var/lib/sonic-agent/identity/identity.pem").stdout
    done = fleet.play("enroll", "--limit", "eu-1", version="1.0.0")
    _passed(done)
    assert fleet.boxes["eu-1"].ssh("sha256sum /var/lib/sonic-agent/identity/identity.pem").stdout != before
    assert fleet.boxes["eu-1"].ssh("ls /etc/sonic /var/lib/sonic-agent/identity").stdout.split()[-1] == "identity.pem"
    _until(lambda: fleet.nodes()["eu-1"][0] in WORKS)


def test_drained_boxes_get_nothing_until_they_are_resumed(fleet: Fleet) -> None:
    done = fleet.play("drain", "--limit", "us-1", version="1.0.0")
    _passed(done)
    assert fleet.nodes()["us-1"][0] == "DRAINING"
    fleet.boxes["us-1"].ssh("ln -sfn /opt/sonic/releases/1.1.1-cpu /opt/sonic/current.previous")
    _passed(fleet.play("rollback", "--limit", "us-1", version="1.0.0"))
    _until(lambda: fleet.nodes()["us-1"] == ("DRAINING", "1.1.1"))
    done = fleet.play("drain", "--limit", "us-1", "-e", "sonic_resume=true", version="1.0.0")
    _passed(done)
    assert fleet.nodes()["us-1"][0] in WORKS


def _all_work(fleet: Fleet, version: str) -> bool:
    found = fleet.nodes()
    return set(found) == set(REGIONS) and all(node[0] in WORKS and node[1] == version for node in found.values())


def _passed(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise AssertionError(done.stdout[-6000:] + done.stderr)


def _changes_nothing(fleet: Fleet, version: str) -> None:
    done = fleet.play("site", "--diff", version=version)
    _passed(done)
    counts = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", done.stdout, re.MULTILINE)
    assert dict(counts) == dict.fromkeys(["hub-1", *REGIONS], "0"), done.stdout


def _ended_once(jobs: list[dict[str, Any]], *allowed: str) -> Counter[str]:
    """Every job succeeded, with one video, and was tried again only for what is allowed. Where they were rendered."""
    assert jobs
    for job in jobs:
        assert job["state"] == "succeeded", job
        assert len(job["nodes"]) == len(job["failures"]) + 1, job
        assert set(job["failures"]) <= NOT_A_FAULT | set(allowed), job
    assert len({job["job_id"] for job in jobs}) == len(jobs)
    return Counter(job["nodes"][-1] for job in jobs)


def _until(holds: Callable[[], bool], timeout_s: float = 60) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, f"not within {timeout_s:g} s; `{SONIC} nodes list`"
        time.sleep(1)
