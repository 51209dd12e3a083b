"""What of the rollout can be tried without a box."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import wheelhouse
from tests.ansible import collection

PLAYBOOKS = ("site", "upgrade", "rollback", "drain", "enroll")
INVENTORY = """
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}", sonic_version: 1.2.3}
  children:
    sonic_hub: {hosts: {hub-1: {}}}
    sonic_agent: {hosts: {box-1: {sonic_agent_region: eu}}}
"""


def test_the_strictest_lint_finds_nothing(collections: Path) -> None:
    linted = ("ansible-lint", "--offline", "--profile", "production", "-q")  # and nobody on the network is asked
    done = collection.run(*linted, collections=collections, cwd=collection.SOURCE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_playbooks_can_be_read(playbook: str, collections: Path, tmp_path: Path) -> None:
    inventory = tmp_path / "fleet.yml"
    inventory.write_text(INVENTORY)
    done = collection.run(
        "ansible-playbook", "-i", str(inventory), "--syntax-check", f"sonic.fleet.{playbook}", collections=collections
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_installed_from_the_checkout_without_the_network(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    done = collection.run(
        *(
            "ansible-galaxy",
            "collection",
            "install",
            "--offline",
            "-p",
            str(tmp_path / "there"),
            str(collection.SOURCE),
        ),
        collections=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed = collection.run("ansible-doc", "-t", "role", "sonic.fleet.sonic_agent", collections=tmp_path / "there")
    assert "sonic_agent_region" in listed.stdout, listed.stderr


@pytest.mark.parametrize("playbook", ["drain", "enroll"])
def test_a_whole_fleet_is_not_meant_by_forgetting_limit(playbook: str, collections: Path, tmp_path: Path) -> None:
    inventory = tmp_path / "fleet.yml"
    inventory.write_text(INVENTORY)
    done = collection.run("ansible-playbook", "-i", str(inventory), f"sonic.fleet.{playbook}", collections=collections)
    assert done.returncode != 0
    assert "name boxes or regions with --limit" in done.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sonic_agent_slots": "many"}, "sonic_agent_slots"),
        ({"sonic_agent_runtime": "gpu"}, "value of sonic_agent_runtime must be one of: auto, cpu"),
        ({"sonic_agent_region": None}, "missing required arguments: sonic_agent_region"),
    ],
)
def test_arguments_are_held_to_their_types(given: dict[str, Any], said: str, collections: Path, tmp_path: Path) -> None:
    done = _play(collections, tmp_path, {"sonic_agent_region": "eu"} | given, {"include_role": {"name": ROLE}})
    assert done.returncode != 0
    assert said in " ".join(done.stdout.split()), done.stdout + done.stderr


@pytest.mark.parametrize("role", ["sonic_common", "sonic_agent", "sonic_hub"])
def test_every_default_is_described(role: str) -> None:
    folder = collection.SOURCE / "roles" / role
    defaults = yaml.safe_load((folder / "defaults/main.yml").read_text())
    specs = yaml.safe_load((folder / "meta/argument_specs.yml").read_text())["argument_specs"]
    described = {name for spec in specs.values() for name in spec["options"]}
    inside = {"sonic_common_require_time_sync", "sonic_common_clock_tolerance_s"} if role == "sonic_common" else set()
    assert set(defaults) <= described | inside


def test_the_roles_install_what_the_wheelhouse_carries() -> None:
    variables = yaml.safe_load((collection.SOURCE / "roles/sonic_common/vars/main.yml").read_text())
    assert variables["sonic_common_extras"] == wheelhouse.RUNTIMES


@pytest.mark.parametrize(
    ("runtime", "there", "missing"),
    [
        ("cpu", ["PrivateDevices=true", "MemoryDenyWriteExecute=true"], ["DeviceAllow="]),
        (
            "nvidia",
            ["DevicePolicy=closed", "DeviceAllow=char-nvidia* rw"],
            ["PrivateDevices=", "MemoryDenyWriteExecute="],
        ),
    ],
)
def test_a_box_has_the_devices_that_it_needs_and_no_others(
    runtime: str, there: list[str], missing: list[str], collections: Path, tmp_path: Path
) -> None:
    unit = _rendered(collections, tmp_path, "sonic-agent.service.j2", {"sonic_agent_chosen_runtime": runtime})
    assert set(there) <= set(unit)
    assert not [line for line in unit if line.startswith(tuple(missing))]


def test_the_agent_of_a_box_with_a_gpu_starts_after_the_driver_has_its_device_files(
    collections: Path, tmp_path: Path
) -> None:
    for runtime, there in (("cpu", False), ("nvidia-diffusion", True)):
        unit = _rendered(collections, tmp_path, "sonic-agent.service.j2", {"sonic_agent_chosen_runtime": runtime})
        for name in ("Wants=", "After="):
            (line,) = [line for line in unit if line.startswith(name)]
            assert ("sonic-agent-gpu.service" in line.split()) == there, line
    made = _rendered(collections, tmp_path, "sonic-agent-gpu.service.j2", {})
    assert [line for line in made if line.startswith("ExecStart=") and "nvidia-modprobe -u" in line]


def test_settings_are_in_the_environment_and_nowhere_in_the_unit(collections: Path, tmp_path: Path) -> None:
    given = {"sonic_agent_environment": {"SONIC_AGENT_LOAD_TIMEOUT_S": 7}, "sonic_agent_chosen_runtime": "cpu"}
    written = _rendered(collections, tmp_path, "agent.env.j2", given)
    assert {"SONIC_AGENT_REGION=eu", "SONIC_AGENT_NODE_ID=box-1", "SONIC_AGENT_LOAD_TIMEOUT_S=7"} <= set(written)
    unit = _rendered(collections, tmp_path, "sonic-agent.service.j2", given)
    assert "EnvironmentFile=/etc/sonic/agent.env" in unit
    assert not [line for line in unit if "SONIC_" in line]


ROLE = "sonic.fleet.sonic_agent"


def _rendered(collections: Path, folder: Path, template: str, given: dict[str, Any]) -> list[str]:
    task = {
        "template": {
            "src": str(collection.SOURCE / "roles/sonic_agent/templates" / template),
            "dest": str(folder / "made"),
            "mode": "0600",
        }
    }
    defaults = yaml.safe_load((collection.SOURCE / "roles/sonic_agent/defaults/main.yml").read_text())
    values = yaml.safe_load((collection.SOURCE / "roles/sonic_agent/vars/main.yml").read_text())
    done = _play(collections, folder, defaults | values | {"sonic_agent_region": "eu"} | given, task)
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "made").read_text().splitlines()


def _play(
    collections: Path, folder: Path, variables: dict[str, Any], task: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    inventory, playbook = folder / "fleet.yml", folder / "play.yml"
    inventory.write_text(INVENTORY.replace("{sonic_agent_region: eu}", "{}"))
    variables = {name: value for name, value in variables.items() if value is not None}
    play = {"hosts": "box-1", "gather_facts": False, "vars": variables, "tasks": [task]}
    playbook.write_text(yaml.safe_dump([play]))
    return collection.run("ansible-playbook", "-i", str(inventory), str(playbook), collections=collections)


def test_a_clock_is_judged_by_when_it_was_read_however_long_other_boxes_take(collections: Path, tmp_path: Path) -> None:
    scripts = {
        "slow": f'{sys.executable} "$@"; sleep 4',
        "wrong": f'PATH={tmp_path}:$PATH exec {sys.executable} "$@"',
        "date": "echo $(( $(/bin/date +%s) - 60 ))",
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o700)
    fleet = yaml.safe_load(INVENTORY)
    fleet["all"]["children"]["sonic_agent"]["hosts"] |= {
        name: {"ansible_python_interpreter": str(tmp_path / name)} for name in ("slow", "wrong")
    }
    (tmp_path / "fleet.yml").write_text(yaml.safe_dump(fleet))
    tasks = yaml.safe_load((collection.SOURCE / "roles/sonic_common/tasks/preflight.yml").read_text())
    clock = [task for task in tasks if task["name"].startswith(("Look at the clocks", "Assert a clock that agrees"))]
    told = {"debug": {"msg": "{{ inventory_hostname }} is right"}}
    play = {"hosts": "sonic_agent", "gather_facts": False, "vars": {"sonic_common_clock_tolerance_s": 2}}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play | {"tasks": [*clock, told]}]))
    done = collection.run(
        *("ansible-playbook", "-i", str(tmp_path / "fleet.yml"), str(tmp_path / "play.yml")), collections=collections
    )
    assert re.findall(r"([\w-]+) is right", done.stdout) == ["box-1", "slow"], done.stdout + done.stderr
    assert re.search(r"the clock is -(59|60|61) s off that of the control machine; 2 s are allowed", done.stdout)


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        ({"sonic_common_models": ["face-mesh"]}, True),
        ({"sonic_common_models": ["face-mesh", "sonic"]}, False),
        ({"sonic_common_models": ["face-mesh", "sonic"], "sonic_accept_licence": True}, True),
    ],
)
def test_a_box_gets_models_with_terms_where_somebody_accepts_these(
    given: dict[str, Any], accepted: bool, collections: Path, tmp_path: Path
) -> None:
    role = collection.SOURCE / "roles/sonic_common"
    look, install = (yaml.safe_load((role / f"tasks/{name}.yml").read_text()) for name in ("preflight", "install"))
    (asserted,) = [task for task in look if task["name"] == "Assert that the terms of the models are accepted"]
    (fetch,) = [task for task in install[-1]["block"] if task["name"] == "Fetch the models"]
    sonic = tmp_path / "bin/sonic"
    sonic.parent.mkdir()
    sonic.write_text(f'#!/bin/sh\necho "$3 $SONIC_ACCEPT_LICENCE" >>{tmp_path}/fetched\n')
    sonic.chmod(0o700)
    given = yaml.safe_load((role / "defaults/main.yml").read_text()) | given
    given |= {"sonic_common_home": str(tmp_path), "sonic_common_release_path": str(tmp_path)}
    done = _play(collections, tmp_path, given, {"block": [asserted, fetch]})
    assert (done.returncode == 0) == accepted, done.stdout + done.stderr
    if accepted:
        said = int(given.get("sonic_accept_licence", False))
        fetched = [f"{model} {said}" for model in given["sonic_common_models"]]
        assert (tmp_path / "fetched").read_text().splitlines() == fetched
    else:
        assert "set sonic_accept_licence to true" in " ".join(done.stdout.split())


def _filters() -> Any:
    spec = importlib.util.spec_from_file_location("fleet_filters", collection.SOURCE / "plugins/filter/fleet.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


filters = _filters()


@pytest.mark.parametrize(
    ("boxes", "sizes"), [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (10, [1, 4, 5]), (40, [1, 3, 16, 20]), (0, [])]
)
def test_waves_grow(boxes: int, sizes: list[int]) -> None:
    hosts = [f"box-{number}" for number in range(boxes)]
    found = filters.waves(hosts, {host: {"sonic_agent_region": "eu"} for host in hosts})
    assert [len(wave) for wave in found] == sizes
    assert [host for wave in found for host in wave] == hosts


def test_each_region_has_a_canary_of_its_own() -> None:
    regions = {"a": "us", "b": "eu", "c": "us", "d": "eu"}
    found = filters.waves(list(regions), {host: {"sonic_agent_region": region} for host, region in regions.items()})
    assert found == [["b"], ["d"], ["a"], ["c"]]


def test_the_driver_of_most_is_the_usual_one() -> None:
    said = {"a": "NVIDIA L4, 550.1", "b": "NVIDIA L4, 550.1", "c": "NVIDIA L4, 535.9", "d": "Tesla T4, 470.2"}
    boxes = {host: {"sonic_agent_region": "eu", "sonic_agent_gpus": [line]} for host, line in said.items()}
    boxes["e"] = {"sonic_agent_region": "us", "sonic_agent_gpus": ["NVIDIA L4, 535.9"] * 4}
    assert filters.usual_drivers(boxes, boxes, "eu", "NVIDIA L4, 535.9") == ["NVIDIA L4, 550.1"]
    assert filters.usual_drivers(boxes, ["a", "c"], "eu", "NVIDIA L4, 535.9") == []  # one against one is no majority


def _job(node: str, began: str, work_s: float, width: int = 256, **report: Any) -> dict[str, Any]:
    facts = {"engine": "warp", "width": width, "height": width, "video_seconds": 2.0, "portrait_was_prepared": True}
    return {
        "attempts": [{"node_id": node, "started_at": began}],
        "report": facts | {"stages": [{"stage": "rendering", "seconds": work_s}]} | report,
    }


def test_renders_are_compared_with_their_like() -> None:
    before = [_job("a", "2026-01-01T00:00:00Z", work_s) for work_s in (1.0, 1.2, 0.9)]
    before += [_job("a", "2026-01-01T00:00:00Z", 8.0, width=1024)]
    after = [_job("a", "2026-01-01T01:00:00.250Z", 3.0), _job("b", "2026-01-01T01:00:00Z", 50.0)]
    after += [_job("a", "2026-01-01T01:00:01Z", 0.2, resumed_from="7")]  # another node has done most of it
    since = 1767229200.0
    slow = filters.paces(before + after, ["a"], since)
    assert len(slow) == 1
    assert filters.slowdown(slow, filters.paces(before, ["a"])) == 3.0
    assert filters.slowdown(filters.paces(after, ["b"]), []) == 0.0  # nothing to compare with


def test_a_box_that_vanished_in_the_middle_has_not_passed() -> None:
    boxes = {
        "was-there": {},
        "passed": {"sonic_agent_touched": True, "sonic_agent_passed": True},
        "vanished": {"sonic_agent_touched": True},
        "failed": {"sonic_why_not": "slow"},
    }
    assert filters.not_passed(boxes, boxes) == ["vanished", "failed"]


@pytest.fixture
def scripted(tmp_path: Path) -> Path:
    """The collection, with an upgrade and a rollback that need no box: one vanishes or passes as it is told."""
    fleet = tmp_path / "scripted/ansible_collections/sonic/fleet"
    shutil.copytree(collection.SOURCE, fleet)
    tasks = fleet / "roles/sonic_agent/tasks"
    (tasks / "upgrade.yml").write_text(
        """
