"""The whole fleet by region: is anything wrong, and where?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards import parts
from monitoring.dashboards.parts import graph, listing, number, variable, wide

_PLACE = 'region=~"$region"'
_NODES = f'{_PLACE},model_version=~"$model_version"'
_TENANT = 'tenant=~"$tenant"'
_FIRING = 'alertstate="firing",region=~"$region|"'


def board() -> Dashboard:
    return parts.board(
        "sonic-fleet",
        "Sonic / Fleet",
        "All regions at a glance, in the operator's tenant.",
        [
            variable("region", "Region", "sonic_slots"),
            variable("model_version", "Model version", "sonic_slots"),
            variable("tenant", "Tenant", "sonic_hub_jobs_submitted_total"),
        ],
        _FIRING,
        {"Now": _now(), "Regions": _regions(), "Jobs": _jobs(), "Nodes": _nodes(), "Alerts": [parts.alerts(_FIRING)]},
    )


def _now() -> list[object]:
    up = f"sonic_node:up:expected{{{_PLACE}}}"
    return [
        number("Nodes connected", "Agents with a session.", parts.COUNT, f"sum({up})"),
        number(
            "Nodes away",
            "That were here within the last hour and were not taken out of the fleet.",
            parts.COUNT,
            f"count({up} == 0) or vector(0)",
            parts.ANY_IS_BAD,
        ),
        number(
            "Slots in use",
            "Share of the slots that could render and do. Near 1 new jobs wait.",
            parts.RATIO,
            f'sum(sonic_slots{{{_NODES},state="busy"}}) / sum(sonic_slots{{{_NODES},state=~"ready|busy"}})',
            ((0.8, "yellow"), (0.95, "red")),
        ),
        number(
            "Attempts per minute",
            "Attempts that ended, well or badly.",
            parts.ATTEMPTS_PER_MINUTE,
            f"60 * sum(rate(sonic_node_request_total{{{_NODES}}}[5m]))",
        ),
        number(
            "Attempts that failed",
            "Share of the attempts of the last 5 minutes, bad input included.",
            parts.RATIO,
            f"(sum(rate(sonic_node_error_total{{{_NODES}}}[5m])) or vector(0))"
            f" / sum(rate(sonic_node_request_total{{{_NODES}}}[5m]))",
            parts.BAD_SHARE,
        ),
        number(
            "Alerts firing",
            "In these regions or in none in particular.",
            parts.COUNT,
            f"count(ALERTS{{{_FIRING}}}) or vector(0)",
            parts.ANY_IS_BAD,
        ),
    ]


def _regions() -> list[object]:
    level = f"sonic_region:render_seconds_per_video_second:level{{{_NODES}}}"
    return [
        graph(
            "Work per second of video",
            "The level of a region: the median over its nodes of the seconds of work for a second of video. The board "
            "about latency holds it against what is usual.",
            parts.WORK_PER_VIDEO,
            (level, "{{region}} {{model_version}}"),
        ),
        graph(
            "Attempts per minute",
            "Attempts that ended, well or badly.",
            parts.ATTEMPTS_PER_MINUTE,
            (f"60 * sum by (region) (rate(sonic_node_request_total{{{_NODES}}}[$__rate_interval]))", "{{region}}"),
            stacked=True,
        ),
        graph(
            "Attempts that failed, by reason",
            "Reasons are explained in docs/errors.md; bad input is the caller's and not the fleet's.",
            parts.ATTEMPTS_PER_MINUTE,
            (
                f"60 * sum by (region, reason) (rate(sonic_node_error_total{{{_NODES}}}[$__rate_interval]))",
                "{{region}} {{reason}}",
            ),
            stacked=True,
        ),
        graph(
            "Nodes by standing",
            "Degraded nodes get less work, ejected ones none until they have rendered their probe clip well.",
            parts.COUNT,
            (f"sum by (state) (max by (region, state) (sonic_hub_nodes{{{_PLACE}}}))", "{{state}}"),
            stacked=True,
        ),
        graph(
            "Slots in use",
            "Share of the slots that could render and do.",
            parts.RATIO,
            (
                f'sum by (region) (sonic_slots{{{_NODES},state="busy"}})'
                f' / sum by (region) (sonic_slots{{{_NODES},state=~"ready|busy"}})',
                "{{region}}",
            ),
            steps=((0.95, "red"),),
        ),
        graph(
            "GPU load",
            "Mean over the region's GPUs.",
            parts.PERCENT,
            (f"avg by (region) (sonic_gpu_utilization{{{_NODES}}})", "{{region}}"),
        ),
    ]


def _jobs() -> list[object]:
    waited = f"sum by (le, tenant) (rate(sonic_hub_queue_wait_seconds_bucket{{{_TENANT}}}[$__rate_interval]))"
    return [
        graph(
            "Jobs that have not ended",
            "By tenant and state.",
            parts.COUNT,
            (f"max by (tenant, state) (sonic_hub_jobs{{{_TENANT}}})", "{{tenant}} {{state}}"),
            stacked=True,
        ),
        graph(
            "Wait until the first node",
            "95th percentile, from submission to the first assignment.",
            parts.SECONDS,
            (f"histogram_quantile(0.95, {waited})", "{{tenant}}"),
        ),
        graph(
            "Jobs ended per minute",
            "By tenant and how they ended.",
            parts.ATTEMPTS_PER_MINUTE,
            (
                f"60 * sum by (tenant, state) (rate(sonic_hub_jobs_ended_total{{{_TENANT}}}[$__rate_interval]))",
                "{{tenant}} {{state}}",
            ),
            stacked=True,
        ),
        wide(
            graph(
                "Placements per minute",
                "Jobs given to a node: for the first time, or again after a try that failed.",
                parts.ATTEMPTS_PER_MINUTE,
                (
                    f"60 * sum by (region, reason) (rate(sonic_hub_placements_total{{{_PLACE}}}[$__rate_interval]))",
                    "{{region}} {{reason}}",
                ),
            )
        ),
        wide(
            graph(
                "Tries that ended without ending their job, per minute",
                "By reason; docs/errors.md explains them.",
                parts.ATTEMPTS_PER_MINUTE,
                ("60 * sum by (reason) (rate(sonic_hub_requeues_total[$__rate_interval]))", "{{reason}}"),
            )
        ),
    ]


def _nodes() -> list[object]:
    mean = "sum by (node_id, region) (rate(sonic_node_render_seconds_per_video_second_{part}{{{where}}}[15m]))"
    work = " / ".join(mean.format(part=part, where=_NODES) for part in ("sum", "count"))
    return [
        listing(
            "Nodes",
            "Follow a name to its board. Work is that of the last 15 minutes.",
            {
                "connected": (f"max by (node_id, region) (sonic_hub_node_up{{{_PLACE}}})", ""),
                "slots": (f"sum by (node_id, region) (sonic_slots{{{_NODES}}})", ""),
                "busy": (f'sum by (node_id, region) (sonic_slots{{{_NODES},state="busy"}})', ""),
                "work per video": (work, ""),
                "hottest GPU": (f"max by (node_id, region) (sonic_gpu_temperature_celsius{{{_NODES}}})", ""),
                "disk free": (f"min by (node_id, region) (sonic_disk_free_bytes{{{_NODES}}})", ""),
                "clock ahead": (f"max by (node_id, region) (sonic_clock_offset_seconds{{{_NODES}}})", ""),
            },
            by=("node_id", "region"),
            link="/d/sonic-node?var-node_id=${__value.raw}&${datasource:queryparam}&${__url_time_range}",
            units={
                "work per video": parts.WORK_PER_VIDEO,
                "hottest GPU": "celsius",
                "disk free": parts.BYTES,
                "clock ahead": parts.SECONDS,
            },
        )
    ]
