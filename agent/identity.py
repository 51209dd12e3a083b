"""Who this box is: its key, made here, the certificate that the hub has given for it, and the hub's authority.

All three lie in one file, data_dir/identity/identity.pem, so that it is there as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import ssl
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from agent.config import InvalidConfig

RENEWED_AT = 2 / 3  # of its life
_JOINED = "urn:sonic:joined:"
_UNFINISHED = ".new-"
_PART = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----\n?", re.DOTALL)


class BadIdentity(ValueError):
    """What was given as an identity is none."""


@dataclass(frozen=True)
class Identity:
    """A key and what has been said of it. Times are seconds since the epoch."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    authority_pem: bytes
    names: frozenset[str]  # as URIs, sonic://REGION/NODE
    joined: str  # the id of the join token that it goes back to; empty where the hub does not say
    begins_at_s: float
    expires_at_s: float

    @staticmethod
    def of(key_pem: bytes, certificate_pem: bytes, authority_pem: bytes) -> Identity:
        """Raises BadIdentity: they do not belong together."""
        try:
            key = load_pem_private_key(key_pem, None)
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority_pem))
            named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except Exception as error:  # whatever the library makes of what is no key and no certificate
            raise BadIdentity(f"it cannot be read: {error}") from error
        if key.public_key() != certificate.public_key():
            raise BadIdentity("the certificate is of another key")
        uris = named.get_values_for_type(x509.UniformResourceIdentifier)
        joined = next((uri.removeprefix(_JOINED) for uri in uris if uri.startswith(_JOINED)), "")
        begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return Identity(key_pem, certificate_pem, authority_pem, _names(uris), joined, begins, ends)

    @property
    def renew_at_s(self) -> float:
        return self.begins_at_s + (self.expires_at_s - self.begins_at_s) * RENEWED_AT

    @property
    def expired(self) -> bool:
        return time.time() >= self.expires_at_s

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authority_pem, self.key_pem, self.certificate_pem)


class IdentityFolder:
    """Where it is kept; only this user can read it."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "identity"
        self.file = self._folder / "identity.pem"
        self._asked = self._folder / "asked.pem"

    def load(self) -> Identity | None:
        """None when the box has not been enrolled. Raises InvalidConfig."""
        try:
            parts = _PART.findall(self.file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidConfig(f"data_dir has {self.file}, which cannot be read: {error.strerror}") from error
        try:
            if len(parts) != 3:
                raise BadIdentity(f"it has {len(parts)} parts, not a key, its certificate and the authority's")
            return Identity.of(*parts)
        except BadIdentity as error:
            raise InvalidConfig(
                f"data_dir has {self.file}, which is no identity: {error}; enrol the box anew"
            ) from error

    def save(self, identity: Identity) -> None:
        """At once or not at all. Raises OSError."""
        self._write(self.file, identity.key_pem + identity.certificate_pem + identity.authority_pem)
        self._asked.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a process that was killed has half written."""
        for unfinished in self._folder.glob(f"{_UNFINISHED}*"):
            with contextlib.suppress(OSError):
                unfinished.unlink()

    def asked_with(self, token_id: str) -> bytes:
        """The key (PEM) to enrol with: that of a request with the same token whose answer has not come, else a new one.

        So a box that was killed while it enrolled asks the same again, and uses its token once. Raises OSError.
        """
        mark = f"# {hashlib.sha256(token_id.encode()).hexdigest()}\n".encode()
        if self._asked.exists() and (kept := self._asked.read_bytes()).startswith(mark):
            return kept.removeprefix(mark)
        key = new_key()
        self._write(self._asked, mark + key)
        return key

    def _write(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=_UNFINISHED)  # 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)  # part of a key may be in it
            raise
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _names(uris: Iterable[str]) -> frozenset[str]:
    return frozenset(uri for uri in uris if uri.startswith("sonic://"))


def new_key() -> bytes:
    """A key, in PEM."""
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def signing_request(key_pem: bytes, node_id: str) -> bytes:
    """A PKCS #10 request in DER: it proves that whoever asks has the key."""
    key = load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    return (
        x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    )


def fingerprint_of(authority_pem: bytes) -> str:
    """SHA-256 of a certificate's DER, in hex: what a join token pins."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority_pem.decode("ascii"))).hexdigest()
