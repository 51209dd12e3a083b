"""Generate the pages of docs/ that follow from the code. `--check` only says whether they are up to date."""

from __future__ import annotations

import ast
import inspect
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.metrics import METRICS as METRICS_OF_AN_AGENT
from hub import exceptions as refusals
from hub.core.roles import Role
from hub.server import access
from hub.server.access import Rule, Whom
from hub.server.metrics import METRICS as METRICS_OF_A_HUB
from sonic.metrics import Metric
from sonic.parameters import ENGINE_DEFAULTS, SPECS, Spec
from sonic.v1 import jobs_pb2
from sonic_runtime import errors
from sonic_runtime.media import videos

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

PARAMETERS = """# Parameters of a render

The same names and rules hold on the command line (`--min-resolution 512`), in manifests and presets, in Python and in
the wire contract. A value outside its range is refused, with every problem named at once. A value outside its
recommended range is used, and the job carries a warning `OUTSIDE_RECOMMENDED_RANGE`.

| name | unit | default | range | recommended | what it does |
|---|---|---|---|---|---|
{rows}

- `duration` is a check, not a cut: the video is always as long as the recording.
- `expand_ratio` 0 keeps the whole picture. Any other value cuts a square around the head with that much room on each
  side. A picture so long that its video would have more than {most} pixels on a side is refused with `BAD_PARAMETERS`.
- The `warp` engine has no denoising steps; a job that sets `inference_steps`, `appearance_guidance`, `audio_guidance`
  or `audio_scale` gets a warning `PARAMETER_IGNORED`.
{engines}
- With the `sonic` engine, `dynamic_scale` multiplies the motion of head and face, as the published model does,
  `motion_scale` that of the face alone, and `smooth_motion` makes 25 frames a second out of the model's 12.5; see
  [the diffusion engine](diffusion.md).
"""

ERRORS = """# Errors and warnings

## A call is refused

Every refusal is a gRPC status with `google.rpc` details: `ErrorInfo` with the reason below, `BadRequest` with one
violation for each field, `QuotaFailure` with the limit, `RetryInfo` where a later repeat may succeed.

| reason | gRPC status | what it says |
|---|---|---|
{refusals}

## A job fails

A failed job carries a `JobFailure`: the fault (whose it is), the reason (stable, for programs), a message (for people)
and the fields concerned. Bad input is final at once. Other faults are tried again on another node, three times in all.

| reason | fault | what it says |
|---|---|---|
{failures}

## A render succeeds with a warning

A warning says what the caller may want to know of a video that was made all the same: a reason (stable, for programs)
and a message (for people). The job carries it, and so does the report of `sonic render`.

| reason | what it says |
|---|---|
{warnings}
"""

# What agents and the hub say of an attempt that ended without the renderer's word, and how renders warn. The reasons
# themselves are found in the code; one that is missing here fails the generation.
ENDINGS = {
    "ASSIGNMENT_LOST": "The node never received the attempt. Costs no try.",
    "ATTEMPT_LOST": "The node came back without the attempt that it had.",
    "DEADLINE_MISSED": "The job waited until it could not have met its deadline any more; no GPU was used for that.",
    "DECLINED": "The node had no room, or was told to stop. Costs no try.",
    "INPUT_CORRUPT": "The bytes of the portrait or the voice that reached the node are not those of their hash.",
    "INPUT_QUARANTINED": "The portrait and the voice broke two different nodes: they are to blame, no third is tried.",
    "INPUT_UNAVAILABLE": "The node could not fetch the portrait or the voice from the hub, or had no room for them.",
    "LEASE_EXPIRED": "The node fell silent for longer than the lease; another one takes the job.",
    "RESULT_NOT_KEPT": "The node could not keep the video on its disk.",
    "STOPPED": "The node stopped the attempt. Costs no try.",
    "UPLOAD_REFUSED": "The hub refused the video, again and again.",
    "WORKER_CRASHED": "The worker process died while it rendered.",
    "WORKER_HUNG": "The worker gave no sign of life or made no progress for too long, and was killed.",
}
WARNINGS = {
    "ENLARGED": "The part of the portrait that is shown has far fewer pixels than the video; it looks soft.",
    "FRAMES_REPEATED": "More frames a second were asked for than the engine makes; some are shown twice.",
    "LIP_SYNC_CORRECTED": "The mouth was off the voice by more than a frame; it was rendered again, shifted.",
    "OUTSIDE_RECOMMENDED_RANGE": "A parameter is outside its recommended range; it was used as it is.",
    "PARAMETER_IGNORED": "The engine has no use for a parameter that was set.",
    "SEVERAL_FACES": "There are several faces in the portrait; the largest one speaks.",
    "SMALL_FACE": "The face in the portrait is small; it does not look sharp.",
    "TURNED_FACE": "The face in the portrait is turned to the side; faces from the front look best.",
}


METRICS = """# Metrics

## Of a node

Every agent serves these at `/metrics` of `http_listen`, for [those who may read them](scraping.md), in the classic text
format or as OpenMetrics, by what the scraper accepts. Every series carries `region`, `node_id` and `model_version`.
Series of jobs carry the `tenant` that owns the job, series of accelerators the `gpu`'s index and its `uuid`. No label
holds the id of a job, so the number of series is bounded by the tenants, the reasons and the hardware.

| metric | type | unit | labels | what it says |
|---|---|---|---|---|
{rows}

Accelerators are read through NVML, and through sysfs for AMD (amdgpu), Intel (i915, xe) and Jetson. What one does not
offer has no series; `sonic_probe_up` says when a source has stopped working.

## Of a hub

A hub serves these at `/metrics` of its `http_listen`. Where it forwards metrics they go into the operator's
tenant, with a label `hub` (`hub_id`).

| metric | type | unit | labels | what it says |
|---|---|---|---|---|
{hub_rows}

## Where they go

With `url` in `[forward]` set, nodes sample every `interval_s` seconds and send to the hub, and the hub forwards to the
receiver: series with a label `tenant` under that tenant's id, all others under `operator_tenant`. See
[forwarding.md](forwarding.md).
"""


