"""Sonic (Ji et al., CVPR 2025): a portrait and a voice become latents, latents become frames.

The frames of a clip are denoised in windows whose position moves on from step to step (`windows`), starting from the
portrait's own latents under the strongest noise, by Euler steps along the sigmas of Karras et al. (2022), with a
guidance of two parts: toward the portrait, and toward what is heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from sonic_runtime.engines.sonic import windows
from sonic_runtime.engines.sonic.images import Pictures
from sonic_runtime.engines.sonic.interpolation import Interpolate
from sonic_runtime.engines.sonic.residence import Residence
from sonic_runtime.engines.sonic.shortcuts import Shortcuts
from sonic_runtime.engines.sonic.unet import Heard, SonicUNet

FRAME_RATE_HZ = 12.5
ROWS = 3  # of guidance: neither picture nor audio, the picture alone, both
# Keys and values of all cross attentions take 3.2 MB a frame in half precision. Beyond so many frames they are computed
# anew for each window, which is a thousandth of the work.
MOST_FRAMES_KEPT = 128

OnCall = Callable[[int, int], None]
"""Called as on_call(done, total) before each call of the network; may raise to stop."""


@dataclass(frozen=True)
class Sampling:
    """How to denoise. The defaults are the published ones."""

    steps: int = 25
    window_frames: int = 25
    overlap_frames: int = 0
    shift_frames: int = 7  # how far windows move on from step to step
    appearance_guidance: tuple[float, float] = (2.0, 2.0)  # from the first step to the last
    audio_guidance: tuple[float, float] = (7.5, 7.5)
    head_scale: float = 1.0  # of the motion bucket of the head
    expression_scale: float = 1.0  # of that of the expression
    noise_augmentation: float = 0.0  # of the picture that the network sees
    strength: float = 1.0  # below 1 the first steps are left out, and more of the portrait stays
    fps: float = FRAME_RATE_HZ  # that the network is told
    guidance_every: int = 1  # one step in so many computes all rows of guidance; above 1 not exact
    step_cache: int = 1  # one step in so many calls the network where noise is strong or weak; above 1 not exact

    @property
    def steps_done(self) -> int:
        """Steps that are taken; with a strength below 1 fewer than `steps`."""
        return min(int(self.steps * self.strength), self.steps)

    def calls(self, frames: int) -> int:
        """Calls of the network for a clip."""
        return self.steps_done * windows.count(frames, self.window_frames, self.overlap_frames)


@dataclass(frozen=True)
class Clip:
    """What a clip is to show, frame by frame, at 12.5 frames per second."""

    pictures: Pictures
    embedding: Tensor  # CLIP's of the portrait, [1, channels]
    audio: Tensor  # [frames, tokens, channels]
    no_audio: Tensor  # [tokens, channels]: what stands for no audio
    buckets: Tensor  # [frames, 2]: motion of the head, of the expression

    @property
    def frames(self) -> int:
        return len(self.audio)


@dataclass
class Progress:
    """How far a clip is: all that is needed to go on later, or elsewhere."""

    latents: Tensor  # [frames, 4, height, width], scaled, as the step began
    step: int = 0
    window: int = 0  # windows of the step that are done
    total: Tensor | None = None  # [frames, 4, height, width]: sum over the windows that are done
    shortcuts: Shortcuts | None = None  # none before the first step


@dataclass(frozen=True)
class Window:
    """Some frames in one step."""

    numbers: Tensor  # [n], of the frames, on the CPU
    frames: Tensor  # [n], the same where the latents are
    heard: Callable[[slice], Iterable[Heard]]  # of rows of guidance
    time_ids: Tensor  # [3, 3]
    picture: Tensor  # [3, 1, 4, height, width]: the portrait's latents, none in the first row
    guidance: tuple[float, float]  # appearance, audio
    timestep: Tensor  # []
    sigma: float
    next_sigma: float
    shortcuts: Shortcuts


class SonicPipeline:
    """The networks that make the picture, in the precision that they have, where `residence` keeps them."""

    rows_at_once: int = ROWS  # fewer take less memory; the rows do not see each other, so that it is exact

    def __init__(
        self,
        unet: SonicUNet,
        vae: AutoencoderKLTemporalDecoder,
        clip: CLIPVisionModelWithProjection,
        scheduler: EulerDiscreteScheduler,
        interpolator: Interpolate,
        residence: Residence | None = None,
    ) -> None:
        """Without a `residence` the networks stay where they are."""
        self.unet, self.vae, self.clip, self.interpolator = unet, vae, clip, interpolator
        self._scheduler = scheduler
        self.residence = residence or Residence(unet.device)
        # A GPU would wait for each kernel of a single pair to be launched; a CPU is no faster for a batch.
        self.smooths_in_batches = self.device.type != "cpu"

    @property
    def device(self) -> torch.device:
        return self.residence.device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @torch.inference_mode()
    def picture_embedding(self, pictures: Pictures) -> Tensor:
        """CLIP's embedding of the portrait, [1, channels]."""
        self.residence.bring(self.clip)
        embedding: Tensor = self.clip(pictures.clip.to(self.clip.device, self.clip.dtype)).image_embeds
        return embedding

    def noise(self, pictures: Pictures, frames: int, seed: int) -> tuple[Tensor, Tensor]:
        """For the picture that the network sees [1, 3, height, width], and for the latents [frames, 4, ...].

        Drawn on the CPU in float32, so that a seed means the same on every GPU and in every precision.
        """
        generator = torch.Generator().manual_seed(seed)
        height, width = pictures.reference.shape[-2:]
        picture = torch.randn(pictures.reference.shape, generator=generator)
        latents = torch.randn((frames, 4, height // 8, width // 8), generator=generator)
        return picture, latents

    @torch.inference_mode()
    def begin(self, clip: Clip, sampling: Sampling, noise: Tensor) -> Progress:
        """The start: the portrait's latents in every frame, under `noise` [frames, 4, height, width]."""
        latents = self._encoded(clip.pictures.reference) * self.vae.config.scaling_factor
        sigma = self._schedule(sampling)[1][0]
        return Progress(latents + noise.to(latents) * sigma)

    @torch.inference_mode()
    def denoise(
        self,
        clip: Clip,
        sampling: Sampling,
        progress: Progress,
        picture_noise: Tensor,
        on_call: OnCall = lambda _done, _total: None,
    ) -> Tensor:
        """Latents of the finished clip, [frames, 4, height, width]; `progress` is kept up to date on the way."""
        frames = clip.frames
        timesteps, sigmas = self._schedule(sampling)
        ramps = [
            torch.linspace(*ends, len(timesteps)).tolist()
            for ends in (sampling.appearance_guidance, sampling.audio_guidance)
        ]
        picture = self._seen(clip.pictures, sampling, picture_noise)
        self.residence.bring(self.unet)
        hearing = _Hearing(self.unet, clip)
        self.unet.bind_mask(clip.pictures.mask)
        buckets = clip.buckets.cpu() * torch.tensor([sampling.head_scale, sampling.expression_scale])
        shortcuts = progress.shortcuts or Shortcuts(sampling.guidance_every, sampling.step_cache, progress.latents)
        progress.shortcuts = shortcuts
        total = sampling.calls(frames)
        for step in range(progress.step, len(timesteps)):
            parts = windows.of_step(
                step, frames, sampling.window_frames, sampling.overlap_frames, sampling.shift_frames
            )
            shortcuts.begin_step(step, sigmas[step])
            if progress.total is None:
                progress.total = torch.zeros_like(progress.latents)
            for numbers in parts[progress.window :]:
                on_call(step * len(parts) + progress.window, total)
                motion = buckets[numbers].mean(0)
                window = Window(
                    numbers,
                    _sent(numbers, self.device),
                    partial(hearing.of, numbers),
                    _sent(torch.tensor([[sampling.fps, *motion.tolist()]] * ROWS, dtype=self.dtype), self.device),
                    picture,
                    (ramps[0][step], ramps[1][step]),
                    timesteps[step],
                    sigmas[step],
                    sigmas[step + 1],
                    shortcuts,
                )
                denoised = self.denoise_window(progress.latents[window.frames], window)
                progress.total.index_add_(0, window.frames, denoised)
                progress.window += 1
            seen = _sent(torch.bincount(torch.cat(parts), minlength=frames).to(self.dtype), self.device)
            progress.latents = progress.total / seen[:, None, None, None]
            progress.step, progress.window, progress.total = step + 1, 0, None
        on_call(total, total)
        return progress.latents

    def denoise_window(self, latents: Tensor, window: Window) -> Tensor:
        """One step further for the frames of a window, [n, 4, height, width]."""
        return euler_step(self._velocity(latents, window), latents, window.sigma, window.next_sigma)

    def _velocity(self, latents: Tensor, window: Window) -> Tensor:
        """The guided prediction for a window's frames, [n, 4, height, width]."""
        shortcuts, (appearance, audio) = window.shortcuts, window.guidance
        if shortcuts.has_velocity(window.numbers):
            return shortcuts.velocity(window.frames)
        if shortcuts.has_guidance(window.numbers):
            heard = self._predicted(latents, window, slice(ROWS - 1, ROWS))[0]
            nothing, silent = shortcuts.guidance(window.frames) + heard
        else:
            nothing, silent, heard = self._predicted(latents, window, slice(ROWS))
            shortcuts.keep_guidance(window.numbers, window.frames, torch.stack((nothing - heard, silent - heard)))
        velocity: Tensor = nothing + appearance * (silent - nothing) + audio * (heard - silent)
        shortcuts.keep_velocity(window.numbers, window.frames, velocity)
        return velocity

    def _predicted(self, latents: Tensor, window: Window, rows: slice) -> Tensor:
        """What the network says, [rows, n, 4, height, width]; so many rows at once as may be."""
        scaled = latents / (window.sigma**2 + 1) ** 0.5
        said = []
        for first in range(rows.start or 0, rows.stop, self.rows_at_once):
            part = slice(first, min(first + self.rows_at_once, rows.stop))
            pictures = window.picture[part].expand(-1, len(latents), -1, -1, -1)
            given = torch.cat((scaled.expand(len(pictures), *scaled.shape), pictures), 2)
            self.unet.bind(window.heard(part))
            # A graph's output is its own memory, overwritten by the next call.
            said.append(self.unet.denoise(given, window.timestep, window.time_ids[part]).clone())
        return torch.cat(said)

    @torch.inference_mode()
    def decode(self, latents: Tensor, chunk_frames: int = 8) -> Iterator[Tensor]:
        """Frames of latents [frames, 4, height, width] in chunks [n, 3, height, width], 0 to 1, float32.

        The decoder looks around in time, within a chunk: the chunks' borders are part of the result.
        """
        self.residence.bring(self.vae, *(each for each in [self.interpolator] if isinstance(each, nn.Module)))
        for part in latents.split(chunk_frames):
            # What is left at the end has another length; where the decoder is compiled, it is not anew for that.
            with torch.compiler.set_stance("default" if len(part) == chunk_frames else "force_eager"):
                decoded = self.vae.decode(part / self.vae.config.scaling_factor, num_frames=len(part)).sample
            yield (decoded.float() / 2 + 0.5).clamp(0, 1)

    @torch.inference_mode()
    def smooth(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        """Frames of chunks [n, 3, height, width], one by one, with one made in the middle between each two.

        In batches those of a chunk are made at once, which takes less memory than decoding it.
        """
        chunk = next(chunks)
        last = chunk[:1]
        yield last[0]
        for new in filter(len, chain([chunk[1:]], chunks)):
            for second in new.split(len(new) if self.smooths_in_batches else 1):
                first = torch.cat((last, second[:-1]))
                for middle, frame in zip(self.interpolator(first, second), second, strict=True):
                    yield middle
                    yield frame
                last = second[-1:]

    def _schedule(self, sampling: Sampling) -> tuple[Tensor, list[float]]:
        """Timesteps [n] on the device, and n + 1 sigmas, the last one 0."""
        self._scheduler.set_timesteps(sampling.steps)
        first = sampling.steps - sampling.steps_done
        return self._scheduler.timesteps[first:].to(self.device), self._scheduler.sigmas[first:].tolist()

    def _encoded(self, picture: Tensor) -> Tensor:
        """Mean latents of [1, 3, height, width], not scaled, [1, 4, height / 8, width / 8]."""
        self.residence.bring(self.vae)
        latents: Tensor = self.vae.encode(picture.to(self.vae.device, self.vae.dtype)).latent_dist.mode()
        return latents.to(self.device, self.dtype)

    def _seen(self, pictures: Pictures, sampling: Sampling, noise: Tensor) -> Tensor:
        """The portrait's latents as the three rows of guidance see them, [3, 1, 4, height, width]."""
        latents = self._encoded(pictures.reference + sampling.noise_augmentation * noise)
        return torch.stack((torch.zeros_like(latents), latents, latents))


class _Hearing:
    """What the network hears in each frame, projected once per clip where that fits."""

    def __init__(self, unet: SonicUNet, clip: Clip) -> None:
        self._unet = unet
        self._clip = clip
        self._picture = clip.embedding[:, None].to(unet.device, unet.dtype)  # [1, 1, channels]
        no_audio = clip.no_audio.to(unet.device, unet.dtype)[None]
        self._nothing = unet.project(torch.zeros_like(self._picture), no_audio)
        self._silent = unet.project(self._picture, no_audio)
        self._kept = self._projected(slice(None)) if clip.frames <= MOST_FRAMES_KEPT else None

    def of(self, frames: Tensor, rows: slice) -> Iterator[Heard]:
        """Rows of guidance for the frames whose numbers are given: [rows, n, ...] for each cross attention."""
        if self._kept is None:
            heard = iter(self._projected(frames))
        else:
            numbers = _sent(frames, self._unet.device)
            heard = (each.at(numbers) for each in self._kept)
        for every_row in zip(self._nothing, self._silent, heard, strict=True):
            yield Heard.rows([*every_row][rows], len(frames))

    def _projected(self, frames: Tensor | slice) -> list[Heard]:
        audio = _sent(self._clip.audio[frames].to(self._unet.dtype), self._unet.device)
        return self._unet.project(self._picture.expand(len(audio), -1, -1), audio)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """To a device, without waiting for it: work can be given to a GPU ahead of what it has done."""
    return tensor.to(device, non_blocking=True)


def euler_step(velocity: Tensor, sample: Tensor, sigma: float, next_sigma: float) -> Tensor:
    """From one noise level to the next by the predicted v; computed in float32, whatever the precision."""
    wide = sample.float()
    clean = wide / (sigma**2 + 1) - velocity.float() * (sigma / (sigma**2 + 1) ** 0.5)
    further: Tensor = wide + (wide - clean) / sigma * (next_sigma - sigma)
    return further.to(sample.dtype)
