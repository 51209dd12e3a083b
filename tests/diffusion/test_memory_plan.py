"""What a render takes of memory is known before it starts, and what would not fit is refused with what would."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn

from sonic.v1 import jobs_pb2
from sonic_runtime import errors
from sonic_runtime.engines.sonic import memory_plan, memory_profiles, published, weights
from sonic_runtime.engines.sonic.device_memory import DeviceMemory
from sonic_runtime.engines.sonic.interpolation import FrameInterpolator
from sonic_runtime.engines.sonic.memory_plan import GIB, Footprint, Work
from sonic_runtime.engines.sonic.options import Options
from sonic_runtime.engines.sonic.pipeline import ROWS
from sonic_runtime.engines.sonic.residence import Residence
from sonic_runtime.engines.sonic.unet import SonicUNet
from sonic_runtime.memory import forget_peak, peak_bytes
from sonic_runtime.models import tiny
from tests.diffusion.small import pipeline

WORK = Work(512, 512)


@pytest.fixture(scope="module")
def full_size() -> Footprint:
    return memory_plan.footprint(torch.bfloat16)


def test_the_full_size_model_weighs_what_was_published(full_size: Footprint) -> None:
    assert full_size.unet == 2 * 1_575_741_162
    assert full_size.hearing > 4 * (54_300_672 + 21_762_050)
    assert full_size.heard_per_frame == pytest.approx(2 * 2 * 32 * 51_118_080 / 2 / 1024, rel=0.02)


@pytest.mark.parametrize(("width", "height", "rows", "frames"), [(512, 512, 3, 25), (768, 512, 1, 12)])
def test_a_call_takes_what_one_of_another_size_foretold(
    full_size: Footprint, width: int, height: int, rows: int, frames: int
) -> None:
    with torch.device("meta"):
        unet = SonicUNet.build(published.UNET)
    taken = memory_plan.call_bytes(unet.to("meta", torch.bfloat16), width, height, rows, frames, 32)
    assert full_size.call_per_pixel * width * height * rows * frames == pytest.approx(taken, rel=0.05)


def test_decoding_takes_what_a_smaller_one_foretold(full_size: Footprint) -> None:
    with torch.device("meta"):
        vae = AutoencoderKLTemporalDecoder.from_config(published.VAE)
    taken = memory_plan.decode_bytes(vae.to("meta", torch.bfloat16), 512, 512, 8)
    assert full_size.decoding_per_pixel * 512 * 512 * 8 == pytest.approx(taken, rel=0.05)


def test_on_the_cpu_a_call_takes_what_the_meta_device_says() -> None:
    by = pipeline()
    side, frames = 256, 24
    heard = by.unet.project(torch.randn(1, frames, 1, 16), torch.randn(1, frames, 6, 16))
    by.unet.bind(heard)
    sample = torch.randn(1, frames, 8, side // 8, side // 8)

    def call() -> None:
        with torch.inference_mode():
            by.unet.denoise(sample, torch.tensor(1.0), torch.zeros(1, 3))

    call()
    forget_peak()
    before = peak_bytes()
    call()
    taken = peak_bytes() - before
    with torch.device("meta"):
        network = SonicUNet.build(tiny.UNET)
    foretold = memory_plan.call_bytes(network.to("meta"), side, side, 1, frames, 6)
    assert taken < 1.3 * foretold + 20e6  # the allocator keeps some


def test_the_fastest_way_that_fits_is_chosen(full_size: Footprint) -> None:
    found = [memory_plan.fitting(full_size, WORK, gib * GIB) for gib in (80, 12, 7, 3)]
    assert [(plan.rows_at_once, plan.offload) if plan else None for plan in found] == [
        (ROWS, False),
        (1, False),
        (1, True),
        None,
    ]
    assert memory_plan.fitting(full_size, WORK, 7 * GIB, "resident") is None
    assert memory_plan.fitting(full_size, WORK, 80 * GIB, "offload") == memory_plan.ways(full_size, WORK, "offload")[0]


def test_the_largest_side_fits_and_the_next_one_does_not(full_size: Footprint) -> None:
    for gib in (6, 11, 23):
        side = memory_plan.largest_side(full_size, Work(768, 512), gib * GIB)
        assert side % 64 == 0
        assert memory_plan.fitting(full_size, Work(768, 512).at(side), gib * GIB)
        assert not memory_plan.fitting(full_size, Work(768, 512).at(side + 64), gib * GIB)
    assert memory_plan.largest_side(full_size, WORK, 1 * GIB) == 0


def test_latents_of_a_long_clip_are_counted_and_what_shortcuts_keep(full_size: Footprint) -> None:
    minute, ten = (replace(WORK, frames=frames) for frames in (750, 7500))
    at_once = memory_plan.ways(full_size, minute, "offload")[0].peak_bytes
    long, kept = (memory_plan.ways(full_size, one, "offload")[0].peak_bytes for one in (ten, replace(ten, latents=5)))
    latents = 4 * 64 * 64 * 2  # bytes of a frame
    assert long - at_once == pytest.approx(1.1 * 6750 * 2 * latents, abs=10)
    assert kept - long == pytest.approx(1.1 * 7500 * 3 * latents, abs=10)


def test_fewer_frames_at_once_and_eight_bits_take_less(full_size: Footprint) -> None:
    half = memory_plan.ways(full_size, replace(WORK, window_frames=12))[0]
    assert half.stages["denoising"] < memory_plan.ways(full_size, WORK)[0].stages["denoising"] - 2 * GIB
    small = memory_plan.footprint(torch.bfloat16, weights="fp8")
    assert small.unet < 0.52 * full_size.unet


class Crowded(DeviceMemory):
    def __init__(self, options: Options, networks: weights.Networks, available_bytes: float) -> None:
        super().__init__(options, networks)
        self._available_bytes = available_bytes

    def available_bytes(self) -> float:
        return self._available_bytes


def test_what_will_not_fit_is_refused_with_what_would(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    networks = weights.load(tmp_path, torch.float32)
    memory = Crowded(Options(device="cpu"), networks, 1.5 * GIB)
    with pytest.raises(errors.WouldNotFit, match=r"1024 x 1024 pixels take [\d.]+ GiB, 1.5 GiB are") as refused:
        memory.plan(1024, 1024, 10)
    failure = refused.value.to_wire()
    assert failure.fault == jobs_pb2.FAULT_KIND_WOULD_NOT_FIT
    assert failure.problems[0].field == "parameters.min_resolution"
    side = int(failure.message.split("min_resolution ")[1].split()[0])
    assert memory.plan(side, side, 10).peak_bytes <= 1.5 * GIB
    with pytest.raises(errors.WouldNotFit, match="no smaller size would fit either"):
        Crowded(Options(device="cpu"), networks, 1e6).plan(256, 256, 10)


def test_only_what_is_needed_is_on_the_device_where_that_was_asked_for() -> None:
    device = torch.device("meta")  # any other than the CPU

    def places() -> list[str]:
        return [network.weight.device.type for network in networks]

    networks = [nn.Linear(1, 1) for _ in range(3)]
    residence = Residence(device, *networks)
    residence.bring(networks[0])
    residence.bring(networks[1])
    assert places() == ["meta", "meta", "cpu"]


@pytest.mark.parametrize("in_batches", [False, True])
def test_memory_does_not_grow_with_the_clip(in_batches: bool) -> None:
    """Of decoding and smoothing, of 50 frames and of 200: what is alive, in torch's own memory."""
    by = pipeline()
    by.smooths_in_batches = in_batches

    def most(frames: int) -> int:
        alive = memory_plan.Alive(by.vae)
        latents = torch.randn(frames, 4, 8, 8)
        with torch.inference_mode(), alive:
            count = sum(1 for _ in by.smooth(by.decode(latents)))
        assert count == 2 * frames - 1
        return int(alive.peak_bytes)

    assert most(200) <= most(50) * 1.01


def test_to_smooth_a_chunk_at_once_takes_less_than_to_decode_it(full_size: Footprint) -> None:
    def alive_bytes(pairs: int) -> int:
        with torch.device("meta"):
            flow, picture = FrameInterpolator(published.INTERPOLATOR_CHANNELS), torch.empty(pairs, 3, 256, 256)
        with torch.inference_mode(), memory_plan.Alive(flow) as alive:
            flow(picture, picture)
        return int(alive.peak_bytes)

    assert alive_bytes(8) <= full_size.smoothing_per_pixel * 8 * 256**2 * 1.01
    assert full_size.smoothing_per_pixel < full_size.decoding_per_pixel
    small = replace(full_size, decoding_per_pixel=1.0)
    assert memory_plan.ways(small, WORK)[0].stages["decoding"] > 8 * full_size.smoothing_per_pixel * 512**2


def test_the_page_says_what_the_plan_and_the_options_say() -> None:
    page = (Path(__file__).parents[2] / "docs/diffusion-speed.md").read_text()
    assert [row for row in memory_profiles.table() if row not in page] == []
    assert [option.name for option in fields(Options) if f"| {option.metadata['help']} |" not in page] == []
