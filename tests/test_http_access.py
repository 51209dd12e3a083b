"""/metrics of hubs and agents behind TLS and a token, scraped by a real Prometheus, and guests that only sit there."""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import trustme
import yaml
from prometheus_client import CollectorRegistry, Gauge

from agent import http as agents_http
from agent.config import AgentConfig
from agent.config import InvalidConfig as InvalidAgentConfig
from hub.config import HubConfig, InvalidConfig
from hub.service import serving
from sonic import listener
from sonic.http_access import HttpAccess
from tests.issuer import CLIENT, SECRET, running
from tests.processes import free_port, process, wait_until_ready
from tests.servers import binary

TOKEN = "a-token-that-nobody-guesses"
AUDIENCE = "sonic-metrics"


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    certify(made, tmp_path)
    return made


def certify(authority: trustme.CA, folder: Path) -> None:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")


def access(folder: Path, **about: Any) -> HttpAccess:
    (folder / "token").write_text(f"old-token\n{TOKEN}\n")
    own = {"certificate_file": folder / "cert.pem", "key_file": folder / "key.pem", "token_file": folder / "token"}
    return HttpAccess(**(own | about))


@asynccontextmanager
async def an_agents(given: HttpAccess, not_ready: Callable[[], str] = lambda: "") -> AsyncIterator[str]:
    registry = CollectorRegistry()
    Gauge("sonic_gpu_utilization", "percent", registry=registry).set(7)
    async with agents_http.serving("127.0.0.1:0", registry, not_ready, given) as address:
        yield address


async def get(url: str, folder: Path, token: str = "") -> tuple[int, str]:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context, headers=headers) as answer:
        return answer.status, await answer.text()


@pytest.mark.usefixtures("authority")
async def test_metrics_are_for_those_with_a_token_and_health_for_all(tmp_path: Path) -> None:
    async with an_agents(access(tmp_path), lambda: "slot 0: loading") as address:
        url = f"https://{address}"
        assert await get(f"{url}/healthz", tmp_path) == (200, "ok\n")
        assert await get(f"{url}/readyz", tmp_path) == (503, "not ready\n")
        assert await get(f"{url}/readyz", tmp_path, TOKEN) == (503, "slot 0: loading\n")
        assert (await get(f"{url}/metrics", tmp_path))[0] == 401
        assert (await get(f"{url}/metrics", tmp_path, TOKEN[:-1]))[0] == 401
        for known in (TOKEN, "old-token"):
            status, text = await get(f"{url}/metrics", tmp_path, known)
            assert (status, "sonic_gpu_utilization 7.0" in text) == (200, True)
        (tmp_path / "token").write_text("new\n")
        assert (await get(f"{url}/metrics", tmp_path, TOKEN))[0] == 401
        assert (await get(f"{url}/metrics", tmp_path, "new"))[0] == 200
        (tmp_path / "token").unlink()
        assert (await get(f"{url}/metrics", tmp_path, "new"))[0] == 401


async def test_a_renewed_certificate_is_served_without_a_restart(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "LOOK_INTERVAL_S", 0.05)

    def served(port: int) -> str:
        return ssl.get_server_certificate(("127.0.0.1", port))

    async with an_agents(access(tmp_path)) as address:
        port = int(address.rpartition(":")[2])
        before = await asyncio.to_thread(served, port)
        certify(authority, tmp_path)
        async with asyncio.timeout(60):
            while await asyncio.to_thread(served, port) == before:
                await asyncio.sleep(0.05)


async def test_an_issuers_tokens_open_the_metrics_and_no_others(tmp_path: Path) -> None:
    async with running() as issuer, running() as another:
        for one in (issuer, another):
            one.add("one")
        another.url = issuer.url
        given = HttpAccess(oidc_issuer=issuer.url, oidc_audience=AUDIENCE)
        async with an_agents(given) as address:

            async def status(token: str) -> int:
                return (await plain_get(f"http://{address}/metrics", token))[0]

            good = issuer.token(aud=AUDIENCE)
            assert await status(good) == 200
            payload = jwt.decode(good, options={"verify_signature": False})
            bad = {
                "another audience": issuer.token(aud="sonic-fleet"),
                "expired": issuer.token(aud=AUDIENCE, exp=time.time() - 3600),
                "another issuer": issuer.token(aud=AUDIENCE, iss="https://elsewhere"),
                "alg none": jwt.encode(payload, "", algorithm="none", headers={"kid": "one"}),
                "another key": another.token(aud=AUDIENCE),
                "no token": "",
                "no JWT": "x.y.z",
                "cut": good[:-10],
            }
            found = {name: await status(token) for name, token in bad.items()}
            assert found == dict.fromkeys(bad, 401)


