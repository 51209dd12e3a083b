"""How fast the diffusion engine is, beside the same model written the plain way, and what its shortcuts cost.

Both networks have the same weights, random ones: the arithmetic, and so the time, is that of the published. On a GPU
they have the published size, on a CPU they are the tiny ones, whose times say nothing of the published model. Calls of
the two alternate, and medians are compared. FLOPs are counted for the published size; utilisation is of what the
device's data sheet says of dense half-precision products. `--errors` measures how far each shortcut is off the exact
path, with the tiny model on the CPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import sonic_runtime.engines.sonic  # noqa: F401 - sets how torch's threads wait
from bench.peers.plain_sonic import PlainUNet
from sonic_runtime.engines.sonic import eight_bit, memory_plan, published
from sonic_runtime.engines.sonic.compiling import compile_as
from sonic_runtime.engines.sonic.images import Pictures
from sonic_runtime.engines.sonic.interpolation import FrameInterpolator
from sonic_runtime.engines.sonic.memory_plan import Work
from sonic_runtime.engines.sonic.pipeline import FRAME_RATE_HZ, ROWS, Clip, Sampling, SonicPipeline
from sonic_runtime.engines.sonic.unet import SonicUNet, TemporalConv
from sonic_runtime.models import tiny

VIDEO_S = 10.0
SIDE = 512
CPUS = Path("/proc/cpuinfo")
# Dense half-precision TFLOP/s with float32 sums, by a part of the device's name; by NVIDIA's data sheets.
PEAKS_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "4090": 165,
    "3090": 71,
    "L4": 121,
    "3060": 25,
}
APPROXIMATE = {"guidance_every": 7, "step_cache": 100}
SHORTCUTS: dict[str, dict[str, Any]] = {
    "guidance_every=2": {"guidance_every": 2},
    "guidance_every=3": {"guidance_every": 3},
    "guidance_every=4": {"guidance_every": 4},
    "guidance_every=7": {"guidance_every": 7},
    "step_cache=2": {"step_cache": 2},
    "step_cache=3": {"step_cache": 3},
    "step_cache=4": {"step_cache": 4},
    "step_cache=100": {"step_cache": 100},
    "guidance_every=4,step_cache=4": {"guidance_every": 4, "step_cache": 4},
    "guidance_every=7,step_cache=100": APPROXIMATE,
    "window_frames=12": {"window_frames": 12},
    "inference_steps=16 (for comparison)": {"steps": 16},
}


def build(size: str, device: torch.device, dtype: torch.dtype) -> tuple[SonicPipeline, PlainUNet, int]:
    """Our pipeline, the plain network with the same weights, and the number of audio tokens."""
    torch.manual_seed(0)
    full = size == "full"
    unet_config = published.UNET if full else tiny.UNET
    with torch.device(device):
        unet = SonicUNet.build(unet_config).to(device, dtype).eval()
        plain = PlainUNet.build(unet_config).to(device, dtype).eval()
        vae = AutoencoderKLTemporalDecoder(**(published.VAE if full else tiny.VAE)).to(device, dtype).eval()
        clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**(published.CLIP if full else tiny.CLIP)))
        flow = FrameInterpolator(published.INTERPOLATOR_CHANNELS if full else 8)
    TemporalConv.take_over(vae)
    plain.load_state_dict(unet.state_dict())
    scheduler = EulerDiscreteScheduler.from_config(published.SCHEDULER)
    pipeline = SonicPipeline(unet, vae, clip.to(device, dtype).eval(), scheduler, flow.to(device).eval())
    return pipeline, plain, published.AUDIO_PROJECTOR["context_tokens"] if full else 6


def clip_of(pipeline: SonicPipeline, frames: int, side: int, tokens: int) -> Clip:
    draw = torch.Generator().manual_seed(1)
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    picture = torch.rand(1, 3, side // 16, side // 16, generator=draw) * 2 - 1
    picture = torch.nn.functional.interpolate(picture, (side, side), mode="bicubic").clamp(-1, 1)
    pictures = Pictures(picture, mask, torch.randn(1, 3, 224, 224, generator=draw))
    heard = torch.randn(frames, tokens, pipeline.unet.config.cross_attention_dim, generator=draw)
    buckets = 16 + 8 * torch.rand(frames, 2, generator=draw)
    return Clip(pictures, pipeline.picture_embedding(pictures), heard, torch.zeros_like(heard[0]), buckets)


def denoised(pipeline: SonicPipeline, clip: Clip, sampling: Sampling) -> Tensor:
    picture_noise, noise = pipeline.noise(clip.pictures, clip.frames, 1)
    return pipeline.denoise(clip, sampling, pipeline.begin(clip, sampling, noise), picture_noise)


def flops_of_a_call(side: int, *, plain: bool = False, rows: int = ROWS, frames: int = 25) -> int:
    """Counted on the meta device, for the published size."""
    tokens = published.AUDIO_PROJECTOR["context_tokens"]
    with torch.device("meta"):
        unet = (PlainUNet if plain else SonicUNet).build(published.UNET)
    unet = unet.to("meta", torch.bfloat16).eval()
    with torch.inference_mode():
        call: Callable[[], Tensor]
        if isinstance(unet, SonicUNet):
            call = memory_plan.meta_call(unet, side, side, rows, frames, tokens)
        else:
            call = plain_call(unet, side, rows, frames, tokens, torch.device("meta"))
        with FlopCounterMode(display=False) as counted:
            call()
    return int(counted.get_total_flops())


def plain_call(
    unet: PlainUNet, side: int, rows: int, frames: int, tokens: int, device: torch.device
) -> Callable[[], Tensor]:
    def empty(*shape: int) -> Tensor:
        return torch.zeros(*shape, device=device, dtype=unet.dtype)

    width = unet.config.cross_attention_dim
    unet.context.picture, unet.context.audio = empty(rows, frames, 1, width), empty(rows, frames, tokens, width)
    unet.context.mask = torch.ones(1, 1, side, side, device=device)
    given = empty(rows, frames, 8, side // 8, side // 8), torch.ones((), device=device), empty(rows, 3)
    return lambda: unet.call(*given)


def timed(work: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def say(text: str) -> None:
    print(text, file=sys.stderr)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line.split(":")[1].strip() for line in CPUS.read_text().splitlines() if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def peak_tflops(name: str) -> float | None:
    return next((peak for part, peak in PEAKS_TFLOPS.items() if part in name), None)


def measure(size: str, device: torch.device, dtype: torch.dtype, compiling: str, side: int, rounds: int) -> Any:
    """Seconds of calls, of decoding and of a whole clip, side by side."""
    pipeline, plain, tokens = build(size, device, dtype)
    name, frames = device_name(device), 25
    say(f"calls of {frames} frames at {side} x {side} on {name}, {rounds} rounds; then whole clips, minutes on a CPU")
    clip = clip_of(pipeline, frames, side, tokens)
    call_plain = plain_call(plain, side, ROWS, frames, tokens, device)

    def ours(steps: int) -> float:
        return timed(lambda: denoised(pipeline, clip, Sampling(steps=steps)), device)

    def per_call() -> float:
        """Without what is done once a clip."""
        return (ours(6) - ours(2)) / 4

    def per_plain_call() -> float:
        with torch.inference_mode():
            return timed(call_plain, device)

    for warm in (per_plain_call, per_call):
        warm()
    pairs = [(per_plain_call(), per_call()) for _ in range(rounds)]
    plain_s, eager_s = (statistics.median(took) for took in zip(*pairs, strict=True))
    found: dict[str, Any] = {"plain_s_per_call": plain_s, "eager_s_per_call": eager_s}
    call_s = eager_s
    if compiling != "off":
        compile_as(compiling, pipeline.unet, pipeline.vae.decoder)
        found["compile_s"] = ours(2)
        ours(2)
        pairs = [(per_plain_call(), per_call()) for _ in range(rounds)]
        plain_s, call_s = (statistics.median(took) for took in zip(*pairs, strict=True))
        found["compiled_s_per_call"] = call_s
    found["times_as_fast_as_plain"] = plain_s / call_s
    plain.to("meta")  # its memory is not to count
    if size == "full" and (peak := peak_tflops(name)):
        flops = flops_of_a_call(side)
        found["utilisation"] = flops / call_s / peak / 1e12
        found["utilisation_plain"] = flops_of_a_call(side, plain=True) / plain_s / peak / 1e12
    count = int(VIDEO_S * FRAME_RATE_HZ)
    for kind, shortcuts in (("exact", {}), ("approximate", APPROXIMATE)):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        say(f"a clip of {VIDEO_S:g} s, {kind}")
        found[kind] = whole(pipeline, clip_of(pipeline, count, side, tokens), Sampling(**shortcuts), device)
    return {"size": size, "side": side, "dtype": str(dtype).removeprefix("torch."), "compile": compiling, **found}


def whole(pipeline: SonicPipeline, clip: Clip, sampling: Sampling, device: torch.device) -> dict[str, Any]:
    """A clip from its latents to frames at 25 a second, without the encoder's work."""
    if device.type == "cpu":
        sampling = replace(sampling, steps=2)  # shown to run; a CPU's time would say nothing
    denoised(pipeline, clip_of(pipeline, 25, clip.pictures.mask.shape[-1], clip.audio.shape[1]), sampling)  # compiles

    def frames() -> None:
        nonlocal latents
        for frame in pipeline.smooth(pipeline.decode(latents)):
            frame.mean()

    latents = torch.empty(0)

    def denoise() -> None:
        nonlocal latents
        latents = denoised(pipeline, clip, sampling)

    denoise_s, decode_s = timed(denoise, device), timed(frames, device)
    told = {
        "options": {key: getattr(sampling, key) for key in ("steps", *APPROXIMATE)},
        "denoise_s": denoise_s,
        "decode_and_smooth_s": decode_s,
        "s_per_second_of_video": (denoise_s + decode_s) / VIDEO_S,
    }
    if device.type == "cuda":
        told["peak_gib"] = torch.cuda.max_memory_allocated(device) / memory_plan.GIB
    return told


