"""Is this the published model? `python -m sonic_runtime.engines.sonic.parity DIR`

Runs every case folder in DIR (inputs, random weights under the published names, and the outputs that the reference gave
for them; see docs/diffusion.md), prints a line per case with its largest error and the limit, and exits 1 if one fails.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from sonic_runtime.engines.base import SPEECH_RATE_HZ
from sonic_runtime.engines.sonic import audio, detector, images
from sonic_runtime.engines.sonic.interpolation import FrameInterpolator
from sonic_runtime.engines.sonic.pipeline import ROWS, Clip, Sampling, SonicPipeline, Window, euler_step
from sonic_runtime.engines.sonic.unet import AudioCrossAttention, SonicUNet, mask_levels

_MODULE, _FLOW, _LATENTS, _VIDEO = 1e-4, 1e-3, 1e-4, 1e-3
_GREY_LEVEL = 1 / 127.5
_RESAMPLED = 1e-4


class MissingWeights(Exception):
    """A case names weights that are not there."""


class UnknownCase(Exception):
    """There is no case of that name."""


class Outputs(dict[str, Tensor]):
    """What the reference gave; `untouched` are those that nothing was compared with."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.untouched = sorted(tensors)

    def __getitem__(self, name: str) -> Tensor:
        self.untouched = [other for other in self.untouched if other != name]
        return super().__getitem__(name)


