"""A tenant's samples reach a receiver in order, whatever it answers, and no other tenant feels it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from aiohttp import web

from hub.config import InvalidConfig
from hub.forward import sender as sending
from hub.forward.answers import Answer, Verdict, judge
from hub.forward.config import ForwardConfig
from hub.forward.sender import Sender
from hub.forward.sink import open_sink
from hub.forward.spool import Cursor, Spool
from hub.server import metrics
from tests.remote_write import decode

from .material import NOW_MS, layout

WRITTEN = {"X-Prometheus-Remote-Write-Samples-Written": "1"}
STORED = (204, "", WRITTEN)


class Receiver:
    """Answers as it is told to, then stores; notes every request."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, str, dict[str, str]]]] = {}
        self.requests: list[tuple[str, dict[str, str], int]] = []  # tenant, headers, samples
        self.stored: dict[str, list[tuple[str, int]]] = {}  # tenant -> node and sequence of each sample
        self.largest = 10**9
        self.versions = {"1": WRITTEN, "2": WRITTEN}
        self.token = "first"
        self.url = ""

    async def push(self, request: web.Request) -> web.Response:
        tenant = request.headers.get("X-Scope-OrgID", "")
        samples = list(decode(await request.read(), request.headers["Content-Type"]))
        self.requests.append((tenant, dict(request.headers), len(samples)))
        version = request.headers["X-Prometheus-Remote-Write-Version"][0].replace("0", "1")
        if len(samples) > self.largest:
            return web.Response(status=429, text="err-mimir-tenant-max-ingestion-rate", headers={"Retry-After": "0"})
        queued = self.answers.get(tenant)
        status, text, headers = queued.pop(0) if queued else (204, "", self.versions[version])
        if status == 204 and headers is not None:
            found = [(dict(one.labels)["node_id"], one.timestamp_ms - NOW_MS) for one in samples]
            self.stored.setdefault(tenant, []).extend(found)
        return web.Response(status=status, text=text, headers=headers or {})

    async def grant(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["grant_type"] == "client_credentials"
        assert request.headers["Authorization"] == "Basic " + base64.b64encode(b"hub:hush").decode()
        return web.json_response({"access_token": self.token, "expires_in": 3600, "scope": form.get("scope", "")})

    def attempts(self, tenant: str) -> list[str]:
        return [headers.get("Retry-Attempt", "") for name, headers, _ in self.requests if name == tenant]


@contextlib.asynccontextmanager
async def serving(receiver: Receiver, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/push", receiver.push)
    app.router.add_post("/push/{tenant}", receiver.push)
    app.router.add_post("/token", receiver.grant)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0, ssl_context=context).start()
    receiver.url = f"{'https' if context else 'http'}://localhost:{runner.addresses[0][1]}"
    yield receiver.url
    await runner.cleanup()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    async with serving(made):
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LINGER_S", 0.01), ("FIRST_BACKOFF_S", 0.01), ("MAX_BACKOFF_S", 0.05), ("HOLD_S", 0.2)):
        monkeypatch.setattr(sending, name, value)


def filled(folder: Path, batches: int = 1, nodes: int = 1, count: int = 4) -> Spool:
    spool = Spool(folder, 1 << 20, 86_400)
    for sequence in range(batches):
        for node in range(nodes):
            spool.put(layout(f"n{node}", count), Cursor(sequence, NOW_MS + sequence), np.full(count, float(sequence)))
    spool.flush()
    return spool


async def until(told: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not told():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def sent(config: ForwardConfig, **spools: Spool) -> AsyncIterator[list[Sender]]:
    """Senders at work, one for each tenant."""
    async with open_sink(config) as sink, asyncio.TaskGroup() as group:
        senders = [Sender(name, spool, sink, config) for name, spool in spools.items()]
        tasks = [group.create_task(sender.run()) for sender in senders]
        yield senders
        for task in tasks:
            task.cancel()


async def delivered(receiver: Receiver, spool: Spool, **settings: Any) -> None:
    async with sent(ForwardConfig(url=f"{receiver.url}/push", **settings), acme=spool):
        await until(lambda: spool.empty)


def expected(batches: int, nodes: int = 1, count: int = 4) -> list[tuple[str, int]]:
    return [(f"n{node}", sequence) for sequence in range(batches) for node in range(nodes) for _ in range(count)]


@pytest.mark.parametrize(
    ("status", "text", "written", "version", "verdict"),
    [
        (200, "", True, 2, Verdict.DELIVERED),
        (204, "", False, 1, Verdict.DELIVERED),
        (202, "", True, 2, Verdict.DELIVERED),
        (204, "", False, 2, Verdict.OLDER_VERSION),
        (415, "", False, 2, Verdict.OLDER_VERSION),
        (415, "", False, 1, Verdict.HOLD),
        (400, "err-mimir-sample-out-of-order", False, 2, Verdict.REFUSED),
        (400, "err-mimir-distributor-max-write-message-size", False, 2, Verdict.SMALLER),
        (413, "", False, 1, Verdict.SMALLER),
        (429, "", False, 1, Verdict.LATER),
        (500, "", False, 1, Verdict.LATER),
        (503, "", False, 1, Verdict.LATER),
        (0, "refused", False, 1, Verdict.LATER),
        *((status, "", False, 1, Verdict.HOLD) for status in (301, 401, 403, 404, 405, 422)),
    ],
)
def test_what_an_answer_means(status: int, text: str, written: bool, version: int, verdict: Verdict) -> None:
    assert judge(Answer(status, text, written=written), version) is verdict


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x (err-mimir-sample-timestamp-too-old). y", "sample-timestamp-too-old"),
        ("out of order sample", "sample-out-of-order"),
        ("who knows", "other"),
    ],
)
def test_a_refusal_has_a_reason_that_fits_a_label(text: str, reason: str) -> None:
    assert Answer(400, text).reason == reason


