"""Ports with TLS: connections that come together end no hub, and a new certificate is taken into use."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import grpc
import grpc.aio

from hub.trust.ports import first_and_news
from sonic.v1 import job_service_pb2 as pb
from sonic.v1 import job_service_pb2_grpc
from tests.processes import free_port, process, wait_until_ready

ROUNDS, TOGETHER = 150, 6


def test_a_port_is_told_of_a_certificate_when_it_is_new_and_not_again() -> None:
    certificates = [
        grpc.ssl_server_certificate_configuration([(b"key", b"certificate")]),
        grpc.ssl_server_certificate_configuration([(b"another key", b"another certificate")]),
    ]
    current = certificates[0]
    first, news = first_and_news(lambda: current)
    assert first is certificates[0]
    assert [news(), news()] == [None, None]
    current = certificates[1]
    assert news() is certificates[1]
    assert news() is None


async def test_connections_that_come_together_do_not_end_a_hub(tmp_path: Path) -> None:
    """Where gRPC was given the same certificate for each of them, a hub was gone after 6 to 104 rounds."""
    address, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "sonic", "hub", "--listen", address, "--http-listen", http]
    command += ["--agent-listen", f"127.0.0.1:{free_port()}", "--data-dir", str(tmp_path / "hub")]
    with process(command, tmp_path / "log") as hub:
        await asyncio.to_thread(wait_until_ready, f"http://{http}/readyz", hub)
        trusted = grpc.ssl_channel_credentials((tmp_path / "hub" / "authority" / "authority.pem").read_bytes())

        async def connect() -> grpc.StatusCode:
            own = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.secure_channel(address, trusted, options=own) as channel:
                jobs = job_service_pb2_grpc.JobServiceStub(channel)
                call = jobs.GetJob(pb.GetJobRequest(job_id="none"), timeout=60)
                return await call.code()

        for _ in range(ROUNDS):
            answers = await asyncio.gather(*(connect() for _ in range(TOGETHER)))
            assert set(answers) == {grpc.StatusCode.UNAUTHENTICATED}
        assert hub.running
        assert hub.running.poll() is None


async def test_a_hub_that_a_library_crashes_says_where_it_was(tmp_path: Path) -> None:
    http = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "sonic", "hub", "--insecure", "--listen", f"127.0.0.1:{free_port()}"]
    command += ["--http-listen", http, "--data-dir", str(tmp_path / "hub")]
    with process(command, tmp_path / "log") as hub:
        await asyncio.to_thread(wait_until_ready, f"http://{http}/readyz", hub)
        hub.kill(signal.SIGSEGV)
    assert "Fatal Python error: Segmentation fault" in hub.log.read_text()
