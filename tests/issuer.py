"""A small OAuth2/OIDC issuer on loopback: discovery, its keys, and tokens for client credentials (RFC 6749, 4.4)."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

CLIENT, SECRET = "prometheus", "correct horse battery staple"


@dataclass
class SmallIssuer:
    """Signs what it is asked to."""

    url: str = ""
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    given: int = 0  # tokens, by its endpoint

    def token(self, audience: str, **claims: Any) -> str:
        about = {"iss": self.url, "aud": audience, "sub": CLIENT, "iat": time.time(), "exp": time.time() + 60}
        return jwt.encode(about | claims, self.key, algorithm="RS256", headers={"kid": "k1"})

    async def discovery(self, _request: web.Request) -> web.Response:
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

    async def keys(self, _request: web.Request) -> web.Response:
        public = json.loads(RSAAlgorithm.to_jwk(self.key.public_key()))
        return web.json_response({"keys": [public | {"kid": "k1", "use": "sig", "alg": "RS256"}]})

    async def tokens(self, request: web.Request) -> web.Response:
        form = await request.post()
        shown = request.headers.get("Authorization", "").removeprefix("Basic ")
        known = base64.b64encode(f"{CLIENT}:{SECRET.replace(' ', '+')}".encode()).decode()
        if form.get("grant_type") != "client_credentials" or shown != known:
            return web.json_response({"error": "invalid_client"}, status=401)
        self.given += 1
        token = self.token(str(form.get("audience", "")))
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": 60})


@asynccontextmanager
async def issuing() -> AsyncIterator[SmallIssuer]:
    issuer = SmallIssuer()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", issuer.discovery)
    app.router.add_get("/keys", issuer.keys)
    app.router.add_post("/token", issuer.tokens)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield issuer
    finally:
        await runner.cleanup()
