"""Who may read the HTTP listener of a hub or an agent, and how: what an operator sets, without the listener itself."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from sonic.addresses import host_of, is_loopback, is_safe_url


@dataclass(frozen=True)
class HttpAccess:
    """TLS where there is a certificate, a bearer token where there is a file of tokens or an issuer.

    Beyond this machine both are needed.
    """

    certificate_file: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    oidc_issuer: str = ""
    oidc_audience: str = ""

    @property
    def authenticates(self) -> bool:
        return bool(self.token_file or self.oidc_issuer)

    def problem(self, listen: str) -> str:
        """What cannot be used of it at an address, by the names of the settings; empty when all can."""
        if bool(self.certificate_file) != bool(self.key_file):
            given, missing = ("http_tls_certificate_file", "http_tls_key_file")[:: 1 if self.certificate_file else -1]
            return f"{given} is set and {missing} is not; set both"
        if bool(self.oidc_issuer) != bool(self.oidc_audience):
            given, missing = ("metrics_oidc_issuer", "metrics_oidc_audience")[:: 1 if self.oidc_issuer else -1]
            return f"{given} is set and {missing} is not; set both"
        if self.oidc_issuer and not is_safe_url(self.oidc_issuer):
            return f"metrics_oidc_issuer is {self.oidc_issuer!r}; a URL that begins with https:// is wanted"
        if self.token_file and not tokens(self.token_file):
            return f"metrics_token_file is {str(self.token_file)!r}, in which there is no token; write one a line"
        try:
            self.context()
        except OSError as error:
            files = f"{str(self.certificate_file)!r} and {str(self.key_file)!r}"
            why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            return f"http_tls_certificate_file and http_tls_key_file are {files}, which cannot be used: {why}"
        needed = {
            "http_tls_certificate_file and http_tls_key_file": self.certificate_file is not None,
            "metrics_token_file (or metrics_oidc_issuer)": self.authenticates,
        }
        if not is_loopback(host_of(listen)) and not all(needed.values()):
            wanted = " and ".join(name for name, is_set in needed.items() if not is_set)
            return f"http_listen is {listen!r}, which other machines can reach; set {wanted}, or listen on 127.0.0.1"
        return ""

    def context(self) -> ssl.SSLContext | None:
        """None without a certificate. Raises OSError."""
        if not self.certificate_file:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate_file, self.key_file)
        return context


def tokens(file: Path) -> list[bytes]:
    """The tokens in a file, one a line, two while one takes the place of another; none when it cannot be read."""
    try:
        return [line.strip() for line in file.read_bytes().splitlines() if line.strip()]
    except OSError:
        return []
