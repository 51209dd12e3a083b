"""What a render takes of the device's memory, known before it starts.

The large networks are run on torch's meta device, where tensors have shapes and no memory, and what would be alive at
once is added up. All of it grows in proportion to the pixels, so that one small run of each tells every size. Not seen
are the libraries' own work space and what fragmentation costs: a constant and a share are added for them. Measured on
an H200: the sums are right within 3 %, and renders that were kept to the plan got through.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from sonic_runtime.engines.sonic import eight_bit, published
from sonic_runtime.engines.sonic.audio import AudioProjector, MotionBuckets
from sonic_runtime.engines.sonic.interpolation import FrameInterpolator
from sonic_runtime.engines.sonic.pipeline import MOST_FRAMES_KEPT, ROWS
from sonic_runtime.engines.sonic.unet import Heard, SonicUNet

GIB = 2**30
SIDE_STEP_PX = 64
LEAST_SIDE_PX, MOST_SIDE_PX = 256, 2048
_MARGIN, _MARGIN_RESIDENT = 1.1, 1.5  # fragmentation, and layouts that are changed on the way
_WORKSPACE_BYTES = int(0.3 * GIB)  # of the libraries
_SMALL_BYTES = int(0.1 * GIB)  # what the networks that hear, and CLIP, compute in between
_MEASURED_PX = 256


@dataclass(frozen=True)
class Footprint:
    """Of a model in a precision: bytes of weights, and of what is alive at most beside them."""

    unet: int
    vae: int
    clip: int
    hearing: int  # Whisper and the two heads
    interpolator: int
    call_per_pixel: float  # a call of the UNet: of each row of guidance, frame and pixel of the video
    heard_per_frame: int  # keys and values of all cross attentions
    decoding_per_pixel: float  # of each frame that is decoded at once
    encoding_per_pixel: float
    smoothing_per_pixel: float  # of each pair of frames
    latents_per_pixel: float  # of each frame, for each time that latents of all frames are held

    @property
    def weights(self) -> int:
        return self.unet + self.vae + self.clip + self.hearing + self.interpolator


@dataclass(frozen=True)
class Work:
    """What is to be rendered, and in which pieces."""

    width: int  # pixels
    height: int  # pixels
    frames: int = MOST_FRAMES_KEPT  # at 12.5 a second
    window_frames: int = 25
    decode_chunk: int = 8
    latents: int = 2  # times that latents of all frames are held: as the step began, and as it makes them

    def at(self, side: int) -> Work:
        """The same in the same shape with another short side."""
        scale = side / min(self.width, self.height)
        return replace(self, width=round(self.width * scale), height=round(self.height * scale))


@dataclass(frozen=True)
class Plan:
    """A way to do it, and what it takes. What it does to save memory is exact."""

    rows_at_once: int  # of guidance
    offload: bool  # only the networks of the stage that runs are on the device
    stages: Mapping[str, int]  # bytes, by what is done

    @property
    def peak_bytes(self) -> int:
        return max(self.stages.values())


def fitting(footprint: Footprint, work: Work, available_bytes: float, memory: str = "auto") -> Plan | None:
    """The fastest way that fits and that the option `memory` allows; None when there is none."""
    return next((plan for plan in ways(footprint, work, memory) if plan.peak_bytes <= available_bytes), None)


def largest_side(footprint: Footprint, work: Work, available_bytes: float, memory: str = "auto") -> int:
    """The largest `min_resolution` that fits, in the same shape; 0 when not even the least one does."""
    sides = range(MOST_SIDE_PX, LEAST_SIDE_PX - 1, -SIDE_STEP_PX)
    return next((side for side in sides if fitting(footprint, work.at(side), available_bytes, memory)), 0)


def ways(footprint: Footprint, work: Work, memory: str = "auto") -> list[Plan]:
    """The ways that the option `memory` allows, the fastest first."""
    chosen = {"resident": [(ROWS, False), (1, False)], "offload": [(ROWS, True), (1, True)]}
    everything = [*chosen["resident"], *chosen["offload"]]
    return [_plan(footprint, work, rows, offload) for rows, offload in chosen.get(memory, everything)]


def _plan(f: Footprint, work: Work, rows: int, offload: bool) -> Plan:
    pixels = work.width * work.height
    bound = f.heard_per_frame * rows * work.window_frames
    kept = f.heard_per_frame * (work.frames if work.frames <= MOST_FRAMES_KEPT else work.window_frames)
    latents = f.latents_per_pixel * work.latents * work.frames * pixels
    margin = _MARGIN if offload else _MARGIN_RESIDENT
    each = max(f.decoding_per_pixel, f.smoothing_per_pixel)  # a chunk is decoded, then smoothed
    decoding = (each * work.decode_chunk + f.smoothing_per_pixel) * pixels
    stages = {
        "hearing": (f.hearing, _SMALL_BYTES),
        "looking": (f.clip, _SMALL_BYTES),
        "encoding": (f.vae, f.encoding_per_pixel * pixels),
        "denoising": (f.unet, f.call_per_pixel * rows * work.window_frames * pixels + bound + kept + latents),
        "decoding": (f.vae + f.interpolator, decoding + bound + latents),
    }
    return Plan(
        rows,
        offload,
        {
            name: int((weights if offload else f.weights) + alive * margin + _WORKSPACE_BYTES)
            for name, (weights, alive) in stages.items()
        },
    )


def footprint(
    dtype: torch.dtype,
    unet: Mapping[str, Any] = published.UNET,
    vae: Mapping[str, Any] = published.VAE,
    others: Mapping[str, int] | None = None,
    tokens: int = published.AUDIO_PROJECTOR["context_tokens"],
    weights: str = "full",
) -> Footprint:
    """Measured on the meta device, in seconds; without arguments for the published model.

    `others` are the bytes of `clip`, `hearing` and `interpolator`.
    """
    with torch.device("meta"):
        network = SonicUNet.build(unet)
        decoder = AutoencoderKLTemporalDecoder.from_config(vae)
        flow = FrameInterpolator(published.INTERPOLATOR_CHANNELS)
    # Some parameters are made where they like.
    network, decoder = network.to("meta", dtype).eval(), decoder.to("meta", dtype).eval()
    decode, encode = decode_bytes(decoder, _MEASURED_PX, _MEASURED_PX, 4), encode_bytes(decoder, _MEASURED_PX)
    call = call_bytes(network, _MEASURED_PX, _MEASURED_PX, 1, 8, tokens)
    pair = torch.empty(1, 3, _MEASURED_PX, _MEASURED_PX, device="meta")
    with torch.inference_mode(), Alive(flow) as alive:
        flow(pair, pair)
    if weights == "fp8":
        eight_bit.shrink(network)
    pixels = _MEASURED_PX**2
    return Footprint(
        unet=size(network),
        vae=size(decoder),
        **(others or _others(dtype)),
        call_per_pixel=call / (8 * pixels),
        heard_per_frame=_heard_bytes(network, tokens, dtype),
        decoding_per_pixel=decode / (4 * pixels),
        encoding_per_pixel=encode / pixels,
        smoothing_per_pixel=alive.peak_bytes / pixels,
        latents_per_pixel=vae["latent_channels"] * dtype.itemsize / 64,
    )


def _others(dtype: torch.dtype) -> dict[str, int]:
    with torch.device("meta"):
        hearing = [
            WhisperEncoder(WhisperConfig(**published.WHISPER)),
            AudioProjector(**published.AUDIO_PROJECTOR),
            MotionBuckets(**published.MOTION_BUCKETS),
        ]
        clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**published.CLIP)).to(dtype)
        flow = FrameInterpolator(published.INTERPOLATOR_CHANNELS)
    return {"clip": size(clip), "hearing": sum(map(size, hearing)), "interpolator": size(flow)}


def size(network: nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    return sum(int(each.nbytes) for each in (*network.parameters(), *network.buffers()))


class Alive(TorchDispatchMode):
    """Adds up the memory of tensors that are made within the context and still there; `peak_bytes` is the most.

    The parameters of the network given do not count, nor do views of them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.peak_bytes: int = 0
        self._now_bytes: int = 0
        self._known = {each.untyped_storage()._cdata for each in (*network.parameters(), *network.buffers())}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self._now_bytes)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, held = storage._cdata, storage.nbytes()
        if address not in self._known:
            self._known.add(address)
            self._now_bytes += held
            weakref.finalize(storage, self._forget, address, held)

    def _forget(self, address: int, held: int) -> None:
        self._known.discard(address)
        self._now_bytes -= held


