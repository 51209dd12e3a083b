"""Every byte from outside, for as long as you like: `python -m tests.fuzz --minutes 10`; one line for each target.

Half of the time inputs are drawn, and half, where atheris is installed, chosen by the code that they reach.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.one import LIVE
from tests.fuzz.targets import TARGETS


@dataclass
class Outcome:
    """What came of one target."""

    tried: int = 0
    findings: dict[str, str] = field(default_factory=dict)


def fuzz(name: str, seconds: float, seed: int, folder: Path, engine: str) -> Outcome:
    """Run one target in a process of its own; a process that is lost is a finding."""
    command = [sys.executable, "-m", "tests.fuzz.one", name, f"--seconds={seconds}", f"--seed={seed}"]
    command += [f"--folder={folder}", f"--engine={engine}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 180, check=False)
        output, errors, status = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        output, errors, status = str(error.stdout or ""), "it did not come back", -1
    lines = [line for line in output.splitlines() if line.startswith('{"tried"')]
    outcome = Outcome(**json.loads(lines[-1])) if lines else Outcome()
    if status:
        lost = folder / f"lost-{engine}"
        if (folder / "current").exists():
            (folder / "current").replace(lost)
        outcome.findings[f"exit status {status}"] = f"{errors.strip()[-1500:]} ({lost})"
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a part of the names of targets")
    given = parser.parse_args()
    chosen = [name for name in (*TARGETS, *LIVE) if not given.only or given.only in name]
    engines = ["drawn", *(["atheris"] if importlib.util.find_spec("atheris") else [])]
    seconds = given.minutes * 60 / len(chosen) / len(engines)
    root, found, all_tried = Path(tempfile.mkdtemp(prefix="sonic-fuzz-")), 0, 0
    print(f"{len(chosen)} targets, {seconds:.0f} s each by {' and by '.join(engines)}; findings are kept in {root}")
    for name in chosen:
        folder = root / name.replace(" ", "-")
        outcomes = [
            fuzz(name, seconds, given.seed, folder, engine) for engine in (engines[:1] if name in LIVE else engines)
        ]
        tried = " + ".join(f"{outcome.tried:,}" for outcome in outcomes)
        findings = {where: what for outcome in outcomes for where, what in outcome.findings.items()}
        found += len(findings)
        all_tried += sum(outcome.tried for outcome in outcomes)
        print(f"{name:34} {tried:>24} inputs  {len(findings)} found", flush=True)
        for where, what in findings.items():
            print(f"    {where} {what}")
    print(json.dumps({"tried": all_tried, "found": found}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
