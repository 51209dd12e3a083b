"""A frame in the middle between each two, also across the borders of chunks, one by one and in batches."""

from __future__ import annotations

import itertools
from unittest import mock

import pytest
import torch

from sonic_runtime.engines.sonic.interpolation import FrameInterpolator
from tests.diffusion.small import pipeline


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 3), (4, 4, 1), (8, 8, 3)], ids=str)
def test_batches_give_what_single_pairs_give(lengths: tuple[int, ...]) -> None:
    by = pipeline()
    by.interpolator = FrameInterpolator(8).eval()
    frames = torch.rand(sum(lengths), 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        middles = [by.interpolator(one[None], other[None])[0] for one, other in itertools.pairwise(frames)]
    for in_batches, calls in ((False, len(middles)), (True, sum(map(bool, (lengths[0] - 1, *lengths[1:]))))):
        by.smooths_in_batches = in_batches
        with mock.patch.object(by, "interpolator", wraps=by.interpolator) as called:
            found = list(by.smooth(iter(frames.split(lengths))))
        assert called.call_count == calls
        assert torch.equal(torch.stack(found[::2]), frames)
        assert len(found) == 2 * len(frames) - 1
        for one, other in zip(found[1::2], middles, strict=True):
            assert (one - other).abs().max() < 1e-5


def test_a_frame_is_there_before_the_next_chunk_is_decoded() -> None:
    by, asked = pipeline(), []

    def chunks():
        for number in range(2):
            asked.append(number)
            yield torch.rand(3, 3, 64, 64)

    smoothed = by.smooth(chunks())
    assert len([*itertools.islice(smoothed, 5)]) == 5
    assert asked == [0]