- include_tasks: mark.yml
- set_fact: {ansible_connection: ssh, ansible_port: 1}
  when: vanishes | default(false)
- copy: {content: new, dest: "{{ folder }}/{{ inventory_hostname }}", mode: "0600"}
  register: copied
- assert: {that: copied is not unreachable, fail_msg: it has vanished}
- assert: {that: not slow | default(false), fail_msg: it is slow}
- include_tasks: unmark.yml
- set_fact: {sonic_agent_passed: true}
"""
    )
    (tasks / "rollback.yml").write_text(
        """
- assert: {that: not stuck | default(false), fail_msg: it is stuck}
- copy: {content: "{{ sonic_agent_back_to }}", dest: "{{ folder }}/{{ inventory_hostname }}", mode: "0600"}
- include_tasks: unmark.yml
"""
    )
    return tmp_path / "scripted"


def _upgraded(collections: Path, folder: Path, **boxes: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """What becomes of boxes that have been looked at, by the play that upgrades them."""
    plays = yaml.safe_load((collection.SOURCE / "playbooks/upgrade.yml").read_text())
    play = next(play for play in plays if play["name"] == "Upgrade the boxes") | {"become": False}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    given = {"sonic_agent_region": "eu", "sonic_agent_before": "old", "sonic_agent_was_drained": False}
    inventory = yaml.safe_load(INVENTORY)
    inventory["all"]["children"]["sonic_agent"]["hosts"] = {name: given | said for name, said in boxes.items()}
    inventory["all"]["vars"] |= {"sonic_agent_wanted": "new", "folder": str(folder)}
    (folder / "fleet.yml").write_text(yaml.safe_dump(inventory))
    mark = json.dumps({"sonic_agent_mark": str(folder) + "/{{ inventory_hostname }}.mark"})
    return collection.run(
        *("ansible-playbook", "-i", str(folder / "fleet.yml"), "-e", mark, str(folder / "play.yml")),
        collections=collections,
    )


@pytest.mark.parametrize(
    ("limit", "waves"),
    [
        ("box-1,box-3", [["box-1"], ["box-3"]]),
        ("!box-2", [["box-1"], ["box-3"]]),
        ("eu:us", [["box-1"], ["box-2"], ["box-3"]]),
        ("sonic_agent:&eu", [["box-1"], ["box-2"]]),
    ],
)
def test_an_upgrade_means_the_boxes_that_limit_means(
    limit: str, waves: list[list[str]], collections: Path, tmp_path: Path
) -> None:
    plays = yaml.safe_load((collection.SOURCE / "playbooks/upgrade.yml").read_text())
    (look,) = [play for play in plays if play["name"].startswith("Look")]
    (upgrade,) = [play for play in plays if play["name"] == "Upgrade the boxes"]
    bare = {"become": False, "gather_facts": False}
    meant = {"debug": {"msg": "means {{ inventory_hostname }}"}}
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([look | bare | {"tasks": look["tasks"][-1:]}, upgrade | bare | {"tasks": [meant]}])
    )
    fleet = yaml.safe_load(INVENTORY)
    regions = {"eu": ("box-1", "box-2"), "us": ("box-3",)}
    fleet["all"]["children"]["sonic_agent"] = {
        "children": {
            region: {"hosts": {box: {} for box in boxes}, "vars": {"sonic_agent_region": region}}
            for region, boxes in regions.items()
        }
    }
    (tmp_path / "fleet.yml").write_text(yaml.safe_dump(fleet))
    done = collection.run(
        *("ansible-playbook", "-i", str(tmp_path / "fleet.yml"), "--limit", limit, str(tmp_path / "play.yml")),
        collections=collections,
    )
    said = " ".join(done.stdout.split())
    assert " ".join(json.dumps({"msg": waves}, indent=4).split()) in said, done.stdout + done.stderr
    assert re.findall(r"means (box-\d)", said) == [box for wave in waves for box in wave]


AWAY = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


def test_a_box_that_vanishes_in_its_wave_is_told_of_and_the_others_go_back(scripted: Path, tmp_path: Path) -> None:
    boxes = {"box-1": {}, "box-2": {}, "box-3": {"vanishes": True}, "box-4": {}}
    done = _upgraded(scripted, tmp_path, **boxes)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    told = (
        "1.2.3 has not passed on box-3; the wave box-4 runs the release before again. box-3 cannot be reached and is as"
    )
    assert told in said, done.stdout + done.stderr
    assert {name: (tmp_path / name).read_text() for name in boxes if (tmp_path / name).exists()} == {
        "box-1": "new",
        "box-2": "new",
        "box-4": "old",
    }
    marked = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.mark")}
    assert marked == {"box-3": {"before": "old", "was_drained": False}}


def test_a_box_that_cannot_be_rolled_back_is_told_of(scripted: Path, tmp_path: Path) -> None:
    done = _upgraded(scripted, tmp_path, **{"box-1": {"slow": True, "stuck": True}, "box-2": {}})
    assert done.returncode != 0
    told = (
        "1.2.3 has not passed on box-1; box-1 could not be rolled back: run sonic.fleet.rollback with --limit box-1. "
        "it is slow it is stuck"
    )
    assert told in " ".join(done.stdout.split()), done.stdout + done.stderr
    assert not (tmp_path / "box-2").exists()


def test_a_canary_that_is_away_is_told_of_and_ends_the_run(scripted: Path, tmp_path: Path) -> None:
    done = _upgraded(scripted, tmp_path, **{"box-1": AWAY, "box-2": {}})
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "box-1 cannot be reached, and nothing was changed there" in said, done.stdout + done.stderr
    assert "run sonic.fleet.upgrade or sonic.fleet.rollback with --limit box-1 when it is back" in said
    assert "runs the release before again" not in said
    assert not (tmp_path / "box-2").exists()


def test_a_box_that_an_upgrade_has_left_is_upgraded_by_the_next_one(scripted: Path, tmp_path: Path) -> None:
    """Also where it runs the new release already: nobody has seen it pass."""
    (tmp_path / "box-1.mark").write_text(json.dumps({"before": "new", "was_drained": False}))
    done = _upgraded(scripted, tmp_path, **{"box-1": {"sonic_agent_before": "new", "sonic_agent_unended": True}})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "box-1").read_text() == "new"
    assert not (tmp_path / "box-1.mark").exists()


def test_a_box_that_an_upgrade_has_left_goes_back_to_what_it_ran_before_that_one(
    scripted: Path, tmp_path: Path
) -> None:
    (tmp_path / "box-1.mark").write_text(json.dumps({"before": "older", "was_drained": True}))
    plays = yaml.safe_load((collection.SOURCE / "playbooks/rollback.yml").read_text())
    (tmp_path / "play.yml").write_text(yaml.safe_dump([plays[0] | {"become": False}]))
    (tmp_path / "fleet.yml").write_text(INVENTORY)
    given = json.dumps({"sonic_agent_mark": f"{tmp_path}/box-1.mark", "folder": str(tmp_path)})
    done = collection.run(
        *("ansible-playbook", "-i", str(tmp_path / "fleet.yml"), "-e", given, str(tmp_path / "play.yml")),
        collections=scripted,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "box-1").read_text() == "older"
    assert not (tmp_path / "box-1.mark").exists()


def _sonic(folder: Path, script: str) -> Path:
    """An operator's command that does what the script says, and notes how it was called."""
    (folder / "called").touch()
    made = folder / "sonic"
    made.write_text(f'#!/bin/sh\necho "$1 $2" >>{folder}/called\n{script}\n')
    made.chmod(0o700)
    return made


