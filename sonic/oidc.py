"""Access tokens of an OAuth2/OIDC issuer (JWT): checked here, against the keys that it publishes.

The issuer is trusted with who its users are and with nothing else: what it sends is bounded in size and time, and no
caller can make us ask it more than once in `REFETCH_S`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import jwt
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from sonic.addresses import is_safe_url

MAX_TOKEN_CHARACTERS = 6144  # a call takes no more metadata than 8 KiB
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_KEYS = 100
MAX_KEY_ID_CHARACTERS = 256
MIN_RSA_BITS = 2048
FETCH_TIMEOUT_S = 5.0
FRESH_S = 300.0  # so old may the keys be before they are fetched again
REFETCH_S = 30.0  # the least between two fetches, whatever is asked for
STALE_S = 3600.0  # so long the keys go on when the issuer does not answer
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_log = logging.getLogger(__name__)


class TokenRefused(Exception):
    """The token is none that this issuer vouches for, or not for us, or not now."""


class IssuerUnreachable(Exception):
    """The issuer has not said which keys are its own."""


@dataclass(frozen=True)
class Expected:
    """What a token must say."""

    issuer: str
    audience: str
    leeway_s: float = 30.0  # by how much clocks may differ


@dataclass(frozen=True)
class _Key:
    key: Any
    algorithms: tuple[str, ...]


class Issuer:
    """Checks tokens. One instance for a process; it asks the issuer when the first token comes."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._keys: Mapping[str, _Key] = {}
        self._fetched_s = self._tried_s = -float("inf")
        self._fetching = asyncio.Lock()

    async def claims(self, token: str) -> dict[str, Any]:
        """What a good token says. Raises TokenRefused, whose text may be shown; IssuerUnreachable."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenRefused(f"it has {len(token)} characters; {MAX_TOKEN_CHARACTERS} is the limit")
        key_id, algorithm = _header(token)
        key = await self._key(key_id)
        if algorithm not in key.algorithms:
            raise TokenRefused(f"its alg is {algorithm[:16]!r}, which does not go with the key that it names")
        expected = self._expected
        try:
            return dict(
                jwt.decode(
                    token,
                    key.key,
                    algorithms=[algorithm],
                    audience=expected.audience,
                    issuer=expected.issuer,
                    leeway=expected.leeway_s,
                    options={"require": ["exp", "iss", "aud", "sub"]},
                )
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenRefused(_why(error)) from None

    async def _key(self, key_id: str) -> _Key:
        age_s = time.monotonic() - self._fetched_s
        if key_id not in self._keys or age_s > FRESH_S:
            await self._refresh(key_id)
        if time.monotonic() - self._fetched_s > STALE_S:
            raise IssuerUnreachable(f"the issuer {self._expected.issuer} has not answered for a long time")
        if key_id not in self._keys:
            raise TokenRefused(f"its kid is {key_id[:32]!r}, which is no key of {self._expected.issuer}")
        return self._keys[key_id]

    async def _refresh(self, key_id: str) -> None:
        """Fetch the keys again, unless that was done or tried a moment ago."""
        async with self._fetching:
            now = time.monotonic()
            if (key_id in self._keys and now - self._fetched_s <= FRESH_S) or now - self._tried_s < REFETCH_S:
                return
            self._tried_s = now
            try:
                self._keys = await fetch_keys(self._expected.issuer)
                self._fetched_s = time.monotonic()
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                _log.warning(
                    "the keys of the issuer cannot be fetched", extra={"error": f"{error or type(error)}"[:300]}
                )


async def fetch_keys(issuer: str) -> Mapping[str, _Key]:
    """The keys with which an issuer signs, by id. Raises aiohttp.ClientError, TimeoutError, ValueError."""
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
        about = await _document(session, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if about.get("issuer") != issuer:
            raise ValueError(f"its discovery says that it is {str(about.get('issuer'))[:100]!r}, not {issuer!r}")
        where = about.get("jwks_uri")
        if not isinstance(where, str) or not is_safe_url(where):
            raise ValueError(f"its jwks_uri is {str(where)[:100]!r}; an https URL is wanted")
        found = (await _document(session, where)).get("keys")
    if not isinstance(found, list):
        raise ValueError("its jwks_uri has no list of keys")
    keys = {jwk["kid"]: key for jwk in found[:MAX_KEYS] if (key := _usable(jwk))}
    if not keys:
        raise ValueError("none of its keys can be used; RSA of 2048 bits or more, EC and Ed25519 keys with a kid can")
    return keys


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a path with dots such as realm_access.roles; None when it is not there."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _header(token: str) -> tuple[str, str]:
    """The kid and the alg that a token claims for itself."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise TokenRefused("it is no JWT") from None
    key_id, algorithm, kind = header.get("kid"), header.get("alg"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or not isinstance(key_id, str) or not 1 <= len(key_id) <= MAX_KEY_ID_CHARACTERS:
        raise TokenRefused("its header names no key (kid) and algorithm (alg)")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in ("jwt", "at+jwt"):
        raise TokenRefused(f"its typ is {str(kind)[:32]!r}; an access token is wanted")
    return key_id, algorithm


async def _document(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as response:
        if response.status != 200:
            raise ValueError(f"{url} answers {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"{url} sends more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        found = json.loads(bytes(body))
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{url} sends no JSON object")
    return found


def _usable(jwk: Any) -> _Key | None:
    """A key that can check signatures, and with which algorithms; none with a shared secret."""
    try:
        if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
            return None
        if not isinstance(jwk.get("kid"), str) or "verify" not in jwk.get("key_ops", ["verify"]):
            return None
        key, algorithms = _read(jwk)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    said = jwk.get("alg")
    algorithms = tuple(name for name in algorithms if said in (None, name))
    return _Key(key, algorithms) if algorithms else None


def _read(jwk: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    public = {name: value for name, value in jwk.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
    match jwk.get("kty"):
        case "RSA":
            key: Any = RSAAlgorithm.from_jwk(public)
            return key, _RSA if key.key_size >= MIN_RSA_BITS else ()
        case "EC":
            return ECAlgorithm.from_jwk(public), (_CURVES[public["crv"]],)
        case "OKP" if jwk.get("crv") == "Ed25519":
            return OKPAlgorithm.from_jwk(public), ("EdDSA",)
    return None, ()


def _why(error: Exception) -> str:
    said: dict[type[Exception], str] = {
        jwt.ExpiredSignatureError: "it has expired",
        jwt.ImmatureSignatureError: "it is not valid yet",
        jwt.InvalidAudienceError: "it is for another audience",
        jwt.InvalidIssuerError: "it is of another issuer",
        jwt.InvalidSignatureError: "its signature is not that of its key",
    }
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it has no {error.claim}"
    return said.get(type(error), "it is no good JWT")
