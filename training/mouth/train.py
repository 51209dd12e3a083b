"""Train the network on the corpus, each utterance heard several times: in rooms, by microphones, in noise."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sonic_runtime.mouth import spectrum
from training.mouth import augment
from training.mouth.corpus import Utterance
from training.mouth.network import MouthNet
from training.mouth.phones import Phone, curves

CROP_FRAMES = 400
BATCH = 32
LEARNING_RATE = 2e-3
_SIZES = (0.86, 1.16)  # of a speaker
_WEIGHTS = (6.0, 1.0, 1.0, 2.0, 0.7, 0.5, 1.0)  # of the losses, in the order of CURVES
Example = tuple[NDArray[np.float32], NDArray[np.float32]]  # normalised log-mel [n, 40], targets [n, 7]


def example(utterance: Utterance, chance: np.random.Generator | None) -> Example:
    """Features and targets, augmented when there is a source of chance."""
    samples, phones = utterance.samples, utterance.phones
    if chance is not None:
        factor = chance.uniform(*_SIZES)
        samples = augment.augmented(augment.resized(samples, factor), chance)
        phones = [Phone(phone.sound, phone.start * factor, phone.end * factor) for phone in phones]
    mel = spectrum.normalised(spectrum.log_mel(samples))
    targets = curves(phones, len(samples) / 16_000)
    count = min(len(mel), len(targets))
    return mel[:count], targets[:count]


def hear(utterances: Sequence[Utterance], times: int, seed: int, processes: int) -> Example:
    """Every utterance so many times, end to end, as float16."""
    jobs = [(number, (seed, time, number)) for time in range(times) for number in range(len(utterances))]
    with multiprocessing.get_context("fork").Pool(processes, _begin, (utterances,)) as pool:
        heard = pool.map(_hear, jobs, chunksize=16)
    return np.concatenate([mel for mel, _ in heard]), np.concatenate([targets for _, targets in heard])


def train(heard: Example, epochs: int, seed: int) -> MouthNet:
    """A trained network; the same seed gives the same weights on the same machine."""
    torch.manual_seed(seed)
    net = MouthNet()
    steps = epochs * (len(heard[0]) // CROP_FRAMES // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1)
    for epoch in range(epochs):
        chance = np.random.default_rng((seed, epoch))
        sums: list[NDArray[np.float32]] = []
        for mel, targets in _batches(heard, chance):
            with torch.autocast("cpu", torch.bfloat16):
                logits = net.logits(_masked(mel, chance))
            losses = _losses(logits.float(), targets)
            optimizer.zero_grad()
            losses.sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            sums.append(losses.detach().numpy())
        print(f"epoch {epoch + 1}/{epochs}: {np.round(np.mean(sums, axis=0), 4).tolist()}", flush=True)
    return net.eval()


_utterances: Sequence[Utterance] = ()


def _begin(utterances: Sequence[Utterance]) -> None:
    global _utterances
    _utterances = utterances


def _hear(job: tuple[int, tuple[int, ...]]) -> Example:
    number, seed = job
    mel, targets = example(_utterances[number], np.random.default_rng(seed))
    return mel.astype(np.float16), targets.astype(np.float16)  # type: ignore[return-value]


def _batches(heard: Example, chance: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Crops in another order, and cut elsewhere, each time."""
    mel, targets = heard
    count = len(mel) // CROP_FRAMES - 1
    starts = chance.permutation(count) * CROP_FRAMES + chance.integers(CROP_FRAMES)
    for first in range(0, count - BATCH + 1, BATCH):
        at = starts[first : first + BATCH, None] + np.arange(CROP_FRAMES)
        yield torch.from_numpy(mel[at].astype(np.float32)), torch.from_numpy(targets[at].astype(np.float32))


def _masked(mel: torch.Tensor, chance: np.random.Generator) -> torch.Tensor:
    """A few neighbouring bands of each crop hidden, and all a little softer or louder (SpecAugment, 2019)."""
    for crop in mel:
        width, shift = int(chance.integers(0, 7)), float(chance.normal(0, 0.05))
        first = int(chance.integers(0, spectrum.BANDS - width))
        crop += shift
        crop[:, first : first + width] = crop.mean()
    return mel


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One loss a curve, weighted, and one for the aperture's correlation, [8]."""
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=(0, 1))
    floor = -(torch.xlogy(targets, targets) + torch.xlogy(1 - targets, 1 - targets)).mean(dim=(0, 1))
    aperture, wanted = torch.sigmoid(logits[..., 0]), targets[..., 0]
    aperture, wanted = (curve - curve.mean(dim=1, keepdim=True) for curve in (aperture, wanted))
    together = (aperture * wanted).sum(dim=1) / (aperture.norm(dim=1) * wanted.norm(dim=1) + 1e-3)
    weighted = (entropy - floor) * torch.tensor(_WEIGHTS)
    return torch.cat([weighted, (1 - together.mean()).reshape(1)])
