"""What the benchmark compares with is the same model: it answers the same, and takes the published model's work."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.peers.plain_sonic import PlainUNet
from bench.sonic import flops_of_a_call
from sonic_runtime.engines.sonic.unet import SonicUNet
from sonic_runtime.models import tiny
from tests.diffusion.small import error


def test_the_plain_network_answers_the_same() -> None:
    torch.manual_seed(0)
    unet, plain = SonicUNet.build(tiny.UNET).eval(), PlainUNet.build(tiny.UNET).eval()
    plain.load_state_dict(unet.state_dict())
    picture, audio = torch.randn(2, 4, 1, 16), torch.randn(2, 4, 6, 16)
    mask = torch.rand(1, 1, 128, 192)
    given = (torch.randn(2, 4, 8, 16, 24), torch.tensor(0.7), torch.tensor([[12.5, 20, 30]] * 2))
    with torch.inference_mode():
        unet.bind(unet.project(picture, audio))
        unet.bind_mask(mask)
        plain.context.picture, plain.context.audio, plain.context.mask = picture, audio, mask
        assert error(plain.call(*given), unet.denoise(*given)) < 1e-4


@pytest.mark.parametrize(("side", "published_tflop"), [(256, 23.4), (512, 100.0)])
def test_a_call_is_the_published_work_the_plain_way_and_less_here(side: int, published_tflop: float) -> None:
    plain, ours = flops_of_a_call(side, plain=True), flops_of_a_call(side)
    assert plain / 1e12 == pytest.approx(published_tflop, abs=0.1)
    assert 0.93 < ours / plain < 0.96


def test_counting_sees_attention() -> None:
    query = torch.empty(1, 1, 64, 32, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counted.get_total_flops() == 2 * 2 * 64 * 64 * 32
