"""What the hub's ports are opened with: its own certificate, made by its authority and made anew in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from hub.config import HubConfig, InvalidConfig
from hub.trust.authority import Authority
from sonic.join_tokens import HUB_NAME

Fetch = Callable[[], grpc.ServerCertificateConfiguration]  # the same object, as long as nothing has changed
_log = logging.getLogger("hub.trust")


def callers(config: HubConfig, authority: Authority) -> grpc.ServerCredentials:
    """TLS, and no certificate is asked for. Raises InvalidConfig."""
    own = _Own(config, authority, (*config.server_names, HUB_NAME))
    files = config.tls_certificate_file, config.tls_key_file
    fetch: Fetch = _Files(files[0], files[1], own) if files[0] and files[1] else own
    return grpc.dynamic_ssl_server_credentials(*first_and_news(fetch))


def agents(config: HubConfig, authority: Authority) -> grpc.ServerCredentials:
    """TLS, for those alone who have a certificate of the authority."""
    fetch = _Own(config, authority, config.server_names)
    return grpc.dynamic_ssl_server_credentials(*first_and_news(fetch), require_client_authentication=True)


def first_and_news(fetch: Fetch) -> tuple[grpc.ServerCertificateConfiguration, Fetch]:
    """What a port begins with, and what it is to ask for each connection: None, unless there is something new.

    gRPC takes whatever it is given for new, and frees what other connections that come just then are looking at, which
    ends the process (grpc/grpc#36693): so it is given something once in a certificate's life, and not each time.
    """
    first = last = fetch()

    def news() -> grpc.ServerCertificateConfiguration:
        nonlocal last
        now = fetch()
        if now is last:
            return None  # type: ignore[return-value] # as gRPC's documentation wants it
        last = now
        return now

    return first, news


class _Own:
    """The key is in memory alone. Called for every connection, from threads of gRPC's."""

    def __init__(self, config: HubConfig, authority: Authority, names: tuple[str, ...]) -> None:
        self._valid_s = config.certificate_valid_s
        self._authority = authority
        self._names = names
        self._made_at_s = self._renew_at_s = 0.0
        self.pair = (b"", b"")

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        if self.renewed():
            self._current = grpc.ssl_server_certificate_configuration([self.pair], self._authority.pem)
        return self._current

    def renewed(self) -> bool:
        """Whether the pair was made anew: at two thirds of its life, and when the clock was put back."""
        now_s = time.time()
        if self._made_at_s <= now_s < self._renew_at_s:
            return False
        self.pair = self._authority.server_certificate(self._names, timedelta(seconds=self._valid_s))
        self._made_at_s, self._renew_at_s = now_s, now_s + self._valid_s * 2 / 3
        return True


class _Files:
    """Somebody else's certificate, read again when the files have changed; boxes that enrol are shown the hub's own."""

    def __init__(self, certificate: Path, key: Path, own: _Own) -> None:
        self._certificate, self._key = certificate, key
        self._own = own
        self._seen: tuple[int, int] | None = None
        self._pair = (b"", b"")

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        changed = self._own.renewed()
        try:
            changed = self._reread() or changed
        except OSError as error:
            if self._seen is None:
                raise InvalidConfig(
                    f"tls_certificate_file or tls_key_file cannot be read: {error.filename}: {error.strerror}"
                ) from error
            _log.error("the TLS files cannot be read; the former ones are in use", extra={"error": str(error)})
        if changed:
            self._current = grpc.ssl_server_certificate_configuration([self._pair, self._own.pair])
        return self._current

    def _reread(self) -> bool:
        seen = self._certificate.stat().st_mtime_ns, self._key.stat().st_mtime_ns
        if seen == self._seen:
            return False
        pair = self._key.read_bytes(), self._certificate.read_bytes()
        try:
            ours = load_pem_private_key(pair[0], None).public_key() == load_pem_x509_certificate(pair[1]).public_key()
        except (ValueError, TypeError):
            ours = False
        if ours:
            self._pair = pair
        elif self._seen is None:
            raise InvalidConfig("tls_certificate_file and tls_key_file are not a certificate and its key, in PEM")
        else:  # one of the two has been replaced, the other not yet
            _log.error("the TLS files do not belong together; the former ones are in use")
        self._seen = seen
        return ours
