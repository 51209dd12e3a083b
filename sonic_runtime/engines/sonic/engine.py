"""The diffusion engine as the runtime knows engines: portraits and voices in, frames out."""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sonic.parameters import Caution, RenderParameters
from sonic_runtime import errors
from sonic_runtime.checkpoint import Checkpoint
from sonic_runtime.engines.base import Portrait, Report, Shape, Voice, untold
from sonic_runtime.engines.sonic import audio, detector, frames, images, lips, resuming, weights
from sonic_runtime.engines.sonic.compiling import compile_as
from sonic_runtime.engines.sonic.device_memory import DeviceMemory
from sonic_runtime.engines.sonic.interrupts import Interrupts
from sonic_runtime.engines.sonic.options import Options
from sonic_runtime.engines.sonic.pipeline import FRAME_RATE_HZ, Clip, Sampling, SonicPipeline
from sonic_runtime.engines.sonic.residence import Residence
from sonic_runtime.media.videos import frame_count
from sonic_runtime.models.folder import MANIFEST, sha256_of

_MAX_ENLARGEMENT = 2.5
_NO_NUMBERS = "the network has computed what are no numbers; try dtype=fp32 or another node"
_STATE_VERSION = 2  # to be raised when the same latents would be gone on with in another way


@dataclass(frozen=True)
class Portrayed:
    """A portrait as the networks see it."""

    pictures: images.Pictures
    cautions: tuple[Caution, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.pictures.reference.shape[-2:]
        return width, height


class SonicEngine:
    """One model, loaded. Raises errors.ModelMissing and errors.ModelBroken when it cannot be."""

    name = "sonic"
    portrait_parameters: tuple[str, ...] = ("min_resolution", "expand_ratio")

    def __init__(self, folder: Path, options: Options | None = None) -> None:
        self.options = options or Options()
        self.model_version = folder.name
        manifest = folder / MANIFEST
        self.files_sha256 = sha256_of(manifest) if manifest.exists() else ""
        self.on_cpu = self.options.torch_device.type == "cpu"
        eight_bit = self.options.weights == "fp8"
        self.networks = weights.load(folder, self.options.torch_dtype, in_eight_bits=eight_bit)
        self._detector = weights.load_detector(folder) if self.options.face_detector == "reference" else None
        nets = self.networks
        self.interrupts = Interrupts(nets.unet, nets.vae, nets.clip)
        self.memory = DeviceMemory(self.options, nets)
        self.residence = Residence(self.options.torch_device, *nets.all)
        self.pipeline = SonicPipeline(nets.unet, nets.vae, nets.clip, nets.scheduler, nets.interpolator, self.residence)
        compile_as(self.options.compile, nets.unet, nets.vae.decoder)

    @cached_property
    def lips(self) -> lips.LipReader:
        """Loaded when the first take wants its lips read. Raises errors.ModelMissing."""
        return lips.LipReader()

    def portray(self, portrait: Portrait, parameters: RenderParameters) -> Portrayed:
        """Cut a square around the face (expand_ratio 0: keep the whole picture), scale it, mark where the face is."""
        rgb = portrait.rgb
        face = self._face(rgb, portrait.face.box)
        height, width = rgb.shape[:2]
        if parameters.expand_ratio:
            x0, y0, x1, y1 = images.square_crop(width, height, face, parameters.expand_ratio)
            rgb = rgb[y0:y1, x0:x1]
            face = self._face(rgb, (face[0] - x0, face[1] - y0, face[2] - x0, face[3] - y0))
        cautions = []
        scale = parameters.min_resolution / min(rgb.shape[:2])
        if scale > _MAX_ENLARGEMENT:
            shown = f"the part shown has {rgb.shape[1]} x {rgb.shape[0]} pixels"
            cautions.append(Caution("ENLARGED", f"{shown} and is enlarged {scale:.1f} times; it will look soft"))
        return Portrayed(images.prepare(rgb, face, parameters.min_resolution), tuple(cautions))

    def _face(self, rgb: NDArray[np.uint8], own: images.Box) -> images.Box:
        """The box of the face, by the detector that was chosen. Raises errors.NoFace."""
        if self._detector is None:
            return own
        boxes = detector.find(self._detector, np.ascontiguousarray(rgb[:, :, ::-1])).boxes
        if not len(boxes):
            raise errors.NoFace("the reference's detector sees none; leave the option face_detector at own")
        x, y, width, height = boxes[detector.last_larger(boxes)].tolist()
        return x, y, x + width, y + height

    def prepare(
        self, portrayed: Portrayed, voice: Voice, parameters: RenderParameters, report: Report = untold
    ) -> SonicTake:
        """Hear the voice. Raises errors.VoiceUnreadable, WouldNotFit, OutOfMemory, DeviceFailed."""
        with on_device():
            return SonicTake(self, portrayed, voice, parameters, partial(report, "", 0, 0))


class SonicTake:
    """One portrait and what it is to say."""

    def __init__(
        self,
        engine: SonicEngine,
        portrayed: Portrayed,
        voice: Voice,
        parameters: RenderParameters,
        ask: Callable[[], None],
    ) -> None:
        width, height = portrayed.size
        self.shape = Shape(width, height, parameters.fps, frame_count(voice.duration_s, parameters.fps))
        self.cautions = portrayed.cautions
        self._engine = engine
        self._parameters = parameters
        self._voice = voice
        self._pictures = portrayed.pictures
        self._made_hz = 2 * FRAME_RATE_HZ if parameters.smooth_motion else FRAME_RATE_HZ
        plan = engine.memory.plan(width, height, frames_made(self.shape))
        engine.pipeline.rows_at_once, engine.residence.offload = plan.rows_at_once, plan.offload
        engine.residence.bring(*(engine.networks.hearing if plan.offload else engine.networks.all))
        overlapping = engine.options.whisper_context == "overlapping"
        self._hidden = engine.networks.speech.hear(audio.load(voice.path), overlapping=overlapping, ask=ask)
        if parameters.fps > self._made_hz:
            message = f"fps is {parameters.fps}, {self._made_hz:g} frames a second are made; frames are repeated"
            self.cautions += (Caution("FRAMES_REPEATED", message),)

    def frames(self, report: Report, checkpoint: Checkpoint | None = None) -> Iterator[NDArray[np.uint8]]:
        """Planar yuv420p. Denoising is reported as a stage of its own, call by call of the network."""
        pipeline, ask = self._engine.pipeline, partial(report, "", 0, 0)
        with on_device(), self._engine.interrupts.asking(ask), self._saving(checkpoint) as saver:
            latents = self._latents(report, saver)
            chunks = pipeline.decode(latents, self._engine.options.decode_chunk)
            made = pipeline.smooth(chunks) if self._parameters.smooth_motion else chain.from_iterable(chunks)
            for frame in frames.at_rate(made, self._made_hz, self.shape.fps, self.shape.frame_count):
                if not frame.isfinite().all():
                    raise errors.OutputBroken(_NO_NUMBERS)
                yield frames.to_yuv420p(frame)

    def _latents(self, report: Report, saver: resuming.Saver) -> Tensor:
        """Those of the clip; where the mouth turns out to be off by more than a frame, those of a second look at it,
        which hears by so much later or earlier."""
        state = saver.load(self._like_latents(), self.sampling())
        late_s = state.late_s if state else 0.0
        if not late_s:
            latents = self._look(report, saver, state, late_s)
            if self._parameters.lip_sync_correction:
                first = latents[: int(lips.MOST_LOOKED_AT_S * FRAME_RATE_HZ)]
                chunks = self._engine.pipeline.decode(first, self._engine.options.decode_chunk)
                late_s = self._engine.lips.lateness_s(chain.from_iterable(chunks), FRAME_RATE_HZ, self._voice)
            if abs(late_s) <= 1 / self.shape.fps:
                return latents
            state = None
        message = (
            f"the mouth was {late_s * 1000:+.0f} ms off the voice; it was rendered again, and hears by so much later"
        )
        self.cautions += (Caution("LIP_SYNC_CORRECTED", message),)
        return self._look(report, saver, state, late_s)

    def _look(self, report: Report, saver: resuming.Saver, state: resuming.State | None, late_s: float) -> Tensor:
        """Denoise the clip, from where an earlier run has left it."""
        pipeline, sampling = self._engine.pipeline, self.sampling()
        clip = self._heard(audio.shifted(self._hidden, late_s) if late_s else self._hidden)
        pipeline.unet.set_audio_scale(self._parameters.audio_scale)
        picture_noise, noise = pipeline.noise(clip.pictures, clip.frames, self._parameters.seed)
        progress = state.progress if state else pipeline.begin(clip, sampling, noise)

        def on_call(done: int, total: int) -> None:
            report("denoising", done, total)
            before = total if late_s else 0
            saver.offer(resuming.State(progress, late_s, before + done, before + total))

        latents = pipeline.denoise(clip, sampling, progress, picture_noise, on_call)
        if not latents.isfinite().all():
            raise errors.OutputBroken(_NO_NUMBERS)
        return latents

    def sampling(self) -> Sampling:
        """The job's parameters as the model's; 1 of both scales is what was published."""
        wanted, options = self._parameters, self._engine.options
        return Sampling(
            steps=wanted.inference_steps,
            window_frames=options.window_frames,
            appearance_guidance=(wanted.appearance_guidance,) * 2,
            audio_guidance=(wanted.audio_guidance,) * 2,
            head_scale=wanted.dynamic_scale,
            expression_scale=wanted.dynamic_scale * wanted.motion_scale,
            guidance_every=options.guidance_every,
            step_cache=options.step_cache,
        )

    def _heard(self, hidden: Tensor) -> Clip:
        nets, count = self._engine.networks, frames_made(self.shape)
        embedding = self._engine.pipeline.picture_embedding(self._pictures)
        self._engine.residence.bring(*nets.hearing)
        return Clip(
            self._pictures,
            embedding,
            audio.tokens_of(nets.projector, hidden, count).cpu(),
            audio.tokens_of_nothing(nets.projector, hidden),
            audio.buckets_of(nets.buckets, hidden, embedding, count),
        )

    def _saving(self, checkpoint: Checkpoint | None) -> AbstractContextManager[resuming.Saver]:
        return resuming.saving(checkpoint, self._fingerprint(checkpoint) if checkpoint else "")

    def _like_latents(self) -> Tensor:
        """No latents, with their shape, device and precision."""
        pipeline, (width, height) = self._engine.pipeline, (self.shape.width, self.shape.height)
        empty = torch.empty((), device=pipeline.device, dtype=pipeline.dtype)
        return empty.expand(frames_made(self.shape), 4, height // 8, width // 8)

    def _fingerprint(self, checkpoint: Checkpoint) -> str:
        """Of all that the frames depend on, but for what devices differ by. Raises OSError."""
        options = asdict(self._engine.options) | {"dtype": str(self._engine.pipeline.dtype)}
        for where in ("device", "memory"):
            del options[where]
        content = {
            "version": _STATE_VERSION,
            "model": [self._engine.model_version, self._engine.files_sha256],
            "inputs": checkpoint.inputs_sha256(),
            "parameters": asdict(self._parameters),
            "options": options,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def frames_made(shape: Shape) -> int:
    """At 12.5 a second, as many as the voice is long: the reference makes up to 0.12 s less. One more, for the last
    frame at 25 a second to have others on both sides, would want another window in each step wherever windows are full.
    """
    return math.ceil(shape.frame_count / shape.fps * FRAME_RATE_HZ - 1e-6)


# What torch and the libraries under it say, as far as no class of error does.
_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
_NO_DEVICE = ("CUDA error", "HIP error", "CUDNN_STATUS", "CUBLAS_STATUS", "CUDA driver error")


@contextmanager
def on_device() -> Iterator[None]:
    """Turn what torch raises into errors.OutOfMemory, with the memory given back, and errors.DeviceFailed."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = next(iter(str(error).splitlines()), "")
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in said for words in _NO_MEMORY):
            traceback.clear_frames(error.__traceback__)  # the tensors of what did not get to its end
            torch.cuda.empty_cache()
            advice = "choose a smaller min_resolution, or a node with more memory"
            said = said.partition("DefaultCPUAllocator: ")[2] or said
            raise errors.OutOfMemory("; ".join(filter(None, (said.split(". ")[0], advice)))) from error
        if type(error).__name__ == "AcceleratorError" or any(words in said for words in _NO_DEVICE):
            raise errors.DeviceFailed(said) from error
        raise