def test_one_call_of_the_hub_that_fails_ends_no_wait(collections: Path, tmp_path: Path) -> None:
    node = {"state": "NODE_STATE_READY", "agent_version": "1.2.3", "slots": [{"state": "SLOT_STATE_READY"}]}
    every_second = f"[ $(( $(wc -l <{tmp_path}/called) % 2 )) = 0 ] || exit 4"
    sonic = _sonic(tmp_path, f"{every_second}; echo '{json.dumps(node)}'")
    files = ("drain", "upgrade", "soak", "resume")
    read = [yaml.safe_load((collection.SOURCE / f"roles/sonic_agent/tasks/{name}.yml").read_text()) for name in files]
    waits = [task | {"delay": 0} for tasks in read for task in tasks if "until" in task]
    given = {
        "sonic_agent_sonic": str(sonic),
        "sonic_agent_operator": {},
        "sonic_agent_operator_host": "hub-1",
        "sonic_agent_node_id": "box-1",
        "sonic_agent_idle_timeout_s": 60,
        "sonic_agent_soak_s": 0,
        "sonic_agent_soak_poll_s": 1,
        "sonic_agent_resumed_at": {"stdout": "0"},
    }
    done = _play(collections, tmp_path, given, {"block": waits})
    assert done.returncode == 0, done.stdout + done.stderr
    called = (tmp_path / "called").read_text().split("\n")
    assert called == ["nodes show"] * 6 + ["nodes resume"] * 2 + [""]


