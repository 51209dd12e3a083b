"""Access tokens: only what the issuer has signed, for us, now, with a key of its own. Against a real issuer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from sonic import oidc
from tests.issuer import AUDIENCE, Issuer, running


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with running() as one:
        one.add("one")
        yield one


@pytest.fixture
def checking(issuer: Issuer) -> oidc.Issuer:
    return oidc.Issuer(oidc.Expected(issuer.url, AUDIENCE, leeway_s=5.0))


def encoded(part: Any) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_with_secret(secret: bytes, header: dict[str, Any], claims: dict[str, Any]) -> str:
    body = f"{encoded(header)}.{encoded(claims)}"
    return f"{body}.{encoded(hmac.new(secret, body.encode(), hashlib.sha256).digest())}"


async def refusal(checking: oidc.Issuer, token: str) -> str:
    with pytest.raises(oidc.TokenRefused) as refused:
        await checking.claims(token)
    return str(refused.value)


@pytest.mark.parametrize("alg", ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
async def test_a_token_of_every_asymmetric_kind_is_good(issuer: Issuer, checking: oidc.Issuer, alg: str) -> None:
    issuer.add(alg, alg)
    claims = await checking.claims(issuer.token(alg, typ=None))
    assert (claims["sub"], claims["tenant"]) == ("someone", "acme")


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "another"}, "audience"),
        ({"aud": None}, "no aud"),
        ({"iss": "https://other.example"}, "another issuer"),
        ({"exp": time.time() - 60}, "expired"),
        ({"exp": None}, "no exp"),
        ({"exp": "soon"}, "no good JWT"),
        ({"exp": 1e400}, "no good JWT"),
        ({"nbf": time.time() + 600}, "not valid yet"),
        ({"sub": None}, "no sub"),
    ],
)
async def test_what_is_not_for_us_or_not_now_is_refused(
    issuer: Issuer, checking: oidc.Issuer, claims: dict[str, Any], why: str
) -> None:
    assert why in await refusal(checking, issuer.token(**claims))


async def test_clocks_may_differ_by_the_leeway_and_no_more(issuer: Issuer, checking: oidc.Issuer) -> None:
    assert await checking.claims(issuer.token(exp=time.time() - 2))
    assert "expired" in await refusal(checking, issuer.token(exp=time.time() - 8))


async def test_alg_none_and_shared_secrets_are_refused(issuer: Issuer, checking: oidc.Issuer) -> None:
    now = time.time()
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "x", "exp": now + 60, "tenant": "acme"}
    for alg in ("none", "None", "NONE", ""):
        header = encoded({"alg": alg, "kid": "one"})
        for signature in ("", encoded(b"x")):
            await refusal(checking, f"{header}.{encoded(claims)}.{signature}")
    jwk = json.dumps(issuer.published[0]).encode()
    for secret in (issuer.public_pem("one"), issuer.public_pem("one").strip(), jwk, b""):
        token = signed_with_secret(secret, {"alg": "HS256", "kid": "one", "typ": "JWT"}, claims)
        assert "does not go with the key" in await refusal(checking, token)


async def test_a_key_of_ones_own_in_the_header_is_not_looked_at(issuer: Issuer, checking: oidc.Issuer) -> None:
    async with running() as attacker:
        attacker.add("one")
        attacker.url = issuer.url
        for header in (
            {},
            {"jwk": attacker.published[0]},
            {"jku": "http://127.0.0.1:1/keys"},
            {"x5u": "http://127.0.0.1:1"},
        ):
            assert "signature" in await refusal(checking, attacker.token(headers=header))
    assert attacker.fetched == 0


async def test_an_alg_of_another_key_is_refused(issuer: Issuer, checking: oidc.Issuer) -> None:
    issuer.add("pinned", "RS256", alg="RS256")
    issuer.add("curve", "ES256")
    assert await checking.claims(issuer.token("pinned"))
    assert "does not go" in await refusal(checking, issuer.token("pinned", alg="RS512"))
    assert "does not go" in await refusal(checking, issuer.token("one", headers={"kid": "curve"}))


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize(
    "about", [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"key_ops": None}, {"key_ops": 7}, {"bits": 1024}]
)
async def test_keys_that_are_weak_or_for_something_else_are_not_used(
    issuer: Issuer, checking: oidc.Issuer, about: dict[str, Any]
) -> None:
    issuer.add("bad", "RS256", **about)
    assert "no key of" in await refusal(checking, issuer.token("bad"))
    assert await checking.claims(issuer.token("one"))


async def test_a_rotated_key_is_found_and_a_withdrawn_one_ends(
    issuer: Issuer, checking: oidc.Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "REFETCH_S", 0.0)
    assert await checking.claims(issuer.token())
    issuer.add("two")
    assert await checking.claims(issuer.token("two"))
    assert await checking.claims(issuer.token("one"))
    del issuer.published[0]
    monkeypatch.setattr(oidc, "FRESH_S", 0.0)
    assert await checking.claims(issuer.token("two"))
    assert "no key of" in await refusal(checking, issuer.token("one"))


async def test_unknown_kids_do_not_make_us_ask_again_and_again(issuer: Issuer, checking: oidc.Issuer) -> None:
    for number in range(50):
        await refusal(checking, issuer.token(headers={"kid": f"k{number}"}))
    assert issuer.fetched == 1
    assert await checking.claims(issuer.token())


async def test_many_at_once_fetch_once(issuer: Issuer, checking: oidc.Issuer) -> None:
    await asyncio.gather(*(checking.claims(issuer.token()) for _ in range(20)))
    assert issuer.fetched == 1


async def test_an_issuer_that_fails_is_not_needed_for_a_while(
    issuer: Issuer, checking: oidc.Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await checking.claims(issuer.token())
    monkeypatch.setattr(oidc, "FRESH_S", 0.0)
    monkeypatch.setattr(oidc, "REFETCH_S", 0.0)
    issuer.answer = web.Response(status=503)
    assert await checking.claims(issuer.token())
    monkeypatch.setattr(oidc, "STALE_S", 0.0)
    with pytest.raises(oidc.IssuerUnreachable):
        await checking.claims(issuer.token())


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(body=b'{"keys":[' + b" " * oidc.MAX_DOCUMENT_BYTES + b"]}"),
        lambda: web.Response(text="[" * 100_000),
        lambda: web.Response(text='{"keys": 1}'),
        lambda: web.Response(text='{"keys": [1, null, {"kty": "oct", "kid": "one", "k": "AA"}]}'),
        lambda: web.Response(body=b"\xff\xfe"),
        lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
    ],
)
async def test_whatever_an_issuer_sends_nothing_breaks(issuer: Issuer, checking: oidc.Issuer, answer: Any) -> None:
    issuer.answer = answer()
    with pytest.raises(oidc.IssuerUnreachable):
        await checking.claims(issuer.token())


async def test_an_issuer_that_never_answers_is_given_up(
    issuer: Issuer, checking: oidc.Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "FETCH_TIMEOUT_S", 0.2)
    server = await asyncio.start_server(lambda _reader, _writer: asyncio.sleep(60), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        silent = oidc.Issuer(oidc.Expected(f"http://127.0.0.1:{port}", AUDIENCE))
        async with asyncio.timeout(30):
            with pytest.raises(oidc.IssuerUnreachable):
                await silent.claims(issuer.token())
        server.close()


async def test_a_discovery_of_somebody_else_is_not_believed(issuer: Issuer, checking: oidc.Issuer) -> None:
    issuer.says_it_is = "https://login.example"
    with pytest.raises(oidc.IssuerUnreachable):
        await checking.claims(issuer.token())


async def test_a_token_that_is_too_long_is_not_looked_at(issuer: Issuer, checking: oidc.Issuer) -> None:
    assert "is the limit" in await refusal(checking, issuer.token(filling="x" * oidc.MAX_TOKEN_CHARACTERS))
    assert issuer.fetched == 0


async def test_an_id_token_type_or_another_jose_type_is_refused(issuer: Issuer, checking: oidc.Issuer) -> None:
    assert await checking.claims(issuer.token(headers={"typ": "at+jwt"}))
    for kind in ("logout+jwt", "dpop+jwt", "JOSE"):
        assert "access token is wanted" in await refusal(checking, issuer.token(headers={"typ": kind}))


@given(token=st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_=.-]{0,200}", fullmatch=True)))
def test_no_text_is_a_token_and_none_breaks(token: str) -> None:
    checking = oidc.Issuer(oidc.Expected("http://127.0.0.1:1", AUDIENCE))
    with pytest.raises((oidc.TokenRefused, oidc.IssuerUnreachable)):
        asyncio.run(checking.claims(token))


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
)


@given(header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), _json), claims=_json)
def test_no_header_and_no_claims_break_it(header: dict[str, Any], claims: Any) -> None:
    checking = oidc.Issuer(oidc.Expected("http://127.0.0.1:1", AUDIENCE))
    with pytest.raises((oidc.TokenRefused, oidc.IssuerUnreachable)):
        asyncio.run(checking.claims(f"{encoded(header)}.{encoded(claims)}.{encoded(b'x')}"))


@given(claims=_json.filter(lambda value: isinstance(value, dict)), name=st.text())
def test_a_claim_is_looked_up_whatever_is_there(claims: dict[str, Any], name: str) -> None:
    oidc.claim(claims, name)


def test_a_claim_is_found_by_its_name_before_its_path() -> None:
    assert oidc.claim({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert oidc.claim({"realm_access": {"roles": ["operator"]}}, "realm_access.roles") == ["operator"]
    assert oidc.claim({"https://sonic.example/tenant": "acme"}, "https://sonic.example/tenant") == "acme"
