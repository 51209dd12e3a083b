"""Whether a release renders right on a box, and how fast, as an upgrade asks it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from sonic_runtime import errors, golden, probe
from sonic_runtime.faces import FaceFinder


def test_a_sound_release_is_right_and_has_a_speed(finder: FaceFinder) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sonic_runtime.golden", "--times", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["right"]
    assert verdict["realtime_factor"] > 0
    assert (verdict["engine"], verdict["why"]) == ("warp", "")


def test_a_picture_that_is_off_is_not_right(finder: FaceFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = probe.expected_blocks("warp-2")
    assert sound is not None
    monkeypatch.setattr(probe, "expected_blocks", lambda _version: np.roll(sound, 1, axis=0))  # a frame late
    verdict = golden.judge("warp", 1)
    assert not verdict.right
    assert verdict.realtime_factor == 0
    assert "does not look" in verdict.why


def test_a_render_that_fails_is_told(finder: FaceFinder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> probe.Clip:
        raise errors.OutputBroken("nothing was written")

    monkeypatch.setattr(probe, "run", fails)
    assert "nothing was written" in golden.judge("warp", 1).why
