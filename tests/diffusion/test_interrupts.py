"""A cancel is felt within a call of the network, and memory that runs out costs one render, not the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from sonic.parameters import ENGINE_DEFAULTS, RenderParameters
from sonic_runtime import errors
from sonic_runtime.engines.base import Face, Portrait
from sonic_runtime.engines.sonic import SonicEngine
from sonic_runtime.engines.sonic.engine import SonicTake
from sonic_runtime.media import voices

WANTED = RenderParameters(
    **{**ENGINE_DEFAULTS["sonic"], "min_resolution": 128, "inference_steps": 3, "lip_sync_correction": False}
)


class Caller:
    """Cancels while a network is in the middle of a call."""

    def __init__(self, during: nn.Module, after_questions: int = 2) -> None:
        self.begun, self.ended, self.asked, self.inside = 0, 0, 0, False
        self._after = after_questions
        self._hooks = [during.register_forward_pre_hook(self._begin), during.register_forward_hook(self._end)]

    def _begin(self, *_: object) -> None:
        self.begun, self.inside = self.begun + 1, True

    def _end(self, *_: object) -> None:
        self.ended, self.inside = self.ended + 1, False

    def report(self, _stage: str, _done: int, _total: int) -> None:
        self.asked += self.inside
        if self.asked >= self._after:
            raise errors.Cancelled

    def leave(self) -> None:
        for hook in self._hooks:
            hook.remove()


@contextmanager
def calling(during: nn.Module) -> Iterator[Caller]:
    caller = Caller(during)
    yield caller
    caller.leave()


@pytest.fixture
def take(engine: SonicEngine, short_voice: Path) -> SonicTake:
    rgb = np.random.default_rng(1).integers(0, 255, (160, 128, 3), np.uint8)
    portrait = Portrait(rgb, Face(np.zeros((478, 3), np.float32), (40.0, 50.0, 90.0, 110.0), 1.0, 0, 0, 0))
    return engine.prepare(engine.portray(portrait, WANTED), voices.load(short_voice), WANTED)


@pytest.mark.parametrize("network", ["unet", "decoder", "encoder", "clip"])
def test_a_cancel_ends_the_call_that_is_under_way(engine: SonicEngine, take: SonicTake, network: str) -> None:
    nets = engine.networks
    of = {"unet": nets.unet, "decoder": nets.vae.decoder, "encoder": nets.vae.encoder, "clip": nets.clip}
    with calling(of[network]) as caller, pytest.raises(errors.Cancelled):
        for _ in take.frames(caller.report):
            pass
    assert (caller.begun, caller.ended) == (1, 0)


def test_nobody_is_asked_when_no_render_is_under_way(engine: SonicEngine, take: SonicTake) -> None:
    with calling(engine.networks.unet) as caller, pytest.raises(errors.Cancelled):
        list(take.frames(caller.report))
    asked = caller.asked
    frames = [frame.copy() for frame in take.frames(lambda *_: None)]
    assert len(frames) == take.shape.frame_count
    assert caller.asked == asked


def test_a_long_recording_can_be_cancelled_while_it_is_heard(engine: SonicEngine) -> None:
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise errors.Cancelled

    with pytest.raises(errors.Cancelled):
        engine.networks.speech.hear(np.zeros(16_000 * 100, np.float32), ask=ask)
