"""One channel to a hub, and how every call over it is made: for which tenant, how long, and how often again."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from sonic.credentials import Credentials
from sonic.lines import Line
from sonic.retries import Patience
from sonic.v1.access_service_pb2_grpc import AccessServiceStub
from sonic.v1.admin_service_pb2_grpc import AdminServiceStub
from sonic.v1.job_service_pb2_grpc import JobServiceStub

A = TypeVar("A")
CALL_TIMEOUT_S = 30.0
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
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
        credentials: Credentials = Credentials(),  # noqa: B008
    ) -> None:
        self.target = target
        self._tenant = tenant
        self._credentials = credentials
        self._patience_s = patience_s
        self._line = Line(target, _OPTIONS)
        self.jobs = JobServiceStub(cast(grpc.aio.Channel, self._line))
        self.admin = AdminServiceStub(cast(grpc.aio.Channel, self._line))
        self.access = AccessServiceStub(cast(grpc.aio.Channel, self._line))

    @property
    def metadata(self) -> grpc.aio.Metadata:
        """What a call carries that begins now. Raises FileTrouble, BadSettings."""
        named = (("sonic-tenant", self._tenant),) if self._tenant else ()
        return grpc.aio.Metadata(*self._credentials.metadata(), *named)

    def patience(self) -> Patience:
        """How long a piece of work that begins now may stand still."""
        return Patience(self.target, self._patience_s, self._line.move_on)

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