async def plain_get(url: str, token: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


@pytest.mark.usefixtures("authority")
async def test_a_prometheus_scrapes_over_tls_with_a_token_and_with_oauth2(tmp_path: Path) -> None:
    """The settings are those of docs/scraping.md."""
    (tmp_path / "secret").write_text(SECRET)
    async with running() as issuer:
        issuer.add("one")
        both = access(tmp_path, oidc_issuer=issuer.url, oidc_audience=AUDIENCE)
        hub_settings = HubConfig(
            insecure=True,
            listen="127.0.0.1:0",
            http_listen="127.0.0.1:0",
            data_dir=tmp_path / "hub",
            http_tls_certificate_file=both.certificate_file,
            http_tls_key_file=both.key_file,
            metrics_token_file=both.token_file,
            metrics_oidc_issuer=issuer.url,
            metrics_oidc_audience=AUDIENCE,
        )
        async with serving(hub_settings) as hub, an_agents(both) as agent:
            tls = {"ca_file": str(tmp_path / "ca.pem")}
            (tmp_path / "scraper").write_text(f"{TOKEN}\n")
            oauth2 = {
                "client_id": CLIENT,
                "client_secret_file": str(tmp_path / "secret"),
                "token_url": f"{issuer.url}/token",
                "endpoint_params": {"audience": AUDIENCE},
            }
            ways: dict[str, dict[str, Any]] = {
                "token": {"authorization": {"credentials_file": str(tmp_path / "scraper")}, "tls_config": tls},
                "oauth2": {"oauth2": oauth2, "tls_config": tls},
                "nothing": {"tls_config": tls},
                "stranger": {"authorization": {"credentials_file": str(tmp_path / "scraper")}},
            }
            jobs = [
                {"job_name": name, "scheme": "https", "static_configs": [{"targets": [hub.http_address, agent]}]} | way
                for name, way in ways.items()
            ]
            found = await scraped({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}, tmp_path)
        assert {name: {health for health, _ in found[name]} for name in ways} == {
            "token": {"up"},
            "oauth2": {"up"},
            "nothing": {"down"},
            "stranger": {"down"},
        }
        assert issuer.given
        assert all("401" in error for _, error in found["nothing"])
        assert all("certificate" in error for _, error in found["stranger"])


async def scraped(settings: dict[str, Any], folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Health and last error of each target by job, once Prometheus knows them all."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    command = [str(binary("prometheus")), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={address}"]

    def targets() -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"http://{address}/api/v1/targets", timeout=30) as answer:
            return list(json.loads(answer.read())["data"]["activeTargets"])

    with process(command, folder / "prometheus.log") as server:
        await asyncio.to_thread(wait_until_ready, f"http://{address}/-/ready", server)
        async with asyncio.timeout(90):
            wanted = sum(len(job["static_configs"][0]["targets"]) for job in settings["scrape_configs"])
            while sum(target["health"] != "unknown" for target in await asyncio.to_thread(targets)) < wanted:
                await asyncio.sleep(0.2)
        found: dict[str, list[tuple[str, str]]] = {}
        for target in await asyncio.to_thread(targets):
            found.setdefault(target["labels"]["job"], []).append((target["health"], target["lastError"]))
        return found


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"http_tls_certificate_file": "cert.pem"}, "http_tls_key_file"),
        ({"http_tls_certificate_file": "none.pem", "http_tls_key_file": "key.pem"}, "none.pem"),
        ({"metrics_token_file": "empty"}, "metrics_token_file"),
        ({"metrics_oidc_issuer": "https://issuer"}, "metrics_oidc_audience"),
        ({"metrics_oidc_issuer": "ftp://issuer", "metrics_oidc_audience": "a"}, "metrics_oidc_issuer"),
        ({"metrics_oidc_issuer": "http://127.0.0.1.example", "metrics_oidc_audience": "a"}, "metrics_oidc_issuer"),
    ],
)
@pytest.mark.usefixtures("authority")
def test_settings_that_cannot_be_used_are_named(tmp_path: Path, settings: dict[str, str], named: str) -> None:
    (tmp_path / "empty").write_text("\n")
    given = {name: tmp_path / value if name.endswith("_file") else value for name, value in settings.items()}
    with pytest.raises(InvalidConfig, match=named):
        HubConfig(**given)
    with pytest.raises(InvalidAgentConfig, match=named):
        AgentConfig(**given)


