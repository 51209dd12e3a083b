"""Each check tries the real thing, and whatever is not well comes with what to do."""

from __future__ import annotations

import socket
import threading

import av
import pytest

from sonic import config
from sonic.doctor import State, diffusion, hub, machine, runtime


def plain_settings(tmp_path, text: str = ""):
    (tmp_path / "c.toml").write_text(text)
    return config.load(tmp_path / "c.toml", {})


async def test_it_fails_when_there_is_a_problem_and_says_what_to_do(sonic) -> None:
    ended = await sonic("doctor", "--json", "--hub", "127.0.0.1:9", "--health-url", "http://127.0.0.1:9/")
    assert ended.code == 1
    found = {finding["name"]: finding for finding in ended.data}
    assert found["hub"]["state"] == "problem"
    assert found["clock"]["state"] == "skipped"
    assert "does not answer (Connection refused)" in found["clock"]["found"]
    assert all(finding["advice"] for finding in ended.data if finding["state"] != "ok")
    shown = await sonic("doctor", "--hub", "127.0.0.1:9")
    assert "PROBLEM  hub: " in shown.out
    assert "sonic hub" in shown.out


@pytest.mark.parametrize(
    ("skew_s", "state", "said"),
    [
        (0.6, State.OK, ""),
        (-1.4, State.OK, ""),
        (4.0, State.WARNING, "4 s ahead"),
        (-90.0, State.PROBLEM, "90 s behind"),
    ],
)
def test_a_clock_is_judged_by_how_far_it_is_off(skew_s, state, said) -> None:
    finding = hub.judge_skew(skew_s)
    assert finding.state is state
    assert said in finding.found
    assert bool(finding.advice) == (state is not State.OK)


@pytest.mark.parametrize("url", ["http://host:port/healthz", "http://a b/healthz"])
def test_an_address_that_is_none_is_a_problem(tmp_path, url) -> None:
    (finding,) = hub.check_clock(plain_settings(tmp_path, f'[client]\nhealth_url = "{url}"\n'))
    assert finding.state is State.PROBLEM
    assert finding.found.startswith(f"health_url is '{url}': ")
    assert finding.advice


def test_a_port_that_speaks_something_else_is_told_from_none_that_answers(tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        greeting = threading.Thread(target=greet)
        greeting.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/healthz"
        (finding,) = hub.check_clock(plain_settings(tmp_path, f'[client]\nhealth_url = "{url}"\n'))
        greeting.join()
    assert (finding.state, finding.found) == (State.SKIPPED, f"{url} answers, but not in HTTP")
    assert finding.advice


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_listed_and_does_not_compute_is_found_out(tmp_path, lists_cuda) -> None:
    found = {finding.name: finding for finding in runtime.check_inference(plain_settings(tmp_path))}
    assert found["onnxruntime CPU"].state is State.OK
    assert found["onnxruntime CUDA"].state is State.WARNING
    assert found["onnxruntime CUDA"].found.startswith("does not compute: ")
    assert (found["inference"].state, found["inference"].found) == (State.OK, "networks compute by cpu")


@pytest.mark.parametrize(
    ("value", "said"),
    [("cdua", "there is no provider 'cdua'; did you mean 'cuda'?"), ("rocm", "none of them computes here")],
)
def test_providers_that_cannot_be_had_are_a_problem(tmp_path, monkeypatch, value, said) -> None:
    monkeypatch.setenv("SONIC_PROVIDERS", value)
    found = {finding.name: finding for finding in runtime.check_inference(plain_settings(tmp_path))}
    assert found["inference"].state is State.PROBLEM
    assert said in found["inference"].found
    assert found["onnxruntime CPU"].state is State.OK


def test_codecs_are_opened_not_only_looked_up(tmp_path) -> None:
    finding, encoder = runtime.check_codecs(plain_settings(tmp_path))
    assert finding.state is State.OK
    assert encoder.state is State.OK
    assert "encodes the picture" in encoder.found
    assert finding.found == "libx264, aac, pcm_s16le, mp3, flac, vorbis, opus open"
    assert not runtime._opens(av, "nosuchcodec", "w")
    assert not runtime._opens(av, "pcm_s16le", "w")


def test_a_model_that_was_changed_is_a_problem(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SONIC_MODELS", str(tmp_path))
    finding, sonic = runtime.check_models(plain_settings(tmp_path))
    assert (finding.state, finding.advice) == (State.PROBLEM, "sonic models fetch face-mesh")
    assert (sonic.state, sonic.found) == (State.SKIPPED, "sonic-1 is not here")


def test_room_is_looked_for_where_the_data_will_be(tmp_path) -> None:
    settings = plain_settings(tmp_path, f'[hub]\ndata_dir = "{tmp_path}/not/yet"\n')
    found = {finding.name: finding for finding in machine.check_disk(settings)}
    assert str(tmp_path / "not" / "yet") in found["disk of the hub"].found


def test_the_diffusion_engine_is_asked_for_only_where_it_is_wanted(tmp_path, monkeypatch, tiny_sonic) -> None:
    wanted = plain_settings(tmp_path, "[agent]\nengine = 'sonic'\n")
    monkeypatch.setenv("SONIC_MODEL_VERSION", tiny_sonic)
    monkeypatch.setenv("SONIC_ENGINE_OPTIONS", "device=cpu,dtype=bf16")
    (found,) = diffusion.check_diffusion(wanted)
    assert (found.state, found.found) == (State.OK, "sonic-tiny, computes on cpu in bfloat16")
    monkeypatch.setenv("SONIC_ENGINE_OPTIONS", "dtype=int3")
    (found,) = diffusion.check_diffusion(wanted)
    assert found.state is State.PROBLEM
    assert "int3" in found.found
    monkeypatch.setenv("SONIC_MODEL_VERSION", "sonic-0")
    (found,) = diffusion.check_diffusion(wanted)
    assert found.state is State.PROBLEM
    (found,) = diffusion.check_diffusion(plain_settings(tmp_path))
    assert (found.state, bool(found.advice)) == (State.SKIPPED, True)


@pytest.mark.parametrize(
    ("error", "said"), [(MemoryError(), "MemoryError"), (RuntimeError("no driver\nat 0x0"), "no driver")]
)
def test_a_device_that_fails_without_a_word_is_told_by_its_error(monkeypatch, error, said) -> None:
    def fails() -> None:
        raise error

    options = pytest.importorskip("sonic_runtime.engines.sonic.options")
    monkeypatch.setattr(options, "from_environment", fails)
    found = diffusion._computing("sonic-1")
    assert (found.state, found.found) == (State.PROBLEM, f"does not compute: {said}")
