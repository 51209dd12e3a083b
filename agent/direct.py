"""Files straight from and to the hub's store of files, by the links that the hub gives out.

A link is a secret: it is in no message and in no log. Whatever fails here is done through the hub.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from yarl import URL

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 18


class Failed(Exception):
    """The store of files did not do it; the message says why, without the link."""


async def get(link: str, offset_bytes: int) -> AsyncIterator[bytes]:
    """The bytes from an offset on. Raises Failed."""
    wanted, right = ({"Range": f"bytes={offset_bytes}-"}, 206) if offset_bytes else ({}, 200)
    try:
        async with _session() as http, http.get(_url(link), headers=wanted, allow_redirects=False) as response:
            if response.status != right:
                raise Failed(f"it answered {response.status}")
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                yield chunk
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Failed(type(error).__name__) from None


async def put(link: str, path: Path) -> None:
    """Send a whole file. Raises Failed, OSError when it cannot be read."""
    with path.open("rb") as file:
        try:
            async with _session() as http, http.put(_url(link), data=file, allow_redirects=False) as response:
                if response.status != 200:
                    raise Failed(f"it answered {response.status}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Failed(type(error).__name__) from None


def _session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S)
    return aiohttp.ClientSession(timeout=timeout, auto_decompress=False)


def _url(link: str) -> URL:
    """As it was signed."""
    return URL(link, encoded=True)
