"""What an operator may set of a hub."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from sonic.addresses import host_of, is_loopback, is_safe_url
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
    listen: str = "127.0.0.1:50051"  # gRPC over TLS, for callers and for boxes that enrol
    agent_listen: str = "127.0.0.1:50052"  # gRPC over mutual TLS, for agents that are enrolled
    http_listen: str = "127.0.0.1:8090"  # /healthz, /readyz, /metrics
    http_tls_certificate_file: Path | None = None  # serve HTTPS there, with this certificate and those above it
    http_tls_key_file: Path | None = None  # and its key; both are read again when they change
    metrics_token_file: Path | None = None  # bearer tokens for /metrics, one a line; read again when it changes
    metrics_oidc_issuer: str = ""  # or whoever has an access token of this issuer
    metrics_oidc_audience: str = ""  # that is made out to this audience
    data_dir: Path = field(default_factory=_data_dir)  # a folder for this hub alone
    database_url: str = ""  # a database URL of SQLAlchemy; SQLite in data_dir when empty
    artifacts_url: str = ""  # file:// or s3://; a folder in data_dir when empty
    insecure: bool = False  # no TLS and no credentials, for this machine alone; agents come to listen then
    names: tuple[str, ...] = ()  # more DNS names and addresses of this hub, for its certificate
    authority_dir: Path | None = (
        None  # authority.key and authority.pem; several hubs share it; in data_dir unless given
    )
    tls_certificate_file: Path | None = None  # for listen, PEM with its chain, instead of one by the hub's authority
    tls_key_file: Path | None = None  # its key
    certificate_valid_s: float = 7 * 86_400.0  # life of certificates of hubs and nodes; renewed at two thirds of it
    heartbeat_interval_s: float = 5.0  # how often agents report their health
    lease_s: float = 30.0  # an attempt that was not renewed for so long goes to another node
    max_tries: int = 3  # how often a job is tried when faults are not the caller's
    max_queued_jobs: int = 100_000  # the most that one tenant may have waiting, unless tenants_file says otherwise
    tenants_file: Path | None = None  # weights and limits of tenants, TOML; read again when it changes
    max_artifact_bytes: int = 512 * MIB  # the largest portrait, voice or video
    oidc_issuer: str = ""  # whose access tokens are taken beside API keys, as its discovery says it; none when empty
    oidc_audience: str = ""  # what an access token must be for
    oidc_tenant_claim: str = "tenant"  # where an access token names the tenant; a path may have dots
    oidc_role_claim: str = "roles"  # where it names the role: tenant, operator or reader; a name or a list
    oidc_leeway_s: float = 30.0  # by how much the issuer's clock may differ
    max_calls_per_s: float = 200.0  # the most that one caller may make; ten seconds' worth may come at once
    max_open_calls: int = 1000  # the most that one caller may have open at a time, sessions and watches among them

    def __post_init__(self) -> None:
        for name in ("listen", "agent_listen", "http_listen"):
            self._check_address(name, getattr(self, name))
        for name in ("heartbeat_interval_s", "lease_s", "max_tries", "max_queued_jobs", "certificate_valid_s", *_SIZES):
            if getattr(self, name) <= 0:
                raise InvalidConfig(f"{name} is {getattr(self, name)}; a value above 0 is wanted")
        self._check_oidc()
        self._check_artifacts_url()
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise InvalidConfig("tls_certificate_file and tls_key_file belong together; give both or none")
        if problem := self.http_access.problem(self.http_listen):
            raise InvalidConfig(problem)
        if self.lease_s < 2 * self.heartbeat_interval_s:
            raise InvalidConfig(
                f"lease_s is {self.lease_s:g}, less than two heartbeats of {self.heartbeat_interval_s:g} s; raise it"
            )

    def _check_oidc(self) -> None:
        if self.oidc_issuer and not is_safe_url(self.oidc_issuer):
            raise InvalidConfig(f"oidc_issuer is {self.oidc_issuer!r}; a URL that begins with https:// is wanted")
        if self.oidc_issuer and not self.oidc_audience:
            raise InvalidConfig("oidc_audience is empty; say what access tokens must be for, or leave oidc_issuer out")
        if not 0 <= self.oidc_leeway_s <= 300:
            raise InvalidConfig(f"oidc_leeway_s is {self.oidc_leeway_s:g}; 0 to 300 seconds are wanted")

    def _check_artifacts_url(self) -> None:
        if re.match(r"s3://([^/]*[@:]|.*\?)", self.artifacts_url):  # a secret may have a slash
            raise InvalidConfig(
                "artifacts_url has more in it than s3://BUCKET/FOLDER; credentials come from the environment "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or from the machine, and never from the URL"
            )

    def _check_address(self, name: str, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not host or not re.fullmatch(r"\d{1,5}", port) or int(port) > 65535:
            raise InvalidConfig(f"{name} is {address!r}; host:port is wanted, for example 127.0.0.1:50051")
        if self.insecure and not is_loopback(host):
            raise InvalidConfig(
                f"{name} is {address!r}, which other machines can reach, and insecure is for this machine alone; "
                "leave --insecure out, or listen on 127.0.0.1"
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
    def resolved_authority_dir(self) -> Path:
        return self.authority_dir or self.data_dir / "authority"

    @property
    def server_names(self) -> tuple[str, ...]:
        """What the hub's own certificate is for: what was set, and by what this machine can be called anyway."""
        listening = [host_of(address) for address in (self.listen, self.agent_listen)]
        own = (self.names[0] if self.names else socket.gethostname(), socket.gethostname(), "localhost")
        found = [*own, *self.names, *listening, "127.0.0.1", "::1"]
        return tuple(dict.fromkeys(name for name in found if name not in ("0.0.0.0", "::")))  # noqa: S104 - not bound

    @property
    def link_valid_s(self) -> float:
        """How long an agent can use a link to a file; the first try and the second fit into it."""
        return max(2 * self.lease_s, 600.0)

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'hub.db'}"
