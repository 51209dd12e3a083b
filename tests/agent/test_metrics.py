"""What a scraper reads of a node: every series labelled, none that could grow without bound, none of what is gone."""

from __future__ import annotations

from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.core.attempts import Failure, Fault, Rendered
from agent.metrics import COMMON, METRICS, Metrics
from sonic.v1 import jobs_pb2, nodes_pb2

GPU = nodes_pb2.GpuInfo(uuid="GPU-1", name="L4", memory_bytes=24, driver_version="570", vendor="nvidia", index=1)


def read(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Values by name and the labels beside COMMON, in the order of their names."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            assert set(COMMON) <= set(sample.labels)
            rest = sorted((name, value) for name, value in sample.labels.items() if name not in COMMON)
            found[(sample.name, *(value for _, value in rest))] = sample.value
    return found


def rendered(seconds: float, video_s: float) -> Rendered:
    return Rendered(jobs_pb2.RenderReport(video_seconds=video_s).SerializeToString(), seconds)


def test_renders_are_counted_for_the_tenant_that_owns_them() -> None:
    metrics = Metrics("eu", "box")
    metrics.ended(rendered(4.0, 8.0), "acme")
    metrics.ended(Failure(Fault.CRASH, "WORKER_CRASHED", ""), "acme")
    metrics.ended(Failure(Fault.DECLINED, "BUSY", ""), "acme")
    metrics.ended(rendered(3.0, 1.0), "rival")
    found = read(metrics)
    assert found["sonic_request_total", "acme"] == 2
    assert found["sonic_error_total", "WORKER_CRASHED", "acme"] == 1
    assert found["sonic_inference_duration_seconds", "acme"] == 4
    assert found["sonic_realtime_factor", "acme"] == 2
    assert found["sonic_render_seconds_per_video_second_bucket", "0.5", "acme"] == 1
    assert found["sonic_request_total", "rival"] == 1


def test_a_gpu_shows_what_it_offers_and_vanishes_when_it_is_gone() -> None:
    metrics = Metrics("eu", "box")
    health = nodes_pb2.GpuHealth(uuid="GPU-1", utilization_percent=87, power_watts=70, throttle_reasons=["thermal"])
    metrics.health(nodes_pb2.NodeHealth(gpus=[health]), [GPU])
    found = read(metrics)
    assert found["sonic_gpu_utilization", "1", "GPU-1"] == 87
    assert found["sonic_gpu_throttled", "1", "thermal", "GPU-1"] == 1
    assert ("sonic_gpu_pcie_lanes", "1", "GPU-1") not in found
    assert ("sonic_gpu_temperature_celsius", "1", "GPU-1") not in found
    metrics.health(nodes_pb2.NodeHealth(), [GPU])
    assert not [name for name in read(metrics) if name[0].startswith("sonic_gpu") and "xid" not in name[0]]


def test_a_network_that_moves_to_another_provider_leaves_the_first() -> None:
    metrics = Metrics("eu", "box")
    metrics.networks({("mouth", "cuda"), ("face-mesh", "cuda")})
    metrics.networks({("mouth", "cpu")})
    info = {name[1:]: value for name, value in read(metrics).items() if name[0] == "sonic_execution_provider_info"}
    assert info == {("mouth", "cpu"): 1}


def test_xid_events_only_grow() -> None:
    metrics = Metrics("eu", "box")
    for count in (2, 2, 5):
        health = nodes_pb2.GpuHealth(uuid="GPU-1", xid_events={79: count})
        metrics.health(nodes_pb2.NodeHealth(gpus=[health]), [GPU])
    assert read(metrics)["sonic_gpu_xid_total", "79", "1", "GPU-1"] == 5


def test_gauges_of_an_earlier_model_are_gone_and_counters_stay() -> None:
    metrics = Metrics("eu", "box")
    metrics.model("v1")
    metrics.outbox(3)
    metrics.ended(rendered(4.0, 8.0), "acme")
    metrics.model("v2")
    text = generate_latest(metrics.registry).decode()
    assert 'sonic_outbox_results{model_version="v1"' not in text
    assert 'sonic_request_total{model_version="v1",node_id="box",region="eu",tenant="acme"} 1.0' in text


def test_names_and_units_follow_prometheus() -> None:
    kept = {"sonic_gpu_utilization", "sonic_gpu_throttled", "sonic_cpu_percent"}
    for metric in METRICS:
        assert metric.name.startswith("sonic_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        if metric.unit in ("seconds", "bytes", "watts", "hertz") and metric.name not in kept:
            assert metric.unit in metric.name, metric.name
        assert "job" not in metric.labels
        assert metric.help.endswith(".")