async def test_samples_arrive_in_order_with_one_of_a_series_in_a_request(receiver: Receiver, tmp_path: Path) -> None:
    await delivered(receiver, filled(tmp_path, batches=5, nodes=3))
    assert receiver.stored["acme"] == expected(5, 3)
    assert [count for _, _, count in receiver.requests] == [12] * 5
    headers = receiver.requests[0][1]
    assert headers["X-Prometheus-Remote-Write-Version"] == "2.0.0"
    assert headers["User-Agent"].startswith("sonic-fleet/")


async def test_a_receiver_that_does_not_speak_2_gets_1_and_nothing_is_lost(receiver: Receiver, tmp_path: Path) -> None:
    receiver.versions["2"] = None  # type: ignore[assignment]
    await delivered(receiver, filled(tmp_path, batches=3))
    assert receiver.stored["acme"] == expected(3)
    spoken = [headers["X-Prometheus-Remote-Write-Version"] for _, headers, _ in receiver.requests]
    assert spoken == ["2.0.0", "0.1.0", "0.1.0", "0.1.0"]


async def test_what_fails_for_now_is_tried_again_and_says_how_often(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers["acme"] = [(500, "", {}), (503, "", {}), (429, "", {"Retry-After": "0"})]
    await delivered(receiver, filled(tmp_path, count=1))
    assert receiver.stored["acme"] == expected(1, count=1)
    assert receiver.attempts("acme") == ["", "1", "2", "3"]


async def test_retry_after_is_obeyed(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers["acme"] = [(429, "", {"Retry-After": "1"})]
    began = asyncio.get_running_loop().time()
    await delivered(receiver, filled(tmp_path))
    assert asyncio.get_running_loop().time() - began >= 1


async def test_a_request_larger_than_the_burst_is_divided_until_it_passes(receiver: Receiver, tmp_path: Path) -> None:
    receiver.largest = 3
    await delivered(receiver, filled(tmp_path, batches=2, nodes=4, count=4))
    assert sorted(receiver.stored["acme"]) == sorted(expected(2, 4, 4))


async def test_what_is_refused_for_good_is_counted_and_never_sent_again(receiver: Receiver, tmp_path: Path) -> None:
    counter = metrics.FORWARD_REFUSED.labels("acme", "sample-out-of-order")
    before = counter._value.get()
    receiver.answers["acme"] = [(400, "err-mimir-sample-out-of-order", {})]
    await delivered(receiver, filled(tmp_path, batches=2))
    assert counter._value.get() - before == 4
    assert receiver.stored["acme"] == expected(2)[4:]
    assert len(receiver.requests) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 405, 422])
