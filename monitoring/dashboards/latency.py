"""How fast each region renders against how fast it usually does: what RegionLatencyAnomaly looks at."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards import parts
from monitoring.dashboards.parts import graph, number, states, variable, wide

_WHERE = 'region=~"$region",model_version=~"$model_version"'
_FIRING = f'alertstate="firing",alertname=~"RegionLatencyAnomaly|SlowRelease",{_WHERE}'
_EACH = "{{region}} {{model_version}}"


def _record(name: str, more: str = "") -> str:
    return f"sonic_region:render_seconds_per_video_second:{name}{{{_WHERE}{more}}}"


def board() -> Dashboard:
    return parts.board(
        "sonic-latency",
        "Sonic / Latency against its baseline",
        "Seconds of work for a second of video, in the operator's tenant. How level, references and bound are made is "
        "said in monitoring/rules/operator/latency.yml.",
        [
            variable("region", "Region", "sonic_node_render_seconds_per_video_second_count"),
            variable(
                "model_version",
                "Model version",
                'sonic_node_render_seconds_per_video_second_count{region=~"$region"}',
            ),
        ],
        _FIRING,
        {
            "Now": _now(),
            "Against the baseline": _baseline(),
            "What lies below": _below(),
            "Alerts": [parts.alerts(_FIRING)],
        },
    )


def _now() -> list[object]:
    return [
        number(
            "Regions that stand out",
            "Regions and model versions whose level is above their bound.",
            parts.COUNT,
            f"sum({_record('anomalous')})",
            parts.ANY_IS_BAD,
        ).span(6),
        number(
            "Furthest above its bound",
            "Level over bound, of the region where it is highest; 1 is the bound.",
            parts.RATIO,
            f"max({_record('level')} / {_record('bound')})",
            ((0.9, "yellow"), (1, "red")),
        ).span(6),
        number(
            "Still learning",
            "Regions and model versions that render and have no bound yet: it takes some two hours of traffic.",
            parts.COUNT,
            f"count({_record('level')} unless {_record('bound')}) or vector(0)",
            ((1, "yellow"),),
        ).span(6),
        number(
            "Renders in 5 minutes",
            "Below 10 in a region it has no level.",
            parts.COUNT,
            f"sum(sonic_region:renders:increase5m{{{_WHERE}}})",
        ).span(6),
    ]


def _baseline() -> list[object]:
    return [
        wide(
            graph(
                "Level and bound",
                "The level is the median over the nodes of a region. The bound stands still while the alert is on.",
                parts.WORK_PER_VIDEO,
                (_record("level"), f"{_EACH} level"),
                (_record("bound"), f"{_EACH} bound"),
            )
        ),
        wide(
            graph(
                "References",
                "The calm level of the last hours, of the same time yesterday and a week ago. The bound has room above "
                "the highest of them.",
                parts.WORK_PER_VIDEO,
                (_record("reference"), f"{_EACH} {{{{reference}}}}"),
            )
        ),
        states(
            "Stands out",
            "From the moment when the level is over the bound until it has come back by a twentieth.",
            _record("anomalous"),
            _EACH,
            {"0": ("as usual", "green"), "1": ("stands out", "red")},
        ),
        wide(
            graph(
                "Level over bound",
                "1 is the bound.",
                parts.RATIO,
                (f"{_record('level')} / {_record('bound')}", _EACH),
                steps=((1, "red"),),
            )
        ),
    ]


def _below() -> list[object]:
    name = "sonic_node_render_seconds_per_video_second"
    node = " / ".join(
        f"sum by (node_id, region, model_version) (rate({name}_{part}{{{_WHERE}}}[$__rate_interval]))"
        for part in ("sum", "count")
    )
    return [
        graph(
            "By node",
            "The mean of each node. One above the others is a bad box, which does not move the level; all together are "
            "the region or the release.",
            parts.WORK_PER_VIDEO,
            (node, "{{node_id}}"),
        ),
        graph(
            "Percentiles",
            "Over all renders of a region.",
            parts.WORK_PER_VIDEO,
            *((_record(p), f"{_EACH} {p}") for p in ("p50", "p95", "p99")),
        ),
        graph(
            "Renders in 5 minutes",
            "Below 10 a region has no level.",
            parts.COUNT,
            (f"sonic_region:renders:increase5m{{{_WHERE}}}", _EACH),
            steps=((10, "yellow"),),
        ),
        graph(
            "Hottest GPU",
            "A region that heats up slows down.",
            "celsius",
            (f"max by (region) (sonic_gpu_temperature_celsius{{{_WHERE}}})", "{{region}}"),
            steps=((88, "red"),),
        ),
        graph(
            "GPUs held down",
            "Whose clocks are held down, by reason.",
            parts.COUNT,
            (f"sum by (region, reason) (sonic_gpu_throttled{{{_WHERE}}})", "{{region}} {{reason}}"),
        ),
        graph(
            "Processors",
            "Mean over the nodes of a region: cutting out faces and encoding is their work.",
            parts.PERCENT,
            (f"avg by (region) (sonic_cpu_percent{{{_WHERE}}})", "{{region}}"),
        ),
    ]
