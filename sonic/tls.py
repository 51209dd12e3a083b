"""TLS as callers and agents use it: whom they trust, and what it means when no line comes about.

Nothing here needs more than gRPC and the standard library, so that the client stays small.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import grpc
import platformdirs

from sonic.addresses import host_of

PROBE_TIMEOUT_S = 3.0
_VERIFICATION = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed", "Peer name")


def own_authority() -> Path:
    """Where the hub that this user runs on this machine keeps its authority's certificate, unless told otherwise."""
    return Path(platformdirs.user_data_dir("sonic-fleet")) / "hub" / "authority" / "authority.pem"


def credentials(insecure: bool, ca_file: Path | None) -> grpc.ChannelCredentials | None:
    """What a caller's channel is opened with; None means plain text.

    Trusted are the certificates in `ca_file`, else the authority of this user's own hub on this machine, else those
    that gRPC trusts. Raises OSError.
    """
    if insecure:
        return None
    own = own_authority()
    chosen = ca_file or (own if own.exists() else None)
    return grpc.ssl_channel_credentials(chosen.read_bytes() if chosen else None)


async def trouble(details: str, address: str, insecure: bool) -> str:
    """What is set wrongly when a call to `address` fails with these details; empty when that is not the reason."""
    if insecure:
        if not await asyncio.to_thread(speaks_tls, address):
            return ""
        return (
            f"the hub at {address} speaks TLS, and insecure is set here; leave --insecure out, and name the "
            "certificate of the hub's authority by ca_file if this machine does not trust it"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return (
            f"what answers at {address} speaks no TLS; is it the right port? A hub that was started with --insecure "
            "is called with --insecure, from its own machine"
        )
    if not any(sign in details for sign in _VERIFICATION):
        return ""
    if "expired" in details or "not yet valid" in details:
        return f"the certificate of the hub at {address} is not valid now by this machine's clock; is the clock right?"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            f"the certificate of the hub at {address} is of an authority that is not trusted here; set ca_file to "
            "the authority.pem of this hub (data_dir/authority/authority.pem there)"
        )
    return (
        f"the certificate of the hub at {address} is for other names than {host_of(address)!r}; add it to the hub's "
        "names, or call the hub by a name that it has"
    )


def speaks_tls(address: str) -> bool:
    """Whether a TLS server answers there; nothing is verified, and nothing is said to it."""
    with contextlib.suppress(OSError, ValueError):
        fetch_chain(address, PROBE_TIMEOUT_S)
        return True
    return False


def fetch_chain(address: str, timeout_s: float, name: str = "") -> list[bytes]:
    """The certificates (DER) that the server at `address` shows, its own first. Nothing of them is verified.

    `name` is asked for if it is another than that of the address.

    Raises OSError: nobody answers, or not with TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = host_of(address), int(address.rpartition(":")[2])
    with (
        socket.create_connection((host, port), timeout=timeout_s) as line,
        context.wrap_socket(line, server_hostname=name or host) as secured,
    ):
        if hasattr(secured, "get_unverified_chain"):  # from Python 3.13 on
            return list(secured.get_unverified_chain())
        shown = secured._sslobj.get_unverified_chain() or []  # type: ignore[attr-defined]
        return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in shown]