@pytest.mark.parametrize(
    ("mark", "resumed"), [({"was_drained": False}, True), ({"was_drained": True}, False), ({}, False)]
)
def test_a_box_goes_back_also_where_the_hub_does_not_drain_it(
    mark: dict[str, Any], resumed: bool, collections: Path, tmp_path: Path
) -> None:
    """And is resumed where it is known that nobody wanted it drained."""
    sonic = _sonic(tmp_path, "[ $2 = resume ]")
    folder = tmp_path / "tasks"
    shutil.copytree(collection.SOURCE / "roles/sonic_agent/tasks", folder)
    tasks = yaml.safe_load((folder / "rollback.yml").read_text())
    tasks = [task for task in tasks if "ansible.builtin.systemd_service" not in task]
    (link,) = [task["ansible.builtin.file"] for task in tasks if "ansible.builtin.file" in task]
    link["dest"] = str(tmp_path / "current")
    (folder / "rollback.yml").write_text(yaml.safe_dump(tasks))
    (tmp_path / "older").mkdir()
    given = {
        "sonic_agent_sonic": str(sonic),
        "sonic_agent_operator": {},
        "sonic_agent_operator_host": "hub-1",
        "sonic_agent_node_id": "box-1",
        "sonic_agent_mark": str(tmp_path / "mark"),
        "sonic_agent_back_to": str(tmp_path / "older"),
    }
    given |= {f"sonic_agent_{name}": value for name, value in mark.items()}
    done = _play(collections, tmp_path, given, {"include_tasks": str(folder / "rollback.yml")})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "current").resolve() == tmp_path / "older"
    assert ("nodes resume" in (tmp_path / "called").read_text()) == resumed


