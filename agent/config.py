"""What an operator may set of an agent."""

from __future__ import annotations

import re
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from agent.core.terms import Terms
from sonic.addresses import addresses, is_loopback
from sonic.http_access import HttpAccess

MIB, GIB = 1 << 20, 1 << 30
CALLERS_PORT, AGENTS_PORT = 50051, 50052  # of a hub, unless it is told otherwise
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class InvalidConfig(ValueError):
    """A setting of the agent cannot be used."""


def _data_dir() -> Path:
    return Path(platformdirs.user_data_dir("sonic-fleet")) / "agent"


@dataclass(frozen=True)
class AgentConfig:
    """Settings of one agent; addresses are host:port. Raises InvalidConfig."""

    hub: str = ""  # the hub's agent_listen address; several hubs separated by commas; this machine's when empty
    enrol_at: str = ""  # the hub's listen address, where a box enrols; several with commas; this machine's when empty
    join_token_file: Path | None = None  # what `sonic hub token create` has printed; needed until the box is enrolled
    node_id: str = field(default_factory=socket.gethostname)  # this box in the fleet; the host name unless given
    region: str = "local"  # where the box is; a label on all that it reports
    data_dir: Path = field(default_factory=_data_dir)  # a folder for this agent alone
    engine: str = "warp"  # what its workers render with
    slots: int = 1  # renders at a time, each in a worker process of its own, spread over the GPUs
    http_listen: str = "127.0.0.1:8091"  # /healthz, /readyz, /metrics; port 0 takes a free one
    http_tls_certificate_file: Path | None = None  # serve HTTPS there, with this certificate and those above it
    http_tls_key_file: Path | None = None  # and its key; both are read again when they change
    metrics_token_file: Path | None = None  # bearer tokens for /metrics, one a line; read again when it changes
    metrics_oidc_issuer: str = ""  # or whoever has an access token of this issuer
    metrics_oidc_audience: str = ""  # that is made out to this audience
    insecure: bool = False  # no TLS and no credentials, for a hub on this machine that was started so
    keep_inputs_s: float = 0.0  # portraits and voices stay so long after their last job; 0: they go with it
    cache_max_bytes: int = 10 * GIB  # room for portraits and voices
    load_timeout_s: float = 300.0  # time for a worker to load its engine
    probe_timeout_s: float = 120.0  # time for it to render the probe clip
    silence_timeout_s: float = 30.0  # a worker without a sign of life for so long is killed
    stall_timeout_s: float = 60.0  # a render without progress for so long is killed
    cancel_grace_s: float = 5.0  # time for a cancelled worker to stop before it is killed
    drain_timeout_s: float = 300.0  # time for what runs when the agent is told to stop; then it is handed back
    flush_timeout_s: float = 10.0  # time to report results while stopping without a hub
    metric_spool_max_bytes: int = 64 * MIB  # room for samples that the hub has not taken
    metric_spool_max_age_s: float = 86_400.0  # samples older than this are given up
    plays_faults: bool = False  # whether operators may let it suffer faults on game days
    simulate: int = 0  # be so many simulated nodes, whose videos are placeholders; region may be a list then
    worker_command: tuple[str, ...] = (sys.executable, "-m", "sonic_runtime.worker")  # program and arguments

    def __post_init__(self) -> None:
        self._check_name("node_id", f"{self.node_id}-{self.simulate:04d}" if self.simulate else self.node_id)
        for region in self.regions:
            self._check_name("region", region)
        for name in ("hub", "enrol_at"):
            for address in addresses(getattr(self, name)) if getattr(self, name) else ():
                self._check_address(name, address)
        self._check_address("http_listen", self.http_listen)
        for name in ("slots", "cache_max_bytes", "load_timeout_s", "probe_timeout_s", "silence_timeout_s"):
            self._check_at_least(name, above=True)
        for name in ("stall_timeout_s", "metric_spool_max_bytes", "metric_spool_max_age_s"):
            self._check_at_least(name, above=True)
        for name in ("keep_inputs_s", "cancel_grace_s", "drain_timeout_s", "flush_timeout_s", "simulate"):
            self._check_at_least(name, above=False)
        if problem := self.http_access.problem(self.http_listen):
            raise InvalidConfig(problem)
        if not self.worker_command:
            raise InvalidConfig("worker_command is empty; give a program and its arguments")

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
    def hub_target(self) -> str:
        """Where sessions are opened."""
        return self.hub or f"127.0.0.1:{CALLERS_PORT if self.insecure else AGENTS_PORT}"

    @property
    def enrolment_target(self) -> str:
        """Where the box enrols."""
        return self.enrol_at or f"127.0.0.1:{CALLERS_PORT}"

    @property
    def regions(self) -> tuple[str, ...]:
        """One, unless it simulates."""
        return tuple(self.region.split(",")) if self.simulate else (self.region,)

    @property
    def terms(self) -> Terms:
        """What the decisions go by."""
        return Terms(
            slots=self.slots,
            plays_faults=self.plays_faults,
            load_timeout_s=self.load_timeout_s,
            probe_timeout_s=self.probe_timeout_s,
            silence_timeout_s=self.silence_timeout_s,
            stall_timeout_s=self.stall_timeout_s,
            cancel_grace_s=self.cancel_grace_s,
            drain_timeout_s=self.drain_timeout_s,
            flush_timeout_s=self.flush_timeout_s,
        )

    @staticmethod
    def _check_name(name: str, value: str) -> None:
        if not _NAME.fullmatch(value):
            rule = "use 1 to 63 letters, digits and ._- and begin with a letter or digit"
            raise InvalidConfig(f"{name} is {value!r}; {rule}")

    def _check_address(self, name: str, address: str) -> None:
        host, _, port = address.rpartition(":")
        lowest = 0 if name == "http_listen" else 1
        if not host or not re.fullmatch(r"\d{1,5}", port) or not lowest <= int(port) <= 65535:
            raise InvalidConfig(f"{name} is {address!r}; host:port is wanted, for example 127.0.0.1:50051")
        if self.insecure and not is_loopback(host):
            raise InvalidConfig(
                f"{name} is {address!r}, which is not this machine alone, and insecure is for nothing else; "
                "leave --insecure out, and enrol this box with a join token"
            )

    def _check_at_least(self, name: str, above: bool) -> None:
        value = getattr(self, name)
        if value < 0 or (above and value == 0):
            raise InvalidConfig(f"{name} is {value}; a value {'above 0' if above else 'of 0 or more'} is wanted")
