"""Drawn bytes over real connections: every RPC of a real hub and its HTTP listener. What is no refusal is found.

Once the hub is insecure, so that everything is let in, and once it asks for credentials: an operator's and a tenant's
key, broken ones, and the certificate of a node.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import grpc
import grpc.aio
from google.protobuf import descriptor_pool

from hub.server import access, failures
from hub.service import Hub
from hub.testing import running_hub
from sonic.join_tokens import JoinToken
from tests.fuzz import joining
from tests.fuzz.mutations import message, mutated
from tests.hub.secured import Secured, secured

CALL_TIMEOUT_S = 10.0
BOX = "box-of-the-attack"
_FAILURES = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED)
_CUT = "Internal error from Core"  # the caller's own gRPC says so when it still writes to a call that was refused
_HTTP = [
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n",
    b"POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.0\r\nAuthorization: Bearer a.b.c\r\n\r\n",
]


@dataclass(frozen=True)
class Method:
    """One RPC, and what its requests are made of."""

    path: str
    kind: Any
    streams_in: bool
    streams_out: bool


def methods() -> Iterator[Method]:
    for name in access.RPCS:
        if not name.startswith("sonic."):
            continue
        service = descriptor_pool.Default().FindServiceByName(name)
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            yield Method(path, method.input_type._concrete_class, method.client_streaming, method.server_streaming)


class Caller:
    """Calls RPCs with whatever bytes are drawn."""

    def __init__(self, hub: Hub, draw: Random, channel: grpc.aio.Channel | None = None) -> None:
        self._hub = hub
        self._draw = draw
        self._channel = channel or grpc.aio.insecure_channel(hub.grpc_address)
        self._own: tuple[tuple[str, str], ...] = (("sonic-tenant", "acme"),)
        self.tried = 0
        self.findings: dict[str, str] = {}
        self.codes: dict[str, int] = {}

    async def rpc(self, method: Method) -> None:
        self.tried += 1
        parts = [self._request(method) for _ in range(self._draw.randrange(1, 4) if method.streams_in else 1)]
        metadata = self._metadata()
        make = getattr(self._channel_for(method), f"{_arity(method.streams_in)}_{_arity(method.streams_out)}")(
            method.path
        )
        code, details = await self._answer(make, parts, method, metadata)
        self.codes[code.name] = self.codes.get(code.name, 0) + 1
        if code in _FAILURES:
            self.findings.setdefault(f"{method.path} {code.name}", f"{details[:200]}: {parts!r}"[:800])

    async def _answer(
        self, make: Any, parts: list[bytes], method: Method, metadata: Any
    ) -> tuple[grpc.StatusCode, str]:
        async def stream() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        call = make(stream() if method.streams_in else parts[0], metadata=metadata, timeout=CALL_TIMEOUT_S)
        try:
            if not method.streams_out:
                await call
                return grpc.StatusCode.OK, ""
            async with asyncio.timeout(0.2):  # a watch or a session may have nothing to say
                async for _ in call:
                    pass
        except TimeoutError:
            call.cancel()
        except grpc.aio.AioRpcError as error:
            details = str(error.details())
            if error.code() is grpc.StatusCode.INTERNAL and details == _CUT:
                return grpc.StatusCode.CANCELLED, details
            return error.code(), details
        return grpc.StatusCode.OK, ""

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("sonic-tenant", self._draw.choice(["acme", "acme", "..", "a/b", "x" * 200, "", "other"])),)

    def _channel_for(self, _method: Method) -> grpc.aio.Channel:
        return self._channel

    def _message(self, method: Method) -> Any:
        return message(method.kind, self._draw)

    def _request(self, method: Method) -> bytes:
        data = bytes(self._message(method).SerializeToString())
        return mutated([data], self._draw) if self._draw.random() < 0.2 else data

    async def http(self) -> None:
        self.tried += 1
        host, _, port = self._hub.http_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(mutated(_HTTP, self._draw))
            writer.write_eof()
            async with asyncio.timeout(5):
                answer = await reader.read(1 << 20)
            if b" 500 " in answer[:20]:
                self.findings.setdefault("http 500", repr(answer)[:300])
        except ConnectionError:
            pass
        except TimeoutError:
            self.findings.setdefault("http silent", "a request that has ended was not answered within 5 s")
        finally:
            writer.transport.abort()

    async def alive(self) -> None:
        """The hub still answers, after all of this."""
        known = self._channel.unary_unary("/sonic.v1.JobService/ListJobs")
        await known(b"", metadata=self._own, timeout=CALL_TIMEOUT_S)

    async def close(self) -> None:
        await self._channel.close()


class KnownCaller(Caller):
    """Has a join token, keys and a certificate, and draws which of them it shows."""

    def __init__(
        self, at: Secured, draw: Random, channels: tuple[grpc.aio.Channel, grpc.aio.Channel], key: str, token: JoinToken
    ) -> None:
        super().__init__(at.hub, draw, channels[0])
        self._at = at
        self._agents = channels[1]
        self._token = token
        self._keys = [key, (at.folder / "hub" / "operator.key").read_text().strip()]
        self._own = (("authorization", f"Bearer {key}"),)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        key = self._draw.choice(self._keys)
        shown = {0: (), 1: (f"Bearer {key[:-1]}",), 2: (f"Bearer {key}",) * 2, 3: (key,), 4: ("Bearer a.b.c",)}
        credentials = shown.get(self._draw.randrange(20), (f"Bearer {key}",))
        tenants = self._draw.choice([(), (), ("studio",), ("acme",), ("..",)])
        return (*(("authorization", one) for one in credentials), *(("sonic-tenant", one) for one in tenants))

    def _channel_for(self, method: Method) -> grpc.aio.Channel:
        return self._agents if "/sonic.v1.FleetService/" in method.path else self._channel

    def _message(self, method: Method) -> Any:
        made = super()._message(method)
        good: dict[str, Any] = {}
        if method.path.endswith("/Enrol"):
            good = {"token_id": self._token.token_id, "secret": self._token.secret, "region": "eu"}
            asked = joining.requests()
            good["signing_request"] = self._draw.choice([asked[0], mutated(asked, self._draw)])
        elif "/sonic.v1.FleetService/" in method.path and "node_id" in made.DESCRIPTOR.fields_by_name:
            good = {"node_id": BOX}
        for name, value in good.items():
            if self._draw.random() < 0.8:
                setattr(made, name, value)
        if method.path.endswith("/Session") and self._draw.random() < 0.8:
            made.hello.node_id, made.hello.region = BOX, "eu"
        return made

    async def alive(self) -> None:
        await super().alive()
        known = {node.node_id for node in await self._at.operator.nodes()}
        if not known <= {BOX}:
            self.findings["a node that has no certificate"] = repr(known)


def _arity(streams: bool) -> str:
    return "stream" if streams else "unary"


async def attack(seconds: float, seed: int, what: str) -> dict[str, Any]:
    """`what` is rpc, http or secured. Raises when the hub does not answer any more."""
    with tempfile.TemporaryDirectory(prefix="sonic-fuzz-hub-") as folder:
        async with _caller(what, Path(folder), Random(seed)) as caller:
            each = list(methods())
            until, place = asyncio.get_running_loop().time() + seconds, 0
            while asyncio.get_running_loop().time() < until:
                batch = [
                    caller.http() if what == "http" else caller.rpc(each[(place + n) % len(each)]) for n in range(16)
                ]
                place += 16
                await asyncio.gather(*batch)
            await caller.alive()
            if any(path.is_symlink() or not path.resolve().is_relative_to(folder) for path in Path(folder).rglob("*")):
                caller.findings["a way out of the folder"] = folder
            return {"tried": caller.tried, "findings": caller.findings}


@asynccontextmanager
async def _caller(what: str, folder: Path, draw: Random) -> AsyncIterator[Caller]:
    if what != "secured":
        async with running_hub(folder) as hub:
            caller = Caller(hub, draw)
            yield caller
            await caller.close()
        return
    unbounded = {"max_calls_per_s": 1e9, "max_open_calls": 10**9}
    with mock.patch.object(failures, "FAILURES_PER_MINUTE", 1e9):
        async with secured(folder, **unbounded) as at:
            identity = await at.enrolled(BOX)
            roots = grpc.ssl_channel_credentials(at.ca_file.read_bytes())
            async with (
                grpc.aio.secure_channel(at.hub.grpc_address, roots) as channel,
                grpc.aio.secure_channel(at.hub.agent_address, identity.credentials) as agents,
            ):
                key = (await at.operator.access.create_tenant("studio")).key.secret_text
                token = JoinToken.of(await at.token(uses=10_000))
                yield KnownCaller(at, draw, (channel, agents), key, token)
