"""What is left out when speed is bought: nothing by default, what was named otherwise, and how far off it may be."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch

from sonic_runtime.engines.sonic import eight_bit
from sonic_runtime.engines.sonic.pipeline import OnCall, Sampling, SonicPipeline
from tests.diffusion.small import clip_of, denoised, error, pipeline

SAMPLING = Sampling(steps=9, window_frames=6, shift_frames=2)
FRAMES = 9  # two windows, the second of which wraps around


@pytest.fixture(scope="module")
def small() -> SonicPipeline:
    return pipeline()


@pytest.fixture(scope="module")
def exact(small: SonicPipeline) -> torch.Tensor:
    return denoised(small, clip_of(small, FRAMES), SAMPLING)


def rows_called(by: SonicPipeline, sampling: Sampling) -> tuple[list[int], torch.Tensor]:
    """Rows of guidance in each call of the network, and the latents."""
    with mock.patch.object(by.unet, "denoise", wraps=by.unet.denoise) as calls:
        latents = denoised(by, clip_of(by, FRAMES), sampling)
    return [len(call.args[0]) for call in calls.call_args_list], latents


def test_by_default_every_window_is_one_call_of_three_rows(small: SonicPipeline, exact: torch.Tensor) -> None:
    rows, latents = rows_called(small, SAMPLING)
    assert rows == [3] * SAMPLING.calls(FRAMES)
    assert torch.equal(latents, exact)


def test_one_row_at_once_is_the_same(small: SonicPipeline, exact: torch.Tensor) -> None:
    small.rows_at_once = 1
    try:
        rows, latents = rows_called(small, SAMPLING)
    finally:
        del small.rows_at_once
    assert rows == [1] * 3 * SAMPLING.calls(FRAMES)
    assert error(latents, exact) < 1e-4


def test_guidance_every_third_step_calls_one_row_in_the_others(small: SonicPipeline, exact: torch.Tensor) -> None:
    rows, latents = rows_called(small, replace(SAMPLING, guidance_every=3))
    assert rows == [3, 3, 1, 1, 1, 1] * 3
    assert 0 < error(latents, exact) < 1


def test_without_guidance_the_other_rows_need_not_be_recent(small: SonicPipeline) -> None:
    """With both weights 1 the guided prediction is the row that hears."""
    plain = replace(SAMPLING, appearance_guidance=(1, 1), audio_guidance=(1, 1))
    clip = clip_of(small, FRAMES)
    found = denoised(small, clip, replace(plain, guidance_every=5))
    assert error(found, denoised(small, clip, plain)) < 1e-3


def test_the_step_cache_leaves_out_steps_of_very_strong_and_weak_noise(
    small: SonicPipeline, exact: torch.Tensor
) -> None:
    rows, latents = rows_called(small, replace(SAMPLING, step_cache=3))
    assert rows == [3, 3] * 6  # of the first three steps one, and not the last
    assert 0 < error(latents, exact) < 0.15


def test_both_together_count_guidance_by_the_steps_that_call(small: SonicPipeline) -> None:
    rows, _ = rows_called(small, replace(SAMPLING, step_cache=3, guidance_every=2))
    assert rows == [3, 3, 1, 1] * 3


@pytest.mark.parametrize(
    "shortcuts", [{"guidance_every": 3}, {"step_cache": 3}, {"guidance_every": 2, "step_cache": 3}]
)
def test_a_clip_that_goes_on_in_the_middle_is_as_if_it_had_not_been_left(
    small: SonicPipeline, shortcuts: dict[str, int]
) -> None:
    clip, sampling = clip_of(small, FRAMES), replace(SAMPLING, **shortcuts)
    rows, whole = rows_called(small, sampling)
    picture_noise, noise = small.noise(clip.pictures, FRAMES, 1)

    class Stopped(Exception):
        pass

    def stop_at(call: int) -> OnCall:
        def stop(done: int, _total: int) -> None:
            if done == call:
                raise Stopped

        return stop

    progress = small.begin(clip, sampling, noise)
    with mock.patch.object(small.unet, "denoise", wraps=small.unet.denoise) as calls:
        for call in range(1, sampling.calls(FRAMES)):
            with pytest.raises(Stopped):
                small.denoise(clip, sampling, progress, picture_noise, stop_at(call))
        latents = small.denoise(clip, sampling, progress, picture_noise)
    assert torch.equal(latents, whole)
    assert [len(call.args[0]) for call in calls.call_args_list] == rows


def test_weights_in_eight_bits_take_half_and_say_nearly_the_same() -> None:
    by = pipeline()
    clip = clip_of(by, FRAMES)
    # Guidance would multiply the difference, by 7.5.
    sampling = replace(SAMPLING, steps=1, appearance_guidance=(1, 1), audio_guidance=(1, 1))
    exact = denoised(by, clip, sampling)
    full = sum(each.nbytes for each in by.unet.parameters())
    names = {name.removesuffix(".weight") for name, _ in by.unet.named_parameters() if name.endswith(".weight")}
    eight_bit.shrink(by.unet)
    kept = sum(each.nbytes for each in (*by.unet.parameters(), *by.unet.buffers()))
    assert kept < 0.35 * full  # of float32
    shrunk = {name for name, module in by.unet.named_modules() if isinstance(module, eight_bit.EightBit)}
    assert shrunk < names
    assert "conv_in" not in shrunk
    assert any(name.endswith("processor.to_k_ip.0") for name in shrunk)
    assert 0 < error(denoised(by, clip, sampling), exact) < 0.15
