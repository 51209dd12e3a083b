"""Drawn bytes over real connections: every RPC of a real hub and its HTTP listener. What is no refusal is found."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio

from hub.service import Hub
from hub.testing import running_hub
from sonic.v1 import access_service_pb2, admin_service_pb2, fleet_service_pb2, job_service_pb2
from tests.fuzz.mutations import message, mutated

CALL_TIMEOUT_S = 10.0
_SERVICES = (
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    fleet_service_pb2.DESCRIPTOR.services_by_name["FleetService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
    access_service_pb2.DESCRIPTOR.services_by_name["AccessService"],
)
_FAILURES = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)
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
    for service in _SERVICES:
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            yield Method(path, method.input_type._concrete_class, method.client_streaming, method.server_streaming)


class Caller:
    """Calls RPCs with whatever bytes are drawn."""

    def __init__(self, hub: Hub, draw: Random) -> None:
        self._hub = hub
        self._draw = draw
        self._channel = grpc.aio.insecure_channel(hub.grpc_address)
        self.tried = 0
        self.findings: dict[str, str] = {}
        self.codes: dict[str, int] = {}

    async def rpc(self, method: Method) -> None:
        self.tried += 1
        parts = [self._request(method) for _ in range(self._draw.randrange(1, 4) if method.streams_in else 1)]
        tenant = self._draw.choice(["acme", "acme", "..", "a/b", "x" * 200, "", "other"])
        metadata = (("sonic-tenant", tenant),)
        make = getattr(self._channel, f"{_arity(method.streams_in)}_{_arity(method.streams_out)}")(method.path)
        code = await self._code(make, parts, method, metadata)
        self.codes[code.name] = self.codes.get(code.name, 0) + 1
        if code in _FAILURES or (code is grpc.StatusCode.INTERNAL):
            self.findings.setdefault(f"{method.path} {code.name}", repr(parts)[:600])

    async def _code(self, make: Any, parts: list[bytes], method: Method, metadata: Any) -> grpc.StatusCode:
        async def stream() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        call = make(stream() if method.streams_in else parts[0], metadata=metadata, timeout=CALL_TIMEOUT_S)
        try:
            if not method.streams_out:
                await call
                return grpc.StatusCode.OK
            async with asyncio.timeout(0.2):  # a watch or a session may have nothing to say
                async for _ in call:
                    pass
        except TimeoutError:
            call.cancel()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL and "deserializ" in str(error.details()).lower():
                return grpc.StatusCode.INVALID_ARGUMENT  # gRPC's own word for bytes that are no message
            return error.code()
        return grpc.StatusCode.OK

    def _request(self, method: Method) -> bytes:
        data = bytes(message(method.kind, self._draw).SerializeToString())
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
        await known(b"", metadata=(("sonic-tenant", "acme"),), timeout=CALL_TIMEOUT_S)

    async def close(self) -> None:
        await self._channel.close()


def _arity(streams: bool) -> str:
    return "stream" if streams else "unary"


async def attack(seconds: float, seed: int, what: str) -> dict[str, Any]:
    """`what` is rpc or http. Raises when the hub does not answer any more."""
    with tempfile.TemporaryDirectory(prefix="sonic-fuzz-hub-") as folder:
        async with running_hub(Path(folder)) as hub:
            caller = Caller(hub, Random(seed))
            each = list(methods())
            until, place = asyncio.get_running_loop().time() + seconds, 0
            while asyncio.get_running_loop().time() < until:
                batch = [
                    caller.http() if what == "http" else caller.rpc(each[(place + n) % len(each)]) for n in range(16)
                ]
                place += 16
                await asyncio.gather(*batch)
            await caller.alive()
            await caller.close()
            if any(path.is_symlink() or not path.resolve().is_relative_to(folder) for path in Path(folder).rglob("*")):
                caller.findings["a way out of the folder"] = folder
            return {"tried": caller.tried, "findings": caller.findings}
