"""The compiled network: once for a size, whatever else a job wants; and the same result."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from sonic_runtime import errors
from sonic_runtime.engines.sonic.compiling import compile_layers, compile_network
from sonic_runtime.engines.sonic.interrupts import Interrupts, layers
from sonic_runtime.engines.sonic.pipeline import Sampling
from tests.diffusion.small import clip_of, denoised, error, pipeline


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.timeout(400)
def test_a_second_clip_of_another_length_is_not_compiled_anew() -> None:
    """Traced as for any backend; generating the code takes minutes and has no part in when it is done."""
    by = pipeline()
    Interrupts(by.unet)
    first, sampling = clip_of(by, 7), Sampling(steps=1, window_frames=5)
    exact = denoised(by, first, sampling)
    compile_network(by.unet, backend="eager")
    assert error(denoised(by, first, sampling), exact) < 1e-4  # channels come last: sums are taken in another order
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    by.unet.set_audio_scale(0.5)
    other = Sampling(steps=2, window_frames=5, appearance_guidance=(1, 3), audio_guidance=(4, 5), head_scale=0.5)
    for frames in (3, 12):  # shorter than a window, and longer than the first
        denoised(by, clip_of(by, frames, seed=2), other, seed=9)
    assert counters["stats"]["unique_graphs"] == 1
    denoised(by, clip_of(by, 7, side=128), sampling)
    assert counters["stats"]["unique_graphs"] == 2


def test_the_decoder_is_compiled_for_full_chunks_alone() -> None:
    by = pipeline()
    Interrupts(by.vae)
    latents = torch.randn(11, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    exact = torch.cat([*by.decode(latents, 4)])
    compile_network(by.vae.decoder, backend="eager")
    assert error(torch.cat([*by.decode(latents, 4)]), exact) < 1e-4
    for frames in (3, 9):
        assert len(torch.cat([*by.decode(latents[:frames], 4)])) == frames
    assert counters["stats"]["unique_graphs"] == 1


def test_compiled_layer_by_layer_a_call_says_the_same_and_can_be_cancelled_within() -> None:
    by = pipeline()
    interrupts = Interrupts(by.unet)
    clip, sampling = clip_of(by, 5), Sampling(steps=1, window_frames=5)
    exact = denoised(by, clip, sampling)
    compile_layers(by.unet, backend="eager")
    asked, ended = [], []
    by.unet.register_forward_hook(lambda *_: ended.append(len(asked)))

    def ask() -> None:
        asked.append(len(ended))
        if len(asked) == len(layers(by.unet)) + 3:
            raise errors.Cancelled

    with interrupts.asking(ask):
        assert error(denoised(by, clip, sampling), exact) < 1e-4
        assert ended == [len(layers(by.unet))]
        with pytest.raises(errors.Cancelled):
            denoised(by, clip, sampling)
    assert len(ended) == 1
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] < len(layers(by.unet))
