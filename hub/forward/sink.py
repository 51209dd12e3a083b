"""The receiver of remote write, and how requests to it are authenticated."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import aiohttp

from hub.config import InvalidConfig
from hub.forward.answers import Answer
from hub.forward.config import ForwardConfig

_CONTENT_TYPES = {
    1: ("application/x-protobuf", "0.1.0"),
    2: ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
}
_WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"
_MAX_TEXT = 2000  # characters of an answer that are looked at
_TOKEN_MARGIN_S = 30.0
_LONGEST_TOKEN_S = 86_400.0
_MAX_GRANT_BYTES = 64 << 10


class NoToken(Exception):
    """A token for the receiver could not be had."""


class Sink:
    """Posts requests and reports the answers."""

    def __init__(self, config: ForwardConfig, http: aiohttp.ClientSession) -> None:
        self._config = config
        self._http = http
        self._tokens = Tokens(config, http)

    async def post(self, tenant: str, body: bytes, remote_write_version: int, attempt: int) -> Answer:
        """One request for a tenant; `attempt` is 0 for the first. No answer is an Answer too.

        A token that was granted to us and is refused is replaced at once.
        """
        answer = await self._post(tenant, body, remote_write_version, attempt)
        if answer.status == 401 and self._tokens.forget():
            answer = await self._post(tenant, body, remote_write_version, attempt)
        return answer

    async def _post(self, tenant: str, body: bytes, remote_write_version: int, attempt: int) -> Answer:
        config = self._config
        content_type, protocol = _CONTENT_TYPES[remote_write_version]
        headers = {
            "Content-Type": content_type,
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": protocol,
            **({config.tenant_header: tenant} if config.tenant_header else {}),
            **({"Retry-Attempt": str(attempt)} if attempt else {}),
        }
        try:
            headers |= await self._tokens.header()
            url = config.url.replace("{tenant}", tenant)
            async with self._http.post(url, data=body, headers=headers, allow_redirects=False) as response:
                text = (await response.content.read(_MAX_TEXT)).decode("utf-8", "replace")
                return Answer(response.status, text, _retry_after(response.headers), _WRITTEN in response.headers)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, NoToken) as error:  # a header that cannot be
            return Answer(0, str(error) or type(error).__name__)


@asynccontextmanager
async def open_sink(config: ForwardConfig) -> AsyncIterator[Sink]:
    """A sink with connections of its own. Raises InvalidConfig."""
    async with open_http(config) as http:
        yield Sink(config, http)


@asynccontextmanager
async def open_http(config: ForwardConfig) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections to the receiver. Raises InvalidConfig when a certificate cannot be used."""
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.cert_file:
            context.load_cert_chain(config.cert_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidConfig(f"ca_file, cert_file or key_file cannot be used: {error}") from error
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=0),
        timeout=aiohttp.ClientTimeout(total=config.timeout_s),
        headers={"User-Agent": f"sonic-fleet/{version('sonic-fleet')}"},
    ) as http:
        yield http


class Tokens:
    """The Authorization header. OAuth 2.0 client credentials: RFC 6749, section 4.4."""

    def __init__(self, config: ForwardConfig, http: aiohttp.ClientSession) -> None:
        self._config = config
        self._http = http
        self._token = ""
        self._expires_s = 0.0  # monotonic
        self._asking = asyncio.Lock()

    async def header(self) -> dict[str, str]:
        """Raises NoToken, OSError."""
        config = self._config
        if config.username and config.password_file:
            return _basic(config.username, config.password_file)
        if config.bearer_token_file:
            return {"Authorization": f"Bearer {_secret(config.bearer_token_file)}"}
        if config.oauth2_token_url:
            return {"Authorization": f"Bearer {await self._current()}"}
        return {}

    def forget(self) -> bool:
        """Ask for another token next time. False when tokens are not asked for."""
        self._expires_s = 0.0
        return bool(self._config.oauth2_token_url)

    async def _current(self) -> str:
        async with self._asking:
            if time.monotonic() >= self._expires_s:
                await self._ask()
            return self._token

    async def _ask(self) -> None:
        config = self._config
        assert config.oauth2_client_secret_file
        form = {"grant_type": "client_credentials"}
        if config.oauth2_scopes:
            form["scope"] = " ".join(config.oauth2_scopes)
        headers = _basic(config.oauth2_client_id, config.oauth2_client_secret_file)
        url = config.oauth2_token_url
        async with self._http.post(url, data=form, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise NoToken(f"the token endpoint answered {response.status}")
            said = bytearray()
            async for chunk in response.content.iter_any():
                said += chunk
                if len(said) > _MAX_GRANT_BYTES:
                    raise NoToken(f"the token endpoint's answer is longer than {_MAX_GRANT_BYTES} bytes")
        self._token, lasts_s = granted(bytes(said))
        self._expires_s = time.monotonic() + max(lasts_s - _TOKEN_MARGIN_S, lasts_s / 2)


def granted(answer: bytes) -> tuple[str, float]:
    """The token in the answer of a token endpoint, and for how many seconds it is good. Raises NoToken."""
    try:
        said = json.loads(answer)
        token, lasts_s = said["access_token"], float(said.get("expires_in", 300))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise NoToken("the token endpoint's answer holds no access_token") from error
    if not isinstance(token, str) or not token or not (token.isascii() and token.isprintable()):
        raise NoToken("the token endpoint's access_token is none that a header can carry")
    if not lasts_s > 0:
        raise NoToken(f"the token endpoint's expires_in is {lasts_s:g}")
    return token, min(lasts_s, _LONGEST_TOKEN_S)


def _basic(name: str, password_file: Path) -> dict[str, str]:
    """RFC 7617."""
    pair = f"{name}:{_secret(password_file)}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _secret(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date, which receivers of remote write do not send, counts as none."""
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None
