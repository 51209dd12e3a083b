"""EnrolmentService and what else gives and takes the right to be a node: tokens, certificates, revocation."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hub import exceptions
from hub.core.names import name_problem
from hub.server import audit, failures
from hub.server.callers import Context
from hub.server.failures import Failures
from hub.server.job_service import reading
from hub.server.peers import address_of, joined_of
from hub.server.sessions import Sessions
from hub.store import enrolments
from hub.store.bulletin import Bulletin
from hub.store.database import changing
from hub.trust.authority import Authority, Issued, NodeName
from sonic.join_tokens import JoinToken
from sonic.parameters import Problem
from sonic.v1 import enrolment_service_pb2 as pb
from sonic.v1 import enrolment_service_pb2_grpc

T = TypeVar("T")
MAX_USES, MAX_TTL_S, MIN_TTL_S, DEFAULT_TTL_S = 10_000, 30 * 86_400.0, 60.0, 86_400.0
MAX_REQUEST_BYTES = 4096
_log = logging.getLogger("hub.enrolment")


class EnrolmentService(enrolment_service_pb2_grpc.EnrolmentServiceServicer):
    """`authority` is None where the hub is insecure: nobody enrols there."""

    def __init__(
        self,
        authority: Authority | None,
        certificate_valid_s: float,
        database: sa.Engine,
        bulletin: Bulletin,
        sessions: Sessions,
    ) -> None:
        self._authority = authority
        self._valid = timedelta(seconds=certificate_valid_s)
        self._database = database
        self._bulletin = bulletin
        self._sessions = sessions
        self._failures = Failures()

    async def Enrol(self, request: pb.EnrolRequest, context: Context) -> pb.EnrolResponse:
        authority, address = self.authority, address_of(context)
        if wait_s := self._failures.wait_s(address):
            raise failures.too_many("join tokens", wait_s)
        problems = list(_name_problems(node_id=request.node_id, region=request.region))
        if problems:
            raise exceptions.InvalidRequest(problems)
        key = _key_of(request.signing_request)
        wish = enrolments.Wish(request.token_id, request.secret, request.node_id, request.region, _sha256(key))

        def write(connection: sa.Connection) -> str:
            why_not = enrolments.enrol(connection, wish, time.time())
            if not why_not:
                self._bulletin.tell(connection, nodes=[wish.node_id])
            return why_not

        refused = await self._write(write)
        detail = {"token_id": request.token_id[:32], "region": request.region}
        if refused:
            self._failures.count(address)
            audit.record(context, "node.enrol", request.node_id, f"refused: {refused}", **detail)
            raise exceptions.NotAllowed(refused)
        issued = self.issue(key, [NodeName(request.region, request.node_id)], request.token_id)
        audit.record(context, "node.enrol", request.node_id, **detail, serial=issued.serial)
        if session := self._sessions.get(request.node_id):  # of the box before
            session.end()
        return pb.EnrolResponse(certificate=issued.pem.decode(), authority=authority.pem.decode())

    async def renewed(self, signing_request: bytes, names: Iterable[NodeName], context: Context) -> Issued:
        """A new certificate for names that a certificate already has. Raises Refusal."""
        named = sorted(names)
        for name in named:
            await self.check_right(name.node_id, context)
        issued = self.issue(_key_of(signing_request), named, joined_of(context))
        audit.record(context, "node.renew", named[0].node_id, serial=issued.serial)
        return issued

    async def check_right(self, node_id: str, context: Context) -> None:
        """Raises NotAllowed: the node was revoked. Raises CertificateVoid. Never, at an insecure hub."""
        if self._authority is None:
            return
        joined = joined_of(context)
        found = await reading(self._database, lambda connection: enrolments.objection(connection, node_id, joined))
        if found:
            raise exceptions.CertificateVoid(found.why) if found.anew else exceptions.NotAllowed(found.why)

    @property
    def authority(self) -> Authority:
        """Raises NotAllowed where there is none."""
        if self._authority is None:
            raise exceptions.NotAllowed(
                "this hub is insecure: nobody needs to enrol, agents are started with --insecure"
            )
        return self._authority

    def issue(self, key: ec.EllipticCurvePublicKey, names: Iterable[NodeName], joined: str) -> Issued:
        return self.authority.node_certificate(key, names, self._valid, joined)

    # What operators do.

    async def create_token(
        self, region: str, uses: int, ttl_s: float, node_id: str, context: Context
    ) -> tuple[sa.Row[Any], str]:
        """The stored token and its text. Raises InvalidRequest, NotAllowed."""
        uses, ttl_s = uses or 1, ttl_s or DEFAULT_TTL_S
        problems = list(_name_problems(region=region, **({"node_id": node_id} if node_id else {})))
        if not 1 <= uses <= MAX_USES:
            problems.append(Problem("uses", f"is {uses}; use 1 to {MAX_USES}"))
        if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
            problems.append(Problem("ttl_seconds", f"is {ttl_s:g}; use {MIN_TTL_S:g} to {MAX_TTL_S:g}"))
        if node_id and uses != 1:
            problems.append(Problem("uses", f"is {uses}, and a token for one node is used once; leave it out"))
        if problems:
            raise exceptions.InvalidRequest(problems)
        text = JoinToken(self.authority.fingerprint, uuid.uuid4().hex[:12], secrets.token_hex(32))
        now_s = time.time()
        new = enrolments.NewToken(text.token_id, text.secret, region, node_id, uses, now_s + ttl_s)
        row = await self._write(lambda connection: enrolments.add_token(connection, new, now_s))
        audit.record(context, "join_token.make", text.token_id, region=region, uses=uses, ttl_s=ttl_s, node_id=node_id)
        return row, text.text

    async def tokens(self) -> list[sa.Row[Any]]:
        return await reading(self._database, enrolments.tokens)

    async def end_token(self, token_id: str) -> None:
        """Raises NotFound."""
        if not await self._write(lambda connection: enrolments.end_token(connection, token_id, time.time())):
            raise exceptions.NotFound(f"there is no join token {token_id[:32]!r}")

    async def revoke(self, node_id: str, undo: bool) -> None:
        """Raises NotFound."""

        def write(connection: sa.Connection) -> bool:
            self._bulletin.tell(connection, nodes=[node_id])
            return enrolments.set_revoked(connection, node_id, None if undo else time.time())

        if not await self._write(write):
            raise exceptions.NotFound(f"no node {node_id[:80]!r} has ever joined")
        session = self._sessions.get(node_id)
        if session and not undo:
            session.end()

    async def revoked(self) -> set[str]:
        """The nodes whose right was taken; at an insecure hub nobody needs one."""
        return await reading(self._database, enrolments.revoked) if self._authority else set()

    async def _write(self, work: Callable[[sa.Connection], T]) -> T:
        def write() -> T:
            with changing(self._database) as connection:
                return work(connection)

        return await asyncio.to_thread(write)


def _name_problems(**names: str) -> Iterable[Problem]:
    for field, name in names.items():
        if problem := name_problem(name):
            yield Problem(field, problem)


def _key_of(signing_request: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a request proves to have. Raises InvalidRequest."""
    try:
        if len(signing_request) > MAX_REQUEST_BYTES:
            raise ValueError("it is too long")
        asked = x509.load_der_x509_csr(signing_request)
        key = asked.public_key()
        if not asked.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("it is not signed by the elliptic-curve key in it")
        if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            raise ValueError(f"its curve is {key.curve.name}")
    except Exception as error:  # the library's errors for bytes that are no request are many
        raise exceptions.InvalidRequest(
            [Problem("signing_request", f"is no request of a P-256 key: {error}")]
        ) from error
    return key


def _sha256(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