async def test_a_tenant_that_is_refused_is_held_and_kept_and_holds_up_nobody(
    receiver: Receiver, tmp_path: Path, status: int
) -> None:
    receiver.answers["acme"] = [(status, "no", {})] * 1000
    acme, beta = filled(tmp_path / "a"), filled(tmp_path / "b", batches=3)
    async with sent(ForwardConfig(url=f"{receiver.url}/push"), acme=acme, beta=beta):
        await until(lambda: beta.empty and metrics.FORWARD_HELD.labels("acme", str(status))._value.get() == 1)
        assert acme.waiting_samples == 4
        receiver.answers["acme"].clear()
        await until(lambda: acme.empty)
    assert receiver.stored["acme"] == expected(1)
    assert not [one for one in metrics.FORWARD_HELD.collect()[0].samples if one.labels["tenant"] == "acme"]


async def test_the_tenant_may_be_in_the_address_and_in_no_header(receiver: Receiver, tmp_path: Path) -> None:
    spool = filled(tmp_path)
    async with sent(ForwardConfig(url=f"{receiver.url}/push/{{tenant}}", tenant_header=""), acme=spool):
        await until(lambda: spool.empty)
    assert "X-Scope-OrgID" not in receiver.requests[0][1]


def secret(folder: Path, text: str) -> Path:
    path = folder / "secret"
    path.write_text(f"{text}\n")
    return path


async def test_basic_authentication(receiver: Receiver, tmp_path: Path) -> None:
    await delivered(receiver, filled(tmp_path / "s"), username="hub", password_file=secret(tmp_path, "hush"))
    assert receiver.requests[0][1]["Authorization"] == "Basic " + base64.b64encode(b"hub:hush").decode()


async def test_a_bearer_token_is_read_again_when_it_changes(receiver: Receiver, tmp_path: Path) -> None:
    path = secret(tmp_path, "one")
    await delivered(receiver, filled(tmp_path / "s"), bearer_token_file=path)
    path.write_text("two")
    await delivered(receiver, filled(tmp_path / "t"), bearer_token_file=path)
    assert [headers["Authorization"] for _, headers, _ in receiver.requests] == ["Bearer one", "Bearer two"]


async def test_oauth2_asks_for_a_token_once_and_again_when_it_is_refused(receiver: Receiver, tmp_path: Path) -> None:
    settings = {
        "oauth2_token_url": f"{receiver.url}/token",
        "oauth2_client_id": "hub",
        "oauth2_client_secret_file": secret(tmp_path, "hush"),
        "oauth2_scopes": ("metrics",),
    }
    spool = filled(tmp_path / "s", batches=3)
    async with sent(ForwardConfig(url=f"{receiver.url}/push", **settings), acme=spool) as (sender,):
        await until(lambda: spool.empty)
        receiver.token, receiver.answers["acme"] = "second", [(401, "expired", {})]
        spool.put(layout("n0", 4), Cursor(9, NOW_MS + 9), np.zeros(4))
        spool.flush()
        sender.wake()
        await until(lambda: len(receiver.requests) >= 5)
    used = Counter(headers["Authorization"] for _, headers, _ in receiver.requests)
    assert used == {"Bearer first": 4, "Bearer second": 1}


async def test_a_custom_authority_and_a_client_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = authority.issue_cert("hub")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    made = Receiver()
    async with serving(made, context):
        files = {"ca_file": tmp_path / "ca.pem", "cert_file": tmp_path / "cert.pem", "key_file": tmp_path / "key.pem"}
        await delivered(made, filled(tmp_path / "s"), **files)
    assert made.stored["acme"] == expected(1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "mimir:9009"}, "an http or https address is wanted"),
        ({"url": "http://me:hush@mimir"}, "use username and password_file"),
        ({"operator_tenant": "a:b"}, "operator_tenant is 'a:b'"),
        ({"operator_tenant": "a|b"}, "operator_tenant is 'a|b'"),
        ({"interval_s": 0}, "interval_s is 0"),
        ({"username": "hub"}, "password_file is not"),
        ({"bearer_token_file": Path("/nowhere")}, "'/nowhere', which is not a file"),
        ({"username": "hub", "oauth2_token_url": "http://x"}, "in one way only"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfig, match=said.replace("|", r"\|")):
        ForwardConfig(**settings)
