"""The published weights: whole or not at all, from wherever they can be had, and only for who accepts their terms."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sonic_runtime import errors, models
from sonic_runtime.models import folder, licences, sonic
from tests.models import hugging_face
from tests.models.hugging_face import COMMIT, Hub

LARGEST = "Sonic/unet.pth"
LARGEST_BYTES = 24_000_000  # huggingface_hub writes 10 MiB at a time: what is resumed is a multiple of that
UNET = f"LeonJoe13/Sonic/{LARGEST}"


def content(path: str) -> bytes:
    """What stands for a published file."""
    size = LARGEST_BYTES if path == LARGEST else 20_000 if path.endswith((".pth", ".safetensors")) else 500
    return random.Random(path).randbytes(size)


PUBLISHED = {f"{file.repository.name}/{file.file}": content(file.path) for file in sonic.FILES}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hugging_face.serving(dict(PUBLISHED)) as running:
        yield running


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SONIC_", "HF_"))}
    return ours | {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.endpoint,
        "SONIC_MODELS": str(tmp_path / "models"),
        "SONIC_ACCEPT_LICENCE": "1",
    }


@pytest.fixture
def command(environment: dict[str, str]) -> Command:
    """`sonic models …` as a process; keywords are variables, of which an empty one is not set."""

    def run(*arguments: object, before: Callable[[], None] | None = None, **about: str) -> Ended:
        env = {name: value for name, value in (environment | about).items() if value}
        line = [sys.executable, "-m", "tests.models.small_sonic", "models", *map(str, arguments)]
        done = subprocess.run(
            line, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env, check=False, preexec_fn=before
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def root(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SONIC_MODELS", environment["SONIC_MODELS"])
    return Path(environment["SONIC_MODELS"])


def is_whole(root: Path) -> bool:
    target = root / "sonic" / "sonic-1"
    return all((target / f.path).read_bytes() == content(f.path) for f in sonic.FILES) and not folder.problem(target)


def published_folder(at: Path) -> Path:
    for file in sonic.FILES:
        (at / file.path).parent.mkdir(parents=True, exist_ok=True)
        (at / file.path).write_bytes(content(file.path))
    return at


def test_the_pins_are_hashes() -> None:
    assert all(len(file.sha256) in (0, 64) for file in sonic.FILES)
    assert {file.path for file in sonic.FILES if not file.sha256} == {
        *("Sonic/unet.pth", "Sonic/audio2token.pth", "Sonic/audio2bucket.pth", "yoloface_v5m.pt"),
        "stable-video-diffusion-img2vid-xt/unet/config.json",
        "stable-video-diffusion-img2vid-xt/scheduler/scheduler_config.json",
    }


def test_it_comes_whole_and_its_manifest_holds_it_from_then_on(hub: Hub, command: Command, root: Path) -> None:
    ended = command("fetch", "sonic")
    assert ended.code == 0, ended.err
    assert ended.out == f"{root}/sonic/sonic-1\n"
    assert is_whole(root)
    manifest = json.loads((root / "sonic/sonic-1/manifest.json").read_text())
    assert (manifest["name"], manifest["version"], manifest["licence"]) == ("sonic", "sonic-1", sonic.LICENCE)
    unet = next(file for file in manifest["files"] if file["path"] == LARGEST)
    sha256 = hashlib.sha256(content(LARGEST)).hexdigest()
    assert unet == {"path": LARGEST, "sha256": sha256, "bytes": 24_000_000, "source": f"LeonJoe13/Sonic@{COMMIT}"}
    assert not [path for _, path, _, _ in hub.asked if "/resolve/" not in path and not path.startswith("/elsewhere/")]
    hub.asked.clear()
    assert command("fetch", "sonic").code == 0
    assert hub.asked == []
    (root / "sonic/sonic-1" / LARGEST).write_bytes(content(LARGEST)[:-1] + b"?")
    checked = command("verify", "sonic")
    assert (checked.code, checked.out) == (
        1,
        f"sonic sonic-1: {LARGEST} has been changed; run `sonic models fetch sonic-1`\n",
    )
    assert command("fetch", "sonic").code == 0
    assert is_whole(root)


def test_what_is_not_large_is_held_to_the_hash_that_git_has(hub: Hub, command: Command, root: Path) -> None:
    hub.damaged.add("stabilityai/stable-video-diffusion-img2vid-xt/unet/config.json")
    ended = command("fetch", "sonic")
    assert ended.code == 1
    assert "unet/config.json as it arrived from" in ended.err
    assert not (root / "sonic/sonic-1").exists()


def test_a_fetch_that_was_killed_goes_on_where_it_stopped(
    hub: Hub, command: Command, environment: dict[str, str], root: Path
) -> None:
    hub.stall_after = 15_000_000
    line = [sys.executable, "-m", "tests.models.small_sonic", "models", "fetch", "sonic"]
    with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert hub.stalled.wait(60)
        until = time.monotonic() + 30
        while not any(part.stat().st_size for part in (root / "sonic").rglob(".unet.pth.*")):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (root / "sonic/sonic-1").exists()
    hub.stall_after = 0
    hub.asked.clear()
    ended = command("fetch", "sonic")
    assert ended.code == 0, ended.err
    first = hub.downloads(LARGEST)[0]
    assert first.startswith("bytes=")
    assert 0 < int(first.removeprefix("bytes=").rstrip("-")) <= 15_000_000
    assert is_whole(root)


def test_a_connection_that_is_cut_is_made_again(hub: Hub, command: Command, root: Path) -> None:
    hub.cut_after = 15_000_000
    ended = command("fetch", "sonic")
    assert ended.code == 0, ended.err
    assert "bytes=10485760-" in hub.downloads(LARGEST)
    assert is_whole(root)


def test_bytes_that_differ_from_what_the_hub_says_are_refused(hub: Hub, command: Command, root: Path) -> None:
    hub.damaged.add(UNET)
    ended = command("fetch", "sonic")
    assert ended.code == 1
    assert f"error: {LARGEST} as it arrived from {hub.endpoint}" in ended.err
    assert not (root / "sonic/sonic-1").exists()
    hub.damaged.clear()
    assert command("fetch", "sonic").code == 0
    assert is_whole(root)


def test_a_digest_that_would_lead_elsewhere_is_refused(hub: Hub, command: Command, root: Path) -> None:
    hub.etag = "../../../../escaped"
    ended = command("fetch", "sonic")
    assert ended.code == 1
    assert "is no Hugging Face hub" in ended.err
    assert not (root / "sonic").exists()


def test_a_hub_that_has_something_else_than_what_is_known_is_refused_at_once(hub: Hub, command: Command) -> None:
    ended = command("fetch", "sonic", SMALL_PINS=json.dumps({LARGEST: "0" * 64}))
    assert ended.code == 1
    assert "0000 was expected" in ended.err
    assert not hub.downloads(LARGEST)


def test_without_network_the_cache_of_the_hub_serves_or_it_says_so(hub: Hub, command: Command, root: Path) -> None:
    ended = command("fetch", "sonic", HF_HUB_OFFLINE="1")
    assert ended.code == 1
    assert "HF_HUB_OFFLINE is set, and Sonic/unet.pth of LeonJoe13/Sonic is not in" in ended.err
    assert "--from" in ended.err
    files = [(file.repository.name, file.file, file.repository.revision) for file in sonic.FILES]
    fill = f"import huggingface_hub as h; [h.hf_hub_download(a, b, revision=c) for a, b, c in {files}]"
    env = os.environ | {"HF_HOME": str(root.parent / "hf"), "HF_ENDPOINT": hub.endpoint}
    subprocess.run([sys.executable, "-c", fill], env=env, check=True, capture_output=True)
    hub.asked.clear()
    ended = command("fetch", "sonic", HF_HUB_OFFLINE="1")
    assert ended.code == 0, ended.err
    assert hub.asked == []
    assert is_whole(root)


def test_a_login_goes_to_the_hub_and_nowhere_else(hub: Hub, command: Command, root: Path) -> None:
    hub.gated.add("stabilityai/stable-video-diffusion-img2vid-xt")
    ended = command("fetch", "sonic")
    assert ended.code == 1
    assert "wants a login: accept its terms there and set HF_TOKEN" in ended.err
    ended = command("fetch", "sonic", HF_TOKEN="hf_secret")
    assert ended.code == 0, ended.err
    assert is_whole(root)
    assert any("hf_secret" in authorization for _, path, _, authorization in hub.asked if "/resolve/" in path)
    assert not any(authorization for _, path, _, authorization in hub.asked if path.startswith("/elsewhere/"))


def test_the_detector_may_be_missing_and_nothing_else(hub: Hub, command: Command, root: Path) -> None:
    del hub.files["LeonJoe13/Sonic/yoloface_v5m.pt"]
    assert command("fetch", "sonic").code == 0
    assert not (root / "sonic/sonic-1/yoloface_v5m.pt").exists()
    assert command("verify", "sonic").code == 0
    del hub.files["LeonJoe13/Sonic/RIFE/flownet.pkl"]
    (root / "sonic/sonic-1/manifest.json").unlink()
    ended = command("fetch", "sonic")
    assert ended.code == 1
    assert "LeonJoe13/Sonic has no RIFE/flownet.pkl" in ended.err


def test_a_hub_that_does_not_answer_is_named(command: Command) -> None:
    ended = command("fetch", "sonic", HF_ENDPOINT="http://127.0.0.1:9")
    assert ended.code == 1
    assert "could not be had from http://127.0.0.1:9" in ended.err


def test_a_disk_that_takes_no_more_is_named_and_nothing_is_lost(command: Command, root: Path) -> None:
    ended = command(
        "fetch", "sonic", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12_000_000, 12_000_000))
    )
    assert ended.code == 1
    assert "could not be written" in ended.err
    assert "SONIC_MODELS" in ended.err
    assert not (root / "sonic/sonic-1").exists()
    assert command("fetch", "sonic").code == 0
    assert is_whole(root)


def test_nothing_is_fetched_before_the_terms_are_accepted(hub: Hub, command: Command, root: Path) -> None:
    ended = command("fetch", "sonic", SONIC_ACCEPT_LICENCE="")
    assert ended.code == 6
    assert "NOT FOR COMMERCIAL USE" in ended.err
    assert "--accept-licence" in ended.err
    assert hub.asked == []
    assert not root.exists()
    ended = command("fetch", "sonic", "--accept-licence", SONIC_ACCEPT_LICENCE="")
    assert ended.code == 0
    assert "NOT FOR COMMERCIAL USE" in ended.err
    kept = json.loads((root / "licences.json").read_text())["sonic-1"]
    assert kept["licence"] == sonic.LICENCE
    assert kept["accepted"].startswith("20")
    (root / "sonic/sonic-1/manifest.json").unlink()
    again = command("fetch", "sonic", SONIC_ACCEPT_LICENCE="")
    assert again.code == 0
    assert "COMMERCIAL" not in again.err


def test_a_folder_with_the_published_files_serves_without_a_hub(
    hub: Hub, command: Command, root: Path, tmp_path: Path
) -> None:
    given = published_folder(tmp_path / "checkpoints")
    (given / "Sonic/audio2token.safetensors").write_bytes(b"the safe form of it")
    ended = command("fetch", "sonic", "--from", given)
    assert ended.code == 0, ended.err
    assert hub.asked == []
    target = root / "sonic/sonic-1"
    assert (target / LARGEST).read_bytes() == content(LARGEST)
    assert (target / "Sonic/audio2token.safetensors").read_bytes() == b"the safe form of it"
    assert not (target / "Sonic/audio2token.pth").exists()
    assert command("verify", "sonic").code == 0


def test_a_folder_that_lacks_files_or_has_others_is_refused(
    hub: Hub, command: Command, root: Path, tmp_path: Path
) -> None:
    given = published_folder(tmp_path / "checkpoints")
    pins = json.dumps({LARGEST: "0" * 64})
    ended = command("fetch", "sonic", "--from", given, SMALL_PINS=pins)
    assert ended.code == 1
    assert f"{given}/{LARGEST} has the SHA-256" in ended.err
    (given / LARGEST).unlink()
    (given / "RIFE/flownet.pkl").unlink()
    ended = command("fetch", "sonic", "--from", given)
    assert ended.code == 1
    assert f"{given} has no {LARGEST}, RIFE/flownet.pkl" in ended.err
    assert hub.asked == []
    assert not (root / "sonic/sonic-1").exists()


def test_a_configured_folder_is_asked_first_and_the_hub_next(
    hub: Hub, command: Command, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    ended = command("fetch", "sonic", SONIC_MODELS_FROM=str(tmp_path / "empty"))
    assert ended.code == 0, ended.err
    assert "it is tried elsewhere" in ended.err
    assert is_whole(root)
    hub.asked.clear()
    elsewhere = str(tmp_path / "other")
    ended = command("fetch", "sonic", SONIC_MODELS=elsewhere, SONIC_MODELS_FROM=str(root))
    assert ended.code == 0, ended.err
    assert hub.asked == []
    assert is_whole(Path(elsewhere))


def test_another_machine_is_held_to_the_manifest(command: Command, root: Path, tmp_path: Path) -> None:
    assert command("fetch", "sonic").code == 0
    (root / "sonic/sonic-1" / LARGEST).write_bytes(content(LARGEST)[:-1] + b"?")
    ended = command("fetch", "sonic", "--from", root, SONIC_MODELS=str(tmp_path / "other"))
    assert ended.code == 1
    assert f"{LARGEST} has the SHA-256" in ended.err
    assert not (tmp_path / "other/sonic/sonic-1").exists()


@pytest.mark.parametrize("path", ["../../escaped", "/tmp/escaped", "Sonic/../../escaped", ""])
def test_a_manifest_cannot_lead_out_of_the_folder(path: str, tmp_path: Path) -> None:
    text = json.dumps(
        {
            "name": "sonic",
            "version": "sonic-1",
            "licence": "",
            "files": [{"path": path, "sha256": "0" * 64, "bytes": 1}],
        }
    )
    with pytest.raises(ValueError, match="leads out of the folder"):
        folder.parse_manifest(text.encode(), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *(
            json.dumps({"path": path, "sha256": "0" * 64, "bytes": 1})
            for path in ("a\0", "\ud800", "\x1b[2J", "manifest.json")
        ),
        *(json.dumps({"path": "a", "sha256": sha256, "bytes": 1}) for sha256 in ("../" * 21 + "x", ["0"] * 64, None)),
        "[" * 100_000,
    ],
)
def test_whatever_a_manifest_says_it_is_said_to_be_none(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    manifest = tmp_path / "sonic" / "sonic-1" / folder.MANIFEST
    manifest.parent.mkdir(parents=True)
    manifest.write_text(f'{{"name": "sonic", "version": "sonic-1", "licence": "", "files": [{text}]}}')
    assert "manifest.json cannot be read" in models.verify("sonic").problem
    monkeypatch.setenv("SONIC_ACCEPT_LICENCE", "1")
    with pytest.raises(models.FetchFailed, match=r"manifest\.json cannot be read"):
        models.fetch("sonic", print, local=manifest.parent)


@pytest.mark.parametrize("text", ['{"sonic-1": null}', '{"sonic-1": "yes"}', "[" * 100_000, "[]"], ids=range(4))
def test_a_table_of_acceptances_that_is_none_accepts_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    (tmp_path / licences.ACCEPTED).write_text(text)
    assert not licences.accepted("sonic-1", "own")
    licences.accept("sonic-1", "own")
    assert licences.accepted("sonic-1", "own")


def test_a_link_that_stands_for_a_version_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a box whose large disk is elsewhere; what the link led to is not ours to remove."""
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path / "models"))
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "kept").touch()
    for target in ("large", "gone"):
        link = tmp_path / "models" / "sonic" / "sonic-own"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / target)
        with folder.arriving("sonic", "sonic-own") as into:
            (into / "a.bin").write_bytes(b"a")
            folder.settle(into, folder.Manifest("sonic", "sonic-own", "own", folder.listed(into)))
        assert models.verify("sonic-own").problem == ""
        assert [path.name for path in link.parent.iterdir()] == ["sonic-own"]
        link.rename(tmp_path / f"was {target}")
    assert (tmp_path / "large" / "kept").exists()


