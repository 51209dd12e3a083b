"""How fast the built-in engine renders, end to end, beside the encoder alone.

End to end is all that `sonic render` does once its models are loaded: decode the portrait and the voice, render,
encode, write the file. Encoding alone is the same frames into the same encoder and container. Both alternate at each
resolution, and medians are compared. Peak memory is that of a fresh process for a short and for a long recording.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path

from sonic.parameters import RenderParameters
from sonic.v1 import parameters_pb2
from sonic_runtime import engines, models
from sonic_runtime.engines.base import Engine, Take, Voice
from sonic_runtime.faces import FaceFinder
from sonic_runtime.media import portraits, videos, voices
from sonic_runtime.models.samples import Samples, fetch_samples
from sonic_runtime.pipeline import Request, Tracker, render

RESOLUTIONS = (512, 768, 1024)
KEPT_FRAMES = 50  # rendered once, encoded again and again
LONG_S, SHORT_S = 600.0, 10.0


def lasting(voice: Path, seconds: float, to: Path) -> Path:
    """The recording said again until it lasts so long."""
    with wave.open(str(voice)) as source, wave.open(str(to), "wb") as target:
        target.setparams(source.getparams())
        said, wanted = source.readframes(source.getnframes()), round(seconds * source.getframerate())
        target.writeframes((said * (wanted * 2 // len(said) + 1))[: wanted * 2])
    return to


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Bench:
    """An engine that has been loaded, and what it renders."""

    def __init__(self, samples: Samples, folder: Path, seconds: float) -> None:
        self.engine: Engine = engines.load("warp")
        self.finder = FaceFinder()
        self.portrait = samples.portrait
        self.voice = lasting(samples.voice, seconds, folder / "voice.wav")
        self.output = folder / "out.mp4"
        self.seconds = seconds

    def request(self, side: int) -> Request:
        return Request(self.portrait, self.voice, self.output, parameters_pb2.RenderParameters(min_resolution=side))

    def end_to_end(self, side: int) -> None:
        render(self.request(side), self.engine, self.finder, Tracker(lambda _progress: None, lambda: False))

    def frames(self, side: int):  # noqa: ANN201 - a take and copies of its first frames
        heard = voices.load(self.voice)
        take = self.take(heard, side)
        stream = take.frames(lambda *_: None)
        return take, [next(stream).copy() for _ in range(KEPT_FRAMES)]

    def take(self, heard: Voice, side: int) -> Take:
        wanted = RenderParameters(min_resolution=side)
        portrait = portraits.load(self.portrait, self.finder)
        return self.engine.prepare(self.engine.portray(portrait, wanted), heard, wanted)

    def encode_only(self, side: int) -> Callable[[], None]:
        take, kept = self.frames(side)
        there_and_back = [*range(KEPT_FRAMES), *range(KEPT_FRAMES - 2, 0, -1)]  # no jump that would cost bits

        def encode() -> None:
            with videos.recording(self.output, take.shape, self.voice) as recorder:
                for number in range(take.shape.frame_count):
                    recorder.add(kept[there_and_back[number % len(there_and_back)]])

        return encode

    def first_frame_s(self, side: int) -> float:
        """From two paths to the first frame."""

        def first() -> None:
            heard = voices.load(self.voice)
            next(iter(self.take(heard, side).frames(lambda *_: None)))

        return timed(first)


def peak_mb(samples: Samples, folder: Path, seconds: float) -> float:
    """Of a process that renders a recording of that length at 256 pixels."""
    voice = lasting(samples.voice, seconds, folder / "long.wav")
    command = [sys.executable, "-m", "sonic", "render", "--portrait", str(samples.portrait), "--audio", str(voice)]
    child = subprocess.Popen(
        [*command, "-o", str(folder / "long.mp4"), "--min-resolution", "256"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak_kb = 0
    while child.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            peak_kb = int(Path(f"/proc/{child.pid}/status").read_text().split("VmHWM:")[1].split()[0])
        time.sleep(0.02)
    if child.returncode:
        raise SystemExit(f"the render of {seconds:g} s failed")
    return peak_kb / 1024


def measure(folder: Path, seconds: float, rounds: int) -> dict[str, object]:
    samples = fetch_samples(models.root() / "samples")
    bench = Bench(samples, folder, seconds)
    bench.end_to_end(RESOLUTIONS[0])  # warm
    found: dict[str, dict[str, float]] = {name: {} for name in ("fps", "realtime_factor", "encode_fps", "encode_ratio")}
    for side in RESOLUTIONS:
        encode = bench.encode_only(side)
        both = [(timed(lambda side=side: bench.end_to_end(side)), timed(encode)) for _ in range(rounds)]
        whole_s, encode_s = (statistics.median(took) for took in zip(*both, strict=True))
        frames = round(seconds * RenderParameters().fps)
        found["fps"][str(side)] = round(frames / whole_s, 1)
        found["realtime_factor"][str(side)] = round(seconds / whole_s, 2)
        found["encode_fps"][str(side)] = round(frames / encode_s, 1)
        found["encode_ratio"][str(side)] = round(encode_s / whole_s, 3)
    short_mb, long_mb = (peak_mb(samples, folder, length_s) for length_s in (SHORT_S, LONG_S))
    return {
        **found,
        "seconds": seconds,
        "cpus": os.cpu_count(),
        "time_to_first_frame_s": round(statistics.median(bench.first_frame_s(1024) for _ in range(rounds)), 3),
        "peak_mb": round(short_mb, 1),
        "peak_mb_10_minutes": round(long_mb, 1),
        "peak_ratio": round(long_mb / short_mb, 3),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=20.0, help="of speech in each render (default: 20)")
    options.add_argument("--rounds", type=int, default=3, help="rounds at each resolution (default: 3)")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), given.seconds, given.rounds)))


if __name__ == "__main__":
    main()
