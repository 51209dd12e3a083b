"""A bounded storm on each kind of fleet: every fault happens, every fault is felt, and every promise is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.faults import blows, world

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(world.why_not()), reason=world.why_not() or "-"),
]


def storm(*options: str) -> dict[str, Any]:
    """What it printed last. All that it has started ends with it."""
    running = subprocess.Popen(
        [sys.executable, "-m", "tests.faults", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = running.communicate(timeout=280)
    finally:
        os.killpg(running.pid, signal.SIGKILL) if running.poll() is None else None
    last = said.rstrip().rpartition("\n")[2]
    assert last.startswith("{"), said
    told: dict[str, Any] = json.loads(last)
    assert not told["violations"], said
    assert not told["died"], said
    return told


def check_faults(told: dict[str, Any], kinds: tuple[str, ...]) -> None:
    assert {kind for kind, count in told["faults"].items() if count} == set(kinds)
    assert {kind for kind in kinds if not told["felt"].get(kind)} == set(), "faults that nobody noticed"
    assert set(told["exits"].values()) == {0}


def test_one_hub_on_sqlite() -> None:
    told = storm("--minutes", "0.3", "--jobs", "1200", "--seed", "1")
    check_faults(told, blows.ON_EVERY_FLEET)
    assert told["jobs"] > 1100
    assert told["states"]["succeeded"] > 0.8 * told["jobs"]
    assert told["requeued"] > 0


def test_two_hubs_on_postgresql() -> None:
    told = storm("--minutes", "0.3", "--jobs", "900", "--seed", "1", "--hubs", "2", "--store", "postgresql")
    one = tuple(kind for kind in blows.ON_EVERY_FLEET if kind != "full_disk_hub")
    check_faults(told, one + blows.ON_POSTGRESQL)
    assert told["jobs"] > 800
    assert told["states"]["succeeded"] > 0.8 * told["jobs"]
    assert told["requeued"] > 0
