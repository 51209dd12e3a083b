"""From what a caller presents to who it is: API keys by the store, access tokens by their issuer.

What was found good is believed for BELIEVED_S, so a key that is revoked, or a tenant that is suspended, on another hub
is refused here that much later; on this hub at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hub import exceptions
from hub.config import HubConfig
from hub.core import api_keys
from hub.core.api_keys import ApiKey
from hub.core.roles import Caller, Role
from hub.core.tenants import Tenant
from hub.server.gathered import Gathered
from hub.store import tenants
from sonic import oidc

BELIEVED_S = 2.0
MOST_REMEMBERED = 10_000
NOTE_USE_S = 60.0
MAX_SUBJECT_CHARACTERS = 64
_STRONGEST = (Role.OPERATOR, Role.READER, Role.TENANT)
Fingerprint = bytes


def fingerprint(presented: str) -> Fingerprint:
    """What a credential is remembered by."""
    return hashlib.sha256(presented.encode()).digest()


def new_key() -> ApiKey:
    """A key that nobody has ever had."""
    key_id = "".join(secrets.choice(api_keys.ID_ALPHABET) for _ in range(api_keys.ID_CHARACTERS))
    return ApiKey(key_id, secrets.token_urlsafe(32))


@dataclass(frozen=True)
class _Known:
    caller: Caller
    until_s: float  # by the monotonic clock: how long it is believed


class Credentials:
    """Who presents what. It remembers the fingerprints of good credentials, never a credential."""

    def __init__(self, config: HubConfig, database: sa.Engine) -> None:
        self._config = config
        self._database = database
        self._keys = Gathered(database, tenants.standings)
        self._tenants = Gathered(database, tenants.find)
        self._issuer = issuer_of(config)
        self._known: OrderedDict[Fingerprint, _Known] = OrderedDict()
        self._used_at_s: dict[str, float] = {}
        self._changes = 0

    def seen_good(self, presented: str) -> bool:
        """Whether the credential was good when it was presented last."""
        return fingerprint(presented) in self._known

    def forget(self) -> None:
        """Something has changed: look at every credential again when it is presented next."""
        self._changes += 1
        for mark, known in self._known.items():
            self._known[mark] = _Known(known.caller, -math.inf)

    async def identify(self, presented: str) -> Caller:
        """Raises NotIdentified, NotAllowed, NotNow."""
        mark = fingerprint(presented)
        known = self._known.get(mark)
        if known and time.monotonic() < known.until_s and time.time() < known.caller.until_s:
            self._known.move_to_end(mark)
            return known.caller
        changes = self._changes
        try:
            caller = await self._look(presented)
        except (exceptions.NotIdentified, exceptions.NotAllowed):
            self._known.pop(mark, None)
            raise
        believed_s = BELIEVED_S if changes == self._changes else 0.0  # it may have been read before a change
        self._known[mark] = _Known(caller, time.monotonic() + believed_s)
        self._known.move_to_end(mark)
        while len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)
        return caller

    async def tenant(self, name: Tenant) -> Tenant:
        """The tenant of that name, for an operator. Raises NotFound."""
        if await self._tenants.get(name) is None:
            raise exceptions.NotFound(f"there is no tenant {name!r}; make it with: sonic tenants create {name}")
        return name

    async def run(self) -> None:
        """Note now and then when keys were used, until cancelled."""
        while True:
            await asyncio.sleep(NOTE_USE_S)
            await self.note_use()

    async def note_use(self) -> None:
        """Store when keys were used; what cannot be stored now is stored next time."""
        used, self._used_at_s = self._used_at_s, {}

        def write() -> None:
            with self._database.begin() as connection:
                tenants.note_use(connection, used)

        try:
            if used:
                await asyncio.to_thread(write)
        except sa.exc.SQLAlchemyError:
            self._used_at_s = used | self._used_at_s

    async def _look(self, presented: str) -> Caller:
        if presented.startswith(api_keys.BEGINNING):
            return await self._holder(presented)
        if self._issuer:
            return await self._bearer(presented, self._issuer)
        raise exceptions.NotIdentified("the credential is no API key, and this hub takes no access tokens")

    async def _holder(self, presented: str) -> Caller:
        key = api_keys.parse(presented)
        if key is None:
            raise exceptions.NotIdentified("the API key is not whole; it is of the form sonic_ID_SECRET")
        found = await self._keys.get(key.key_id)
        row = found.key if found else None
        if found is None or row is None or not key.matches(row.digest):
            raise exceptions.NotIdentified("there is no such API key")
        if row.revoked_at_s is not None:
            raise exceptions.NotIdentified(f"the API key {key.key_id} has been revoked")
        until_s = math.inf if row.expires_at_s is None else row.expires_at_s
        if until_s <= time.time():
            raise exceptions.NotIdentified(f"the API key {key.key_id} has expired")
        who = f"key {key.key_id} ({row.holder})"
        caller = Caller(Role(row.role), Tenant(row.tenant) if row.tenant else None, who, until_s)
        if found.suspended:
            raise _suspended(caller)
        self._used_at_s[key.key_id] = time.time()
        return caller

    async def _bearer(self, presented: str, issuer: oidc.Issuer) -> Caller:
        try:
            claims = await issuer.claims(presented)
        except oidc.TokenRefused as error:
            raise exceptions.NotIdentified(f"the access token is refused: {error}") from None
        except oidc.IssuerUnreachable as error:
            raise exceptions.NotNow(f"access tokens cannot be checked: {error}", 5.0) from None
        role, name = self._meant(claims)
        subject = "".join(c for c in str(claims["sub"])[:MAX_SUBJECT_CHARACTERS] if c.isprintable())
        who = f"subject {subject}"
        until_s = float(claims["exp"]) + self._config.oidc_leeway_s
        if role is not Role.TENANT:
            return Caller(role, None, who, until_s)
        row = await self._tenants.get(Tenant(name)) if name else None
        if row is None:
            wanted = f"{self._config.oidc_tenant_claim} of the access token"
            said = f"is {name[:64]!r}, which is no tenant of this fleet" if name else "is missing, as is a role of ours"
            refusal = exceptions.NotAllowed(f"{wanted} {said}")
            refusal.caller = Caller(role, None, who, until_s)
            raise refusal
        caller = Caller(role, Tenant(row.tenant), who, until_s)
        if row.suspended_at_s is not None:
            raise _suspended(caller)
        return caller

    def _meant(self, claims: dict[str, Any]) -> tuple[Role, str]:
        """The strongest of our roles that a token names, the tenant's when it names none; and the tenant."""
        said = oidc.claim(claims, self._config.oidc_role_claim)
        named = {one for one in (said if isinstance(said, list) else [said]) if isinstance(one, str)}
        role = next((one for one in _STRONGEST if one in named), Role.TENANT)
        tenant = oidc.claim(claims, self._config.oidc_tenant_claim)
        return role, tenant if isinstance(tenant, str) else ""


def _suspended(caller: Caller) -> exceptions.TenantSuspended:
    refusal = exceptions.TenantSuspended(f"tenant {caller.tenant} is suspended; ask the operator")
    refusal.caller = caller
    return refusal


def issuer_of(config: HubConfig) -> oidc.Issuer | None:
    """None where no issuer is set."""
    if not config.oidc_issuer:
        return None
    return oidc.Issuer(oidc.Expected(config.oidc_issuer, config.oidc_audience, config.oidc_leeway_s))
