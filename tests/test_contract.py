"""The wire contract: the stubs are those of proto/, it passes Buf's lint, and every call has its paragraph."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hub.core.faults import Fault
from hub.core.instructions import Verdict
from sonic.v1 import fleet_service_pb2, jobs_pb2

ROOT = Path(__file__).resolve().parent.parent


def test_the_committed_stubs_are_what_proto_generates() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/generate_stubs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_buf_lint_passes() -> None:
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run([buf, "lint", "proto"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "proto").rglob("*_service.proto")), ids=lambda path: path.stem)
def test_every_call_says_what_a_repeat_does(path: Path) -> None:
    calls = re.findall(r"((?:  //.*\n)*)  rpc (\w+)", path.read_text())
    assert calls
    for comment, name in calls:
        assert len(comment.split()) > 8, f"{name} has no contract paragraph"


def test_the_decisions_numbers_are_those_of_the_wire() -> None:
    assert {fault.name: int(fault) for fault in Fault} == {
        name.removeprefix("FAULT_KIND_"): number for name, number in jobs_pb2.FaultKind.items()
    }
    wire = {name.removeprefix("RESULT_VERDICT_"): number for name, number in fleet_service_pb2.ResultVerdict.items()}
    assert {verdict.name: int(verdict) for verdict in Verdict} | {"UNSPECIFIED": 0} == wire