CALLS = """# Who may make which call

What is not in these tables is denied to everybody; so is a call that somebody adds and does not declare. What the roles
are, and how a caller comes by one, is in [access.md](access.md). An insecure hub asks nobody who they are.

| call | tenant | operator | reader | who else | in the audit log |
|---|---|---|---|---|---|
{calls}

- *of one tenant*: a tenant's own rows; an operator or reader names the tenant (`--tenant`), which is in the audit log.
- *nodes* are agents with a certificate of the hub's authority; they reach what their own attempts need.

## Over HTTP

| route | who |
|---|---|
{routes}
"""


def call_row(service: str, name: str, rule: Rule) -> str:
    marks = [("of one tenant" if rule.for_tenant else "yes") if role in rule.roles else "" for role in Role]
    others = {Whom.ANYONE: "anyone", Whom.AGENT: "nodes", Whom.CALLER: ""}[rule.whom]
    kept = "yes" if rule.audited is not None else ""
    return f"| `{service.rpartition('.')[2]}.{name}` | {' | '.join([*marks, others, kept])} |"


def route_row(verb: str, path: str, whom: Whom) -> str:
    who = {Whom.ANYONE: "anyone", Whom.CALLER: "whoever has the token, where one is set"}[whom]
    return f"| `{verb} {path}` | {who} |"


def metric_row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} |"


def number(value: float | bool | None) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if abs(value) < 1e6 else "2⁶³ − 1"


def span(low: float, high: float) -> str:
    return f"{number(low)} – {number(high)}" if math.isfinite(low) else ""


def engine_row(engine: str, defaults: Mapping[str, Any]) -> str:
    values = ", ".join(f"`{name}` {number(value)}" for name, value in defaults.items())
    return f"- The `{engine}` engine has defaults of its own: {values}."


def parameter_row(spec: Spec) -> str:
    allowed = span(spec.low, spec.high) + (f", multiple of {spec.multiple_of}" if spec.multiple_of else "")
    recommended = span(*spec.recommended) if spec.recommended else ""
    return f"| `{spec.name}` | {spec.unit} | {number(spec.default)} | {allowed} | {recommended} | {spec.help} |"


def leaves(root: type) -> list[type]:
    below = [leaf for child in root.__subclasses__() for leaf in leaves(child)]
    return below or [root]


def summary(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def reason(kind: type) -> str:
    return str(kind.__new__(kind).reason)


def calls(name: str, *packages: str) -> list[list[ast.expr]]:
    """The arguments of every call of a name in the code of the packages."""
    trees = (
        ast.parse(path.read_text())
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if "simulation" not in path.parts
    )
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [node.args for node in nodes if isinstance(node.func, ast.Name) and node.func.id == name]


def ending_rows(known: set[str]) -> list[str]:
    """Agents and the hub say Failure(Fault.CRASH, "WORKER_CRASHED", …)."""
    found = {
        (reason.value, fault.attr)
        for fault, reason, *_ in calls("Failure", "agent", "hub")
        if isinstance(fault, ast.Attribute) and isinstance(reason, ast.Constant) and reason.value not in known
    }
    return [f"| `{reason}` | `{fault}` | {ENDINGS[reason]} |" for reason, fault in sorted(found)]


def warning_rows() -> list[str]:
    """Renders say Caution("SEVERAL_FACES", …)."""
    reasons = {
        args[0].value for args in calls("Caution", "sonic", "sonic_runtime") if isinstance(args[0], ast.Constant)
    }
    return [f"| `{reason}` | {WARNINGS[reason]} |" for reason in sorted(reasons)]


def pages() -> dict[Path, str]:
    refused = [f"| `{reason(k)}` | `{k.code.name}` | {summary(k)} |" for k in leaves(refusals.Refusal)]
    failed = [
        f"| `{reason(k)}` | `{jobs_pb2.FaultKind.Name(k.fault).removeprefix('FAULT_KIND_')}` | {summary(k)} |"
        for k in leaves(errors.RenderError)
        if k is not errors.Cancelled
    ]
    failed += ending_rows({reason(k) for k in leaves(errors.RenderError)})
    said = {"refusals": refused, "failures": failed, "warnings": warning_rows()}
    return {
        DOCS / "parameters.md": PARAMETERS.format(
            rows="\n".join(map(parameter_row, SPECS)),
            engines="\n".join(engine_row(engine, defaults) for engine, defaults in ENGINE_DEFAULTS.items()),
            most=videos.MAX_SIDE_PX,
        ),
        DOCS / "errors.md": ERRORS.format(**{name: "\n".join(rows) for name, rows in said.items()}),
        DOCS / "calls.md": CALLS.format(
            calls="\n".join(
                call_row(service, n, rule) for service, of in access.RPCS.items() for n, rule in of.items()
            ),
            routes="\n".join(route_row(*route, whom) for route, whom in access.ROUTES.items()),
        ),
        DOCS / "metrics.md": METRICS.format(
            rows="\n".join(map(metric_row, METRICS_OF_AN_AGENT)),
            hub_rows="\n".join(map(metric_row, METRICS_OF_A_HUB)),
        ),
    }


def main() -> int:
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if "--check" in sys.argv:
            print(f"docs/{path.name} is not what the code says: run `make docs`")
        else:
            path.write_text(pages()[path])
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
