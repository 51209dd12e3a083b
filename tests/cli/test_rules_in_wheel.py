"""Who installs the package has the rules."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.monitoring.promtool import RULES


def test_an_installed_package_finds_every_rule_file_in_itself(tmp_path: Path) -> None:
    checkout = RULES.parent.parent
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=checkout,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    found = subprocess.check_output(
        [sys.executable, "-c", "from hub.rules import groups; print(groups.__file__, groups.shipped())"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        text=True,
    )
    code, shipped = map(Path, found.split())
    assert code.is_relative_to(site)
    assert shipped.is_relative_to(site)
    there = {path.relative_to(RULES): path.read_text() for path in RULES.rglob("*.yml")}
    assert there
    assert {path.relative_to(shipped): path.read_text() for path in shipped.rglob("*.yml")} == there