@pytest.mark.parametrize("listen", ["0.0.0.0:8090", "10.0.0.1:8090", "[::]:8090", "box-1.example:8090"])
@pytest.mark.usefixtures("authority")
def test_nothing_is_served_to_other_machines_in_the_clear_or_to_everybody(tmp_path: Path, listen: str) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    tls = {"http_tls_certificate_file": tmp_path / "cert.pem", "http_tls_key_file": tmp_path / "key.pem"}
    token = {"metrics_token_file": tmp_path / "token"}
    oidc = {"metrics_oidc_issuer": "https://issuer", "metrics_oidc_audience": "a"}
    for given, missing in (({}, "key_file and metrics"), (tls, "set metrics_token_file"), (token, "set http_tls")):
        wanted = f"other machines can reach; .*{missing}.*, or listen on 127.0.0.1"
        with pytest.raises(InvalidConfig, match=wanted):
            HubConfig(http_listen=listen, **given)
        with pytest.raises(InvalidAgentConfig, match=wanted):
            AgentConfig(http_listen=listen, **given)
    for one in (token, oidc):
        assert HubConfig(http_listen=listen, **tls, **one).http_access.authenticates
        assert AgentConfig(http_listen=listen, **tls, **one).http_access.authenticates


# Guests that only sit there.


@pytest.fixture
async def address(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT_S", 0.5)
    monkeypatch.setattr(listener, "KEEP_ALIVE_S", 1.0)
    monkeypatch.setattr(listener, "LOOK_INTERVAL_S", 0.1)
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 20)
    async with an_agents(HttpAccess()) as served:
        yield served


async def said(address: str, talk: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> bytes:
    """All that is answered until the connection is closed."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    talking = asyncio.create_task(talk(writer))
    answer = b""
    try:
        async with asyncio.timeout(60):
            while part := await reader.read(1 << 16):
                answer += part
    except ConnectionError:
        pass
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        writer.transport.abort()
    return answer


async def nothing(_writer: asyncio.StreamWriter) -> None:
    pass


async def dribble(writer: asyncio.StreamWriter) -> None:
    for byte in b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"X-Slow: y\r\n" * 1000:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


async def dribble_after_a_request(writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0.2)
    await dribble(writer)


@pytest.mark.parametrize("talk", [nothing, dribble, dribble_after_a_request])
async def test_a_guest_that_only_sits_there_is_sent_away(
    address: str, talk: Callable[[asyncio.StreamWriter], Awaitable[None]]
) -> None:
    await said(address, talk)


async def test_a_full_house_is_not_left_full(address: str) -> None:
    crowd = [asyncio.create_task(said(address, nothing)) for _ in range(100)]
    await asyncio.sleep(0.2)
    async with asyncio.timeout(60):
        while True:
            try:
                assert (await plain_get(f"http://{address}/healthz", ""))[0] == 200
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
    await asyncio.gather(*crowd)


async def test_a_request_with_a_million_headers_is_refused_and_not_kept(address: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async def million(writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        for block in range(1000):
            writer.write(b"".join(b"X-%d: y\r\n" % (block * 1000 + each) for each in range(1000)))
            await writer.drain()
        writer.write(b"\r\n")

    answer = await said(address, million)
    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400", b"HTTP/1.1 431")) or not answer
    assert (await plain_get(f"http://{address}/healthz", ""))[0] == 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


async def test_a_header_of_a_megabyte_is_refused(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def long(writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n")

    assert b" 400 " in (await said(address, long))[:40]
    assert not caplog.records  # nobody fills the log
    assert (await plain_get(f"http://{address}/healthz", ""))[0] == 200