@pytest.mark.parametrize(("link", "before"), [("1", "1"), ("2", "1"), ("2", "2"), ("3", "1")])
def test_what_is_remembered_for_a_rollback_has_passed(
    link: str, before: str, collections: Path, tmp_path: Path
) -> None:
    """A box that was lost in its upgrade from 1 to 2 may run either, and 3 if that was tried since; here it gets 3."""
    for release in ("1", "2", "3-cpu"):
        (tmp_path / "releases" / release).mkdir(parents=True)
    (tmp_path / "current").symlink_to(tmp_path / "releases" / link.replace("3", "3-cpu"))
    (tmp_path / "current.previous").symlink_to(tmp_path / "releases/1")
    tasks = yaml.safe_load((collection.SOURCE / "roles/sonic_agent/tasks/upgrade.yml").read_text())
    (switch,) = [task for task in tasks if task["name"] == "Use the release"]
    switch["ansible.builtin.include_role"]["name"] = "sonic.fleet.sonic_common"
    given = {
        "sonic_version": "3",
        "sonic_agent_chosen_runtime": "cpu",
        "sonic_agent_before": str(tmp_path / "releases" / before),
        "sonic_common_home": str(tmp_path),
    }
    done = _play(collections, tmp_path, given, switch)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "current").resolve().name == "3-cpu"
    assert (tmp_path / "current.previous").resolve().name == before


