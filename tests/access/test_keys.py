"""API keys from the first to the last: shown once, several at a time, revoked, expired, suspended; and what is kept."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import grpc
import grpc.aio
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from hub import exceptions
from hub.core import api_keys
from hub.core.roles import Caller
from hub.server import callers, credentials, failures, gate
from hub.service import Hub, serving
from sonic.v1 import access_pb2
from sonic.v1 import admin_service_pb2 as admin_pb
from sonic.v1 import job_service_pb2 as job_pb
from tests.folders import bytes_below
from tests.hub.conftest import config
from tests.issuer import Issuer

from .conftest import KeyHolder, channel_to, refused

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


def listing(caller: KeyHolder) -> grpc.aio.UnaryUnaryCall:
    return caller.jobs.ListJobs(job_pb.ListJobsRequest(), metadata=caller.metadata)


def nodes(caller: KeyHolder) -> grpc.aio.UnaryUnaryCall:
    return caller.admin.ListNodes(admin_pb.ListNodesRequest(), metadata=caller.metadata)


async def test_the_first_start_lets_an_operator_in_and_a_second_makes_no_key(tmp_path: Path) -> None:
    path = tmp_path / "hub" / "operator.key"
    for _ in range(2):
        async with (
            serving(config(tmp_path / "hub", insecure=False)) as hub,
            channel_to(hub, tmp_path / "hub") as channel,
        ):
            text = path.read_text()
            await nodes(KeyHolder(channel, text.strip()))
            assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == text
    path.unlink()
    async with serving(config(tmp_path / "hub", insecure=False)):
        assert not path.exists()


async def test_a_call_without_a_good_credential_is_unauthenticated(hub: Hub, channel: grpc.aio.Channel) -> None:
    key = credentials.new_key()
    for metadata in (
        (),
        (("sonic-tenant", "acme"),),
        (("authorization", key.text),),
        (("authorization", f"Basic {key.text}"),),
        (("authorization", f"Bearer {key.text}"),),
        (("authorization", f"Bearer {key.text} {key.text}"),),
        (("authorization", f"Bearer {key.text}"), ("authorization", f"Bearer {key.text}")),
        (("authorization", "Bearer sonic_"),),
        (("authorization", "Bearer "),),
    ):
        caller = KeyHolder(channel, "")
        caller.metadata = metadata
        error = await refused(listing(caller))
        assert error.code() is UNAUTHENTICATED, metadata
        assert key.secret not in (error.details() or "")


async def test_rotation_keeps_both_keys_live_and_then_ends_the_old(operator: KeyHolder, acme: KeyHolder) -> None:
    fresh = KeyHolder(operator.channel, (await operator.rotate("acme", overlap_s=600)).secret_text)
    await listing(acme)
    await listing(fresh)
    (tenant,) = await operator.tenants()
    assert [key.HasField("expires_at") for key in tenant.keys] == [False, True]
    last = KeyHolder(operator.channel, (await operator.rotate("acme")).secret_text)
    for old in (acme, fresh):
        assert (await refused(listing(old))).code() is UNAUTHENTICATED
    await listing(last)


async def test_a_revoked_key_is_refused_at_once_and_ends_what_is_under_way(
    operator: KeyHolder, acme: KeyHolder
) -> None:
    other = KeyHolder(operator.channel, (await operator.create_key(access_pb2.ROLE_TENANT, "ci", "acme")).secret_text)
    job = await acme.submit_new("k")
    watches = [
        one.jobs.WatchJob(job_pb.WatchJobRequest(job_id=job.job_id), metadata=one.metadata) for one in (acme, other)
    ]
    for watch in watches:
        await anext(aiter(watch))
    key = api_keys.parse(acme.credential)
    assert key
    await operator.revoke(key.key_id)
    error = await refused(watches[0])
    assert error.code() is UNAUTHENTICATED
    assert "revoked" in (error.details() or "")
    assert (await refused(listing(acme))).code() is UNAUTHENTICATED
    await listing(other)
    assert not watches[1].done()
    watches[1].cancel()
    assert (await operator.revoke(key.key_id)).HasField("revoked_at")


async def test_a_credential_that_cannot_be_looked_at_keeps_no_other_from_its_end(
    operator: KeyHolder,
    acme: KeyHolder,
    rival: KeyHolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watches = []
    for one in (acme, rival):
        wanted = job_pb.WatchJobRequest(job_id=(await one.submit_new("k")).job_id)
        watches.append(one.jobs.WatchJob(wanted, metadata=one.metadata))
        await anext(aiter(watches[-1]))
    identify = credentials.Credentials.identify

    async def broken(self: credentials.Credentials, presented: str) -> Caller:
        if presented == acme.credential:
            raise RuntimeError("a mistake of ours")
        return await identify(self, presented)

    monkeypatch.setattr(credentials.Credentials, "identify", broken)
    key = api_keys.parse(rival.credential)
    assert key
    await operator.revoke(key.key_id)
    assert (await refused(watches[1])).code() is UNAUTHENTICATED
    await asyncio.sleep(1.5 * gate.RECHECK_S)  # it is looked at now and then
    await nodes(operator)
    assert not watches[0].done()
    assert "a mistake of ours" in caplog.text
    assert acme.credential not in caplog.text


async def test_a_suspended_tenant_is_refused_and_its_watches_end(
    operator: KeyHolder, acme: KeyHolder, rival: KeyHolder, issuer: Issuer
) -> None:
    by_token = KeyHolder(operator.channel, issuer.token())
    job = await acme.submit_new("k")
    watches = [
        one.jobs.WatchJob(job_pb.WatchJobRequest(job_id=job.job_id), metadata=one.metadata) for one in (acme, by_token)
    ]
    for watch in watches:
        await anext(aiter(watch))
    await operator.suspend("acme")
    for watch in watches:
        assert (await refused(watch)).code() is DENIED
    for one in (acme, by_token):
        error = await refused(listing(one))
        assert error.code() is DENIED
        assert "suspended" in (error.details() or "")
    await listing(rival)
    await operator.suspend("acme")
    await operator.resume("acme")
    for one in (acme, by_token):
        await listing(one)


async def test_a_key_ends_when_it_expires(operator: KeyHolder, acme: KeyHolder) -> None:
    job = await acme.submit_new("k")
    key = await operator.create_key(access_pb2.ROLE_TENANT, "short", "acme", valid_s=2.0)
    brief = KeyHolder(operator.channel, key.secret_text)
    watch = brief.jobs.WatchJob(job_pb.WatchJobRequest(job_id=job.job_id), metadata=brief.metadata)
    await anext(aiter(watch))
    async with asyncio.timeout(60):
        error = await refused(watch)
    assert "expired" in (error.details() or "")
    assert (await refused(listing(brief))).code() is UNAUTHENTICATED


async def test_the_last_operator_cannot_lock_everybody_out(operator: KeyHolder) -> None:
    first = api_keys.parse(operator.credential)
    assert first
    error = await refused(operator.revoke(first.key_id))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    second = KeyHolder(operator.channel, (await operator.create_key(access_pb2.ROLE_OPERATOR, "ann")).secret_text)
    await second.revoke(first.key_id)
    assert (await refused(nodes(operator))).code() is UNAUTHENTICATED
    await nodes(second)


async def test_wishes_that_cannot_be_carried_out_are_told(operator: KeyHolder, acme: KeyHolder) -> None:
    code = grpc.StatusCode
    assert (await refused(operator.create_tenant("acme"))).code() is code.ALREADY_EXISTS
    assert (await refused(operator.create_tenant("a/b"))).code() is code.INVALID_ARGUMENT
    assert (await refused(operator.rotate("nobody"))).code() is code.NOT_FOUND
    assert (await refused(operator.suspend("nobody"))).code() is code.NOT_FOUND
    assert (await refused(operator.revoke("nothing"))).code() is code.NOT_FOUND
    for role, holder, tenant in (
        (access_pb2.ROLE_UNSPECIFIED, "x", ""),
        (9, "x", ""),
        (access_pb2.ROLE_OPERATOR, "x", "acme"),
        (access_pb2.ROLE_TENANT, "x", ""),
        (access_pb2.ROLE_READER, "", ""),
        (access_pb2.ROLE_READER, "a\nb", ""),
    ):
        assert (await refused(operator.create_key(role, holder, tenant))).code() is code.INVALID_ARGUMENT


async def test_an_operator_names_a_tenant_and_a_tenant_names_no_other(
    operator: KeyHolder, acme: KeyHolder, rival: KeyHolder, tmp_path: Path
) -> None:
    job = await acme.submit_new("k")
    assert (await refused(listing(operator))).code() is UNAUTHENTICATED
    acting = KeyHolder(operator.channel, operator.credential, "acme")
    assert [one.job_id for one in (await listing(acting)).jobs] == [job.job_id]
    unknown = KeyHolder(operator.channel, operator.credential, "nobody")
    assert (await refused(listing(unknown))).code() is grpc.StatusCode.NOT_FOUND
    assert [one["subject"] for one in audited(tmp_path) if one["action"] == "tenant.act_for"] == ["acme"]
    assert (await refused(listing(KeyHolder(operator.channel, rival.credential, "acme")))).code() is DENIED
    await listing(KeyHolder(operator.channel, acme.credential, "acme"))


async def test_only_hashes_are_stored_and_nothing_secret_is_logged(
    hub: Hub, operator: KeyHolder, acme: KeyHolder, tmp_path: Path, caplog: pytest.LogCaptureFixture, issuer: Issuer
) -> None:
    caplog.set_level(logging.DEBUG)
    token = issuer.token()
    await listing(KeyHolder(operator.channel, token))
    await refused(listing(KeyHolder(operator.channel, token[:-9])))
    await acme.submit_new("k")
    rotated = await operator.rotate("acme")
    await refused(listing(acme))
    said = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    stored = b"".join(data for path, data in bytes_below(tmp_path / "hub").items() if path.suffix != ".key")
    for credential in (operator.credential, acme.credential, rotated.secret_text):
        key = api_keys.parse(credential)
        assert key
        assert key.secret not in said
        assert key.secret.encode() not in stored
        assert key.secret not in repr(key)
    assert token.rpartition(".")[2][:20] not in said
    assert token.rpartition(".")[2][:20].encode() not in stored


def audited(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tmp_path / "hub" / "audit.log").read_text().splitlines()]


async def test_the_audit_log_says_who_did_what_from_where_and_how_it_ended(
    operator: KeyHolder, acme: KeyHolder, tmp_path: Path
) -> None:
    reader = KeyHolder(operator.channel, (await operator.create_key(access_pb2.ROLE_READER, "wall")).secret_text)
    await operator.suspend("acme")
    await refused(reader.suspend("acme"))
    await refused(operator.suspend("nobody"))
    await refused(operator.admin.DrainNode(admin_pb.DrainNodeRequest(node_id="n9"), metadata=operator.metadata))
    await refused(nodes(KeyHolder(operator.channel, credentials.new_key().text)))
    path = tmp_path / "hub" / "audit.log"
    assert path.stat().st_mode & 0o777 == 0o600
    lines = audited(tmp_path)
    told = [(one["action"], one["subject"], one["outcome"]) for one in lines]
    assert ("CreateTenant", "acme", "done") in told
    assert ("SuspendTenant", "acme", "done") in told
    assert ("SuspendTenant", "acme", "refused: NOT_ALLOWED") in told
    assert ("SuspendTenant", "nobody", "refused: NOT_FOUND") in told
    assert ("DrainNode", "n9", "refused: NOT_FOUND") in told
    presented = next(one for one in lines if one["action"] == "credential.present")
    assert str(presented["outcome"]).startswith("refused: there is no such API key")
    made = [one["detail"] for one in lines if one["action"] == "key.make"]
    assert {"role": "reader", "tenant": "", "holder": "wall"} in made
    for one in lines:
        assert str(one["peer"]).startswith("ipv4:127.0.0.1:")
        assert one["ts"]
    denied = next(one for one in lines if one["outcome"] == "refused: NOT_ALLOWED")
    assert "(wall)" in str(denied["who"])


async def test_a_restart_appends_to_the_audit_log(tmp_path: Path) -> None:
    for number in range(2):
        async with (
            serving(config(tmp_path / "hub", insecure=False)) as hub,
            channel_to(hub, tmp_path / "hub") as channel,
        ):
            operator = KeyHolder(channel, (tmp_path / "hub" / "operator.key").read_text().strip())
            await operator.create_tenant(f"t{number}")
    made = [one["subject"] for one in audited(tmp_path) if one["action"] == "CreateTenant"]
    assert made == ["t0", "t1"]


async def test_an_audit_log_that_is_moved_away_is_begun_anew(operator: KeyHolder, tmp_path: Path) -> None:
    await operator.create_tenant("a")
    path = tmp_path / "hub" / "audit.log"
    path.rename(path.with_suffix(".1"))
    await operator.create_tenant("b")
    assert {one["subject"] for one in audited(tmp_path) if one["action"] == "CreateTenant"} == {"b"}
    assert path.stat().st_mode & 0o777 == 0o600


async def test_bad_credentials_are_bounded_without_locking_out_who_is_known(
    operator: KeyHolder, acme: KeyHolder, tmp_path: Path
) -> None:
    await listing(acme)
    codes = [
        (await refused(listing(KeyHolder(operator.channel, credentials.new_key().text)))).code()
        for _ in range(int(failures.FAILURES_PER_MINUTE) + 20)
    ]
    assert codes[: int(failures.FAILURES_PER_MINUTE)] == [UNAUTHENTICATED] * int(failures.FAILURES_PER_MINUTE)
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) >= 15
    await listing(acme)
    await nodes(operator)
    refusals = [one for one in audited(tmp_path) if one["action"] == "credential.present"]
    assert len(refusals) <= failures.FAILURES_PER_MINUTE + 5


def test_one_address_does_not_make_another_wait() -> None:
    seen = failures.Failures()
    for _ in range(int(failures.FAILURES_PER_MINUTE) + 1):
        seen.count("10.0.0.1")
    assert seen.wait_s("10.0.0.1") > 0
    assert seen.wait_s("10.0.0.2") == 0
    for number in range(failures.MOST_ADDRESSES + 10):
        seen.count(str(number))
    assert len(seen._rates) == failures.MOST_ADDRESSES


async def test_use_is_stored_at_the_end(tmp_path: Path) -> None:
    async with serving(config(tmp_path / "hub", insecure=False)) as hub, channel_to(hub, tmp_path / "hub") as channel:
        await nodes(KeyHolder(channel, (tmp_path / "hub" / "operator.key").read_text().strip()))
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'hub' / 'hub.db'}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT last_used_at_s FROM api_keys").scalar()
    engine.dispose()


@given(text=st.text() | st.from_regex(r"sonic_[a-z2-7]{10,14}_[A-Za-z0-9_-]{40,46}", fullmatch=True))
def test_what_is_parsed_as_a_key_is_that_text_again(text: str) -> None:
    key = api_keys.parse(text)
    assert key is None or key.text == text


def test_a_new_key_is_parsed_and_matches_itself_alone() -> None:
    one, other = credentials.new_key(), credentials.new_key()
    assert api_keys.parse(one.text) == one
    assert one.matches(one.digest)
    assert not one.matches(other.digest)


_metadata = st.lists(
    st.tuples(
        st.sampled_from(["authorization", "sonic-tenant", "x"]),
        st.text() | st.binary() | st.builds("Bearer {}".format, st.text()),
    )
)


@given(metadata=_metadata)
def test_no_metadata_breaks_the_parser(metadata: list[tuple[str, str | bytes]]) -> None:
    for parse in (callers.bearer, callers.named_tenant):
        try:
            found = parse(metadata)
        except exceptions.Refusal:
            continue
        if parse is callers.bearer:
            assert found
            assert found.isascii()
            assert " " not in found
            (value,) = [value for key, value in metadata if key == "authorization"]
            text = value if isinstance(value, str) else value.decode()
            assert text.lower().startswith("bearer ")
