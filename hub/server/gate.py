"""Lets calls in by the rules of `hub.server.access`, and ends those whose credential has ceased to hold."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from hub import exceptions
from hub.core.roles import Caller, Role
from hub.server import access, audit, callers, failures
from hub.server.access import Rule, Whom
from hub.server.callers import Call, Context
from hub.server.credentials import Credentials
from hub.server.failures import Failures
from hub.server.peers import address_of, names_of

RECHECK_S = 2.0
TELLING_S = 1.0  # a caller why its call is ended
_log = logging.getLogger("hub.gate")


class Gate(Protocol):
    """Decides about every call."""

    async def admit(self, method: str, context: Context) -> Call:
        """Raises Refusal."""

    def open(self, call: Call, context: Context) -> contextlib.AbstractContextManager[None]:
        """As long as a stream goes on."""

    async def look_again(self) -> None:
        """What was believed of credentials may have changed."""

    async def run(self) -> None:
        """What has to be looked after, until cancelled."""


def declared(method: str) -> Rule:
    """The rule for a call. Raises NotAllowed."""
    rule = access.rule_of(method)
    if rule is None:
        raise exceptions.NotAllowed(f"nobody may call {method}")
    return rule


class Trusting:
    """Of a hub that runs insecure: everybody is operator, and the tenant is what the call says."""

    async def admit(self, method: str, context: Context) -> Call:
        rule = declared(method)
        if not rule.for_tenant:
            return Call(None, None)
        tenant = callers.named_tenant(context.invocation_metadata() or ())
        if tenant is None:
            raise exceptions.NotIdentified(f"the call metadata must name one tenant under {callers.TENANT_KEY!r}")
        return Call(None, tenant)

    @contextmanager
    def open(self, call: Call, context: Context) -> Iterator[None]:
        yield

    async def look_again(self) -> None:
        """Nothing is believed."""

    async def run(self) -> None:
        await asyncio.Event().wait()


@dataclass(eq=False)
class _Open:
    """A stream that goes on."""

    presented: str = field(repr=False)
    context: Context
    task: asyncio.Task[object] | None


class Checking:
    """Asks for credentials."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._failures = Failures()
        self._open: set[_Open] = set()

    async def admit(self, method: str, context: Context) -> Call:
        rule = declared(method)
        if rule.whom is Whom.ANYONE:
            return Call(None, None)
        if rule.whom is Whom.AGENT:
            return Call(None, None, _node_of(context))
        caller = await self._caller(method, context)
        callers.enter(Call(caller, None))  # a refusal is theirs
        if caller.role not in rule.roles:
            wanted = " or ".join(sorted(rule.roles))
            name = method.rpartition("/")[2]
            looks = ", which sees everything and changes nothing" if caller.role is Role.READER else ""
            raise exceptions.NotAllowed(
                f"{name} is for the role {wanted}; the credential has the role {caller.role}{looks}"
            )
        if not rule.for_tenant:
            return Call(caller, None)
        return await self._for_tenant(caller, method, context)

    async def _for_tenant(self, caller: Caller, method: str, context: Context) -> Call:
        named = callers.named_tenant(context.invocation_metadata() or ())
        if caller.role is Role.TENANT:
            if named not in (None, caller.tenant):
                raise exceptions.NotAllowed(f"the credential is of tenant {caller.tenant}, the call names {named}")
            return Call(caller, caller.tenant)
        if named is None:
            submits = " A reader sees its jobs, and submits none." if caller.role is Role.READER else ""
            raise exceptions.NotIdentified(
                f"the credential has the role {caller.role}, which is of no tenant: name the tenant that is meant by "
                f"--tenant, or under {callers.TENANT_KEY!r}.{submits}"
            )
        call = Call(caller, await self._credentials.tenant(named))
        audit.record(context, "tenant.act_for", named, method=method)
        return call

    async def _caller(self, method: str, context: Context) -> Caller:
        address = address_of(context)
        wait_s = self._failures.wait_s(address)
        try:
            presented = callers.bearer(context.invocation_metadata() or ())
            if wait_s and not self._credentials.seen_good(presented):
                raise failures.too_many("credentials", wait_s)
            return await self._credentials.identify(presented)
        except exceptions.NotIdentified as refusal:
            if not wait_s:
                audit.record(context, "credential.present", method, f"refused: {refusal.message}")
            self._failures.count(address)
            raise
        except exceptions.Refusal as refusal:
            if refusal.caller:
                callers.enter(Call(refusal.caller, None))
            raise

    @contextmanager
    def open(self, call: Call, context: Context) -> Iterator[None]:
        if call.caller is None:
            yield
            return
        presented = callers.bearer(context.invocation_metadata() or ())
        one = _Open(presented, context, asyncio.current_task())
        self._open.add(one)
        try:
            yield
        finally:
            self._open.discard(one)

    async def run(self) -> None:
        """Look after the streams that are open, until cancelled."""
        while True:
            await asyncio.sleep(RECHECK_S)
            await self._end_refused()

    async def look_again(self) -> None:
        """Forget what is believed, and end the streams whose credential does not hold any more."""
        self._credentials.forget()
        await self._end_refused()

    async def _end_refused(self) -> None:
        for presented in {one.presented for one in self._open}:
            try:
                await self._credentials.identify(presented)
            except exceptions.NotNow:
                continue  # nothing is known to have changed
            except exceptions.Refusal as refusal:
                theirs = [one for one in self._open if one.presented == presented]
                await asyncio.gather(*(_end(one, refusal) for one in theirs))
            except Exception:  # of this one credential; the others are looked at all the same
                _log.exception("the credential of a call could not be looked at")


def _node_of(context: Context) -> str:
    """A node that the certificate of the connection names; there are several where nodes are simulated."""
    names = names_of(context)
    if not names:
        raise exceptions.NotIdentified("the call carries no certificate of a node; agents connect to agent_listen")
    return min(names).node_id


async def _end(one: _Open, refusal: exceptions.Refusal) -> None:
    """A caller that reads nothing does not hear why: what was sent before goes first, and would be waited for."""
    _log.info("a call has been ended", extra={"reason": refusal.message})
    try:
        with contextlib.suppress(Exception):  # it says by one that it has ended the call, or that it had ended
            async with asyncio.timeout(TELLING_S):
                await one.context.abort(refusal.code, refusal.message)
    finally:
        if one.task:
            one.task.cancel()