def test_what_a_killed_fetch_has_left_of_its_own_is_no_file_of_the_model(tmp_path: Path) -> None:
    for name in ("a.bin", folder.MANIFEST, ".b.bin.0000.part"):
        (tmp_path / name).touch()
    assert [file.path for file in folder.listed(tmp_path)] == ["a.bin"]


def a_version(root: Path, version: str) -> Path:
    place = root / "sonic" / version
    place.mkdir(parents=True)
    (place / "a.bin").write_bytes(version.encode())
    folder.write_manifest(place, folder.Manifest("sonic", version, "own", folder.listed(place)))
    return place


def test_versions_lie_side_by_side_and_an_engine_takes_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    monkeypatch.delenv("SONIC_MODEL_VERSION", raising=False)
    with pytest.raises(errors.ModelMissing, match=r"sonic sonic-1 is not in .*; run `sonic models fetch sonic`$"):
        models.path("sonic")
    tiny = a_version(tmp_path, "sonic-tiny")
    with pytest.raises(errors.ModelMissing, match="sonic-tiny is here, set SONIC_MODEL_VERSION"):
        models.path("sonic")
    with pytest.raises(errors.ModelMissing, match=r"sonic-9 is not in .*no such version is known"):
        models.path("sonic", "sonic-9")
    published = a_version(tmp_path, "sonic-1")
    assert models.path("sonic") == published
    assert models.path("sonic", "sonic-tiny") == tiny
    monkeypatch.setenv("SONIC_MODEL_VERSION", "sonic-tiny")
    assert models.path("sonic") == tiny
    own = a_version(tmp_path, "sonic-own")
    found = {model.version: model for model in models.listing() if model.name == "sonic"}
    assert set(found) == {"sonic-1", "sonic-own", "sonic-tiny"}
    assert (found["sonic-own"].path, found["sonic-own"].licence, found["sonic-own"].problem) == (own, "own", "")
    assert models.verify("sonic-own").path == own
    assert models.named("sonic-own") == ("sonic", "sonic-own")


