"""The agent's numbers: every metric is named once, in METRICS, with its unit, labels and help; docs/metrics.md follows.

Every series carries region, node_id and model_version, of which the first two never change. Series of jobs carry the
tenant that owns the job, series of accelerators their index and UUID. No label holds the id of a job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from agent.core.attempts import Failure, Fault, Outcome, Rendered
from sonic.metrics import Metric, register
from sonic.v1 import jobs_pb2, nodes_pb2

COMMON = ("region", "node_id", "model_version")
JOB, GPU = ("tenant",), ("gpu", "uuid")
NO_MODEL = "none"  # until a worker has loaded one
NO_TENANT = "none"  # of an attempt whose owner was forgotten in a restart
_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)
_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 50)

METRICS = (
    Metric("sonic_request_total", "counter", "attempts", JOB, "Attempts that ended here."),
    Metric("sonic_error_total", "counter", "attempts", (*JOB, "reason"), "Attempts that failed here."),
    Metric("sonic_inference_duration_seconds", "gauge", "seconds", JOB, "Of the last render."),
    Metric("sonic_render_seconds", "histogram", "seconds", JOB, "Of every render.", _SECONDS),
    Metric(
        "sonic_render_seconds_per_video_second",
        "histogram",
        "ratio",
        JOB,
        "Seconds of work for a second of video, of every render.",
        _RATIOS,
    ),
    Metric("sonic_realtime_factor", "gauge", "ratio", JOB, "Seconds of video per second of work, of the last render."),
    Metric("sonic_queue_seconds", "histogram", "seconds", JOB, "From submission to this attempt.", _SECONDS),
    Metric("sonic_fetched_bytes_total", "counter", "bytes", JOB, "Portraits and voices fetched from the hub."),
    Metric("sonic_node_request_total", "counter", "attempts", (), "Attempts that ended here, of all tenants."),
    Metric("sonic_node_error_total", "counter", "attempts", ("reason",), "Attempts that failed here, of all tenants."),
    Metric(
        "sonic_node_render_seconds_per_video_second",
        "histogram",
        "ratio",
        (),
        "Seconds of work for a second of video, of every render of all tenants.",
        _RATIOS,
    ),
    Metric("sonic_gpu_utilization", "gauge", "percent", GPU, "Share of the time in which the GPU worked."),
    Metric("sonic_gpu_memory_used_bytes", "gauge", "bytes", GPU, "Memory in use on the GPU, by anybody."),
    Metric("sonic_gpu_memory_total_bytes", "gauge", "bytes", GPU, "Memory of the GPU."),
    Metric("sonic_gpu_temperature_celsius", "gauge", "degrees Celsius", GPU, "Temperature of the GPU."),
    Metric("sonic_gpu_power_watts", "gauge", "watts", GPU, "Power that the GPU draws."),
    Metric("sonic_gpu_clock_hertz", "gauge", "hertz", GPU, "Clock of the GPU's cores."),
    Metric(
        "sonic_gpu_throttled",
        "gauge",
        "0 or 1",
        (*GPU, "reason"),
        "Whether the GPU's clocks are held down, by reason.",
    ),
    Metric(
        "sonic_gpu_ecc_errors",
        "gauge",
        "errors",
        (*GPU, "kind"),
        "Memory errors since the driver was loaded, corrected and uncorrected.",
    ),
    Metric("sonic_gpu_xid_total", "counter", "events", (*GPU, "code"), "Xid errors since the agent started, by code."),
    Metric("sonic_gpu_pcie_generation", "gauge", "generation", GPU, "Generation of the PCIe link as it is now."),
    Metric("sonic_gpu_pcie_lanes", "gauge", "lanes", GPU, "Width of the PCIe link as it is now."),
    Metric(
        "sonic_gpu_info",
        "gauge",
        "1",
        (*GPU, "name", "vendor", "driver", "cuda"),
        "What the GPU is, and the versions of its driver and CUDA.",
    ),
    Metric("sonic_probe_up", "gauge", "0 or 1", ("probe",), "Whether a source of hardware readings works."),
    Metric("sonic_cpu_percent", "gauge", "percent", (), "Share of the time in which the box's processors worked."),
    Metric("sonic_memory_available_bytes", "gauge", "bytes", (), "Memory of the box that programs can have."),
    Metric("sonic_disk_free_bytes", "gauge", "bytes", (), "Free space under data_dir."),
    Metric("sonic_slots", "gauge", "slots", ("state",), "Slots by state."),
    Metric(
        "sonic_worker_restarts_total",
        "counter",
        "restarts",
        ("reason",),
        "Workers started after the first, by why the one before ended.",
    ),
    Metric("sonic_worker_memory_bytes", "gauge", "bytes", ("slot",), "Resident memory of a slot's worker."),
    Metric(
        "sonic_execution_provider_info",
        "gauge",
        "1",
        ("network", "provider"),
        "Where a network of the workers computes: tensorrt, cuda, migraphx, rocm, openvino, coreml, directml or cpu.",
    ),
    Metric("sonic_outbox_results", "gauge", "results", (), "Results that the hub has not acknowledged."),
    Metric("sonic_metric_spool_bytes", "gauge", "bytes", (), "Samples on disk that the hub has not acknowledged."),
    Metric("sonic_metric_spool_limit_bytes", "gauge", "bytes", (), "The most that the spool of samples may take."),
    Metric(
        "sonic_metric_samples_dropped_total",
        "counter",
        "samples",
        ("reason",),
        "Samples given up before the hub had them: spool_full, too_old or disk.",
    ),
    Metric("sonic_session_reconnects_total", "counter", "calls", (), "Calls to the hub after the first."),
    Metric("sonic_clock_offset_seconds", "gauge", "seconds", (), "The box's clock against the hub's; positive: ahead."),
)


class Metrics:
    """Counts what the agent does."""

    def __init__(self, region: str, node_id: str) -> None:
        self.registry = CollectorRegistry()
        self._place = (region, node_id)
        self._model_version = NO_MODEL
        self._metrics: Mapping[str, Any] = register(METRICS, COMMON, self.registry)
        self._counted: dict[tuple[str, ...], float] = {}  # what was last told of counters that others keep

    def model(self, version: str) -> None:
        """Label what comes with this model version; gauges of the one before are gone."""
        if version != self._model_version:
            for metric in METRICS:
                if metric.kind == "gauge":
                    self._metrics[metric.name].clear()
        self._model_version = version
        for metric in METRICS:
            if metric.kind != "gauge" and not metric.labels:
                self._of(metric.name)

    def ended(self, outcome: Outcome, tenant: str) -> None:
        """An attempt has ended; what was declined is no request."""
        if isinstance(outcome, Failure) and outcome.fault is Fault.DECLINED:
            return
        self._of("sonic_request_total", tenant).inc()
        self._of("sonic_node_request_total").inc()
        if isinstance(outcome, Failure):
            self._of("sonic_error_total", tenant, outcome.reason).inc()
            self._of("sonic_node_error_total", outcome.reason).inc()
        if isinstance(outcome, Rendered):
            self._rendered(outcome, tenant)

    def _rendered(self, outcome: Rendered, tenant: str) -> None:
        video_s = jobs_pb2.RenderReport.FromString(outcome.report).video_seconds
        self._of("sonic_inference_duration_seconds", tenant).set(outcome.seconds)
        self._of("sonic_render_seconds", tenant).observe(outcome.seconds)
        if video_s and outcome.seconds:
            self._of("sonic_render_seconds_per_video_second", tenant).observe(outcome.seconds / video_s)
            self._of("sonic_node_render_seconds_per_video_second").observe(outcome.seconds / video_s)
            self._of("sonic_realtime_factor", tenant).set(video_s / outcome.seconds)

    def queued(self, seconds: float, tenant: str) -> None:
        self._of("sonic_queue_seconds", tenant).observe(seconds)

    def fetched(self, count: int, tenant: str) -> None:
        self._of("sonic_fetched_bytes_total", tenant).inc(count)

    def worker_restarted(self, reason: str) -> None:
        self._of("sonic_worker_restarts_total", reason).inc()

    def workers(self, memory_bytes: Mapping[int, int]) -> None:
        """Resident memory by slot."""
        self._metrics["sonic_worker_memory_bytes"].clear()
        for slot, count in memory_bytes.items():
            self._of("sonic_worker_memory_bytes", str(slot)).set(count)

    def networks(self, opened: Iterable[tuple[str, str]]) -> None:
        """Pairs of a network and its provider; those that no worker has any more are gone."""
        self._metrics["sonic_execution_provider_info"].clear()
        for network, provider in opened:
            self._of("sonic_execution_provider_info", network, provider).set(1)

    def reconnected(self) -> None:
        self._of("sonic_session_reconnects_total").inc()

    def clock_offset(self, seconds: float) -> None:
        self._of("sonic_clock_offset_seconds").set(seconds)

    def outbox(self, results: int) -> None:
        self._of("sonic_outbox_results").set(results)

    def spool(self, size_bytes: int, limit_bytes: int, lost: Mapping[str, int]) -> None:
        """How much waits on disk, and the samples that were given up since, by reason."""
        self._of("sonic_metric_spool_bytes").set(size_bytes)
        self._of("sonic_metric_spool_limit_bytes").set(limit_bytes)
        for reason, count in lost.items():
            self._of("sonic_metric_samples_dropped_total", reason).inc(count)

    def slots(self, by_state: Mapping[str, int]) -> None:
        """How many slots are in each state."""
        for state, count in by_state.items():
            self._of("sonic_slots", state).set(count)

    def probes(self, up: Mapping[str, bool]) -> None:
        for probe, works in up.items():
            self._of("sonic_probe_up", probe).set(works)

    def health(self, health: nodes_pb2.NodeHealth, gpus: Sequence[nodes_pb2.GpuInfo]) -> None:
        """The box and its accelerators; one that is gone has no series any more."""
        self._of("sonic_cpu_percent").set(health.cpu_percent)
        self._of("sonic_memory_available_bytes").set(health.memory_available_bytes)
        self._of("sonic_disk_free_bytes").set(health.disk_free_bytes)
        for metric in METRICS:
            if metric.kind == "gauge" and metric.labels[:2] == GPU:
                self._metrics[metric.name].clear()
        known = {gpu.uuid: gpu for gpu in gpus}
        for measured in health.gpus:
            self._gpu(measured, known.get(measured.uuid, nodes_pb2.GpuInfo(uuid=measured.uuid)))

    def _gpu(self, measured: nodes_pb2.GpuHealth, info: nodes_pb2.GpuInfo) -> None:
        gpu = (str(info.index), info.uuid)
        about = (info.name, info.vendor, info.driver_version, info.cuda_version)
        self._of("sonic_gpu_info", *gpu, *about).set(1)
        self._of("sonic_gpu_utilization", *gpu).set(measured.utilization_percent)
        self._of("sonic_gpu_memory_used_bytes", *gpu).set(measured.memory_used_bytes)
        if info.memory_bytes:
            self._of("sonic_gpu_memory_total_bytes", *gpu).set(info.memory_bytes)
        if measured.temperature_celsius:
            self._of("sonic_gpu_temperature_celsius", *gpu).set(measured.temperature_celsius)
        for name, field in (
            ("sonic_gpu_power_watts", "power_watts"),
            ("sonic_gpu_clock_hertz", "clock_hertz"),
            ("sonic_gpu_pcie_generation", "pcie_generation"),
            ("sonic_gpu_pcie_lanes", "pcie_width"),
        ):
            if measured.HasField(field):  # type: ignore[arg-type]
                self._of(name, *gpu).set(getattr(measured, field))
        for kind in ("corrected", "uncorrected"):
            if measured.HasField(f"ecc_{kind}_errors"):  # type: ignore[arg-type]
                self._of("sonic_gpu_ecc_errors", *gpu, kind).set(getattr(measured, f"ecc_{kind}_errors"))
        for reason in measured.throttle_reasons:
            self._of("sonic_gpu_throttled", *gpu, reason).set(1)
        for code, count in measured.xid_events.items():
            self._grown("sonic_gpu_xid_total", count, *gpu, str(code))

    def _grown(self, name: str, count: float, *labels: str) -> None:
        """A counter that somebody else keeps has this value now."""
        before = self._counted.get((name, *labels), 0.0)
        self._counted[name, *labels] = count
        self._of(name, *labels).inc(max(count - before, 0))

    def _of(self, name: str, *labels: str) -> Any:
        return self._metrics[name].labels(*self._place, self._model_version, *labels)
