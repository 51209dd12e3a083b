"""The inventory that comes from the hub, with a hub and nodes that are there."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from hub import testing
from tests import processes
from tests.ansible import collection
from tests.hub.secured import secured


def _listed(
    collections: Path, folder: Path, hub: str, text: str = "", **settings: str
) -> subprocess.CompletedProcess[str]:
    source = folder / "all.sonic_fleet.yml"
    command = json.dumps([sys.executable, "-m", "sonic"])
    environment = json.dumps({"SONIC_HUB": hub} | (settings or {"SONIC_INSECURE": "true"}))
    source.write_text(f"plugin: sonic.fleet.sonic_fleet\ncommand: {command}\nenvironment: {environment}\n{text}")
    return collection.run(
        *("ansible-inventory", "-i", str(source), "--list"),
        collections=collections,
        environment={"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1"},
    )


def _trusted(value: dict[str, Any]) -> Any:
    """Ansible marks texts that it would not take for templates."""
    return value.get("__ansible_unsafe", value)


async def test_nodes_are_grouped_by_what_they_are(collections: Path, tmp_path: Path) -> None:
    profiles = [
        testing.NodeProfile("box-1", "eu-west", gpu=testing.GPU_CLASSES[0]),
        testing.NodeProfile("box-2", "us", gpu=testing.GPU_CLASSES[1]),
    ]
    async with testing.running_hub() as hub, testing.running_fleet(hub, profiles):
        done = await asyncio.to_thread(
            _listed, collections, tmp_path, hub.grpc_address, "compose: {ansible_host: sonic_node_id ~ '.example'}"
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout, object_hook=_trusted)
    assert found["sonic_agent"]["hosts"] == ["box-1", "box-2"]
    assert found["region_eu_west"]["hosts"] == ["box-1"]
    assert found["state_ready"]["hosts"] == ["box-1", "box-2"]
    facts = found["_meta"]["hostvars"]["box-2"]
    assert facts["sonic_agent_region"] == "us"
    assert facts["ansible_host"] == "box-2.example"
    name = "".join(c if c.isalnum() else "_" for c in facts["sonic_gpus"][0]["name"].lower())
    assert found[f"gpu_{name}"]["hosts"] == ["box-2"]
    (version,) = facts["sonic_model_versions"]
    assert "box-2" in found[f"model_{version.replace('-', '_').replace('.', '_')}"]["hosts"]


async def test_a_revoked_node_is_in_a_group_of_its_own(collections: Path, tmp_path: Path) -> None:
    async with secured(tmp_path) as at:
        for name in ("box-1", "box-2"):
            async with at.agent(await at.enrolled(name), name) as agent:
                await agent.join()
        await at.operator.revoke_node("box-1")
        asking = {"SONIC_CA_FILE": str(at.ca_file), "SONIC_API_KEY_FILE": str(tmp_path / "hub" / "operator.key")}
        done = await asyncio.to_thread(_listed, collections, tmp_path, at.hub.grpc_address, **asking)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout, object_hook=_trusted)
    assert found["state_revoked"]["hosts"] == ["box-1"]
    assert found["state_offline"]["hosts"] == ["box-2"]


def test_a_hub_that_is_away_is_said_to_be(collections: Path, tmp_path: Path) -> None:
    done = _listed(collections, tmp_path, f"127.0.0.1:{processes.free_port()}")
    assert done.returncode != 0
    assert "nodes list --json" in done.stderr