def errors_of_shortcuts(side: int, frames: int) -> dict[str, Any]:
    """Of each against the exact path in float32: the latents' relative error, the frames' PSNR, the rows computed."""
    device = torch.device("cpu")
    pipeline, _, tokens = build("tiny", device, torch.float32)
    clip = clip_of(pipeline, frames, side, tokens)
    rows = [0]
    denoise = pipeline.unet.denoise

    def counting(sample: Tensor, *others: Tensor) -> Tensor:
        rows[0] += len(sample) * sample.shape[1]
        return denoise(sample, *others)

    pipeline.unet.denoise = counting  # type: ignore[method-assign]

    def run(sampling: Sampling) -> tuple[Tensor, Tensor, int]:
        rows[0] = 0
        latents = denoised(pipeline, clip, sampling)
        return latents, torch.cat([*pipeline.decode(latents)]), rows[0]

    exact, video, all_rows = run(Sampling())

    def compared(latents: Tensor, pictures: Tensor, computed: int) -> dict[str, float]:
        error = ((latents - exact).norm() / exact.norm()).item()
        psnr = -10 * torch.log10(((pictures - video) ** 2).mean()).item()
        return {"work": round(computed / all_rows, 3), "latents_error": round(error, 5), "psnr_db": round(psnr, 1)}

    found = {name: compared(*run(Sampling(**shortcut))) for name, shortcut in SHORTCUTS.items()}
    chunks = torch.cat([*pipeline.decode(exact, 4)])
    found["decode_chunk=4"] = compared(exact, chunks, all_rows)
    eight_bit.shrink(pipeline.unet)
    found["weights=fp8"] = compared(*run(Sampling()))
    return found