def test_before_an_engine_loads_a_model_what_has_changed_is_read_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    monkeypatch.delenv("SONIC_MODEL_VERSION", raising=False)
    file = a_version(tmp_path, "sonic-1") / "a.bin"
    found_at = file.stat()

    def write(content: bytes, at_ns: int) -> None:
        file.write_bytes(content)
        os.utime(file, ns=(at_ns, at_ns))

    assert models.whole("sonic") == file.parent
    write(b"Sonic-1", found_at.st_mtime_ns)  # behind the back of whoever looks at the time of the last change
    assert models.whole("sonic") == file.parent
    assert "a.bin has been changed; run" in models.verify("sonic").problem
    write(b"Sonic-1", found_at.st_mtime_ns + 1)
    with pytest.raises(errors.ModelBroken, match=r"a\.bin has been changed; run `sonic models fetch sonic-1`"):
        models.whole("sonic")
    write(b"sonic-1", found_at.st_mtime_ns + 2)
    assert models.whole("sonic") == file.parent
    write(b"sonic-", found_at.st_mtime_ns + 2)
    with pytest.raises(errors.ModelBroken, match=r"a\.bin has been changed \(6 bytes instead of 7\)"):
        models.whole("sonic")
    write(b"Sonic-1", found_at.st_mtime_ns)
    for nonsense in ("", "[1]", '{"a.bin": true}', "[" * 100_000):
        (file.parent / folder.FOUND_WHOLE).write_text(nonsense)
        with pytest.raises(errors.ModelBroken):
            models.whole("sonic")
    file.unlink()
    with pytest.raises(errors.ModelBroken, match=r"a\.bin is missing"):
        models.whole("sonic")


