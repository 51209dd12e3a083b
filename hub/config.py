"""What an operator may set of a hub."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from sonic.http_access import HttpAccess

MIB = 1 << 20
_SIZES = ("max_artifact_bytes", "max_calls_per_s", "max_open_calls")


class InvalidConfig(ValueError):
    """A setting of the hub cannot be used."""


def _data_dir() -> Path:
    return Path(platformdirs.user_data_dir("sonic-fleet")) / "hub"


@dataclass(frozen=True)
class HubConfig:
    """Settings of one hub; addresses are host:port, port 0 takes a free one. Raises InvalidConfig."""

    hub_id: str = field(default_factory=socket.gethostname)  # this hub among others; a label on its metrics
    listen: str = "127.0.0.1:50051"  # gRPC, for callers and agents
    http_listen: str = "127.0.0.1:8090"  # /healthz, /readyz, /metrics
    http_tls_certificate_file: Path | None = None  # serve HTTPS there, with this certificate and those above it
    http_tls_key_file: Path | None = None  # and its key; both are read again when they change
    metrics_token_file: Path | None = None  # bearer tokens for /metrics, one a line; read again when it changes
    metrics_oidc_issuer: str = ""  # or whoever has an access token of this issuer
    metrics_oidc_audience: str = ""  # that is made out to this audience
    data_dir: Path = field(default_factory=_data_dir)  # a folder for this hub alone
    database_url: str = ""  # a database URL of SQLAlchemy; SQLite in data_dir when empty
    artifacts_url: str = ""  # file:// or s3://; a folder in data_dir when empty
    insecure: bool = False  # listen beyond loopback without credentials
    heartbeat_interval_s: float = 5.0  # how often agents report their health
    lease_s: float = 30.0  # an attempt that was not renewed for so long goes to another node
    max_tries: int = 3  # how often a job is tried when faults are not the caller's
    max_queued_jobs: int = 100_000  # the most that one tenant may have waiting, unless tenants_file says otherwise
    tenants_file: Path | None = None  # weights and limits of tenants, TOML; read again when it changes
    max_artifact_bytes: int = 512 * MIB  # the largest portrait, voice or video
    max_calls_per_s: float = 200.0  # the most that one caller may make; ten seconds' worth may come at once
    max_open_calls: int = 1000  # the most that one caller may have open at a time, sessions and watches among them

    def __post_init__(self) -> None:
        for name in ("listen", "http_listen"):
            self._check_address(name, getattr(self, name))
        for name in ("heartbeat_interval_s", "lease_s", "max_tries", "max_queued_jobs", *_SIZES):
            if getattr(self, name) <= 0:
                raise InvalidConfig(f"{name} is {getattr(self, name)}; a value above 0 is wanted")
        if problem := self.http_access.problem:
            raise InvalidConfig(problem)
        if self.lease_s < 2 * self.heartbeat_interval_s:
            raise InvalidConfig(
                f"lease_s is {self.lease_s:g}, less than two heartbeats of {self.heartbeat_interval_s:g} s; raise it"
            )

    def _check_address(self, name: str, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not host or not re.fullmatch(r"\d{1,5}", port) or int(port) > 65535:
            raise InvalidConfig(f"{name} is {address!r}; host:port is wanted, for example 127.0.0.1:50051")
        if not self.insecure and not is_loopback(host.strip("[]")):
            raise InvalidConfig(
                f"{name} is {address!r}, which other machines can reach, and callers are not authenticated yet; "
                "listen on 127.0.0.1, or pass --insecure inside a network that you trust"
            )

    @property
    def http_access(self) -> HttpAccess:
        """Who may read what is served by HTTP."""
        return HttpAccess(
            self.http_tls_certificate_file,
            self.http_tls_key_file,
            self.metrics_token_file,
            self.metrics_oidc_issuer,
            self.metrics_oidc_audience,
        )

    @property
    def link_valid_s(self) -> float:
        """How long an agent can use a link to a file; the first try and the second fit into it."""
        return max(2 * self.lease_s, 600.0)

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'hub.db'}"


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine is behind a name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
