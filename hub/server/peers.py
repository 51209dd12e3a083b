"""Who is at the other end of a connection: the nodes that its certificate names, and an address."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote

from hub import exceptions
from hub.server.callers import Context
from hub.trust.authority import JOINED, NodeName


def check_node(context: Context, node_id: str, region: str | None = None) -> None:
    """Raises NotAllowed: the certificate of the connection is of another node, or of another region.

    Connections without TLS, which an insecure hub alone takes, speak for whom they say.
    """
    names = names_of(context)
    if names is None:
        return
    if not any(name.node_id == node_id and region in (None, name.region) for name in names):
        own = ", ".join(f"{name.node_id} in {name.region}" for name in sorted(names)[:3]) or "no node"
        claimed = repr(node_id[:64]) + (f" in {region[:64]!r}" if region is not None else "")
        raise exceptions.NotAllowed(f"node {claimed} is claimed, and the certificate is of {own}")


def joined_of(context: Context) -> str:
    """Which enrolment the certificate of a connection goes back to; empty when it names none."""
    found = [uri.removeprefix(JOINED) for uri in _uris(context) if uri.startswith(JOINED)]
    return found[0] if found else ""


def names_of(context: Context) -> frozenset[NodeName] | None:
    """The nodes that the certificate of a connection names; None for a connection without TLS."""
    about = context.auth_context()
    if "transport_security_type" not in about or about["transport_security_type"] == [b"insecure"]:
        return None
    return frozenset(name for uri in _uris(context) if (name := NodeName.of_uri(uri)))


def address_of(context: Context) -> str:
    """Where a call comes from: an address, or the network that a line to the internet is given, in IPv6."""
    kind, _, rest = unquote(context.peer()).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host


def _uris(context: Context) -> list[str]:
    return [name.decode("utf-8", "replace") for name in context.auth_context().get("x509_subject_alternative_name", ())]