def test_what_another_manifest_found_whole_is_read_again(tmp_path: Path) -> None:
    place = a_version(tmp_path, "sonic-1")
    assert folder.problem(place) == ""
    other = folder.File("a.bin", "0" * 64, 7)
    folder.write_manifest(place, folder.Manifest("sonic", "sonic-1", "own", (other,)))
    assert "a.bin has been changed" in folder.problem(place, read="changed")


def test_two_fetches_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    with folder.arriving("sonic", "sonic-1") as first:
        for _ in range(2):
            with pytest.raises(models.FetchFailed, match="by another process"), folder.arriving("sonic", "sonic-1"):
                pass
        assert first.exists(), "who came second has removed what the first one holds"


def test_a_large_file_is_only_measured_when_nobody_asked_for_more(tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(b"")
    os.truncate(tmp_path / "large.bin", folder.QUICK_BYTES + 1)
    entry: dict[str, Any] = {"path": "large.bin", "sha256": "0" * 64, "bytes": folder.QUICK_BYTES + 1}
    folder.write_manifest(tmp_path, folder.Manifest("sonic", "sonic-1", "", (folder.File(**entry),)))
    assert folder.problem(tmp_path, read="small") == ""
    assert "large.bin has been changed" in folder.problem(tmp_path)
    os.truncate(tmp_path / "large.bin", folder.QUICK_BYTES)
    assert "large.bin has been changed" in folder.problem(tmp_path, read="small")
