"""The way of the metrics: from the nodes to the hubs, and on to the receiver, tenant by tenant."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards import parts
from monitoring.dashboards.parts import graph, number, states, variable

_HUB = 'hub=~"$hub",tenant=~"$tenant"'
_NODES = 'region=~"$region"'
_ALERTS = "Forwarding.*|SpoolNearBound|NodeSpoolNearBound|NodeDroppingSamples|ClockSkew|HubDown|StoreFailing"
_FIRING = f'alertstate="firing",alertname=~"{_ALERTS}"'


def board() -> Dashboard:
    return parts.board(
        "sonic-forwarding",
        "Sonic / Forwarding",
        "Whether every sample reaches its tenant, in the operator's tenant.",
        [
            variable("hub", "Hub", "sonic_hub_forward_spool_bytes"),
            variable("tenant", "Tenant", 'sonic_hub_forward_spool_bytes{hub=~"$hub"}'),
            variable("region", "Region", "sonic_metric_spool_bytes"),
        ],
        _FIRING,
        {"Now": _now(), "Hubs": _hubs(), "Nodes": _nodes(), "Alerts": [parts.alerts(_FIRING)]},
    )


def _full(selector: str, prefix: str) -> str:
    return f"{prefix}_bytes{{{selector}}} / {prefix}_limit_bytes{{{selector}}}"


def _now() -> list[object]:
    hub_spool, node_spool = _full(_HUB, "sonic_hub_forward_spool"), _full(_NODES, "sonic_metric_spool")
    lost = [f"sum(increase(sonic_hub_forward_{kind}_samples_total{{{_HUB}}}[1h]))" for kind in ("dropped", "refused")]
    return [
        number(
            "Longest lag",
            "Age of the oldest sample that is being delivered.",
            parts.SECONDS,
            f"max(sonic_hub_forward_lag_seconds{{{_HUB}}})",
            ((60, "yellow"), (600, "red")),
        ),
        number(
            "Tenants held",
            "The receiver refuses all that is theirs: a matter of address, credentials or tenant id. The data is kept.",
            parts.COUNT,
            f"count(sonic_hub_forward_held{{{_HUB}}}) or vector(0)",
            parts.ANY_IS_BAD,
        ),
        number(
            "Fullest spool of a hub",
            "Share of its room on disk; when it is full the oldest samples are given up.",
            parts.RATIO,
            f"max({hub_spool})",
            ((0.5, "yellow"), (0.8, "red")),
        ),
        number(
            "Fullest spool of a node",
            "Share of its room on disk.",
            parts.RATIO,
            f"max({node_spool})",
            ((0.5, "yellow"), (0.8, "red")),
        ),
        number(
            "Given up in an hour",
            "Samples that no receiver will have.",
            parts.COUNT,
            f"{lost[0]} or vector(0)",
            parts.ANY_IS_BAD,
        ),
        number(
            "Refused in an hour",
            "Samples of requests that the receiver refused for good; a part of them it may have stored.",
            parts.COUNT,
            f"{lost[1]} or vector(0)",
            parts.ANY_IS_BAD,
        ),
    ]


def _hubs() -> list[object]:
    def rate(name: str, by: str = "tenant") -> str:
        return f"sum by ({by}) (rate(sonic_hub_forward_{name}_total{{{_HUB}}}[$__rate_interval]))"

    commits = 'sonic_hub_commit_seconds_bucket{hub=~"$hub"}'
    return [
        graph(
            "Samples per second",
            "Taken from nodes and hubs, and delivered. They run together, the second a little behind.",
            "cps",
            (rate("received_samples"), "{{tenant}} taken"),
            (rate("sent_samples"), "{{tenant}} delivered"),
        ),
        graph(
            "Lag",
            "Age of the oldest sample that is being delivered. Rising: the receiver is away, or too slow.",
            parts.SECONDS,
            (f"max by (tenant) (sonic_hub_forward_lag_seconds{{{_HUB}}})", "{{tenant}}"),
            steps=((600, "red"),),
        ),
        graph(
            "Samples that wait",
            "On disk.",
            parts.BYTES,
            (f"sum by (tenant) (sonic_hub_forward_spool_bytes{{{_HUB}}})", "{{tenant}}"),
            stacked=True,
        ),
        graph(
            "Requests per second",
            "By the receiver's answer: 2xx done, 429 and 5xx come again, 400 refused for good in part, none no answer.",
            "reqps",
            (rate("requests", "tenant, code"), "{{tenant}} {{code}}"),
        ),
        graph(
            "Samples refused per second",
            "By tenant and the receiver's reason.",
            "cps",
            (rate("refused_samples", "tenant, reason"), "{{tenant}} {{reason}}"),
        ),
        graph(
            "Samples given up per second",
            "By tenant and reason.",
            "cps",
            (rate("dropped_samples", "tenant, reason"), "{{tenant}} {{reason}}"),
        ),
        states(
            "Held",
            "While the receiver refuses everything of a tenant, by the status with which it does.",
            f"max by (tenant, code) (sonic_hub_forward_held{{{_HUB}}})",
            "{{tenant}} {{code}}",
            {"1": ("held", "red")},
        ),
        graph(
            "Transactions of the hub's store",
            "95th percentile of their time. All that a hub acknowledges waits for one.",
            parts.SECONDS,
            (f"histogram_quantile(0.95, sum by (le, hub) (rate({commits}[$__rate_interval])))", "{{hub}}"),
        ).span(12),
    ]


def _nodes() -> list[object]:
    return [
        graph(
            "Fullest spools",
            "The ten nodes whose spool takes most of its room: these are, or were, cut off.",
            parts.RATIO,
            (f"topk(10, {_full(_NODES, 'sonic_metric_spool')})", "{{node_id}}"),
            steps=((0.8, "red"),),
        ),
        graph(
            "Samples given up by nodes",
            "Before a hub had them, by region and reason.",
            parts.COUNT,
            (
                f"sum by (region, reason) (increase(sonic_metric_samples_dropped_total{{{_NODES}}}[$__rate_interval]))",
                "{{region}} {{reason}}",
            ),
        ),
        graph(
            "Clocks",
            "The ten nodes whose clock is furthest from the hub's, either way.",
            parts.SECONDS,
            (f"topk(10, abs(sonic_clock_offset_seconds{{{_NODES}}}))", "{{node_id}}"),
            steps=((2, "red"),),
        ),
        graph(
            "Agents connected",
            "Over all hubs.",
            parts.COUNT,
            (f"sum by (region) (sonic_hub_sessions{{{_NODES}}})", "{{region}}"),
        ).span(12),
        graph(
            "Calls to the hub after the first",
            "Many from one region: its line is bad.",
            parts.COUNT,
            (
                f"sum by (region) (increase(sonic_session_reconnects_total{{{_NODES}}}[$__rate_interval]))",
                "{{region}}",
            ),
        ).span(12),
    ]
