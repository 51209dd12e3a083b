"""Three boxes in two regions and one for the hub, and the playbooks that are run on them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml

from sonic_runtime import probe
from tests.ansible import collection
from tests.rollout import boxes, releases
from tests.rollout.boxes import Box

REGIONS = {"eu-1": "eu", "eu-2": "eu", "us-1": "us"}
DATA = "/var/lib/sonic-hub"
OPERATOR = (
    f"SONIC_HUB=localhost:50051 SONIC_CA_FILE={DATA}/authority/authority.pem SONIC_API_KEY_FILE={DATA}/operator.key"
)
SONIC = f"{OPERATOR} /opt/sonic/current-hub/bin/sonic"


@dataclass
class Fleet:
    """The boxes, and what an operator does with them."""

    boxes: dict[str, Box]
    folder: Path
    collections: Path

    @property
    def hub(self) -> Box:
        return self.boxes["hub-1"]

    def play(self, name: str, *arguments: str, version: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection; its output is kept in the folder."""
        inventory = self.folder / "fleet.yml"
        inventory.write_text(yaml.safe_dump(self._inventory(version, settings)))
        done = collection.run(
            "ansible-playbook", "-i", str(inventory), f"sonic.fleet.{name}", *arguments, collections=self.collections
        )
        with (self.folder / "plays.log").open("a") as log:
            log.write(f"\n===== {name} {arguments} {version} {settings}\n{done.stdout}{done.stderr}")
        return done

    def sonic(self, *arguments: str) -> Any:
        """What the operator's command says, on the hub's box."""
        return json.loads(self.hub.ssh(f"{SONIC} {' '.join(arguments)} --json").stdout)

    def nodes(self) -> dict[str, tuple[str, str]]:
        """State and version of each node."""
        found = self.sonic("nodes", "list")
        return {node["node_id"]: (node["state"].removeprefix("NODE_STATE_"), node["agent_version"]) for node in found}

    def submit_until_stopped(self, name: str, every_s: float = 1.0) -> Path:
        """Submit jobs on the hub's box; the folder of the load on that box, as seen from here."""
        here, there = self.hub.root / f"root/{name}", f"/root/{name}"
        here.mkdir()
        cv2.imwrite(str(here / "face.png"), probe.draw_face(512)[:, :, ::-1])
        probe.write_voice(here / "voice.wav")
        (here / "load.py").write_text((Path(__file__).parent / "load.py").read_text())
        python = "/opt/sonic/current-hub/bin/python"
        command = f"{OPERATOR} SONIC_TENANT=tester setsid {python} {there}/load.py {there} {every_s}"
        self.hub.ssh(f"{command} > {there}/ended 2> {there}/log < /dev/null &")
        return here

    def stop_load(self, name: str) -> list[dict[str, Any]]:
        """No more jobs; what became of all."""
        self.hub.ssh(f"touch /root/{name}/stop; tail --pid=$(pgrep -f load.py | head -1) -f /dev/null", timeout_s=300)
        ended = (self.hub.root / f"root/{name}/ended").read_text()
        assert ended, (self.hub.root / f"root/{name}/log").read_text()
        return list(json.loads(ended))

    def _inventory(self, version: str, settings: dict[str, Any]) -> dict[str, Any]:
        agents = {
            name: {"ansible_host": self.boxes[name].address, "sonic_agent_region": region}
            for name, region in REGIONS.items()
        }
        return {
            "all": {
                "vars": {
                    "ansible_user": "root",
                    "ansible_ssh_private_key_file": str(self.hub.key),
                    "ansible_ssh_common_args": " ".join(boxes.ssh_options(self.hub.key)[2:]),
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "sonic_version": version,
                    "sonic_wheelhouse": str(self.folder / "dist"),
                    # Boxes have the clock of this machine, and none of their own to keep.
                    "sonic_common_require_time_sync": False,
                    # Four boxes share a few cores: what they do slows the others down.
                    "sonic_agent_golden_share": 0.4,
                    "sonic_agent_pace_limit": 2.5,
                    "sonic_agent_soak_s": 25,
                }
                | settings,
                "children": {
                    "sonic_hub": {"hosts": {"hub-1": {"ansible_host": self.hub.address}}},
                    "sonic_agent": {"hosts": agents},
                },
            }
        }


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Bare boxes, and wheelhouses of a first release, of one that is slow at work, and of a sound one after it."""
    if reason := boxes.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("rollout")
    dist = folder / "dist"
    dist.mkdir()
    for version, flaw in (("1.0.0", ""), ("1.1.0", releases.SLOW_AT_WORK), ("1.1.1", "")):
        releases.wheelhouse_of(version, dist, flaw)
    with boxes.fleet(["hub-1", *REGIONS], folder / "boxes") as made:
        yield Fleet(made, folder, collection.place(folder / "collections"))