@dataclass
class Case:
    """A case folder, and what was compared."""

    folder: Path
    errors: list[tuple[str, float, float]] = field(default_factory=list)  # what, its error, the limit

    def __post_init__(self) -> None:
        self.config: dict[str, Any] = {**json.loads((self.folder / "config.json").read_text())}
        given = self._tensors("inputs")
        self.inputs = {name: each.float() if each.is_floating_point() else each for name, each in given.items()}
        self.outputs = Outputs(self._tensors("outputs"))

    def _tensors(self, name: str) -> dict[str, Tensor]:
        path = self.folder / f"{name}.safetensors"
        return load_file(path) if path.exists() else {}

    def weights(self, kind: str = "", prefix: str = "") -> dict[str, Tensor]:
        """The case's own weights, or those of the case beside it whose name ends in `kind`; float32."""
        for folder in sorted(self.folder.parent.glob(f"*{kind}")) if kind else [self.folder]:
            path = folder / "weights.safetensors"
            found = load_file(path) if path.exists() else {}
            chosen = {key.removeprefix(prefix): value.float() for key, value in found.items() if key.startswith(prefix)}
            if chosen:
                return chosen
        raise MissingWeights(
            f"{self.folder.name} has no weights {prefix}* ({'beside it, in *' + kind if kind else 'of its own'})"
        )

    def same(self, what: str, found: Tensor, expected: Tensor, limit: float, *, relative: bool = False) -> None:
        """Compare two tensors: the largest difference, of the expected tensor's largest value where `relative`."""
        if found.shape != expected.shape:
            self.errors.append((f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}", torch.inf, limit))
            return
        error = (found.double() - expected.double()).abs().max().item() if found.numel() else 0.0
        scale = max(expected.double().abs().max().item(), 1e-12) if relative else 1.0
        self.errors.append((what, torch.inf if math.isnan(error / scale) else error / scale, limit))

    def equal(self, what: str, found: object, expected: object) -> None:
        """Compare two plain values."""
        self.errors.append((what, 0.0 if found == expected else 1.0, 0.0))

    @property
    def worst(self) -> tuple[str, float, float]:
        """The comparison that is nearest to its limit, or furthest beyond it."""
        if not self.errors:
            return "nothing was compared", torch.inf, 0.0
        return max(self.errors, key=lambda each: (each[1] > each[2], each[1] / each[2] if each[2] else each[1]))

    @property
    def passed(self) -> bool:
        _, error, limit = self.worst
        return error <= limit


def _loaded(module: nn.Module, weights: dict[str, Tensor]) -> Any:
    module.load_state_dict(weights)
    return module.float().eval()


def _audio2token(case: Case) -> None:
    config = {key: value for key, value in case.config.items() if key not in ("model", "forward")}
    projector = _loaded(audio.AudioProjector(**config), case.weights())
    rows = case.inputs["audio_embeds"]
    case.same("tokens", projector(rows), case.outputs["tokens"], _MODULE)
    zero = case.outputs["tokens_for_zero_audio"]
    nothing = audio.tokens_of_nothing(projector, rows.flatten(0, 2))
    case.same("tokens of no audio", nothing.expand_as(zero), zero, _MODULE)


def _audio2bucket(case: Case) -> None:
    config = {key: value for key, value in case.config.items() if key not in ("model", "post")}
    model = _loaded(audio.MotionBuckets(**config), case.weights())
    for suffix in ("", "_b3"):
        rows, picture = case.inputs[f"audio_embeds{suffix}"][:, 0], case.inputs[f"image_embeds{suffix}"]
        case.same(f"raw{suffix}", model(rows, picture)[:, None], case.outputs[f"raw{suffix}"], _MODULE)
        if f"bucket{suffix}" in case.outputs:
            bucket = model.buckets(rows, picture)[:, None, :, None]
            case.same(f"bucket{suffix}", bucket, case.outputs[f"bucket{suffix}"], 16 * _MODULE)


def _whisper(config: dict[str, Any], weights: dict[str, Tensor]) -> audio.SpeechEncoder:
    return audio.SpeechEncoder(_loaded(WhisperEncoder(WhisperConfig(**config)), weights))


def _audio_features(case: Case) -> None:
    speech = _whisper(case.config["whisper"], case.weights(prefix="encoder."))
    samples = audio.load(case.folder / "audio_16k_mono.wav")
    case.equal("samples", len(samples), int(case.inputs["n_samples_16k"]))
    resampled = audio.load(case.folder / "audio_resample.wav")
    expected = case.inputs["wave_resampled_16k"]
    case.same("resampled", torch.from_numpy(resampled), expected, _RESAMPLED)
    chunk = audio.CHUNK_S * SPEECH_RATE_HZ
    mels = [speech.mel(samples[start : start + chunk])[0] for start in range(0, len(samples), chunk)]
    case.same("mel", mels[0][:, ::7], case.outputs["mel_first_chunk_every_7th"], _MODULE)
    case.same("mel, second chunk", mels[1][:, :600], case.outputs["mel_second_chunk_first_600"], _MODULE)
    mel = speech.mel(resampled)[0]
    case.same("mel, resampled", mel[:, :200], case.outputs["mel_resample_first_200"], 20 * _RESAMPLED)
    hidden = speech.hear(samples, overlapping=False)
    case.equal("audio_len", len(hidden), 2 * case.config["audio_len"])
    for name, found in (
        ("hidden_head", hidden[:40]),
        ("hidden_mid", hidden[1480:1520]),
        ("hidden_tail", hidden[-40:]),
        ("last_hidden_tail", hidden[-40:, -1:]),
    ):
        case.same(name, found[None], case.outputs[name], _MODULE)
    frames = audio.frame_count(len(samples))
    case.equal("frames", frames, case.config["n_video_frames"])
    numbers = case.config["window_frame_indices"]
    case.same("token windows", audio.token_windows(hidden, frames)[numbers], case.outputs["token_windows"], _MODULE)
    case.same("bucket windows", audio.bucket_windows(hidden, frames)[numbers], case.outputs["bucket_windows"], _MODULE)
    sums = [tensor.double() for tensor in (torch.cat(mels, 1), hidden)]
    found = torch.stack([value for tensor in sums for value in (tensor.sum(), tensor.abs().sum())])
    case.same("checksum", found, case.outputs["checksum"], 1e-5, relative=True)


def _ip_attention(case: Case) -> None:
    config, inputs = case.config, case.inputs
    channels, heads = config["query_dim"], config["heads"]
    for name, temporal, mask in (("with_mask", False, inputs["mask"]), ("without_mask", True, None)):
        attention = Attention(
            query_dim=channels,
            cross_attention_dim=config["cross_attention_dim"],
            heads=heads,
            dim_head=channels // heads,
            bias=config.get("bias_qkv", False),
        )
        processor = AudioCrossAttention(
            channels, config["cross_attention_dim"], temporal=temporal, scale=config["audio_scale"]
        )
        attention.set_processor(processor)
        _loaded(attention, case.weights())
        processor.masks = mask_levels(mask) if mask is not None else {}
        heard = processor.project(attention, inputs["clip_tokens"], inputs["audio_tokens"])
        processor.bind(type(heard)(*(part[:, None] for part in (heard.picture, heard.key, heard.value))))
        case.same(name, attention(inputs["hidden_states"]), case.outputs[name], _MODULE)


def _spatio_temporal_transformer(case: Case) -> None:
    config, inputs = case.config, case.inputs
    context = config["cross_attention_dim"]
    block = TransformerSpatioTemporalModel(
        num_attention_heads=config["num_attention_heads"],
        attention_head_dim=config["attention_head_dim"],
        in_channels=config["in_channels"],
        cross_attention_dim=context,
    )
    crossing = [block.transformer_blocks[0].attn2, block.temporal_transformer_blocks[0].attn2]
    for attention, temporal in zip(crossing, (False, True), strict=True):
        attention.set_processor(
            AudioCrossAttention(attention.inner_dim, context, temporal=temporal, scale=config["audio_scale"])
        )
    _loaded(block, case.weights())
    shape = (config["batch"], config["frames"])
    indicator = torch.zeros(shape)
    unused = torch.zeros(shape[0] * shape[1], 1, 1)
    for name, mask in (("with_mask", inputs["mask"]), ("without_mask", None)):
        for attention, temporal in zip(crossing, (False, True), strict=True):
            processor = attention.processor
            processor.masks = {} if temporal or mask is None else mask_levels(mask)
            picture, heard = (inputs[each].unflatten(0, shape) for each in ("clip_tokens", "audio_tokens"))
            processor.bind(processor.project(attention, picture, heard))
        found = block(inputs["hidden_states"], unused, indicator, return_dict=False)[0]
        case.same(name, found, case.outputs[name], _MODULE)


def _mask_downsample(case: Case) -> None:
    for row in case.config["rows"]:
        levels = mask_levels(case.inputs[f"mask_{row['mask']}"][None].float() / 255)
        name = f"out_{row['mask']}_{row['level']}"
        case.same(name, levels[row["num_queries"]][:, 0], case.outputs[name], _MODULE)


def _unet(case: Case, audio_scale: float = 1.0) -> SonicUNet:
    unet = SonicUNet.build(case.config["unet"], audio_scale)
    built: SonicUNet = _loaded(unet, case.weights("unet_two_layers"))
    return built


def _unet_forward(case: Case) -> None:
    unet, inputs = _unet(case, case.config["audio_scale"]), case.inputs
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen[name] = (output[0] if isinstance(output, tuple) else output)[:4].clone()

        return keep

    numbered = (("down", unet.down_blocks), ("up", unet.up_blocks))
    blocks = {f"act_{kind}{number}": block for kind, found in numbered for number, block in enumerate(found)}
    for name, block in (blocks | {"act_mid": unet.mid_block}).items():
        block.register_forward_hook(watch(name))

    def call(picture: Tensor, heard: Tensor, mask: Tensor | None) -> Tensor:
        unet.bind(unet.project(picture, heard))
        unet.bind_mask(mask)
        return unet.denoise(inputs["sample"], inputs["timestep"], inputs["added_time_ids"])

    picture, heard = inputs["clip_tokens"], inputs["audio_tokens"]
    case.same("sample", call(picture, heard, inputs["mask"]), case.outputs["sample"], _MODULE)
    for name, found in seen.items():
        if name in case.outputs:
            case.same(name, found, case.outputs[name], _MODULE)
    case.same("sample_no_mask", call(picture, heard, None), case.outputs["sample_no_mask"], _MODULE)
    if "sample_tensor_context" in case.outputs:  # one for all frames, the picture's token first; the mask is not used
        context = inputs["tensor_context"][:, None].expand(-1, picture.shape[1], -1, -1)
        found = call(context[:, :, :1], context[:, :, 1:], None)
        case.same("sample_tensor_context", found, case.outputs["sample_tensor_context"], _MODULE)


def _scheduler(case: Case) -> None:
    scheduler = EulerDiscreteScheduler.from_config({**case.config["config"]})
    for steps, row in case.config["table"].items():
        scheduler.set_timesteps(int(steps))
        for name, found in (("timesteps", scheduler.timesteps), ("sigmas", scheduler.sigmas)):
            case.same(f"{name}_{steps}", found, case.outputs[f"{name}_{steps}"], 1e-5, relative=True)
        start = torch.tensor(float(scheduler.init_noise_sigma))
        case.same(f"init_noise_sigma_{steps}", start, torch.tensor(row["init_noise_sigma"]), 1e-5, relative=True)
    scheduler.set_timesteps(case.config["n_for_steps"])
    sigmas = scheduler.sigmas.tolist()
    sample = case.inputs["x0"]
    for step, (sigma, after) in enumerate(itertools.pairwise(sigmas)):
        scaled = sample / (sigma**2 + 1) ** 0.5
        case.same(f"scaled_{step}", scaled, case.outputs[f"scaled_{step}"], 1e-5, relative=True)
        sample = euler_step(case.inputs[f"model_out_{step}"], sample, sigma, after)
        case.same(f"prev_{step}", sample, case.outputs[f"prev_{step}"], 1e-5, relative=True)
    first = case.inputs["ref"] + case.inputs["noise"] * sigmas[0]
    case.same("add_noise_first", first, case.outputs["add_noise_first"], 1e-5, relative=True)


class _Watched(SonicPipeline):
    """Keeps what goes into each call of the network and what comes out."""

    def __init__(self, case: Case) -> None:
        weights = case.weights("pipeline_default_window", "vae.")
        vae_config = {"up": len(case.config["vae"]["block_out_channels"]), **case.config["vae"]}
        vae = AutoencoderKLTemporalDecoder(down_block_types=["DownEncoderBlock2D"] * vae_config.pop("up"), **vae_config)
        clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**case.config["image_encoder"]))
        flow = {key: value for key, value in _flownet(case).items()}
        self.scheduler = scheduler = EulerDiscreteScheduler.from_config({**case.config["scheduler"]})
        super().__init__(
            _unet(case),
            _loaded(vae, weights),
            _loaded(clip, case.weights("pipeline_default_window", "image_encoder.")),
            scheduler,
            FrameInterpolator.build(flow) if flow else FrameInterpolator(2),
        )
        self.windows: list[Window] = []
        self.denoised: list[Tensor] = []
        self.rows: list[tuple[Tensor, ...]] = []
        self.predicted: list[Tensor] = []
        denoise = self.unet.denoise

        def watched(*given: Tensor) -> Tensor:
            predicted = denoise(*given)
            self.rows.append(given)
            self.predicted.append(predicted)
            return predicted

        self.unet.denoise = watched  # type: ignore[method-assign, assignment]

    def denoise_window(self, latents: Tensor, window: Window) -> Tensor:
        denoised = super().denoise_window(latents, window)
        self.windows.append(window)
        self.denoised.append(denoised)
        return denoised