@pytest.mark.parametrize(("rc", "told"), [(0, ""), (1, "1.2.3-cpu does not render the golden clip: 7 hush-7 0")])
def test_the_golden_clip_has_the_settings_and_nobody_else_sees_them(
    rc: int, told: str, collections: Path, tmp_path: Path
) -> None:
    seen = 'echo "$SONIC_SLOW $SONIC_SECRET $(ps -eo args | grep -c "[h]ush-7")"'
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\n[ "$1" != -c ] || exec {sys.executable} "$@"\n{seen}\nexit {rc}\n')
    python.chmod(0o700)
    tasks = yaml.safe_load((collection.SOURCE / "roles/sonic_agent/tasks/golden_turns.yml").read_text())
    command = tasks[0]["ansible.builtin.command"]
    command["argv"] = command["argv"][command["argv"].index("--") + 1 :]  # as whoever runs the test
    given = {
        "sonic_agent_environment": {"SONIC_SECRET": "hush-7", "SONIC_SLOW": 7, "SONIC_MODELS": "elsewhere"},
        "sonic_agent_data": str(tmp_path),
        "sonic_agent_engine": "warp",
        "sonic_agent_release": "1.2.3-cpu",
    }
    tasks[0]["loop"] = [str(tmp_path)] * 4
    shown = {"debug": {"msg": "{{ sonic_agent_tries | map(attribute='stdout') | unique | join('; ') }}"}}
    done = _play(collections, tmp_path, given, {"block": [*tasks, shown]})
    assert (done.returncode == 0) == (rc == 0), done.stdout + done.stderr
    assert (told or '"msg": "7 hush-7 0"') in " ".join(done.stdout.split()), done.stdout + done.stderr
    assert "SONIC_SECRET" not in done.stdout


def test_a_release_that_renders_nothing_right_has_no_speed() -> None:
    right = {"rc": 0, "stdout": '{"realtime_factor": 4.5}'}
    assert filters.fastest([right, {"rc": 1, "stdout": ""}]) == 4.5
    assert filters.fastest([{"rc": 1, "stdout": ""}]) == 0.0
