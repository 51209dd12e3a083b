"""One tenant, from the series that are its own: it can be shown to the tenant."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards import parts
from monitoring.dashboards.parts import graph, number, variable

_WHERE = 'tenant=~"$tenant",region=~"$region",model_version=~"$model_version"'
_FIRING = 'alertstate="firing",tenant=~"$tenant|",region=~"$region|"'


def board() -> Dashboard:
    return parts.board(
        "sonic-tenant",
        "Sonic / Tenant",
        "What a tenant's jobs met, in the tenant's own data source.",
        [
            variable("tenant", "Tenant", "sonic_request_total", single=True),
            variable("region", "Region", 'sonic_request_total{tenant=~"$tenant"}'),
            variable("model_version", "Model version", 'sonic_request_total{tenant=~"$tenant"}'),
        ],
        _FIRING,
        {"Now": _now(), "Over time": _course(), "Where": _places(), "Alerts": [parts.alerts(_FIRING)]},
    )


def _quantile(q: float, name: str, window: str, by: str = "le") -> str:
    return f"histogram_quantile({q}, sum by ({by}) (rate({name}_bucket{{{_WHERE}}}[{window}])))"


def _now() -> list[object]:
    failed = f"(sum(increase(sonic_error_total{{{_WHERE}}}[1h])) or vector(0))"
    ended = f"sum(increase(sonic_request_total{{{_WHERE}}}[1h]))"
    return [
        number("Attempts in the last hour", "Well or badly ended.", parts.COUNT, ended),
        number(
            "Attempts that failed",
            "Share of those of the last hour, bad input included.",
            parts.RATIO,
            f"{failed} / {ended}",
            parts.BAD_SHARE,
        ),
        number("Render, median", "Of the last hour.", parts.SECONDS, _quantile(0.5, "sonic_render_seconds", "1h")),
        number(
            "Render, 95th percentile", "Of the last hour.", parts.SECONDS, _quantile(0.95, "sonic_render_seconds", "1h")
        ),
        number(
            "Wait, 95th percentile",
            "From submission to the attempt, in the last hour.",
            parts.SECONDS,
            _quantile(0.95, "sonic_queue_seconds", "1h"),
        ),
        number(
            "Work per second of video",
            "95th percentile of the last hour. Below 1 a video is made faster than it plays.",
            parts.WORK_PER_VIDEO,
            _quantile(0.95, "sonic_render_seconds_per_video_second", "1h"),
        ),
    ]


def _course() -> list[object]:
    def quantiles(name: str) -> list[parts.Query]:
        return [(_quantile(q, name, "$__rate_interval"), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)]

    return [
        graph(
            "Attempts per minute",
            "Well or badly ended, by region.",
            parts.ATTEMPTS_PER_MINUTE,
            (f"60 * sum by (region) (rate(sonic_request_total{{{_WHERE}}}[$__rate_interval]))", "{{region}}"),
            stacked=True,
        ),
        graph(
            "Attempts that failed, by reason",
            "docs/errors.md explains the reasons, and whose fault each is.",
            parts.ATTEMPTS_PER_MINUTE,
            (f"60 * sum by (reason) (rate(sonic_error_total{{{_WHERE}}}[$__rate_interval]))", "{{reason}}"),
            stacked=True,
        ),
        graph("Wait", "From submission to the attempt.", parts.SECONDS, *quantiles("sonic_queue_seconds")),
        graph("Render", "Seconds of work for a video.", parts.SECONDS, *quantiles("sonic_render_seconds")),
        graph(
            "Work per second of video",
            "Seconds of work for a second of video: long and short videos alike.",
            parts.WORK_PER_VIDEO,
            *quantiles("sonic_render_seconds_per_video_second"),
        ),
        graph(
            "Portraits and voices fetched",
            "By the nodes, from the hub.",
            parts.BYTES_PER_SECOND,
            (f"sum by (region) (rate(sonic_fetched_bytes_total{{{_WHERE}}}[$__rate_interval]))", "{{region}}"),
        ),
    ]


def _places() -> list[object]:
    name = "sonic_render_seconds_per_video_second"
    mean = " / ".join(
        f"sum by (region, model_version) (rate({name}_{part}{{{_WHERE}}}[$__rate_interval]))"
        for part in ("sum", "count")
    )
    return [
        graph(
            "Work per second of video, by region and model version",
            "Mean.",
            parts.WORK_PER_VIDEO,
            (mean, "{{region}} {{model_version}}"),
        ),
        graph(
            "Last render, by node",
            "Seconds of work of the last render; the classic number, whatever the video's length.",
            parts.SECONDS,
            (f"max by (node_id) (sonic_inference_duration_seconds{{{_WHERE}}})", "{{node_id}}"),
            steps=((15, "red"),),
        ),
        graph(
            "Realtime factor, by node",
            "Seconds of video per second of work, of the last render. Above 1 it is faster than it plays.",
            parts.COUNT,
            (f"min by (node_id) (sonic_realtime_factor{{{_WHERE}}})", "{{node_id}}"),
        ),
    ]