def _flownet(case: Case) -> dict[str, Tensor]:
    try:
        return case.weights(prefix="flownet.")
    except MissingWeights:
        return {}


def _pipeline(case: Case) -> None:
    loop, inputs, outputs = case.config["loop"], case.inputs, case.outputs
    pipeline = _Watched(case)
    pixels = inputs["clip_image_28"].repeat_interleave(8, 2).repeat_interleave(8, 3)
    pictures = images.Pictures(inputs["ref_image"], inputs["face_mask_u8"].float() / 255, pixels)
    clip = Clip(
        pictures,
        pipeline.picture_embedding(pictures),
        inputs["audio_tokens"],
        inputs["uncond_audio_tokens"][0],
        inputs["motion_buckets"][:, 0, :, 0],
    )
    sampling = Sampling(
        steps=loop["steps"],
        window_frames=loop["frames_per_batch"],
        overlap_frames=loop["overlap"],
        shift_frames=loop["shift_offset"],
        appearance_guidance=tuple(loop["g1"]),
        audio_guidance=tuple(loop["g2"]),
        head_scale=loop["bucket_scale"],
        expression_scale=loop["bucket_scale"],
        noise_augmentation=loop["noise_aug"],
        strength=loop["strength"],
        fps=loop["fps"],
    )
    drawn = pipeline.noise(pictures, clip.frames, case.config["torch_manual_seed"])
    picture_noise = inputs.get("noise_ref_image", drawn[0])
    case.same("drawn noise", drawn[1][None], inputs["noise_latents"], 1e-6)
    latents = pipeline.denoise(clip, sampling, pipeline.begin(clip, sampling, drawn[1]), picture_noise)
    case.equal("calls", len(pipeline.windows), case.config["n_unet_calls"])
    case.equal("calls foretold", sampling.calls(clip.frames), case.config["n_unet_calls"])
    case.same("schedule", pipeline.scheduler.timesteps, outputs["timesteps"], 1e-5, relative=True)
    case.same("sigmas", pipeline.scheduler.sigmas, outputs["sigmas"], 1e-5, relative=True)
    _, steps = torch.unique_consecutive(torch.tensor([w.sigma for w in pipeline.windows]), return_inverse=True)
    case.equal("steps of calls", steps.tolist(), outputs["window_step_index"].tolist())
    timesteps = torch.stack([window.timestep for window in pipeline.windows])
    case.same("timesteps", timesteps, outputs["all_timesteps"], 1e-5, relative=True)
    ids = torch.stack([window.time_ids[0] for window in pipeline.windows])
    case.same("time ids", ids, outputs["all_added_time_ids"], 1e-4, relative=True)
    sample, timestep, time_ids = pipeline.rows[0]
    for name, found, limit in (
        ("call0_sample_every_6th_frame", sample[:, ::6], _LATENTS),
        ("call0_timestep", timestep, 1e-5),
        ("call0_added_time_ids", time_ids, 1e-4),
        ("call0_out_every_6th_frame", pipeline.predicted[0][:, ::6], _LATENTS),
    ):
        case.same(name, found, outputs[name], limit, relative=True)
    rows = (outputs[name].unflatten(0, (ROWS, -1)) for name in ("call0_clip", "call0_audio"))
    attentions = zip(pipeline.windows[0].heard(slice(ROWS)), pipeline.unet.project(*rows), strict=True)
    for number, (ours, theirs) in enumerate(attentions):
        for part in ("picture", "key", "value"):
            case.same(f"{part} heard in {number}", getattr(ours, part), getattr(theirs, part), _MODULE)
    kept = torch.stack([pipeline.denoised[call] for call in outputs["window_call_index"].tolist()])
    for number, (found, expected) in enumerate(zip(kept, outputs["window_latents"][:, 0], strict=True)):
        case.same(f"window {number}", found, expected, _LATENTS, relative=True)
    case.same("final latents", latents[None], outputs["final_latents"], _LATENTS, relative=True)
    video = torch.cat([*pipeline.decode(latents, loop["chunk"])])
    expected = (outputs["video_every_14th_frame"][0].transpose(0, 1) / 2 + 0.5).clamp(0, 1)
    case.same("video", video[::14], expected, _VIDEO)


