"""Attempts that fail."""

from __future__ import annotations

from .case import DAY, EU, HOUR, A, B, Case, growing


def errors(requests: str, by_reason: dict[str, str]) -> dict[str, str]:
    failed = {f'sonic_node_error_total{{{A},reason="{reason}"}}': values for reason, values in by_reason.items()}
    return {f"sonic_node_request_total{{{A}}}": requests, **failed}


CASES = (
    Case(
        "a fifth of the attempts crash",
        "ErrorBudgetBurnFast",
        errors(growing(10, 120), {"WORKER_CRASHED": f"_x59 {growing(2, 60, 2)}"}),
        (45, 90),
        (EU,),
    ),
    Case(
        "eight of a hundred attempts crash for hours",
        "ErrorBudgetBurnFast",
        errors(growing(10, 300), {"WORKER_CRASHED": growing(0.8, 300)}),
        (240,),
        (EU,),
    ),
    Case(
        "callers send pictures without faces",
        "ErrorBudgetBurnFast",
        errors(growing(10, 120), {"NO_FACE": growing(8, 120), "VOICE_TOO_LONG": growing(1, 120)}),
        (30, 90),
    ),
    Case(
        "two of the four attempts of a quiet night fail",
        "ErrorBudgetBurnFast",
        errors("0x30 1x2 2x2 3x2 4x100", {"DEVICE_FAILED": "_x31 1x2 2x100"}),
        range(30, 60),
    ),
    Case(
        "an agent that has failed a lot comes back from a cut, and another is restarted",
        "ErrorBudgetBurnFast",
        {
            f"sonic_node_request_total{{{A}}}": f"{growing(10, 60, 5000)} _x30 {growing(10, 60, 6000)}",
            f'sonic_node_error_total{{{A},reason="WORKER_HUNG"}}': "900x60 _x30 900x60",
            f"sonic_node_request_total{{{B}}}": f"{growing(10, 60, 5000)} {growing(10, 90)}",
            f'sonic_node_error_total{{{B},reason="WORKER_HUNG"}}': "900x60",
        },
        (62, 92, 95, 110),
    ),
    Case(
        "three of a hundred fail for two days",
        "ErrorBudgetBurnSlow",
        errors(growing(100, 800), {"OUT_OF_MEMORY": growing(4, 800)}),
        (2 * DAY,),
        (EU,),
        every=5,
    ),
    Case(
        "two of a hundred fail for days",
        "ErrorBudgetBurnSlow",
        errors(growing(100, 900), {"OUT_OF_MEMORY": growing(2, 900)}),
        (3 * DAY,),
        (EU,),
        every=5,
    ),
    Case(
        "an incident was over hours ago",
        "ErrorBudgetBurnSlow",
        errors(growing(100, 800), {"OUT_OF_MEMORY": f"0x60 {growing(50, 24)} 1200x700"}),
        (DAY, DAY + 8 * HOUR),
        every=5,
    ),
)
