"""A real OIDC issuer on loopback: discovery, keys with their private halves, and tokens for client credentials."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "sonic-fleet"
CLIENT, SECRET = "prometheus", "correct horse battery staple"


class Issuer:
    """What it publishes, and the tokens that it hands out."""

    def __init__(self) -> None:
        self.url = ""
        self.private: dict[str, tuple[Any, str]] = {}
        self.published: list[dict[str, Any]] = []
        self.fetched = 0
        self.given = 0  # tokens, by its endpoint
        self.answer: web.Response | None = None  # instead of the keys
        self.says_it_is = ""

    def add(self, kid: str, kind: str = "RS256", **about: Any) -> None:
        if kind.startswith(("RS", "PS")):
            key: Any = rsa.generate_private_key(public_exponent=65537, key_size=about.pop("bits", 2048))
            jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        elif kind == "EdDSA":
            key = ed25519.Ed25519PrivateKey.generate()
            jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            curve = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}[kind]
            key = ec.generate_private_key(curve)
            jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.private[kid] = (key, kind)
        self.published.append(dict(jwk) | {"kid": kid, "use": "sig"} | about)

    def token(self, kid: str = "one", headers: dict[str, Any] | None = None, alg: str = "", **claims: Any) -> str:
        """A good one, but for what is said otherwise; a claim that is None is left out."""
        key, own = self.private[kid]
        now = time.time()
        said = {"iss": self.url, "aud": AUDIENCE, "sub": "someone", "iat": now, "exp": now + 300, "tenant": "acme"}
        kept = {name: value for name, value in (said | claims).items() if value is not None}
        return jwt.encode(kept, key, algorithm=alg or own, headers={"kid": kid} | (headers or {}))

    def public_pem(self, kid: str) -> bytes:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return bytes(self.private[kid][0].public_key().public_bytes(serialization.Encoding.PEM, form))

    async def discovery(self, _request: web.Request) -> web.Response:
        return web.json_response({"issuer": self.says_it_is or self.url, "jwks_uri": f"{self.url}/keys"})

    async def keys(self, _request: web.Request) -> web.Response:
        self.fetched += 1
        return self.answer or web.Response(text=json.dumps({"keys": self.published}), content_type="application/json")

    async def tokens(self, request: web.Request) -> web.Response:
        """RFC 6749, 4.4."""
        form = await request.post()
        shown = request.headers.get("Authorization", "").removeprefix("Basic ")
        known = base64.b64encode(f"{CLIENT}:{SECRET.replace(' ', '+')}".encode()).decode()
        if form.get("grant_type") != "client_credentials" or shown != known:
            return web.json_response({"error": "invalid_client"}, status=401)
        self.given += 1
        token = self.token(aud=str(form.get("audience", "")), sub=CLIENT)
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": 60})


@asynccontextmanager
async def running() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", issuer.discovery)
    app.router.add_get("/keys", issuer.keys)
    app.router.add_post("/token", issuer.tokens)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield issuer
    finally:
        await runner.cleanup()