def _image_preprocess(case: Case) -> None:
    for number, row in enumerate(case.config["rows"]):
        rgb = np.asarray(Image.open(case.folder / row["image"]).convert("RGB"))
        x, y, width, height = row["face_xywh"]
        pictures = images.prepare(rgb, (x, y, x + width, y + height), row["min_resolution"], row["area"])
        case.equal(f"size_{number}", list(pictures.reference.shape[-2:]), row["out_hw"])
        case.same(f"ref_img_{number}", pictures.reference[0], case.outputs[f"ref_img_{number}"], 1.01 * _GREY_LEVEL)
        mask = pictures.mask[0] * 255
        case.same(f"face_mask_{number}", mask, case.outputs[f"face_mask_{number}"], 1.001)
        clip = pictures.clip[0, :, ::4, ::4]
        case.same(f"clip_image_{number}", clip, case.outputs[f"clip_image_{number}"], 4.1 / 255)
    for width, height, resolution, *expected in case.config["size_table_w_h_res_outw_outh"]:
        case.equal(f"size of {width} x {height}", list(images.video_size(width, height, resolution)), expected)


def _crop_bbox(case: Case) -> None:
    for number, row in enumerate(case.config["rows"]):
        crop = images.square_crop(row["width"], row["height"], tuple(row["bbox"]), row["expand_ratio"])
        case.equal(f"crop {number}", list(crop), row["crop"])
    for number, row in enumerate(case.config["face_choice"]):
        boxes = np.array(row["bboxes"], np.float64)
        case.equal(f"largest {number}", detector.largest(boxes), row["largest"])
        case.equal(f"last larger {number}", detector.last_larger(boxes), row["picked"])


