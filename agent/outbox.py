"""Results that the hub has not acknowledged yet, on disk: they survive a kill -9 and a loss of power.

One folder per attempt with `result.pb` (an AttemptResult) and, for a finished render, `video.mp4`. A folder appears
whole under its name or not at all: it is written under a name that begins with a dot, synced, and renamed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

from google.protobuf.message import DecodeError

from agent import wire
from agent.core.attempts import Outcome, Ref, Rendered
from agent.folders import name_of
from sonic.v1 import artifacts_pb2
from sonic.v1 import fleet_service_pb2 as pb

_log = logging.getLogger("agent.outbox")


class Outbox:
    """The results, in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._results: dict[Ref, pb.AttemptResult] = {}

    def load(self) -> list[Ref]:
        """What earlier lives of the agent have left; what they were writing when they died is removed."""
        for folder in sorted(self._folder.iterdir()):
            if folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                result = pb.AttemptResult.FromString((folder / "result.pb").read_bytes())
            except (OSError, DecodeError) as error:
                _log.error("a result cannot be read and is given up", extra={"folder": folder.name, "why": str(error)})
                shutil.rmtree(folder, ignore_errors=True)  # a video that nobody will fetch must not stay here
                continue
            self._results[wire.ref(result.ref)] = result
        return list(self._results)

    def result(self, ref: Ref) -> pb.AttemptResult:
        return self._results[ref]

    def video(self, ref: Ref) -> Path:
        return self._folder / name_of(ref) / "video.mp4"

    def put(self, ref: Ref, outcome: Outcome, rendered: Path) -> None:
        """Keep a result, with the video at `rendered` if it has one; blocks until it is on the disk. Raises OSError.

        A result without a video is sent even when it could not be written.
        """
        if isinstance(outcome, Rendered):
            self._put_video(ref, outcome, rendered)
            return
        self._results[ref] = wire.result(ref, outcome, None)
        if (self._folder / name_of(ref)).exists():
            self._replace(ref)
        else:
            self._publish(ref, self._draft(ref))

    def forget(self, ref: Ref) -> None:
        """Remove a result."""
        self._results.pop(ref, None)
        shutil.rmtree(self._folder / name_of(ref), ignore_errors=True)

    def _put_video(self, ref: Ref, outcome: Rendered, rendered: Path) -> None:
        with rendered.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        video = artifacts_pb2.Artifact(sha256=sha256, size_bytes=rendered.stat().st_size, media_type="video/mp4")
        self._results[ref] = wire.result(ref, outcome, video)
        draft = self._draft(ref)
        rendered.rename(draft / "video.mp4")
        self._publish(ref, draft)

    def _draft(self, ref: Ref) -> Path:
        draft = self._folder / f".{name_of(ref)}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        return draft

    def _publish(self, ref: Ref, draft: Path) -> None:
        _write_synced(draft / "result.pb", self._results[ref].SerializeToString())
        _sync(draft)
        draft.rename(self._folder / name_of(ref))
        _sync(self._folder)

    def _replace(self, ref: Ref) -> None:
        folder = self._folder / name_of(ref)
        _write_synced(folder / "result.new", self._results[ref].SerializeToString())
        (folder / "result.new").rename(folder / "result.pb")
        (folder / "video.mp4").unlink(missing_ok=True)
        _sync(folder)


def _write_synced(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
