"""A stranger's box cannot join, and a node cannot be another one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.config import InvalidConfig
from agent.enrolment import Renewal, identity_of, join
from agent.identity import Identity, IdentityFolder, new_key, signing_request
from agent.session import open_line
from hub import config as hub_config
from hub.server import fleet_service
from hub.store.database import open_database
from hub.trust.authority import NodeName, open_authority
from sonic.client import AsyncSonicClient
from sonic.exceptions import InvalidRequest, NotFound
from sonic.join_tokens import HUB_NAME, JoinToken
from sonic.v1 import (
    artifacts_pb2,
    enrolment_service_pb2,
    enrolment_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_service_pb2,
    jobs_pb2,
)
from tests.folders import bytes_below

from .peers import MP4, digest
from .secured import Secured, secured


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Secured]:
    async with secured(tmp_path) as running:
        yield running


async def test_a_box_with_a_token_becomes_a_node_with_a_key_that_only_it_has(at: Secured) -> None:
    box = at.box(await at.token())
    identity = await identity_of(box)
    assert identity
    assert identity.names == {"sonic://eu/n1"}
    file = IdentityFolder(box.data_dir).file
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [path.name for path in file.parent.iterdir()] == ["identity.pem"]
    async with at.agent(identity) as agent:
        await agent.join()
    assert [node.node_id for node in await at.operator.nodes()] == ["n1"]
    everything = b"".join(bytes_below(at.folder / "hub").values())
    assert identity.key_pem not in everything
    assert JoinToken.of(box.join_token_file.read_text()).secret.encode() not in everything
    assert await identity_of(replace(box, join_token_file=None)) == identity


@pytest.mark.parametrize("changed", ["secret", "token_id"])
async def test_a_wrong_token_is_refused(at: Secured, changed: str) -> None:
    right = JoinToken.of(await at.token())
    wrong = replace(right, **{changed: "0" * len(getattr(right, changed))})
    with pytest.raises(InvalidConfig, match="not let in: the join token is none of this hub's"):
        await identity_of(at.box(wrong.text))


async def test_a_token_ends_by_use_by_time_and_by_hand(at: Secured) -> None:
    once = await at.token()
    assert await identity_of(at.box(once, "n1"))
    with pytest.raises(InvalidConfig, match="used up"):
        await identity_of(at.box(once, "n2"))
    old, taken_back = await at.token(), await at.token()
    await at.operator.revoke_join_token(JoinToken.of(taken_back).token_id)
    with pytest.raises(InvalidConfig, match="the join token was revoked"):
        await identity_of(at.box(taken_back, "n3"))
    database = open_database(f"sqlite:///{at.folder / 'hub' / 'hub.db'}")
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE join_tokens SET expires_at_s = created_at_s"))
    database.dispose()
    with pytest.raises(InvalidConfig, match="the join token has expired"):
        await identity_of(at.box(old, "n3"))


async def test_two_boxes_at_once_cannot_use_a_token_twice(at: Secured) -> None:
    token = await at.token()
    ended = await asyncio.gather(
        *(identity_of(at.box(token, f"n{number}")) for number in range(6)), return_exceptions=True
    )
    assert sum(isinstance(one, Identity) for one in ended) == 1
    assert sum(isinstance(one, InvalidConfig) for one in ended) == 5


async def test_a_token_is_for_its_region_and_for_its_node(at: Secured) -> None:
    with pytest.raises(InvalidConfig, match="token is for region 'eu', and the box says that it is in 'us'"):
        await identity_of(at.box(await at.token("eu"), region="us"))
    with pytest.raises(InvalidConfig, match="token is for node 'n7', and the box says that it is 'n1'"):
        await identity_of(at.box(await at.token(node_id="n7")))


async def test_a_box_whose_answer_was_lost_asks_again_and_uses_its_token_once(at: Secured) -> None:
    box = at.box(await at.token())
    first = await identity_of(box)
    assert first
    IdentityFolder(box.data_dir).file.unlink()  # and with it the key: this is another box now
    with pytest.raises(InvalidConfig, match="'n1' is enrolled"):
        await identity_of(box)
    twice = at.box(await at.token(), "n2")
    request = _request(twice.join_token_file.read_text(), "n2", new_key())
    answers = [await _enrol(at, request) for _ in range(3)]
    assert len({answer.certificate for answer in answers}) == 3
    assert [token.uses_left for token in await at.operator.join_tokens()] == [0, 0]


async def test_a_node_that_is_enrolled_is_enrolled_anew_only_by_a_token_for_it(at: Secured) -> None:
    await at.enrolled("n1")
    thief = at.box(await at.token(), "n1", data_dir=at.folder / "thief")
    with pytest.raises(InvalidConfig, match="sonic hub token create --region eu --node n1"):
        await identity_of(thief)
    before = IdentityFolder(at.folder / "n1" / "data").load()
    now = await identity_of(at.box(await at.token(node_id="n1"), "n1", data_dir=at.folder / "reinstalled"))
    assert before
    assert now
    async with at.agent(before) as former, at.agent(now) as agent:
        await agent.join()
        with pytest.raises(grpc.aio.AioRpcError, match="certificate is that of the box before"):
            await former.join()
        with pytest.raises(grpc.aio.AioRpcError, match="certificate is that of the box before"):
            await former.fleet.RenewCertificate(_renewal("n1"))
        await agent.fleet.RenewCertificate(_renewal("n1"))


async def test_nothing_is_sent_to_a_hub_that_is_not_the_one_of_the_token(at: Secured, tmp_path: Path) -> None:
    token = await at.token()
    async with secured(tmp_path / "other", hub_id="other") as other:
        with pytest.raises(InvalidConfig, match=r"not the hub that has made the join token.*nothing was sent"):
            await identity_of(at.box(token, enrol_at=other.hub.grpc_address))


async def test_the_authority_shown_by_somebody_who_has_not_its_key_is_no_use(at: Secured) -> None:
    """The certificate that the token names is no secret: whoever shows it has to prove that it has signed his own."""
    asked: list[str] = []
    forged = open_authority(at.folder / "forged")
    key, chain = forged.server_certificate(["127.0.0.1"], timedelta(days=1))
    shown = chain + at.ca_file.read_bytes()
    async with _imposter([(key, shown)], asked) as address:
        with pytest.raises(InvalidConfig, match="not trusted"):
            await identity_of(at.box(await at.token(), enrol_at=address))
    assert asked == []


async def test_a_node_cannot_pass_for_the_hub_whatever_it_is_called(at: Secured) -> None:
    asked: list[str] = []
    node = await at.enrolled(HUB_NAME)
    pair = (node.key_pem, node.certificate_pem + node.authority_pem)
    async with _imposter([pair], asked) as address:
        with pytest.raises(InvalidConfig, match="not let in"):
            await identity_of(at.box(await at.token(), "n2", enrol_at=address))
    assert asked == []


@pytest.mark.parametrize(("node_id", "region"), [("n2", "eu"), ("n1", "us"), ("n2", "us")])
async def test_a_node_cannot_speak_for_another_nor_be_in_another_region(at: Secured, node_id: str, region: str) -> None:
    await at.enrolled("n2")
    async with at.agent(await at.enrolled("n1"), node_id, region) as agent:
        with pytest.raises(grpc.aio.AioRpcError, match="the certificate is of n1 in eu") as refused:
            await agent.join()
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert await at.operator.nodes() == []


async def test_no_call_of_a_node_can_be_made_for_another(at: Secured) -> None:
    ref = jobs_pb2.AttemptRef(job_id="j", attempt=1)
    async with at.agent(await at.enrolled("n1")) as agent:
        calls = [
            agent.fleet.GetVideo(fleet_service_pb2.GetVideoRequest(node_id="n2", ref=ref, sha256=digest(MP4))),
            agent.fleet.PlaceVideo(fleet_service_pb2.PlaceVideoRequest(node_id="n2", ref=ref, sha256=digest(MP4))),
            agent.fleet.RenewCertificate(fleet_service_pb2.RenewCertificateRequest(node_id="n2")),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        stream = agent.fleet.FetchInput(fleet_service_pb2.FetchInputRequest(node_id="n2", ref=ref, sha256="0" * 64))
        with pytest.raises(grpc.aio.AioRpcError, match="node 'n2' is claimed"):
            await anext(aiter(stream))


async def test_nobody_comes_to_the_port_of_agents_without_a_certificate(at: Secured) -> None:
    stranger = open_authority(at.folder / "stranger")
    key = new_key()
    folder = at.folder / "hub" / "authority"
    assert (folder / "authority.key").stat().st_mode & 0o777 == 0o600
    public = load_pem_private_key(key, None).public_key()
    forged = stranger.node_certificate(public, [NodeName("eu", "n1")], timedelta(days=1)).pem  # type: ignore[arg-type]
    roots = at.ca_file.read_bytes()
    for credentials in (grpc.ssl_channel_credentials(roots), grpc.ssl_channel_credentials(roots, key, forged)):
        async with grpc.aio.secure_channel(at.hub.agent_address, credentials) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/sonic.v1.FleetService/GetVideo")(b"", timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _fleet_at_callers(at)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_revocation_ends_the_session_and_the_job_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_service, "SILENT_INTERVALS", 60)  # for the node that is left
    async with secured(tmp_path, heartbeat_interval_s=1.0, lease_s=2.0) as at:
        first, second = await at.enrolled("n1"), await at.enrolled("n2")
        async with at.caller() as caller, at.agent(first, "n1") as lost, at.agent(second, "n2") as left:
            await lost.join()
            job = await caller.submit_new("k")
            assignment = (await lost.hear("assignment")).assignment
            await at.operator.revoke_node("n1")
            async with asyncio.timeout(60):
                assert await lost.call.read() is grpc.aio.EOF
            with pytest.raises(grpc.aio.AioRpcError, match="'n1' was revoked"):
                await lost.join()
            ref, voice = assignment.ref, assignment.voice.sha256
            request = fleet_service_pb2.FetchInputRequest(node_id="n1", ref=ref, sha256=voice)
            with pytest.raises(grpc.aio.AioRpcError, match="was revoked"):
                await anext(aiter(lost.fleet.FetchInput(request)))
            with pytest.raises(grpc.aio.AioRpcError, match="was revoked"):
                await lost.fleet.RenewCertificate(_renewal("n1"))
            with pytest.raises(InvalidConfig, match="sonic nodes revoke --undo n1"):
                await identity_of(at.box(await at.token(node_id="n1"), data_dir=at.folder / "anew"))
            await left.join()
            again = (await left.hear("assignment")).assignment
            assert again.ref.job_id == job.job_id
            await at.operator.revoke_node("n1", undo=True)
            await lost.join()


async def test_a_revoked_node_does_not_end_what_it_uploads(at: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_service, "RIGHT_LOOKED_AT_S", 0.1)
    async with at.caller() as caller, at.agent(await at.enrolled("n1"), "n1") as lost:
        await lost.join()
        await caller.submit_new("k")
        ref = (await lost.hear("assignment")).assignment.ref
        upload = artifacts_pb2.UploadHeader(sha256=digest(MP4), size_bytes=len(MP4))
        call = lost.fleet.UploadVideo()
        header = fleet_service_pb2.VideoHeader(node_id="n1", ref=ref, upload=upload)
        await call.write(fleet_service_pb2.UploadVideoRequest(header=header))
        await call.write(fleet_service_pb2.UploadVideoRequest(chunk=MP4[:5]))
        await at.operator.revoke_node("n1")
        await asyncio.sleep(0.2)
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            await call.write(fleet_service_pb2.UploadVideoRequest(chunk=MP4[5:]))
            await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError, match="was revoked"):
            await call


async def test_a_new_enrolment_ends_the_session_of_the_box_before(at: Secured) -> None:
    async with at.agent(await at.enrolled("n1"), "n1") as before:
        await before.join()
        assert await identity_of(at.box(await at.token(node_id="n1"), data_dir=at.folder / "anew"))
        async with asyncio.timeout(60):
            assert await before.call.read() is grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError, match="was enrolled anew"):
            await before.join()


async def test_a_box_whose_certificate_is_void_comes_back_with_another_token(at: Secured) -> None:
    box = at.box(await at.token())
    first = await join(box)
    assert first
    assert await join(box) == first  # the token that it has joined with is no reason
    assert await identity_of(at.box(await at.token(node_id="n1"), data_dir=at.folder / "elsewhere"))
    box.join_token_file.write_text(await at.token("us"))
    with pytest.raises(InvalidConfig, match="is for region 'us'"):
        await join(box)
    assert IdentityFolder(box.data_dir).load() == first
    box.join_token_file.write_text(await at.token(node_id="n1"))
    again = await join(box)
    assert again
    async with at.agent(again) as agent:
        await agent.join()


async def test_a_running_agent_whose_certificate_is_void_looks_for_another_token(at: Secured) -> None:
    box = at.box(await at.token())
    first = await identity_of(box)
    assert first
    assert await identity_of(at.box(await at.token(node_id="n1"), data_dir=at.folder / "elsewhere"))
    async with open_line(box.hub_target, first.credentials) as line:
        fleet = fleet_service_pb2_grpc.FleetServiceStub(line)  # type: ignore[arg-type]
        renewal = Renewal(box, first, fleet, line)  # type: ignore[arg-type]
        running = asyncio.create_task(renewal.run())
        box.join_token_file.write_text(text := await at.token(node_id="n1"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await fleet.RenewCertificate(_renewal("n1"))
        renewal.refused(refused.value)
        async with asyncio.timeout(10):
            while IdentityFolder(box.data_dir).load() == first:
                await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await fleet.RenewCertificate(_renewal("n1"))
                    break
        running.cancel()
    now = IdentityFolder(box.data_dir).load()
    assert now
    assert now.joined == JoinToken.of(text).token_id


async def test_text_that_no_database_holds_is_refused_to_strangers_and_callers(at: Secured) -> None:
    channel = grpc.aio.secure_channel(at.hub.grpc_address, grpc.ssl_channel_credentials(at.ca_file.read_bytes()))
    async with channel, at.caller() as caller:
        request = enrolment_service_pb2.EnrolRequest(token_id="a\0", node_id="n1", region="eu")
        for call in (
            enrolment_service_pb2_grpc.EnrolmentServiceStub(channel).Enrol(request),
            caller.jobs.GetJob(job_service_pb2.GetJobRequest(job_id="a\0"), metadata=caller.metadata),
            caller.jobs.ListJobs(
                job_service_pb2.ListJobsRequest(page_token=base64.b64encode(b"9" * 30).decode()),
                metadata=caller.metadata,
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_boxes_enrol_also_where_callers_are_shown_the_certificate_of_somebody_else(tmp_path: Path) -> None:
    other = open_authority(tmp_path / "other")
    key, chain = other.server_certificate(["127.0.0.1", "hub.example"], timedelta(days=1))
    for name, content in (("key", key), ("chain", chain), ("ca", other.pem)):
        (tmp_path / name).write_bytes(content)
    operator_key = tmp_path / "hub" / "operator.key"
    files = {"tls_certificate_file": tmp_path / "chain", "tls_key_file": tmp_path / "key"}
    async with (
        secured(tmp_path, **files) as at,
        AsyncSonicClient(
            at.hub.grpc_address, patience_s=30, ca_file=tmp_path / "ca", api_key_file=operator_key
        ) as operator,
    ):
        token = await operator.create_join_token("eu")
        assert await identity_of(at.box(token.text))
        (tmp_path / "key").write_bytes(b"")  # half replaced: the former pair goes on
        async with AsyncSonicClient(
            at.hub.grpc_address, patience_s=30, ca_file=tmp_path / "ca", api_key_file=operator_key
        ) as another:
            assert len(await another.join_tokens()) == 1
    with pytest.raises(hub_config.InvalidConfig, match="are not a certificate and its key"):
        async with secured(tmp_path, **files):
            pass


async def test_the_authority_is_never_made_anew_behind_the_back(tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    made = open_authority(folder)
    assert open_authority(folder).fingerprint == made.fingerprint
    (folder / "authority.key").chmod(0o644)
    with pytest.raises(hub_config.InvalidConfig, match="chmod 600"):
        open_authority(folder)
    (folder / "authority.key").unlink()
    with pytest.raises(hub_config.InvalidConfig, match="bring it back from the backup"):
        open_authority(folder)
    (folder / "authority.key").write_bytes(b"nonsense")
    (folder / "authority.key").chmod(0o600)
    with pytest.raises(hub_config.InvalidConfig, match="bring both back from the backup"):
        open_authority(folder)


async def test_revoking_somebody_unknown_is_told(at: Secured) -> None:
    with pytest.raises(NotFound, match="nobody"):
        await at.operator.revoke_node("nobody")
    with pytest.raises(NotFound, match="no join token"):
        await at.operator.revoke_join_token("0" * 12)


async def test_tokens_that_make_no_sense_are_refused_by_field(at: Secured) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await at.operator.create_join_token("a b", uses=-1, ttl=timedelta(days=400), node_id="../x")
    assert {problem.field for problem in refused.value.problems} == {"region", "uses", "ttl_seconds", "node_id"}


@pytest.mark.parametrize("asked", [b"", b"\x30\x82", b"\0" * 5000])
async def test_what_is_no_signing_request_is_refused_and_uses_nothing_up(at: Secured, asked: bytes) -> None:
    token = JoinToken.of(await at.token())
    request = enrolment_service_pb2.EnrolRequest(
        token_id=token.token_id, secret=token.secret, node_id="n1", region="eu", signing_request=asked
    )
    with pytest.raises(grpc.aio.AioRpcError, match="signing_request"):
        await _enrol(at, request)
    assert [token.uses_left for token in await at.operator.join_tokens()] == [1]


@contextlib.asynccontextmanager
async def two_hubs(folder: Path, database_url: str) -> AsyncIterator[tuple[Secured, Secured]]:
    files = folder / "files"
    files.mkdir()
    shared: dict[str, object] = {"database_url": database_url, "artifacts_url": files.as_uri()}
    shared |= {
        "authority_dir": folder / "authority",
        "heartbeat_interval_s": 10.0,
        "lease_s": 60.0,
    }  # silence is no end
    async with secured(folder / "a", hub_id="a", **shared) as a, secured(folder / "b", hub_id="b", **shared) as b:
        yield a, b


async def test_hubs_that_share_the_folder_are_one_authority_and_hear_of_revocation(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with two_hubs(tmp_path, request.getfixturevalue("cluster").database()) as (a, b):
        identity = await a.enrolled("n1")
        async with b.agent(identity, "n1") as agent:
            await agent.join()
            await a.operator.revoke_node("n1")
            async with asyncio.timeout(60):
                assert await agent.call.read() is grpc.aio.EOF


async def test_hubs_that_share_a_database_hear_of_a_new_enrolment(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with two_hubs(tmp_path, request.getfixturevalue("cluster").database()) as (a, b):
        async with b.agent(await a.enrolled("n1"), "n1") as before:
            await before.join()
            now = await identity_of(a.box(await a.token(node_id="n1"), data_dir=tmp_path / "anew"))
            assert now
            async with asyncio.timeout(5):
                assert await before.call.read() is grpc.aio.EOF
        async with b.agent(now, "n1") as agent:
            await agent.join()
            await a.operator.revoke_node("n1", undo=True)  # a note about the node, and nothing against it
            agent.say(heartbeat=fleet_service_pb2.Heartbeat(echo=1))
            await agent.hear("echo")


async def test_what_is_done_with_credentials_is_audited_without_secrets(
    at: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="audit"):
        box = at.box(await at.token())
        await identity_of(box)
        with pytest.raises(InvalidConfig):
            await identity_of(at.box(box.join_token_file.read_text(), "n2"))
        async with at.agent(await at.enrolled("n3"), "n3") as agent:
            await agent.join()
        await at.operator.revoke_node("n1")
    said = [record for record in caplog.records if record.name == "audit"]
    actions = [(record.action, record.subject, record.outcome) for record in said]  # type: ignore[attr-defined]
    assert ("node.enrol", "n1", "done") in actions
    assert ("node.enrol", "n2", "refused: the join token is used up") in actions
    assert actions[-1] == ("RevokeNode", "n1", "done")
    assert all(record.peer.startswith("ipv4:127.0.0.1") for record in said)  # type: ignore[attr-defined]
    assert JoinToken.of(box.join_token_file.read_text()).secret not in json.dumps(
        [vars(one) for one in said], default=str
    )


def _request(token_text: str, node_id: str, key: bytes) -> enrolment_service_pb2.EnrolRequest:
    token = JoinToken.of(token_text)
    return enrolment_service_pb2.EnrolRequest(
        token_id=token.token_id,
        secret=token.secret,
        node_id=node_id,
        region="eu",
        signing_request=signing_request(key, node_id),
    )


def _renewal(node_id: str) -> fleet_service_pb2.RenewCertificateRequest:
    return fleet_service_pb2.RenewCertificateRequest(
        node_id=node_id, signing_request=signing_request(new_key(), node_id)
    )


async def _enrol(at: Secured, request: enrolment_service_pb2.EnrolRequest) -> enrolment_service_pb2.EnrolResponse:
    roots = grpc.ssl_channel_credentials(at.ca_file.read_bytes())
    async with grpc.aio.secure_channel(at.hub.grpc_address, roots) as channel:
        return await enrolment_service_pb2_grpc.EnrolmentServiceStub(channel).Enrol(request)


async def _fleet_at_callers(at: Secured) -> bytes:
    roots = grpc.ssl_channel_credentials(at.ca_file.read_bytes())
    async with grpc.aio.secure_channel(at.hub.grpc_address, roots) as channel:
        answer: bytes = await channel.unary_unary("/sonic.v1.FleetService/GetVideo")(b"", timeout=60)
        return answer


class _imposter:
    """A server that would take a secret."""

    def __init__(self, pairs: list[tuple[bytes, bytes]], asked: list[str]) -> None:
        self._pairs, self._asked = pairs, asked

    async def __aenter__(self) -> str:
        self._server = grpc.aio.server()

        async def take(request: enrolment_service_pb2.EnrolRequest, context: object) -> None:
            self._asked.append(request.secret)

        service = enrolment_service_pb2_grpc.EnrolmentServiceServicer()
        service.Enrol = take  # type: ignore[method-assign, assignment]
        enrolment_service_pb2_grpc.add_EnrolmentServiceServicer_to_server(service, self._server)
        port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(self._pairs))
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)
