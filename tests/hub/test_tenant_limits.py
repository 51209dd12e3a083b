"""What tenants may ask for: the file that says it, the answers at the door, and what changes while the hub runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from hub import service
from hub.config import InvalidConfig
from hub.core.tenants import Limits, Rate, TenantLimits
from hub.server import tenant_limits
from hub.service import serving
from sonic.v1 import job_service_pb2 as job_pb

from .conftest import config
from .peers import JPEG, WAV, Agent, Caller
from .test_services import details, refused

BASE = TenantLimits(max_queued=100)


def written(folder: Path, text: str) -> Path:
    path = folder / "tenants.toml"
    path.write_text(text)
    return path


def test_a_tenant_takes_from_the_default_what_it_does_not_say(tmp_path: Path) -> None:
    text = '[default]\nweight = 2\nmax_running = 10\n[tenant.acme]\nweight = 5.5\nmax_running = inf\n[tenant."a.b"]\n'
    limits = tenant_limits.read(written(tmp_path, text), BASE)
    assert limits.of("anybody") == TenantLimits(weight=2, max_queued=100, max_running=10)
    assert limits.of("acme") == TenantLimits(weight=5.5, max_queued=100, max_running=math.inf)
    assert limits.of("a.b") == limits.of("anybody")


def test_the_example_in_the_docs_can_be_used(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tenants.md").read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]
    limits = tenant_limits.read(written(tmp_path, example), BASE)
    assert limits.of("studio.paris").max_running == math.inf
    assert limits.of("acme") == TenantLimits(5.0, 10_000, 40, 600)


def test_every_mistake_in_the_file_is_named_at_once(tmp_path: Path) -> None:
    text = (
        "[defaults]\n[default]\nweihgt = 1\nweight = inf\nmax_queued = 1.5\n[tenant.acme]\nmax_running = 0\n"
        'submits_per_minute = "many"\n[tenant."a/b"]\nweight = -1\n'
    )
    path = written(tmp_path, text)
    with pytest.raises(InvalidConfig) as caught:
        tenant_limits.read(path, BASE)
    said = str(caught.value).splitlines()
    assert all(line.startswith(f"tenants_file {path}: ") for line in said)
    for part in (
        "[defaults] does not exist; did you mean 'default'?",
        "[default] has 'weihgt', which does not exist; did you mean 'weight'?",
        "[default] weight is inf",
        "[default] max_queued is 1.5; a whole number of 1 or more, or inf is wanted",
        "[tenant.acme] max_running is 0",
        "[tenant.acme] submits_per_minute is 'many'",
        "[tenant.a/b] is 'a/b'",
        "[tenant.a/b] weight is -1; a number above 0 is wanted",
    ):
        assert any(part in line for line in said), part
    assert len(said) == 8


def test_a_file_that_is_no_toml_says_where(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="line 2"):
        tenant_limits.read(written(tmp_path, "[default]\nweight = = 1\n"), BASE)
    with pytest.raises(InvalidConfig, match="No such file"):
        tenant_limits.read(tmp_path / "none.toml", BASE)


def test_tokens_come_back_and_a_minutes_worth_is_kept() -> None:
    rate = Rate.full(60, now=0.0)
    assert [rate.take(1, 0.0) for _ in range(60)] == [0.0] * 60
    assert rate.take(1, 0.0) == pytest.approx(1.0)
    assert rate.take(1, 0.5) == pytest.approx(0.5)
    assert rate.take(1, 1.01) == 0.0
    assert [rate.take(1, 10_000.0) for _ in range(61)].count(0.0) == 60


def test_a_batch_larger_than_the_bucket_goes_through_when_it_is_full_and_is_owed_for() -> None:
    rate = Rate.full(60, now=0.0)
    assert rate.take(120, 0.0) == 0.0
    assert rate.take(1, 0.0) == pytest.approx(61.0)
    assert rate.take(1, 61.1) == 0.0


def test_tenants_at_their_limit_of_running_jobs_are_held_back() -> None:
    limits = Limits(TenantLimits(max_running=2), {"acme": TenantLimits(max_running=math.inf)})
    assert limits.held_back({"acme": 50, "rival": 2, "third": 1}) == {"rival"}


async def test_too_many_submissions_are_told_when_to_come_back(tmp_path: Path) -> None:
    path = written(tmp_path, "[tenant.acme]\nsubmits_per_minute = 2\n")
    async with (
        serving(config(tmp_path / "hub", tenants_file=path)) as hub,
        grpc.aio.insecure_channel(hub.grpc_address) as channel,
    ):
        acme = Caller(channel)
        await acme.submit_new("k1")
        await acme.submit("k2")
        error = await refused(acme.submit("k3"), grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert "2 a minute" in details(error, error_details_pb2.QuotaFailure).violations[0].description
        assert 25 <= details(error, error_details_pb2.RetryInfo).retry_delay.seconds <= 30
        await acme.submit("k1")  # a repeat costs nothing
        for number in range(5):
            await Caller(channel, "rival").submit_new(f"k{number}")


async def test_a_tenant_at_its_limit_of_running_jobs_holds_up_nobody(tmp_path: Path) -> None:
    path = written(tmp_path, "[tenant.acme]\nmax_running = 1\n")
    async with (
        serving(config(tmp_path / "hub", tenants_file=path)) as hub,
        grpc.aio.insecure_channel(hub.grpc_address) as channel,
    ):
        acme, rival, one, two = Caller(channel), Caller(channel, "rival"), Agent(channel), Agent(channel, "n2")
        first = await acme.submit_new("k1")
        second = await acme.submit("k2")
        await one.join()
        ref = (await one.hear("assignment")).assignment.ref
        assert ref.job_id == first.job_id
        await two.join()
        others = await rival.submit_new("k1")
        assert (await two.hear("assignment")).assignment.ref.job_id == others.job_id
        await one.render(ref)
        assert (await one.hear("assignment")).assignment.ref.job_id == second.job_id


async def test_a_full_queue_says_when_it_will_have_drained(tmp_path: Path) -> None:
    async with (
        serving(config(tmp_path / "hub", max_queued_jobs=2)) as hub,
        grpc.aio.insecure_channel(hub.grpc_address) as channel,
    ):
        acme, agent = Caller(channel), Agent(channel)
        await acme.submit_new("k1")
        await acme.submit("k2")
        error = await refused(acme.submit("k3"), grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert details(error, error_details_pb2.RetryInfo).retry_delay.seconds == 30  # nothing drains yet
        await agent.join()
        for number in (3, 4):
            await agent.render((await agent.hear("assignment")).assignment.ref)
            await acme.submit(f"k{number}")
        await agent.hear("assignment")
        await acme.submit("k5")
        error = await refused(acme.submit("k6"), grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert 1 <= details(error, error_details_pb2.RetryInfo).retry_delay.seconds < 30


async def test_jobs_that_arrive_at_once_cannot_all_slip_through_the_door(tmp_path: Path) -> None:
    async with (
        serving(config(tmp_path / "hub", max_queued_jobs=3)) as hub,
        grpc.aio.insecure_channel(hub.grpc_address) as channel,
    ):
        acme = Caller(channel)
        await acme.upload(JPEG)
        await acme.upload(WAV)
        outcomes = await asyncio.gather(*(acme.submit(f"k{n}") for n in range(20)), return_exceptions=True)
        assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 3
        listed = await acme.jobs.ListJobs(job_pb.ListJobsRequest(), metadata=acme.metadata)
        assert len(listed.jobs) == 3


async def test_a_changed_file_is_taken_over_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tenant_limits, "LOOK_INTERVAL_S", 0.02)
    path = written(tmp_path, "[default]\nmax_queued = 1\n")
    async with (
        serving(config(tmp_path / "hub", tenants_file=path)) as hub,
        grpc.aio.insecure_channel(hub.grpc_address) as channel,
    ):
        acme = Caller(channel)
        await acme.submit_new("k1")
        await refused(acme.submit("k2"), grpc.StatusCode.RESOURCE_EXHAUSTED)
        path.write_text("[default]\nmax_queued = 22\nnonsense = 1\n")
        async with asyncio.timeout(60):
            while "stay as they were" not in caplog.text:
                await asyncio.sleep(0.02)
        await refused(acme.submit("k2"), grpc.StatusCode.RESOURCE_EXHAUSTED)
        path.write_text("[default]\nmax_queued = 2\n")
        async with asyncio.timeout(60):
            while hub.dispatcher.queued("acme") < 2:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await acme.submit("k2")
                await asyncio.sleep(0.02)


async def test_a_hangup_reads_the_file_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tenant_limits, "LOOK_INTERVAL_S", 3600.0)
    caplog.set_level(logging.INFO)
    path = written(tmp_path, "[default]\nweight = 1\n")
    running = asyncio.create_task(service.run(config(tmp_path / "hub", tenants_file=path)))
    async with asyncio.timeout(60):
        while "serving" not in caplog.messages:
            await asyncio.sleep(0.02)
        while signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGHUP)
        while "the limits of tenants were read again" not in caplog.messages:
            await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        await running


async def test_a_hub_does_not_start_with_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="weihgt"):
        async with serving(config(tmp_path / "hub", tenants_file=written(tmp_path, "[default]\nweihgt = 1\n"))):
            pass