def call_bytes(unet: SonicUNet, width: int, height: int, rows: int, frames: int, tokens: int) -> int:
    """Alive at most in a call, beside the weights and what is bound."""
    with torch.inference_mode():  # in this mode attention is one operation, as it is on the device
        call = meta_call(unet, width, height, rows, frames, tokens)
        with Alive(unet) as alive:
            call()
    return int(alive.peak_bytes)


def meta_call(unet: SonicUNet, width: int, height: int, rows: int, frames: int, tokens: int) -> Callable[[], Tensor]:
    """A call of a network on the meta device, with all that is bound before it done."""
    make = {"dtype": unet.dtype, "device": "meta"}
    unet.bind(_heard(unet, rows, frames, tokens))
    unet.bind_mask(torch.empty(1, 1, height, width, device="meta"))
    sample = torch.empty(rows, frames, 8, height // 8, width // 8, **make)
    return partial(unet.denoise, sample, torch.empty((), device="meta"), torch.empty(rows, 3, **make))


def decode_bytes(vae: AutoencoderKLTemporalDecoder, width: int, height: int, frames: int) -> int:
    """Alive at most while frames are decoded, the float32 pictures that come of it included."""
    latents = torch.empty(frames, 4, height // 8, width // 8, device="meta", dtype=vae.dtype)
    with torch.inference_mode(), Alive(vae) as alive:
        decoded = vae.decode(latents, num_frames=frames).sample
        (decoded.float() / 2 + 0.5).clamp(0, 1)
    return int(alive.peak_bytes)


def encode_bytes(vae: AutoencoderKLTemporalDecoder, side: int) -> int:
    """Alive at most while a square picture is encoded."""
    picture = torch.empty(1, 3, side, side, device="meta", dtype=vae.dtype)
    with torch.inference_mode(), Alive(vae) as alive:
        vae.encode(picture)
    return int(alive.peak_bytes)


def _heard(unet: SonicUNet, rows: int, frames: int, tokens: int) -> Iterator[Heard]:
    for _, attention in unet.cross_attentions():
        shape, make = (rows, frames), {"dtype": unet.dtype, "device": "meta"}
        width = attention.inner_dim
        part = torch.empty(*shape, tokens, width, **make)
        yield Heard(torch.empty(*shape, width, **make), part, part)


def _heard_bytes(unet: SonicUNet, tokens: int, dtype: torch.dtype) -> int:
    widths = sum(attention.inner_dim for _, attention in unet.cross_attentions())
    return int(widths) * (2 * tokens + 1) * dtype.itemsize
