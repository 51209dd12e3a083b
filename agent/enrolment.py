"""How a box becomes a node, and stays one: it joins with a token, and renews its certificate in time.

The token's secret is sent to nobody but a hub whose certificate is signed by the authority that the token names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import stat
import time
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from agent.config import AgentConfig, InvalidConfig
from agent.folders import claimed
from agent.identity import BadIdentity, Identity, IdentityFolder, fingerprint_of, new_key, signing_request
from sonic import statuses, tls
from sonic.addresses import addresses
from sonic.join_tokens import HUB_NAME, JoinToken
from sonic.lines import Line
from sonic.v1 import enrolment_service_pb2, enrolment_service_pb2_grpc
from sonic.v1 import fleet_service_pb2 as pb

if TYPE_CHECKING:
    from sonic.v1.fleet_service_pb2_grpc import FleetServiceAsyncStub as Stub

CALL_TIMEOUT_S = 15.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
LISTEN = "Boxes enrol at the hub's listen address, port 50051 unless it was set otherwise"
CERTIFICATE_VOID = "CERTIFICATE_VOID"  # the hub's reason
LOOK_AGAIN_S = 60.0  # the clock may be put forward, and the box may sleep
_PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # others behind this address were refused too often
)
_log = logging.getLogger("agent.enrolment")


class NotReached(Exception):
    """No hub could be asked; it may go better later."""


async def join(config: AgentConfig) -> Identity | None:
    """`identity_of` for a box on which no agent runs now, and which is to use a new token. Raises InvalidConfig."""
    with claimed(config.data_dir):
        return await identity_of(config, anew=True)


async def identity_of(config: AgentConfig, anew: bool = False) -> Identity | None:
    """Who the box is; it enrols if it must, for as long as the hub cannot be reached. None for an insecure agent.

    With `anew` it enrols also where it is enrolled, if there is another token than the one that it has joined with.

    Raises InvalidConfig: there is no token, or the hub refuses it, or is not the one that the token names.
    """
    if config.insecure:
        return None
    folder = IdentityFolder(config.data_dir)
    folder.sweep()
    identity = folder.load()
    if identity and not identity.expired and not (anew and _has_another_token(config, identity)):
        return identity
    if config.join_token_file is None:
        raise InvalidConfig(_no_way_in(config, identity))
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await enrol(config, folder)
        except NotReached as error:
            _log.warning("not enrolled yet", extra={"why": str(error), "retry_s": pause_s})
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def enrol(config: AgentConfig, folder: IdentityFolder) -> Identity:
    """Join with the token, once. Raises InvalidConfig as `identity_of` does, NotReached."""
    token = _token(config)
    why = ""
    for address in addresses(config.enrolment_target):
        try:
            return await _enrol_at(address, config, token, folder)
        except NotReached as error:
            why = str(error)
    raise NotReached(why)


async def _enrol_at(address: str, config: AgentConfig, token: JoinToken, folder: IdentityFolder) -> Identity:
    authority_pem = await _authority(address, token)
    try:
        key = await asyncio.to_thread(folder.asked_with, token.token_id)
    except OSError as error:
        raise InvalidConfig(f"data_dir has no room for an identity: {error}") from error
    request = enrolment_service_pb2.EnrolRequest(
        token_id=token.token_id,
        secret=token.secret,
        node_id=config.node_id,
        region=config.region,
        signing_request=signing_request(key, config.node_id),
    )
    options = [("grpc.ssl_target_name_override", HUB_NAME)]
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority_pem), options) as channel:
        try:
            answer = await enrolment_service_pb2_grpc.EnrolmentServiceStub(channel).Enrol(
                request, timeout=CALL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            why = await _trouble(details, address) if error.code() in _PASSING else ""
            if why or error.code() not in _PASSING:
                raise InvalidConfig(f"enrol_at is {address!r}, and the box was not let in: {why or details}") from error
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise NotReached(f"the hub at {address} takes no more now ({details})") from error
            raise NotReached(f"the hub at {address} cannot be reached ({details.rpartition(': ')[2]})") from error
    try:
        identity = Identity.of(key, answer.certificate.encode(), authority_pem)
        await asyncio.to_thread(folder.save, identity)
    except (BadIdentity, OSError) as error:
        raise InvalidConfig(f"data_dir cannot take what the hub at {address} has given: {error}") from error
    _log.info("enrolled", extra={"node_id": config.node_id, "region": config.region, "hub": address})
    return identity


async def _authority(address: str, token: JoinToken) -> bytes:
    """The certificate, in PEM, of the authority that the token names, as the hub shows it."""
    try:
        chain = await asyncio.to_thread(tls.fetch_chain, address, CALL_TIMEOUT_S, HUB_NAME)
    except ssl.SSLEOFError as error:
        raise NotReached(f"the hub at {address} has ended the line") from error
    except ssl.SSLError as error:
        spoken = await asyncio.to_thread(tls.spoken_without_tls, address)
        raise InvalidConfig(f"enrol_at is {address!r}, and what answers there {spoken} {LISTEN}") from error
    except OSError as error:
        raise NotReached(f"the hub at {address} cannot be reached ({error.strerror or error})") from error
    for certificate in map(ssl.DER_cert_to_PEM_cert, chain):
        if fingerprint_of(certificate.encode()) == token.fingerprint:
            return certificate.encode()
    raise InvalidConfig(
        f"enrol_at is {address!r}, and who answers there is not the hub that has made the join token: its certificate "
        f"is not of the authority {token.fingerprint[:16]}…; nothing was sent to it"
    )


async def _trouble(details: str, address: str) -> str:
    if tls.is_of_another_name(details):  # every hub has that name, where boxes enrol
        return f"this is another port of a hub, or a node that passes for one. {LISTEN}"
    return await tls.trouble(details, address, insecure=False)


class Renewal:
    """Keeps the certificate fresh while the agent runs."""

    def __init__(self, config: AgentConfig, identity: Identity, hub: Stub, line: Line) -> None:
        self._config = config
        self._folder = IdentityFolder(config.data_dir)
        self._identity = identity
        self._hub = hub
        self._line = line
        self._void = asyncio.Event()
        self._unsaved = False

    def refused(self, error: grpc.aio.AioRpcError) -> None:
        """The hub has refused a call of this node: if it is for the certificate, another token may be there."""
        if statuses.to_exception(error, "").reason == CERTIFICATE_VOID:
            self._void.set()

    async def run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            if self._unsaved:
                await self._save()
            left_s = self._identity.renew_at_s - time.time()
            if left_s > 0 and not self._void.is_set():
                pause_s = FIRST_PAUSE_S
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._void.wait(), min(left_s, LOOK_AGAIN_S))
                continue
            if await self._renewed():
                continue
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_AGAIN_S)

    async def _renewed(self) -> bool:
        """Whether there is a new certificate; the session goes on as it is."""
        void = self._void.is_set()
        self._void.clear()  # if it still is, the hub says so again
        try:
            identity = await (self._join_again() if void or self._identity.expired else self._ask())
        except (grpc.aio.AioRpcError, NotReached, InvalidConfig, BadIdentity, OSError) as error:
            why = str(error)
            if isinstance(error, grpc.aio.AioRpcError):
                why = error.details() or ""
                self.refused(error)
            left_s = round(self._identity.expires_at_s - time.time())
            _log.warning("certificate not renewed", extra={"why": why, "valid_s": left_s})
            return False
        self._identity = identity
        await self._save()
        await self._line.use(identity.credentials)
        _log.info("certificate renewed", extra={"expires_at_s": round(identity.expires_at_s)})
        return True

    async def _save(self) -> None:
        """Or try again later: the certificate is good for as long as the agent runs, also where the disk is full."""
        try:
            await asyncio.to_thread(self._folder.save, self._identity)
        except OSError as error:
            if not self._unsaved:
                _log.warning("certificate not saved", extra={"why": str(error), "retry_s": LOOK_AGAIN_S})
            self._unsaved = True
        else:
            if self._unsaved:
                _log.info("certificate saved")
            self._unsaved = False

    async def _ask(self) -> Identity:
        key = new_key()
        request = pb.RenewCertificateRequest(
            node_id=self._config.node_id, signing_request=signing_request(key, self._config.node_id)
        )
        answer = await self._hub.RenewCertificate(request, timeout=CALL_TIMEOUT_S)
        return Identity.of(key, answer.certificate.encode(), self._identity.authority_pem)

    async def _join_again(self) -> Identity:
        usable = self._identity.expired or _has_another_token(self._config, self._identity)
        if self._config.join_token_file is None or not usable:
            raise InvalidConfig(_no_way_in(self._config, self._identity))
        return await enrol(self._config, self._folder)


def _has_another_token(config: AgentConfig, identity: Identity) -> bool:
    """Than the one that the box has joined with. Raises InvalidConfig: what is there is no token."""
    if config.join_token_file is None or not config.join_token_file.exists():
        return False
    return _token(config).token_id != identity.joined


def _token(config: AgentConfig) -> JoinToken:
    assert config.join_token_file
    try:
        mode = config.join_token_file.stat().st_mode & 0o777
        if mode & stat.S_IROTH:
            about = {"join_token_file": str(config.join_token_file), "mode": f"{mode:04o}", "do": "chmod 600"}
            _log.warning("the join token can be read by every user of this machine", extra=about)
        return JoinToken.of(config.join_token_file.read_text(encoding="ascii"))
    except OSError as error:
        raise InvalidConfig(
            f"join_token_file is {str(config.join_token_file)!r}, which cannot be read: {error.strerror}"
        ) from error
    except ValueError as error:
        raise InvalidConfig(
            f"join_token_file is {str(config.join_token_file)!r}, which holds no token: {error}"
        ) from None


def _no_way_in(config: AgentConfig, identity: Identity | None) -> str:
    """What to do where a box has neither a certificate that is valid nor a token."""
    made = f"sonic hub token create --region {config.region}"
    if identity is None:
        return (
            f"data_dir is {str(config.data_dir)!r}, where no identity is: this box is not enrolled. Set "
            f"join_token_file to a file with what `{made}` prints, or pass --insecure for a hub on this machine that "
            "was started with it"
        )
    why = "has expired: the box was away too long" if identity.expired else "is void: the node was enrolled anew"
    return (
        f"data_dir is {str(config.data_dir)!r}, whose certificate {why}. Set join_token_file to a file with what "
        f"`{made} --node {config.node_id}` prints"
    )
