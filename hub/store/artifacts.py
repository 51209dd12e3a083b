"""Which artifacts tenants have. What has been seen is believed for a while: inputs are shared by many jobs."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from hub.core.tenants import Tenant
from hub.store import records

BELIEVED_S = 30.0
_MOST = 20_000
Key = tuple[Tenant, str]  # and sha256


class KnownArtifacts:
    """Rows of complete artifacts. May be used by several threads."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database
        self._rows: OrderedDict[Key, tuple[float, sa.Row[Any]]] = OrderedDict()

    async def of(self, tenant: Tenant, hashes: Iterable[str]) -> dict[str, sa.Row[Any]]:
        """Those of the named artifacts that the tenant has, by hash."""
        wanted = set(hashes)
        found = self.seen(tenant, wanted)
        if len(found) == len(wanted):
            return found

        def ask() -> dict[str, sa.Row[Any]]:
            with self._database.connect() as connection:
                return self.read(connection, tenant, wanted)

        return await asyncio.to_thread(ask)

    def read(self, connection: sa.Connection, tenant: Tenant, hashes: Iterable[str]) -> dict[str, sa.Row[Any]]:
        """`of`, in a transaction."""
        wanted = set(hashes)
        found = self.seen(tenant, wanted)
        if missing := wanted - set(found):
            fresh = records.artifacts_of(connection, tenant, missing)
            until_s = time.monotonic() + BELIEVED_S
            self._rows.update({(tenant, sha256): (until_s, row) for sha256, row in fresh.items()})
            while len(self._rows) > _MOST:
                self._rows.popitem(last=False)
            found |= fresh
        return found

    def forget(self, tenant: Tenant, sha256: str) -> None:
        """The row has changed."""
        self._rows.pop((tenant, sha256), None)

    def seen(self, tenant: Tenant, hashes: Iterable[str]) -> dict[str, sa.Row[Any]]:
        """Those of them that were seen a moment ago."""
        now_s = time.monotonic()
        seen = {sha256: self._rows.get((tenant, sha256)) for sha256 in hashes}
        return {sha256: entry[1] for sha256, entry in seen.items() if entry and entry[0] > now_s}
