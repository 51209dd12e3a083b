"""What the hub's ports are opened with: its own certificate, made by its authority and made anew in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc

from hub.config import HubConfig, InvalidConfig
from hub.trust.authority import Authority

Fetch = Callable[[], grpc.ServerCertificateConfiguration]
_log = logging.getLogger("hub.trust")


def callers(config: HubConfig, authority: Authority) -> grpc.ServerCredentials:
    """TLS, and no certificate is asked for. Raises InvalidConfig."""
    files = config.tls_certificate_file, config.tls_key_file
    fetch = _Files(files[0], files[1]) if files[0] and files[1] else _Own(config, authority)
    return grpc.dynamic_ssl_server_credentials(fetch(), fetch)


def agents(config: HubConfig, authority: Authority) -> grpc.ServerCredentials:
    """TLS, for those alone who have a certificate of the authority."""
    fetch = _Own(config, authority)
    return grpc.dynamic_ssl_server_credentials(fetch(), fetch, require_client_authentication=True)


class _Own:
    """The key is in memory alone. Called for every connection, from a thread of gRPC's."""

    def __init__(self, config: HubConfig, authority: Authority) -> None:
        self._config = config
        self._authority = authority
        self._made_at_s = self._renew_at_s = 0.0

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        now_s = time.time()
        if now_s >= self._renew_at_s or now_s < self._made_at_s:  # also when the clock was put back
            valid = timedelta(seconds=self._config.certificate_valid_s)
            pair = self._authority.server_certificate(self._config.server_names, valid)
            self._made_at_s, self._renew_at_s = now_s, now_s + self._config.certificate_valid_s * 2 / 3
            self._current = grpc.ssl_server_certificate_configuration([pair], self._authority.pem)
        return self._current


class _Files:
    """Somebody else's certificate; read again when the files have changed."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self._read: tuple[float, float] | None = None

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        try:
            changed = self._certificate.stat().st_mtime, self._key.stat().st_mtime
            if changed != self._read:
                pair = self._key.read_bytes(), self._certificate.read_bytes()
                self._current = grpc.ssl_server_certificate_configuration([pair])
                self._read = changed
        except OSError as error:
            if self._read is None:
                raise InvalidConfig(
                    f"tls_certificate_file or tls_key_file cannot be read: {error.filename}: {error.strerror}"
                ) from error
            _log.error("the TLS files cannot be read; the former ones are in use", extra={"error": str(error)})
        return self._current
