"""Decisions of the hub as lines for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sonic.v1 import decisions_pb2


def told(decision: decisions_pb2.Decision) -> str:
    """When, what, where and why."""
    from sonic.v1 import decisions_pb2

    kind = decisions_pb2.DecisionKind.Name(decision.kind).removeprefix("DECISION_KIND_").lower()
    at = decision.at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
    attempt = f" attempt {decision.attempt}" if decision.attempt else ""
    node = f" on {decision.node_id}" if decision.node_id else ""
    return f"{at} {kind}{attempt}{node}: {decision.reason}"


def passed_over(passed: decisions_pb2.PassedOver) -> str:
    """Why not there."""
    who = passed.node_id or f"{passed.nodes} {'node' if passed.nodes == 1 else 'nodes'}"
    return f"not {who}: {passed.reason}"
