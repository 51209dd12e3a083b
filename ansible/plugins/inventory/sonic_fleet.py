"""Inventory of a Sonic Fleet, as its hub knows it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable

DOCUMENTATION = """
name: sonic_fleet
short_description: Boxes of a Sonic Fleet, as its hub knows them
description:
  - Asks the hub for its nodes by the operator's command, C(sonic nodes list --json).
  - Every node is a host of the group C(sonic_agent), and of groups by what it is, C(region_eu), C(state_ready),
    C(gpu_nvidia_l4), C(model_warp_2). Boxes without a GPU are in C(gpu_cpu), those revoked in C(state_revoked).
  - The host's name is the node's id; where it is reached, if not by that name, is said by C(compose) or another source.
  - Its file has a name that ends in C(sonic_fleet.yml) or C(sonic_fleet.yaml).
extends_documentation_fragment:
  - constructed
options:
  plugin:
    description: Says that the file is for this plugin.
    required: true
    choices: [sonic_fleet, sonic.fleet.sonic_fleet]
  command:
    description:
      - How the operator's command is called. Behind C(ssh HUB) where it is on the hub's machine alone.
      - Where the hub is, and as whom it is asked, is set as always, by its configuration file and C(SONIC_*) variables.
    type: list
    elements: str
    default: [sonic]
  environment:
    description: More variables for the command, for example C(SONIC_HUB).
    type: dict
    default: {}
  timeout:
    description: How long the answer may take, in seconds.
    type: int
    default: 60
"""

EXAMPLES = """
# fleet.sonic_fleet.yml
plugin: sonic.fleet.sonic_fleet
environment:
  SONIC_HUB: hub.example.com:50051
  SONIC_API_KEY_FILE: /root/operator.key
compose:
  ansible_host: sonic_node_id ~ ".boxes.example.com"
"""


class InventoryModule(BaseInventoryPlugin, Constructable):
    """What Ansible asks for."""

    NAME = "sonic.fleet.sonic_fleet"

    def verify_file(self, path: str) -> bool:
        """Whether the file is for this plugin, by its name."""
        return bool(super().verify_file(path)) and path.endswith(("sonic_fleet.yml", "sonic_fleet.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Raises AnsibleParserError: the command is not there, is refused, or answers nothing that is understood."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        for node in self._nodes():
            self._add(node)

    def _nodes(self) -> list[dict[str, Any]]:
        command = [*self.get_option("command"), "nodes", "list", "--json"]
        environment = os.environ | {name: str(value) for name, value in self.get_option("environment").items()}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env=environment,
                timeout=self.get_option("timeout"),
            )
            if done.returncode:
                raise AnsibleParserError(f"{' '.join(command)}: {to_text(done.stderr).strip()}")
            nodes: list[dict[str, Any]] = json.loads(done.stdout)
        except OSError as error:
            raise AnsibleParserError(f"{command[0]} cannot be run: {error}; pip install sonic-fleet") from error
        except subprocess.TimeoutExpired as error:
            raise AnsibleParserError(f"the hub has not answered within {error.timeout} s") from error
        except ValueError as error:
            raise AnsibleParserError(f"{' '.join(command)} has not answered in JSON: {error}") from error
        return nodes

    def _add(self, node: dict[str, Any]) -> None:
        host = node["node_id"]
        self.inventory.add_host(host)
        models = sorted({engine["model_version"] for slot in node["slots"] for engine in slot["engines"]})
        gpus = sorted({gpu["name"] for gpu in node["gpus"]}) or ["cpu"]
        state = "revoked" if node.get("revoked") else node["state"].removeprefix("NODE_STATE_").lower()
        said = {
            "sonic_node_id": host,
            "sonic_agent_node_id": host,
            "sonic_agent_region": node["region"],
            "sonic_state": state,
            "sonic_state_reason": node["state_reason"],
            "sonic_agent_version": node["agent_version"],
            "sonic_gpus": node["gpus"],
            "sonic_model_versions": models,
        }
        for name, value in said.items():
            self.inventory.set_variable(host, name, value)
        groups = [f"region_{node['region']}", f"state_{state}"]
        groups += [f"gpu_{gpu}" for gpu in gpus] + [f"model_{model}" for model in models]
        for group in ("sonic_agent", *map(_name, groups)):
            self.inventory.add_group(group)
            self.inventory.add_child(group, host)
        variables = self.inventory.get_host(host).get_vars()
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, host, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, host, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host, strict=strict)


def _name(text: str) -> str:
    """A group's name: letters, digits and underscores."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in text.lower())