def _face_detector_post(case: Case) -> None:
    for number, row in enumerate(case.config["rows"]):
        bgr = case.inputs[f"image_bgr_{number}"].numpy()
        seen = detector.network_input(bgr)
        case.equal(f"size {number}", list(seen.shape[-2:]), row["net_hw"])
        expected = case.outputs[f"net_input_every_8th_{number}"]
        case.same(f"input {number}", seen[0, :, ::8, ::8], expected, 1.001 / 255)
        shapes = [list(grid.shape) for grid in detector.grids(*row["net_hw"])]
        case.equal(f"grids {number}", shapes, row["grids"])
        found = detector.decode(case.inputs[f"pred_{number}"][0].numpy(), tuple(row["net_hw"]), tuple(row["hw"]))
        for name, values in (("bboxes", found.boxes), ("landmarks", found.landmarks), ("scores", found.scores)):
            case.same(f"{name} {number}", torch.from_numpy(values), case.outputs[f"{name}_{number}"], _MODULE)


def _frame_interpolation(case: Case) -> None:
    net = FrameInterpolator.build(case.weights())
    first, second = case.inputs["img0"], case.inputs["img1"]
    flow, mask, merged = net.flow(first, second)
    case.same("flow", flow, case.outputs["flow_last"], _FLOW)
    case.same("mask", mask, case.outputs["mask_last"], _MODULE)
    case.same("merged", merged, case.outputs["merged_unclamped"], _MODULE)
    case.same("middle", net(first, second), case.outputs["middle"], _MODULE)


