"""One box: its work, its GPUs, its disk and its agent."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards import parts
from monitoring.dashboards.parts import graph, listing, number, states, variable

_NODE = 'node_id=~"$node_id"'
_MODEL = f'{_NODE},model_version=~"$model_version"'
_FIRING = f'alertstate="firing",{_NODE}'
_GPU = "GPU {{gpu}}"


def board() -> Dashboard:
    return parts.board(
        "sonic-node",
        "Sonic / Node",
        "One node, in the operator's tenant.",
        [
            variable("region", "Region", "sonic_slots"),
            variable("node_id", "Node", 'sonic_slots{region=~"$region"}', single=True),
            variable("model_version", "Model version", 'sonic_slots{node_id=~"$node_id"}'),
        ],
        _FIRING,
        {"Now": _now(), "Work": _work(), "GPUs": _gpus(), "Box": _box(), "Agent": _agent(), "What it is": _hardware()},
    )


def _now() -> list[object]:
    return [
        number(
            "Connected",
            "1 while the hub has a session with it.",
            parts.COUNT,
            f"max(sonic_hub_node_up{{{_NODE}}})",
            ((0, "red"), (1, "green")),
        ),
        number(
            "Slots ready or busy",
            "Slots that can render.",
            parts.COUNT,
            f'sum(sonic_slots{{{_MODEL},state=~"ready|busy"}})',
        ),
        number(
            "Work per second of video",
            "Mean of the renders of the last 15 minutes.",
            parts.WORK_PER_VIDEO,
            _mean("15m"),
        ),
        number(
            "Hottest GPU",
            "Most GPUs slow down between 83 and 90 degrees.",
            "celsius",
            f"max(sonic_gpu_temperature_celsius{{{_MODEL}}})",
            ((80, "yellow"), (88, "red")),
        ),
        number(
            "Disk free",
            "Under data_dir, where results and samples wait that the hub has not taken yet.",
            parts.BYTES,
            f"min(sonic_disk_free_bytes{{{_MODEL}}})",
            ((0, "red"), (2e9, "yellow"), (10e9, "green")),
        ),
        number(
            "Clock ahead of the hub's",
            "Beyond max_clock_offset_s (2 s unless set) its samples are moved to the hub's time.",
            parts.SECONDS,
            f"max(sonic_clock_offset_seconds{{{_MODEL}}})",
            ((-1e9, "red"), (-2, "green"), (2, "red")),
        ),
    ]


def _mean(window: str) -> str:
    name = "sonic_node_render_seconds_per_video_second"
    return f"sum(rate({name}_sum{{{_MODEL}}}[{window}])) / sum(rate({name}_count{{{_MODEL}}}[{window}]))"


def _work() -> list[object]:
    per_reason = f"60 * sum by (reason) (rate(sonic_node_error_total{{{_NODE}}}[$__rate_interval]))"
    region = 'sonic_region:render_seconds_per_video_second:level{region=~"$region",model_version=~"$model_version"}'
    return [
        graph(
            "Work per second of video",
            "This node, and the median of the nodes of its region. Alone above it: this box. Together: the region.",
            parts.WORK_PER_VIDEO,
            (_mean("$__rate_interval"), "this node"),
            (region, "{{region}} {{model_version}}"),
        ),
        graph(
            "Attempts per minute",
            "Attempts that ended, and those of them that failed, by reason.",
            parts.ATTEMPTS_PER_MINUTE,
            (f"60 * sum(rate(sonic_node_request_total{{{_NODE}}}[$__rate_interval]))", "ended"),
            (per_reason, "{{reason}}"),
        ),
        graph(
            "Slots",
            "Starting: a worker loads the model. Backoff: it has failed and is started again later.",
            parts.COUNT,
            (f"sum by (state) (sonic_slots{{{_MODEL}}})", "{{state}}"),
            stacked=True,
        ),
        graph(
            "Workers started again",
            "By why the one before ended.",
            parts.COUNT,
            (f"sum by (reason) (increase(sonic_worker_restarts_total{{{_NODE}}}[$__rate_interval]))", "{{reason}}"),
        ),
        graph(
            "Memory of the workers",
            "Resident memory by slot; a steady rise is a leak.",
            parts.BYTES,
            (f"max by (slot) (sonic_worker_memory_bytes{{{_MODEL}}})", "slot {{slot}}"),
        ),
        graph(
            "Results that wait",
            "Results that the hub has not acknowledged; they grow while the node is cut off.",
            parts.COUNT,
            (f"max(sonic_outbox_results{{{_MODEL}}})", "results"),
        ),
    ]


def _gpus() -> list[object]:
    def gauge(name: str) -> str:
        return f"max by (gpu) (sonic_gpu_{name}{{{_MODEL}}})"

    return [
        graph("Load", "Share of the time in which the GPU worked.", parts.PERCENT, (gauge("utilization"), _GPU)),
        graph(
            "Memory",
            "In use, by anybody, and there is.",
            parts.BYTES,
            (gauge("memory_used_bytes"), f"{_GPU} in use"),
            (gauge("memory_total_bytes"), f"{_GPU} in all"),
        ),
        graph(
            "Temperature",
            "Most GPUs slow down between 83 and 90 degrees.",
            "celsius",
            (gauge("temperature_celsius"), _GPU),
            steps=((88, "red"),),
        ),
        graph("Power", "That the GPU draws.", "watt", (gauge("power_watts"), _GPU)),
        graph(
            "Clock", "Of the cores; low under load means that it is held down.", "hertz", (gauge("clock_hertz"), _GPU)
        ),
        graph(
            "PCIe link",
            "As it is now; GPUs narrow it when they are idle. Narrow under load is a bad seat or riser.",
            parts.COUNT,
            (gauge("pcie_lanes"), f"{_GPU} lanes"),
            (gauge("pcie_generation"), f"{_GPU} generation"),
        ),
        states(
            "Held down",
            "Why the clocks are held down: thermal means cooling, power means the supply or a set limit.",
            f"max by (gpu, reason) (sonic_gpu_throttled{{{_MODEL}}})",
            f"{_GPU} {{{{reason}}}}",
            {"1": ("held down", "orange")},
        ),
        graph(
            "Errors of memory and driver",
            "ECC errors since the driver was loaded, and Xid events. Uncorrected ones and most Xids want a restart.",
            parts.COUNT,
            (f"max by (gpu, kind) (sonic_gpu_ecc_errors{{{_MODEL}}})", f"{_GPU} ECC {{{{kind}}}}"),
            (
                f"sum by (gpu, code) (increase(sonic_gpu_xid_total{{{_NODE}}}[$__rate_interval]))",
                f"{_GPU} Xid {{{{code}}}}",
            ),
        ).span(12),
    ]


def _box() -> list[object]:
    return [
        graph(
            "Processors",
            "Share of the time in which they worked.",
            parts.PERCENT,
            (f"max(sonic_cpu_percent{{{_MODEL}}})", "busy"),
        ),
        graph(
            "Memory that programs can have",
            "Of the box, not of its GPUs.",
            parts.BYTES,
            (f"min(sonic_memory_available_bytes{{{_MODEL}}})", "available"),
        ),
        graph(
            "Disk free",
            "Under data_dir.",
            parts.BYTES,
            (f"min(sonic_disk_free_bytes{{{_MODEL}}})", "free"),
        ),
    ]


def _agent() -> list[object]:
    return [
        graph(
            "Samples that wait",
            "On disk, not acknowledged by the hub, and the most that may wait. At the limit the oldest are given up.",
            parts.BYTES,
            (f"max(sonic_metric_spool_bytes{{{_MODEL}}})", "waiting"),
            (f"max(sonic_metric_spool_limit_bytes{{{_MODEL}}})", "limit"),
        ),
        graph(
            "Samples given up",
            "Before the hub had them, by reason.",
            parts.COUNT,
            (
                f"sum by (reason) (increase(sonic_metric_samples_dropped_total{{{_NODE}}}[$__rate_interval]))",
                "{{reason}}",
            ),
        ),
        graph(
            "Calls to the hub after the first",
            "Many in a row: the way to the hub is bad.",
            parts.COUNT,
            (f"sum(increase(sonic_session_reconnects_total{{{_NODE}}}[$__rate_interval]))", "reconnects"),
        ),
    ]


def _hardware() -> list[object]:
    return [
        listing(
            "GPUs",
            "Versions that differ within a region are worth an alert.",
            {
                "GPUs": (
                    f"sum by (gpu, uuid, name, vendor, driver, cuda, model_version) (sonic_gpu_info{{{_MODEL}}})",
                    "",
                )
            },
            by=("gpu", "name", "vendor", "driver", "cuda", "uuid", "model_version"),
        ).span(12),
        states(
            "Sources of hardware readings",
            "A source that has failed stays so until the agent is started again; the rest goes on.",
            f"min by (probe) (sonic_probe_up{{{_MODEL}}})",
            "{{probe}}",
            {"1": ("works", "green"), "0": ("failed", "red")},
        ),
        parts.alerts(_FIRING),
    ]
