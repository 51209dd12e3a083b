"""Who may make which call: every RPC and every HTTP route. What is not declared here is denied to everybody.

docs/access.md has these tables, generated from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from hub.core.roles import Role


class Whom(StrEnum):
    """What a call must bring."""

    ANYONE = "anyone"  # nothing, or what the call itself checks
    AGENT = "agent"  # the certificate of a node
    CALLER = "caller"  # an API key or an access token


@dataclass(frozen=True)
class Rule:
    """Who may make a call."""

    whom: Whom
    roles: frozenset[Role] = frozenset()  # of a caller
    for_tenant: bool = False  # about the rows of one tenant: the caller's own, or the one that an operator names
    audited: tuple[str, ...] | None = None  # kept in the audit log, with these fields of the request; None: not kept


ANYONE = Rule(Whom.ANYONE)
AGENTS = Rule(Whom.AGENT)
_T, _O, _R = Role.TENANT, Role.OPERATOR, Role.READER


def _callers(*roles: Role) -> Rule:
    return Rule(Whom.CALLER, frozenset(roles))


def _tenants(*roles: Role) -> Rule:
    return Rule(Whom.CALLER, frozenset(roles), for_tenant=True)


def _operators(*fields: str) -> Rule:
    return Rule(Whom.CALLER, frozenset({_O}), audited=fields)


RPCS: Mapping[str, Mapping[str, Rule]] = {
    "sonic.v1.JobService": {
        "GetArtifact": _tenants(_T, _O, _R),
        "UploadArtifact": _tenants(_T, _O),
        "DownloadArtifact": _tenants(_T),
        "SubmitJob": _tenants(_T, _O),
        "SubmitBatch": _tenants(_T, _O),
        "GetJob": _tenants(_T, _O, _R),
        "ListJobs": _tenants(_T, _O, _R),
        "ExplainJob": _tenants(_T, _O, _R),
        "CancelJob": _tenants(_T, _O),
        "WatchJob": _tenants(_T, _O, _R),
        "RunJobs": _tenants(_T, _O),
    },
    "sonic.v1.AdminService": {
        "ListNodes": _callers(_O, _R),
        "GetNode": _callers(_O, _R),
        "ExplainNode": _callers(_O, _R),
        "ListAllJobs": _callers(_O, _R),
        "DrainNode": _operators("node_id"),
        "ResumeNode": _operators("node_id"),
        "PlayFault": _operators("node_id"),
        "ListJoinTokens": _callers(_O, _R),
        "CreateJoinToken": _operators("region", "node_id"),
        "RevokeJoinToken": _operators("token_id"),
        "RevokeNode": _operators("node_id", "undo"),
    },
    "sonic.v1.EnrolmentService": {"Enrol": ANYONE},  # the join token in it is looked at there
    "sonic.v1.AccessService": {
        "ListTenants": _callers(_O, _R),
        "ListKeys": _callers(_O, _R),
        "CreateTenant": _operators("tenant"),
        "RotateKeys": _operators("tenant"),
        "SuspendTenant": _operators("tenant"),
        "ResumeTenant": _operators("tenant"),
        "CreateKey": _operators("holder", "tenant"),
        "RevokeKey": _operators("key_id"),
    },
    "sonic.v1.FleetService": {
        "Session": AGENTS,
        "FetchInput": AGENTS,
        "GetVideo": AGENTS,
        "PlaceVideo": AGENTS,
        "UploadVideo": AGENTS,
        "RenewCertificate": AGENTS,
    },
    "grpc.health.v1.Health": {"Check": ANYONE, "List": ANYONE, "Watch": ANYONE},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _callers(_T, _O, _R)},
}
"""By service and method."""

ROUTES: Mapping[tuple[str, str], Whom] = {
    ("GET", "/healthz"): Whom.ANYONE,
    ("GET", "/readyz"): Whom.ANYONE,
    ("GET", "/metrics"): Whom.CALLER,
}
"""HTTP routes by verb and path; HEAD goes with GET. CALLER: whoever has the token for metrics, where one is set."""

_BY_PATH = {f"/{service}/{name}": rule for service, methods in RPCS.items() for name, rule in methods.items()}


def rule_of(method: str) -> Rule | None:
    """The rule for an RPC by its path, /package.Service/Method; None for one that nobody has declared."""
    return _BY_PATH.get(method)