def _side(text: str) -> int:
    if not text.isdecimal() or int(text) % 64 or not 64 <= int(text) <= 2048:
        raise argparse.ArgumentTypeError(f"{text!r}; a multiple of 64 from 64 to 2048 is wanted")
    return int(text)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", choices=("auto", "tiny", "full"), default="auto", help="of the networks")
    options.add_argument("--side", type=_side, default=0, help="pixels, a multiple of 64 (default: 512, on a CPU 128)")
    options.add_argument("--compile", choices=("auto", "off", "on", "layers", "graphs"), default="auto")
    options.add_argument("--rounds", type=int, choices=range(1, 101), default=5, metavar="N", help="1 to 100")
    options.add_argument("--errors", action="store_true", help="measure the shortcuts' errors instead")
    given = options.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    side = given.side or (SIDE if gpu else 128)
    told: dict[str, Any] = {"bench": "sonic", "device": device_name(device), "torch": torch.__version__}
    if given.errors:
        told |= {"device": device_name(torch.device("cpu")), "errors": errors_of_shortcuts(128, 25)}
    else:
        frames = int(VIDEO_S * FRAME_RATE_HZ)
        told["tflop_per_call"] = round(flops_of_a_call(SIDE) / 1e12, 2)
        told["tflop_per_call_plain"] = round(flops_of_a_call(SIDE, plain=True) / 1e12, 2)
        told["calls"] = Sampling().calls(frames)
        size = given.size if given.size != "auto" else "full" if gpu else "tiny"
        compiling = given.compile if given.compile != "auto" else "on" if gpu else "off"
        told |= measure(size, device, torch.bfloat16 if gpu else torch.float32, compiling, side, given.rounds)
        published_size = memory_plan.footprint(torch.bfloat16)
        plan = memory_plan.ways(published_size, Work(SIDE, SIDE, frames))[0]
        told["planned_peak_gib"] = round(plan.peak_bytes / memory_plan.GIB, 1)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
