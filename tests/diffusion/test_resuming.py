"""A render that was killed goes on where it was, with the very frames that it would have had."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from sonic.parameters import ENGINE_DEFAULTS, RenderParameters
from sonic.v1 import parameters_pb2
from sonic.v1 import worker_pb2 as pb
from sonic_runtime import errors
from sonic_runtime.checkpoint import Checkpoint
from sonic_runtime.engines.base import Face, Portrait
from sonic_runtime.engines.sonic import SonicEngine, resuming
from sonic_runtime.engines.sonic.engine import SonicTake
from sonic_runtime.engines.sonic.lips import LipReader
from sonic_runtime.engines.sonic.pipeline import Progress, Sampling
from sonic_runtime.media import voices
from sonic_runtime.models.samples import Samples
from tests.workers import EAGER, Worker

from .conftest import SMALL

CALLS = 6  # 8 frames, 4 at a time, 3 steps
WANTED = RenderParameters(
    **{**ENGINE_DEFAULTS["sonic"], "min_resolution": 128, "inference_steps": 3, "lip_sync_correction": False}
)
SIX_CALLS = Sampling(steps=3, window_frames=1)  # for two frames
Prepare = Callable[[RenderParameters], SonicTake]


@pytest.fixture
def prepare(engine: SonicEngine, short_voice: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    monkeypatch.setattr(resuming, "INTERVAL_S", 0.0)
    rgb = np.random.default_rng(1).integers(0, 255, (160, 128, 3), np.uint8)
    portrait = Portrait(rgb, Face(np.zeros((478, 3), np.float32), (40.0, 50.0, 90.0, 110.0), 1.0, 0, 0, 0))

    def made(wanted: RenderParameters) -> SonicTake:
        return engine.prepare(engine.portray(portrait, wanted), voices.load(short_voice), wanted)

    return made


@pytest.fixture
def checkpoint(tmp_path: Path, short_voice: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "state", (short_voice,))


def interrupted(take: SonicTake, checkpoint: Checkpoint, after: int) -> None:
    """Cancel before a call, when all that came before it is on the disk."""
    kept = threading.Semaphore(0)
    checkpoint.kept = lambda _done, _total: kept.release()
    count = 0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal count
        if stage != "denoising":
            return
        if count > 1 and not kept.acquire(timeout=10):  # there is nothing to keep before the first call
            raise AssertionError(f"no state was kept after {count - 1} of {total}")
        if count == after + 1:
            raise errors.Cancelled
        count += 1

    with pytest.raises(errors.Cancelled):
        list(take.frames(report, checkpoint))


def rendered(take: SonicTake, checkpoint: Checkpoint | None = None) -> tuple[NDArray[np.uint8], list[int]]:
    """The frames, and what was told of the denoising."""
    told: list[int] = []

    def report(stage: str, done: int, _total: int) -> None:
        if stage == "denoising":
            told.append(done)

    return np.stack([frame.copy() for frame in take.frames(report, checkpoint)]), told


@pytest.mark.parametrize("after", [1, 2, 5])
def test_the_frames_are_those_of_a_render_that_was_never_interrupted(
    prepare: Prepare, checkpoint: Checkpoint, after: int
) -> None:
    whole, _ = rendered(prepare(WANTED))
    interrupted(prepare(WANTED), checkpoint, after)
    resumed, told = rendered(prepare(WANTED), checkpoint)
    assert np.array_equal(whole, resumed)
    assert told == list(range(after, CALLS + 1))
    assert checkpoint.resumed_from == after


def test_so_they_are_with_shortcuts(
    engine: SonicEngine, prepare: Prepare, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "options", replace(SMALL, guidance_every=3, step_cache=2))
    whole, _ = rendered(prepare(WANTED))
    for after in (1, 4):  # in the middle of a step, and between two
        interrupted(prepare(WANTED), checkpoint, after)
        resumed, told = rendered(prepare(WANTED), checkpoint)
        assert np.array_equal(whole, resumed)
        assert told == list(range(after, CALLS + 1))
        checkpoint.forget()


def test_a_second_look_for_the_lips_is_gone_on_with(
    prepare: Prepare, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LipReader, "lateness_s", lambda *_: 0.1)
    wanted = replace(WANTED, lip_sync_correction=True)
    whole, _ = rendered(prepare(wanted))
    interrupted(prepare(wanted), checkpoint, CALLS + 1 + 3)  # a look ends with being told that it is done
    take = prepare(wanted)
    resumed, told = rendered(take, checkpoint)
    assert np.array_equal(whole, resumed)
    assert told[0] == 3
    assert checkpoint.resumed_from == CALLS + 3
    assert "LIP_SYNC_CORRECTED" in [caution.reason for caution in take.cautions]


@pytest.mark.parametrize("change", [{"seed": 1}, {"inference_steps": 4}, {"dynamic_scale": 1.1}], ids=str)
def test_the_state_of_another_render_is_left_aside(
    prepare: Prepare, checkpoint: Checkpoint, change: dict[str, int]
) -> None:
    interrupted(prepare(WANTED), checkpoint, 3)
    _, told = rendered(prepare(replace(WANTED, **change)), checkpoint)
    assert told[0] == checkpoint.resumed_from == 0


def test_that_of_another_voice_or_model_or_precision_is_left_aside(
    prepare: Prepare, checkpoint: Checkpoint, engine: SonicEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(prepare(WANTED), checkpoint, 3)
    take, like = prepare(WANTED), prepare(WANTED)._like_latents()

    def found() -> resuming.State | None:
        return resuming.Saver(checkpoint, take._fingerprint(checkpoint)).load(like, take.sampling())

    assert found()
    with monkeypatch.context() as changed:
        changed.setattr(engine, "model_version", "sonic-2")
        assert not found()
    with monkeypatch.context() as changed:
        changed.setattr(engine, "files_sha256", "0" * 64)
        assert not found()
    with monkeypatch.context() as changed:
        changed.setattr(engine, "options", replace(SMALL, window_frames=5))
        assert not found()
    saver = resuming.Saver(checkpoint, take._fingerprint(checkpoint))
    assert not saver.load(like.to(torch.bfloat16), take.sampling())
    checkpoint.inputs = (folder / "whisper-tiny" / "config.json",)
    assert not found()


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_file_that_is_damaged_is_left_aside(prepare: Prepare, checkpoint: Checkpoint, damage: bytes | None) -> None:
    interrupted(prepare(WANTED), checkpoint, 3)
    held = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(held[: len(held) // 2] if damage is None else damage)
    _, told = rendered(prepare(WANTED), checkpoint)
    assert told[0] == 0


@pytest.mark.parametrize(
    "told",
    [
        *(
            {"step": "-1"},
            {"step": "4"},
            {"step": "9" * 30},
            {"window": "-1"},
            {"window": "2"},
            {"step": "", "done": "0"},
        ),
        *({"late_s": "nan"}, {"late_s": "inf"}, {"late_s": "-1e6"}, {"late_s": "1e6", "done": "8", "total": "12"}),
        *({"done": "-1"}, {"done": "3"}, {"total": "7"}, {"done": "9" * 30, "total": "9" * 30}),
        {"step": "0", "window": "4", "done": "4"},
    ],
    ids=str,
)
def test_of_a_state_that_no_such_render_can_have_nothing_is_taken(checkpoint: Checkpoint, told: dict[str, str]) -> None:
    """A node that had the job can make one that says it is of the same render, and the next node would pay for it."""
    like = torch.zeros(2, 4, 8, 8)
    true = {"fingerprint": "f", "step": "1", "window": "0", "late_s": "0.0", "done": "2", "total": "6"}
    save_file({"latents": like, "total": like.clone()}, checkpoint.path, true)
    assert resuming.Saver(checkpoint, "f").load(like, SIX_CALLS)
    save_file({"latents": like, "total": like.clone()}, checkpoint.path, true | told)
    assert resuming.Saver(checkpoint, "f").load(like, SIX_CALLS) is None


@pytest.mark.parametrize(
    "change",
    [
        *({"called": [3, 1]}, {"called": [-1, 0]}, {"called": [0, 1]}, {"called": [2, 2]}, {"called": [1, 1, 1]}),
        *({"said_in": [1, 2]}, {"said_in": [-1, 0]}, {"said_in": [0.0, 1.0]}, {"guided_in": [2, 0]}),
        *({"velocity": None}, {"velocity": torch.full((2, 4, 8, 8), torch.nan)}, {"guidance": torch.zeros(2, 4, 8, 8)}),
    ],
    ids=str,
)
def test_nor_is_of_shortcuts_that_it_cannot_have(checkpoint: Checkpoint, change: dict[str, object]) -> None:
    like, sampling = torch.zeros(2, 4, 8, 8), replace(SIX_CALLS, guidance_every=2, step_cache=2)
    told = {"fingerprint": "f", "step": "1", "window": "1", "late_s": "0.0", "done": "3", "total": "6"}
    kept = {"velocity": like, "guidance": torch.zeros(2, *like.shape)}
    counted = {"said_in": [1, 0], "guided_in": [1, 0], "called": [2, 1]}

    def found(values: dict[str, object]) -> resuming.State | None:
        tensors = {name: torch.as_tensor(value) for name, value in values.items() if value is not None}
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, checkpoint.path, told)
        return resuming.Saver(checkpoint, "f").load(like, sampling)

    whole = {"latents": like, "total": like, **kept, **counted}
    assert found(whole)
    assert found(whole | change) is None


def test_one_of_a_version_that_kept_no_shortcuts_is_left_aside(
    engine: SonicEngine, prepare: Prepare, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "options", replace(SMALL, guidance_every=2))
    with monkeypatch.context() as older:
        older.setattr("sonic_runtime.engines.sonic.engine._STATE_VERSION", 1)
        interrupted(prepare(WANTED), checkpoint, 3)
    _, told = rendered(prepare(WANTED), checkpoint)
    assert told[0] == 0


def state(window: int = 0) -> resuming.State:
    latents = torch.ones(2, 4, 8, 8)
    return resuming.State(Progress(latents, 1, window, latents.clone() if window else None), 0.0, 2, 6)


def test_a_slow_disk_does_not_hold_the_render_up(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "INTERVAL_S", 0.0)
    disk, kept = threading.Event(), threading.Event()
    save, saved = resuming.save_file, []

    def slowly(*arguments: object) -> None:
        saved.append(arguments)
        assert disk.wait(10)
        save(*arguments)

    monkeypatch.setattr(resuming, "save_file", slowly)
    checkpoint.kept = lambda _done, _total: kept.set()
    saver = resuming.Saver(checkpoint, "f")
    for _ in range(5):
        saver.offer(state())  # returns, though nothing gets written
    assert len(saved) <= 1
    assert not checkpoint.path.exists()
    disk.set()
    assert kept.wait(10)
    saver.close(wait=True)
    assert len(saved) == 1
    assert saver.load(torch.zeros(2, 4, 8, 8), SIX_CALLS)


def test_what_is_too_large_or_no_number_is_not_kept(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "INTERVAL_S", 0.0)
    monkeypatch.setattr(resuming, "MOST_BYTES", 2 * 4 * 8 * 8 * 4)

    def is_kept(offered: resuming.State) -> bool:
        saver = resuming.Saver(checkpoint, "f")
        saver.offer(offered)
        if saver._writer:
            saver._writer.join()
        return checkpoint.path.exists()

    broken = state()
    broken.progress.latents[0, 0, 0, 0] = torch.nan
    assert not is_kept(state(window=1))  # twice as large as between two steps
    assert not is_kept(broken)
    assert is_kept(state())


def test_ten_minutes_in_half_precision_fit() -> None:
    assert resuming.MOST_BYTES > 7500 * 4 * 64 * 64 * 2 * 2


def frames_of(video: Path) -> NDArray[np.uint8]:
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


@pytest.mark.timeout(400)
def test_kill_9_of_a_worker_and_another_one_goes_on(
    samples: Samples, short_voice: Path, tiny_sonic: str, finder: object, tmp_path: Path
) -> None:
    def command(output: Path, checkpoint: Path | None) -> pb.RenderCommand:
        parameters = {"min_resolution": 256, "inference_steps": 3, "lip_sync_correction": False}
        return pb.RenderCommand(
            render_id=output.stem,
            engine="sonic",
            portrait_path=str(samples.smile),
            voice_path=str(short_voice),
            output_path=str(output),
            parameters=parameters_pb2.RenderParameters(**parameters),
            checkpoint_path=str(checkpoint or ""),
        )

    settings = {"SONIC_ENGINE_OPTIONS": "window_frames=4,device=cpu", "SONIC_MODEL_VERSION": tiny_sonic}
    kept = tmp_path / "state"
    first = Worker("sonic", EAGER, **settings)
    first.say(render=command(tmp_path / "killed.mp4", kept))
    while (told := first.hear("checkpointed", "rendered", "failed").checkpointed).done < 3:
        assert told.total == CALLS
    first.kill()
    second = Worker("sonic", EAGER, **settings)
    second.say(render=command(tmp_path / "resumed.mp4", kept))
    second.say(render=command(tmp_path / "whole.mp4", None))
    reports = [second.hear("rendered", "failed").rendered.report for _ in range(2)]
    second.kill()
    assert reports[0].resumed_from >= 3
    assert reports[1].resumed_from == 0
    assert np.array_equal(frames_of(tmp_path / "resumed.mp4"), frames_of(tmp_path / "whole.mp4"))
    assert not list(tmp_path.glob("*state*"))
