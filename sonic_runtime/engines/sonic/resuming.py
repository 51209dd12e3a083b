"""The state of a denoising run in a file, from which the run goes on after a kill, here or on another node.

Two latents for each frame are all of it, 66 kB a frame at 512 x 512 in half precision: 8 MB for ten seconds, 490 MB for
ten minutes; what shortcuts keep of a frame is up to three more. A copy is taken between two calls of the network;
another thread waits for it and writes it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sonic_runtime.checkpoint import Checkpoint
from sonic_runtime.engines.sonic.pipeline import Progress, Sampling
from sonic_runtime.engines.sonic.shortcuts import Shortcuts

INTERVAL_S = 15.0  # at most so much work is lost, and a call of the network
MOST_BYTES = 512 << 20
MOST_LATE_S = 1.0  # that a second look may hear later or earlier
_log = logging.getLogger("sonic_runtime.resuming")


@dataclass(frozen=True)
class State:
    """How far a render is. `late_s` is what the second look at the clip hears later by; 0 in the first."""

    progress: Progress
    late_s: float
    done: int  # calls of the network in both looks
    total: int


class Saver:
    """Reads and writes the state of one render; without a checkpoint it does neither.

    `fingerprint` names all that the state depends on; what another render has left is no use.
    """

    def __init__(self, checkpoint: Checkpoint | None, fingerprint: str) -> None:
        self._checkpoint, self._fingerprint = checkpoint, fingerprint
        self._pinned: dict[str, Tensor] = {}
        self._written_at_s = time.monotonic()
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = self._said = False

    def load(self, like: Tensor, sampling: Sampling) -> State | None:
        """What was kept, if it is whole and of this render; `like` has the shape, device and precision of latents.

        Another node has sent it, which may be broken or hostile: nothing of it is taken that such a render cannot have.
        """
        if self._checkpoint is None or not self._checkpoint.path.exists():
            return None
        try:
            state = _read(self._checkpoint.path, self._fingerprint, like, sampling)
        except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
            _log.warning("the state that was kept is of no use; the render begins anew", extra={"detail": str(error)})
            return None
        _log.info("the render goes on", extra={"done": state.done, "total": state.total})
        self._checkpoint.resumed_from = state.done
        return state

    def offer(self, state: State) -> None:
        """Keep a state if it is time to; the copy is taken by the time that the next call has begun."""
        now_s, progress = time.monotonic(), state.progress
        if self._checkpoint is None or not state.done or now_s - self._written_at_s < INTERVAL_S or self._busy():
            return
        tensors = {"latents": progress.latents}
        if progress.total is not None and progress.window:
            tensors["total"] = progress.total
        if progress.shortcuts:
            tensors |= progress.shortcuts.kept
        if (size := sum(each.nbytes for each in tensors.values())) > MOST_BYTES:
            self._say_once(size, whole_step=not progress.window)
            return
        self._written_at_s = now_s
        copies = {name: self._copy(name, tensor) for name, tensor in tensors.items()}
        stream = torch.cuda.current_stream(progress.latents.device) if progress.latents.is_cuda else None
        copied = stream.record_event() if stream else None
        # What is told of the state is read now: the run moves its progress on.
        told = _told(state) | {"fingerprint": self._fingerprint}
        arguments = (self._checkpoint, copies, copied, told, state.done, state.total)
        self._writer = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._writer.start()

    def close(self, wait: bool) -> None:
        """Keep nothing more. Without `wait` what is being written may stay unfinished, and is never told."""
        with self._lock:
            self._closed = True
        if wait and self._writer:
            self._writer.join()

    def _say_once(self, size: int, whole_step: bool) -> None:
        """Between two steps the state is smaller: what is too large then is so for good."""
        if whole_step and not self._said:
            self._said = True
            _log.warning("the state is too large to be kept", extra={"bytes": size, "limit": MOST_BYTES})

    def _busy(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        """In the CPU's memory, as it is at this point of the GPU's work."""
        if not tensor.is_cuda:
            return tensor.clone()
        if name not in self._pinned:
            self._pinned[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return self._pinned[name].copy_(tensor, non_blocking=True)

    def _write(
        self,
        checkpoint: Checkpoint,
        tensors: dict[str, Tensor],
        copied: torch.cuda.Event | None,
        told: dict[str, str],
        done: int,
        total: int,
    ) -> None:
        if copied:
            copied.synchronize()
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            return  # nothing to go on from
        try:
            save_file(tensors, checkpoint.part, told)
            with checkpoint.part.open("rb+") as file:
                os.fsync(file.fileno())
            with self._lock:
                if self._closed:
                    checkpoint.part.unlink()
                    return
                checkpoint.part.rename(checkpoint.path)
        except (OSError, SafetensorError) as error:
            _log.warning("the state could not be kept", extra={"detail": str(error)})
            return
        checkpoint.kept(done, total)


@contextmanager
def saving(checkpoint: Checkpoint | None, fingerprint: str) -> Iterator[Saver]:
    """A saver for as long as the render takes."""
    saver = Saver(checkpoint, fingerprint)
    try:
        yield saver
    except BaseException:
        saver.close(wait=False)
        raise
    saver.close(wait=True)


def _told(state: State) -> dict[str, str]:
    progress = state.progress
    numbers: dict[str, Any] = {"step": progress.step, "window": progress.window, "late_s": state.late_s}
    return {name: repr(value) for name, value in (numbers | {"done": state.done, "total": state.total}).items()}


def _read(path: Path, fingerprint: str, like: Tensor, sampling: Sampling) -> State:
    """Raises ValueError and what safetensors and the reading of numbers raise."""
    shortcuts = Shortcuts(sampling.guidance_every, sampling.step_cache, like)
    with safe_open(path, framework="pt") as file:
        told = file.metadata() or {}
        if told.get("fingerprint") != fingerprint:
            raise ValueError("it is of another render, or was made by other networks, options or precision")
        step, window = int(told["step"]), int(told["window"])
        wanted = {"latents": like} | ({"total": like} if window else {}) | shortcuts.kept
        tensors = {name: _checked(name, file.get_tensor(name), as_in) for name, as_in in wanted.items()}
    for name, kept in shortcuts.kept.items():
        kept.copy_(tensors[name])
    progress = Progress(tensors["latents"], step, window, tensors.get("total"), shortcuts)
    state = State(progress, float(told["late_s"]), int(told["done"]), int(told["total"]))
    calls = sampling.calls(len(like))
    windows = calls // sampling.steps_done
    in_look, before = step * windows + window, calls if state.late_s else 0
    if not (0 <= window < windows and 0 <= in_look <= calls and abs(state.late_s) <= MOST_LATE_S):
        raise ValueError(f"it is at step {step}, window {window}, {state.late_s} s late")
    if (state.done, state.total) != (before + in_look, before + calls):
        raise ValueError(f"it says {state.done} of {state.total} calls")
    if not shortcuts.could_be_of(step):
        raise ValueError("it has shortcuts from steps that have not been")
    return state


def _checked(name: str, tensor: Tensor, like: Tensor) -> Tensor:
    """Where `like` is. Raises ValueError where it is not like that, or not of numbers."""
    if (tensor.shape, tensor.dtype) != (like.shape, like.dtype) or not tensor.isfinite().all():
        raise ValueError(f"its {name} are {tensor.dtype} {tuple(tensor.shape)}")
    return tensor.to(like.device)
