"""One channel to a hub, and how every call over it is made: for which tenant, how long, and how often again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from sonic import tls
from sonic.credentials import Credentials
from sonic.exceptions import FileTrouble
from sonic.lines import Line
from sonic.retries import Patience
from sonic.v1.access_service_pb2_grpc import AccessServiceStub
from sonic.v1.admin_service_pb2_grpc import AdminServiceStub
from sonic.v1.job_service_pb2_grpc import JobServiceStub

A = TypeVar("A")
CALL_TIMEOUT_S = 30.0
INSECURE_TENANT = "default"  # of a hub that asks nobody who they are, where no tenant is named
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # how long one attempt to connect may take, TLS and all
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.use_local_subchannel_pool", 1),
]


class Connection:
    """Calls for one tenant to the hub at `target`: host:port, or several of them separated by commas.

    It connects with the first call.
    """

    def __init__(
        self,
        target: str,
        tenant: str,
        patience_s: float,
        *,
        insecure: bool = False,
        ca_file: Path | None = None,
        credentials: Credentials = Credentials(),  # noqa: B008 - frozen
    ) -> None:
        """Raises FileTrouble: `ca_file` cannot be read."""
        self.target = target
        self._tenant = tenant or (INSECURE_TENANT if insecure else "")
        self._credentials = None if insecure else credentials
        self._patience_s = patience_s
        try:
            trusted = tls.credentials(insecure, ca_file)
        except OSError as error:
            raise FileTrouble(f"ca_file {error.filename} cannot be read: {error.strerror}") from error
        self._line = Line(target, _OPTIONS, trusted)
        self.jobs = JobServiceStub(cast(grpc.aio.Channel, self._line))
        self.admin = AdminServiceStub(cast(grpc.aio.Channel, self._line))
        self.access = AccessServiceStub(cast(grpc.aio.Channel, self._line))

    @property
    def metadata(self) -> grpc.aio.Metadata:
        """What a call carries that begins now. Raises FileTrouble, BadSettings."""
        named = (("sonic-tenant", self._tenant),) if self._tenant else ()
        shown = self._credentials.metadata() if self._credentials else ()
        return grpc.aio.Metadata(*shown, *named)

    def patience(self) -> Patience:
        """How long a piece of work that begins now may stand still."""
        return Patience(self.target, self._patience_s, self._line.move_on, self._line.trouble)

    async def call(self, method: grpc.aio.UnaryUnaryMultiCallable[Any, A], request: Any) -> A:
        """Make a call until it is answered. Raises HubError."""
        patience = self.patience()
        while True:
            try:
                return await method(request, metadata=self.metadata, timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                await patience.pause(error)

    async def close(self) -> None:
        await self._line.close()