def _end_to_end(case: Case) -> None:
    run, outputs = case.config["run"], case.outputs
    rgb = np.asarray(Image.open(case.folder / "image.png").convert("RGB"))
    x, y, width, height = run["face_xywh"]
    pictures = images.prepare(rgb, (x, y, x + width, y + height), run["min_resolution"], run["area"])
    case.same("face mask", pictures.mask[0] * 255, outputs["face_mask"], 1.001)
    case.same("clip image", pictures.clip[0, :, ::4, ::4], outputs["clip_image_every_4th"], 4.1 / 255)
    speech = _whisper(case.config["whisper"], case.weights(prefix="whisper.encoder."))
    samples = audio.load(case.folder / "audio.wav")
    case.same("mel", speech.mel(samples)[0, :, :300], outputs["mel_first_300"], 20 * _RESAMPLED)
    hidden = speech.hear(samples, overlapping=False)
    case.equal("audio_len", len(hidden) // 2, int(outputs["audio_len"]))
    frames = audio.frame_count(len(samples))
    case.equal("frames", frames, case.config["frames_12_5fps"])
    projector = _loaded(audio.AudioProjector(**case.config["audio2token"]), case.weights(prefix="audio2token."))
    tokens, nothing = audio.tokens_of(projector, hidden, frames), audio.tokens_of_nothing(projector, hidden)
    case.same("audio tokens", tokens, outputs["audio_tokens"], _MODULE)
    case.same("tokens of no audio", nothing.expand_as(tokens), outputs["uncond_audio_tokens"], _MODULE)
    pipeline = _Watched(case)
    bucket_model = _loaded(audio.MotionBuckets(**case.config["audio2bucket"]), case.weights(prefix="audio2bucket."))
    embedding = pipeline.picture_embedding(pictures)
    buckets = audio.buckets_of(bucket_model, hidden, embedding, frames)
    case.same("motion buckets", buckets, outputs["motion_buckets"][:, 0, :, 0], 16 * _MODULE)
    sampling = Sampling(
        steps=run["num_inference_steps"],
        window_frames=run["n_sample_frames"],
        overlap_frames=run["overlap"],
        shift_frames=run["shift_offset"],
        appearance_guidance=(run["min_appearance_guidance_scale"], run["max_appearance_guidance_scale"]),
        audio_guidance=(run["audio_guidance_scale"], run["audio_guidance_scale"]),
        head_scale=run["motion_bucket_scale"],
        expression_scale=run["motion_bucket_scale"],
        noise_augmentation=run["noise_aug_strength"],
        strength=run["i2i_noise_strength"],
        fps=run["fps"],
    )
    clip = Clip(pictures, embedding, tokens, nothing, buckets)
    picture_noise, noise = pipeline.noise(pictures, frames, run["seed"])
    case.same("drawn noise", noise[None], case.inputs["noise_latents"], 1e-6)
    latents = pipeline.denoise(clip, sampling, pipeline.begin(clip, sampling, noise), picture_noise)
    ids = torch.stack([window.time_ids[0] for window in pipeline.windows])
    case.same("time ids", ids, outputs["all_added_time_ids"], 1e-4, relative=True)
    case.same("latents", pipeline.denoised[-1][None], outputs["window_latents_last"], _LATENTS, relative=True)
    smooth = list(pipeline.smooth(pipeline.decode(latents, run["decode_chunk_size"])))
    case.equal("frames at 25 a second", len(smooth), case.config["frames_25fps"])
    video = torch.stack(smooth[::2])
    case.same("video", video[::14], outputs["video_every_14th_frame"][0].transpose(0, 1), _VIDEO)
    if len(smooth) > 1:
        case.same("middle frame", smooth[1], outputs["first_interpolated_middle"][0, :, 0], _VIDEO)


_KINDS: dict[str, Callable[[Case], None]] = {
    "audio2token": _audio2token,
    "audio2bucket": _audio2bucket,
    "audio_features": _audio_features,
    "ip_attention": _ip_attention,
    "spatio_temporal_transformer": _spatio_temporal_transformer,
    "mask_downsample": _mask_downsample,
    "unet_two_layers": _unet_forward,
    "unet_nonsquare_scaled": _unet_forward,
    "scheduler": _scheduler,
    "pipeline_default_window": _pipeline,
    "pipeline_overlap_guidance_ramp": _pipeline,
    "image_preprocess": _image_preprocess,
    "crop_bbox": _crop_bbox,
    "face_detector_post": _face_detector_post,
    "frame_interpolation": _frame_interpolation,
    "end_to_end": _end_to_end,
}


def run(folder: Path) -> Case:
    """Run the case in a folder; its name says what it is (`07_unet_two_layers`). Raises UnknownCase for another name,
    and what the case itself stumbles over."""
    compare = _KINDS.get(_kind(folder))
    if not compare:
        raise UnknownCase(f"known are {', '.join(_KINDS)}, with or without a number before")
    case = Case(folder)
    with torch.inference_mode():
        compare(case)
    return case


def _kind(folder: Path) -> str:
    return re.sub(r"^\d+_", "", folder.name)


def _is_case(folder: Path) -> bool:
    """One that has lost its configuration is one, too."""
    return folder.is_dir() and (_kind(folder) in _KINDS or (folder / "config.json").exists())


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when every case is reproduced, 1 when one is not, 2 when there is none."""
    parser = argparse.ArgumentParser(prog="python -m sonic_runtime.engines.sonic.parity", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of case folders, or one of them")
    given: Path = parser.parse_args(arguments).folder.resolve()
    folders = [given] if _is_case(given) else [each for each in sorted(given.glob("*")) if _is_case(each)]
    if not folders:
        print(f"{given} has no case folders: each has a config.json", file=sys.stderr)
        return 2
    failed = 0
    for folder in folders:
        try:
            case = run(folder)
            what, error, limit = case.worst
            passed, told = case.passed, f"error {error:.2e}, limit {limit:.0e} ({what}; {len(case.errors)} compared)"
            if case.outputs.untouched:
                told += f"; not compared: {', '.join(case.outputs.untouched)}"
        except Exception as error:  # the other cases still run
            passed, told = False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        failed += not passed
        print(f"{'ok    ' if passed else 'FAILED'} {folder.name}: {told}", flush=True)
    print(f"{len(folders) - failed} of {len(folders)} cases reproduced")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
