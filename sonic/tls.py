"""TLS as callers and agents use it: whom they trust, and what it means when no line comes about.

Nothing here needs more than gRPC and the standard library, so that the client stays small.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import platformdirs

from sonic.addresses import host_of
from sonic.join_tokens import HUB_NAME

PROBE_TIMEOUT_S = 3.0
_OTHER_NAME = ("Hostname Verification Check failed", "Peer name")
_VERIFICATION = ("CERTIFICATE_VERIFY_FAILED", *_OTHER_NAME)
_NO_GRPC = "Failed parsing HTTP/2"
_CUT = ("Socket closed", "Connection reset")
_NO_HUB = "it is no hub; is it the right port?"
_SETTINGS = b"\x04"  # the type of the frame with which HTTP/2 begins on either side
_HTTP2_BEGINS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)


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


async def trouble(details: str, address: str, insecure: bool, node: bool = False) -> str:
    """What is set wrongly when a call to `address` fails with these details; empty when that is not the reason.

    `node` says that the caller is one, and shows its certificate.
    """
    if insecure:
        if await asyncio.to_thread(speaks_tls, address):
            return (
                f"the hub at {address} speaks TLS, and insecure is set here; leave --insecure out, and name the "
                "certificate of the hub's authority by ca_file if this machine does not trust it"
            )
        return f"what answers at {address} speaks no gRPC: {_NO_HUB}" if _NO_GRPC in details else ""
    if "WRONG_VERSION_NUMBER" in details:
        return f"what answers at {address} {await asyncio.to_thread(spoken_without_tls, address)}"
    if "missing selected ALPN" in details or _NO_GRPC in details:
        return f"what answers at {address} speaks TLS and no gRPC: {_NO_HUB}"
    if any(sign in details for sign in _CUT) and not node and await asyncio.to_thread(_serves_agents, address):
        return (
            f"what answers at {address} wants the certificate of a node, as the port of a hub for agents does; callers "
            "and boxes that enrol use the other one, its listen address"
        )
    if not any(sign in details for sign in _VERIFICATION):
        return ""
    if "expired" in details or "not yet valid" in details:
        return f"the certificate of the hub at {address} is not valid now by this machine's clock; is the clock right?"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        said = f"what answers at {address} shows a certificate of an authority that is not trusted here"
        if node:
            return f"{said}; is it another server, or another hub?"
        return (
            f"{said}; set ca_file to the authority.pem of this hub (data_dir/authority/authority.pem there), or is it "
            "another server?"
        )
    return (
        f"the certificate of the hub at {address} is for other names than {host_of(address)!r}; add it to the hub's "
        "names, or call the hub by a name that it has"
    )


def is_of_another_name(details: str) -> bool:
    """Whether a call has failed since the certificate, of an authority that is trusted, is for other names."""
    return any(sign in details for sign in _OTHER_NAME)


def speaks_tls(address: str) -> bool:
    """Whether a TLS server answers there; nothing is verified, and nothing is said to it."""
    with contextlib.suppress(OSError, ValueError):
        fetch_chain(address, PROBE_TIMEOUT_S)
        return True
    return False


def spoken_without_tls(address: str) -> str:
    """What a server does that answers TLS with something else."""
    said = b""
    with contextlib.suppress(OSError), _connected(address, PROBE_TIMEOUT_S) as line:
        line.sendall(_HTTP2_BEGINS)
        said = line.recv(9)
    if said[3:4] == _SETTINGS:
        return "speaks gRPC without TLS, as a hub that was started with --insecure: it is called with --insecure."
    if said.startswith(b"HTTP/"):
        return f"speaks HTTP without TLS: {_NO_HUB}"
    return f"speaks neither TLS nor gRPC: {_NO_HUB}"


def _serves_agents(address: str) -> bool:
    """Whether it is the port of a hub for agents, by all signs: without a certificate it ends the line at once.

    The port for callers has a certificate for boxes that enrol, by which it is told from this one while it stops.
    """
    with contextlib.suppress(OSError), _secured(address, PROBE_TIMEOUT_S, HUB_NAME) as secured:
        shown = secured.getpeercert(binary_form=True) or b""
        return HUB_NAME.encode() not in shown and not secured.recv(1)
    return False


def fetch_chain(address: str, timeout_s: float, name: str = "") -> list[bytes]:
    """The certificates (DER) that the server at `address` shows, its own first. Nothing of them is verified.

    `name` is asked for if it is another than that of the address.

    Raises OSError: nobody answers, or not with TLS.
    """
    with _secured(address, timeout_s, name) as secured:
        if hasattr(secured, "get_unverified_chain"):  # from Python 3.13 on
            return list(secured.get_unverified_chain())
        shown = secured._sslobj.get_unverified_chain() or []  # type: ignore[attr-defined]
        return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in shown]


@contextlib.contextmanager
def _secured(address: str, timeout_s: float, name: str = "") -> Iterator[ssl.SSLSocket]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        _connected(address, timeout_s) as line,
        context.wrap_socket(line, server_hostname=name or host_of(address)) as secured,
    ):
        yield secured


def _connected(address: str, timeout_s: float) -> socket.socket:
    return socket.create_connection((host_of(address), int(address.rpartition(":")[2])), timeout=timeout_s)
