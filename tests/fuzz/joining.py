"""What a hub and a box read of each other before they know each other: join tokens, signing requests, certificates."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from agent.identity import new_key, signing_request


@dataclass(frozen=True)
class Box:
    """One that the hub's authority has made a node."""

    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes


@functools.cache
def box() -> Box:
    from hub.trust.authority import NodeName, open_authority

    with tempfile.TemporaryDirectory(prefix="sonic-fuzz-authority-") as folder:
        authority = open_authority(Path(folder))
    pem = new_key()
    key: Any = load_pem_private_key(pem, None)
    issued = authority.node_certificate(key.public_key(), [NodeName("eu", "n1")], timedelta(days=1))
    return Box(pem, issued.pem, authority.pem)


def tokens() -> list[bytes]:
    return [b"sonic-join-1." + b"a" * 64 + b"." + b"b" * 12 + b"." + b"c" * 64 + b"\n", b"sonic-join-2.a.b.c"]


def token(data: bytes) -> None:
    from sonic.join_tokens import JoinToken

    text = data.decode("utf-8", "replace")
    try:
        read = JoinToken.of(text)
    except ValueError:
        return
    assert read.text == text.strip()


def requests() -> list[bytes]:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n1")])
    asked = x509.CertificateSigningRequestBuilder().subject_name(name)
    others = (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048))
    return [
        signing_request(box().key_pem, "n1"),
        *(asked.sign(key, hashes.SHA256()).public_bytes(Encoding.DER) for key in others),
    ]


def request(data: bytes) -> None:
    from hub.exceptions import InvalidRequest
    from hub.server.enrolment_service import _key_of

    try:
        key = _key_of(data)
    except InvalidRequest:
        return
    assert key.curve.name in ("secp256r1", "secp384r1")


def certificates() -> list[bytes]:
    return [box().certificate_pem, box().authority_pem, box().certificate_pem + box().authority_pem]


def certificate(data: bytes) -> None:
    from agent.identity import BadIdentity, Identity

    try:
        taken = Identity.of(box().key_pem, data, box().authority_pem)
    except BadIdentity:
        return
    assert taken.names == {"sonic://eu/n1"}
