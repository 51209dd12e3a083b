"""The hub's own certificate authority: a key and a certificate in a folder, which several hubs may be given.

authority.key is all that it takes to let a stranger in. It never leaves the folder, and is worth a backup.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hub.config import InvalidConfig

AUTHORITY_LIFE = timedelta(days=20 * 365)
CLOCK_LEEWAY = timedelta(hours=1)  # a box whose clock is behind by less takes a certificate that has just been made
JOINED = "urn:sonic:joined:"
_SCHEME = "sonic://"
_log = logging.getLogger("hub.trust")


@dataclass(frozen=True, order=True)
class NodeName:
    """A node as its certificate names it."""

    region: str
    node_id: str

    @property
    def uri(self) -> str:
        return f"{_SCHEME}{quote(self.region, safe='')}/{quote(self.node_id, safe='')}"

    @staticmethod
    def of_uri(uri: str) -> NodeName | None:
        """None for a URI of something else."""
        region, _, node_id = uri.removeprefix(_SCHEME).partition("/")
        if not uri.startswith(_SCHEME) or not region or not node_id or "/" in node_id:
            return None
        return NodeName(unquote(region), unquote(node_id))


@dataclass(frozen=True)
class Issued:
    """A certificate that was given to a node."""

    pem: bytes
    serial: str  # in hex
    expires_at_s: float  # since the epoch


class Authority:
    """Signs certificates; what it is asked to sign has been judged before."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self.pem = certificate.public_bytes(Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate's DER, in hex: what a join token pins."""
        return hashlib.sha256(self._certificate.public_bytes(Encoding.DER)).hexdigest()

    def node_certificate(
        self, key: ec.EllipticCurvePublicKey, names: Iterable[NodeName], valid: timedelta, joined: str = ""
    ) -> Issued:
        """A certificate of a node's own key, for the names of it; `joined` is the enrolment that it goes back to."""
        named = sorted(names)
        uris = [name.uri for name in named] + ([f"{JOINED}{joined}"] if joined else [])
        made = self._signed(
            key,
            named[0].node_id,
            [x509.UniformResourceIdentifier(uri) for uri in uris],
            ExtendedKeyUsageOID.CLIENT_AUTH,
            valid,
        )
        return Issued(made.public_bytes(Encoding.PEM), f"{made.serial_number:x}", made.not_valid_after_utc.timestamp())

    def server_certificate(self, names: Iterable[str], valid: timedelta) -> tuple[bytes, bytes]:
        """A new key of a hub and the chain of its certificate, both PEM; `names` are DNS names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        named = list(dict.fromkeys(names))
        made = self._signed(
            key.public_key(), named[0], list(map(_server_name, named)), ExtendedKeyUsageOID.SERVER_AUTH, valid
        )
        return _pem(key), made.public_bytes(Encoding.PEM) + self.pem

    def _signed(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        names: list[x509.GeneralName],
        use: x509.ObjectIdentifier,
        valid: timedelta,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            _builder(key, _called(name), now, now + valid)
            .issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )


def open_authority(folder: Path) -> Authority:
    """The authority in a folder, made there at first; hubs that start together make one. Raises InvalidConfig."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(folder / "authority.lock"):
            return _opened(folder / "authority.key", folder / "authority.pem")
    except InvalidConfig:
        raise
    except OSError as error:
        raise InvalidConfig(f"authority_dir is {str(folder)!r}, which cannot be used: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise InvalidConfig(
            f"authority_dir is {str(folder)!r}, whose authority.key or authority.pem cannot be read ({error}); "
            "bring both back from the backup"
        ) from error


def _opened(key_file: Path, certificate_file: Path) -> Authority:
    if not key_file.exists():
        if certificate_file.exists():
            raise InvalidConfig(
                f"authority_dir has {certificate_file}, and not its authority.key; bring it back from the backup. "
                "Without it no node can renew: to begin anew remove authority.pem too, and enrol every box again"
            )
        write_private(key_file, _pem(ec.generate_private_key(ec.SECP256R1())))
        _log.warning("a new authority was made; keep a backup of it", extra={"file": str(key_file)})
    if key_file.stat().st_mode & 0o077:
        raise InvalidConfig(f"authority_dir has {key_file}, which others may read; run: chmod 600 {key_file}")
    key = load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not one of an elliptic curve")
    if not certificate_file.exists():  # the first start was cut off in between
        write_private(certificate_file, _own(key).public_bytes(Encoding.PEM), 0o644)
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    if certificate.public_key() != key.public_key():
        raise ValueError("the certificate is not the key's")
    return Authority(key, certificate)


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file at once or not at all, also when the power fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _own(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = datetime.now(UTC)
    name = _called(f"Sonic Fleet authority {hashlib.sha256(_public_der(key.public_key())).hexdigest()[:12]}")
    use = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(key.public_key(), name, now - timedelta(days=1), now + AUTHORITY_LIFE)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(use, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(
    key: ec.EllipticCurvePublicKey, name: x509.Name, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - min(CLOCK_LEEWAY, (ends - begins) / 4))
        .not_valid_after(ends)
    )


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])  # X.509 takes no longer ones


def _server_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
