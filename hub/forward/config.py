"""What an operator may set of the way of the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hub.config import MIB, InvalidConfig
from hub.core.tenants import tenant_problem


@dataclass(frozen=True)
class ForwardConfig:
    """Where metrics go, and with which credentials; secrets are files, never values. Raises InvalidConfig."""

    url: str = ""  # remote-write address, {tenant} in it stands for the tenant; nothing is forwarded when empty
    tenant_header: str = "X-Scope-OrgID"  # the header that carries the tenant; none is sent when empty
    operator_tenant: str = "operator"  # whose the series of nodes and hubs are
    interval_s: float = 15.0  # how often nodes and hubs sample
    out_of_order_window_s: float = 0.0  # how late samples may come, as the receiver is set; 0: in order only
    max_clock_offset_s: float = 2.0  # samples of a clock that is further off are moved to the hub's time
    max_samples: int = 10_000  # the most in one request
    timeout_s: float = 30.0  # for one request
    spool_max_bytes: int = 512 * MIB  # room on disk for each tenant
    spool_max_age_s: float = 86_400.0  # samples older than this are given up
    username: str = ""  # for basic authentication
    password_file: Path | None = None  # its password
    bearer_token_file: Path | None = None  # a token for every request; read again when it changes
    oauth2_token_url: str = ""  # where tokens are had for client credentials
    oauth2_client_id: str = ""  # who asks for them
    oauth2_client_secret_file: Path | None = None  # with which secret
    oauth2_scopes: tuple[str, ...] = ()  # for what
    ca_file: Path | None = None  # the authorities that a receiver is checked against; the system's when not given
    cert_file: Path | None = None  # a certificate to show
    key_file: Path | None = None  # and its key

    def __post_init__(self) -> None:
        self._check_url("url")
        self._check_url("oauth2_token_url")
        if problem := tenant_problem(self.operator_tenant):
            raise InvalidConfig(f"operator_tenant {problem}")
        for name in (
            "interval_s",
            "max_clock_offset_s",
            "max_samples",
            "timeout_s",
            "spool_max_bytes",
            "spool_max_age_s",
        ):
            if getattr(self, name) <= 0:
                raise InvalidConfig(f"{name} is {getattr(self, name)}; a value above 0 is wanted")
        if self.out_of_order_window_s < 0:
            raise InvalidConfig(f"out_of_order_window_s is {self.out_of_order_window_s:g}; 0 or more is wanted")
        self._check_credentials()

    def _check_url(self, name: str) -> None:
        url = getattr(self, name)
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname):
            example = "http://127.0.0.1:9009/api/v1/push"
            raise InvalidConfig(f"{name} is {url!r}; an http or https address is wanted, for example {example}")
        if parts.username or parts.password:
            raise InvalidConfig(f"{name} holds credentials; use username and password_file")

    def _check_credentials(self) -> None:
        for name in ("password_file", "bearer_token_file", "oauth2_client_secret_file", "ca_file", "cert_file"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise InvalidConfig(f"{name} is {str(path)!r}, which is not a file")
        ways = [name for name in ("username", "bearer_token_file", "oauth2_token_url") if getattr(self, name)]
        if len(ways) > 1:
            raise InvalidConfig(f"{' and '.join(ways)} are set; a request can be authenticated in one way only")
        for name, needed in (
            ("username", ("password_file",)),
            ("oauth2_token_url", ("oauth2_client_id", "oauth2_client_secret_file")),
            ("cert_file", ("key_file",)),
        ):
            for other in needed:
                if getattr(self, name) and not getattr(self, other):
                    raise InvalidConfig(f"{name} is set and {other} is not; set both")
