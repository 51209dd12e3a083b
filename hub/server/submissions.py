"""From a caller's request to a job that can be stored: every check at the door, every problem named at once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sized
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from hub import exceptions
from hub.artifacts import durations, media_types
from hub.artifacts.depot import check_hash
from hub.core.admission import Admitted, Caution, Refused
from hub.core.jobs import Requirement
from hub.core.names import name_problem
from hub.core.tenants import Tenant
from hub.store.records import NewJob, seconds_of
from sonic import parameters
from sonic.parameters import Problem
from sonic.v1 import job_service_pb2, jobs_pb2

DEFAULT_ENGINE = "warp"
MAX_BATCH_ITEMS = 1000
MAX_KEY_CHARACTERS = 128
MAX_REGIONS = 32
MAX_DEADLINE_DAYS = 30
PRIORITY_LIMIT = 10
_MAX_NAME_CHARACTERS = 64


def new_job(
    tenant: Tenant,
    request: job_service_pb2.SubmitJobRequest,
    held: Mapping[str, sa.Row[Any]],
    known: bool,
    now_s: float,
    admit: Callable[[NewJob], Refused | Admitted],
) -> NewJob:
    """Check a request and complete it. `held` are the tenant's artifacts by hash. Raises InvalidRequest.

    A job whose key is `known` was good when it was stored, whatever has become of its deadline and the fleet.
    """
    spec = jobs_pb2.JobSpec()
    spec.CopyFrom(request.spec)
    spec.engine = spec.engine or DEFAULT_ENGINE
    problems = _key_problems(request.idempotency_key) + _spec_problems(spec) + _input_problems(spec, held)
    problems += _region_problems(spec.regions)
    if spec.HasField("deadline") and not known:
        problems += _deadline_problems(seconds_of(spec.deadline), now_s)
    cautions: list[parameters.Caution] = []
    try:
        complete, cautions = parameters.from_wire(spec.parameters, spec.engine)
        spec.parameters.CopyFrom(complete.to_wire())
    except parameters.InvalidParameters as error:
        problems += [Problem(f"spec.{problem.field}", problem.description) for problem in error.problems]
    if problems:
        raise exceptions.InvalidRequest(problems)
    new = NewJob(
        job_id=uuid.uuid4().hex,
        tenant=tenant,
        idempotency_key=request.idempotency_key,
        spec=spec.SerializeToString(deterministic=True),
        requirement=Requirement(spec.engine, spec.model_version),
        priority=spec.priority,
        video_s=complete.duration or _recording_s(held[spec.voice_sha256]),
        sizes={sha256: held[sha256].size_bytes for sha256 in (spec.portrait_sha256, spec.voice_sha256)},
    )
    warned: list[parameters.Caution | Caution] = [*cautions]
    if not known:
        answer = admit(new)
        if isinstance(answer, Refused):
            raise exceptions.InvalidRequest([Problem(p.field, p.description) for p in answer.problems])
        warned += answer.cautions
    warnings = [jobs_pb2.RenderWarning(reason=caution.reason, message=caution.message) for caution in warned]
    return replace(new, cautions=jobs_pb2.RenderReport(warnings=warnings).SerializeToString())


def check_count(items: Sized) -> None:
    """Raises InvalidRequest."""
    if not 1 <= len(items) <= MAX_BATCH_ITEMS:
        limit = f"has {len(items)} entries; 1 to {MAX_BATCH_ITEMS} go into one batch"
        raise exceptions.InvalidRequest([Problem("items", limit)])


def can_be_key(key: str) -> bool:
    """Whether a job can have it; no store can look for every other one."""
    return 1 <= len(key) <= MAX_KEY_CHARACTERS and key.isprintable()


def _key_problems(key: str) -> list[Problem]:
    if can_be_key(key):
        return []
    limit = f"has {len(key)} characters; 1 to {MAX_KEY_CHARACTERS} printable ones are wanted, fresh for each video"
    return [Problem("idempotency_key", limit)]


def _spec_problems(spec: jobs_pb2.JobSpec) -> list[Problem]:
    problems = [
        Problem(f"spec.{name}", f"has {len(value)} characters; {_MAX_NAME_CHARACTERS} is the limit")
        for name, value in (("engine", spec.engine), ("model_version", spec.model_version))
        if len(value) > _MAX_NAME_CHARACTERS
    ]
    problems += [
        Problem(f"spec.{name}", "has characters that cannot be printed; use letters, digits and signs")
        for name, value in (("engine", spec.engine), ("model_version", spec.model_version))
        if not value.isprintable()  # and no database takes every one of them
    ]
    if abs(spec.priority) > PRIORITY_LIMIT:
        limit = f"is {spec.priority}; choose a value from {-PRIORITY_LIMIT} to {PRIORITY_LIMIT}"
        problems.append(Problem("spec.priority", limit))
    return problems


def _region_problems(regions: jobs_pb2.RegionRules) -> list[Problem]:
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for rule, names in (("prefer", regions.prefer), ("require", regions.require), ("avoid", regions.avoid)):
        field = f"spec.regions.{rule}"
        if len(names) > MAX_REGIONS:
            problems.append(Problem(field, f"has {len(names)} regions; {MAX_REGIONS} is the limit"))
            continue
        for name in dict.fromkeys(names):
            if problem := name_problem(name):
                problems.append(Problem(field, problem))
            elif name in seen:
                problems.append(Problem(field, f"has {name!r}, as {seen[name]} does; name it in one of them"))
            seen[name] = f"regions.{rule}"
    return problems


def _deadline_problems(deadline_s: float, now_s: float) -> list[Problem]:
    left_s = deadline_s - now_s
    if left_s <= 0:
        return [Problem("spec.deadline", f"passed {-left_s:.0f} s ago by the hub's clock; choose a later one")]
    if left_s > MAX_DEADLINE_DAYS * 86_400:
        limit = f"is {left_s / 86_400:.1f} days from now; {MAX_DEADLINE_DAYS} days is the limit, or leave it out"
        return [Problem("spec.deadline", limit)]
    return []


def _recording_s(voice: sa.Row[Any]) -> float:
    return voice.duration_s or durations.guessed(voice.media_type, voice.size_bytes)


def _input_problems(spec: jobs_pb2.JobSpec, held: Mapping[str, sa.Row[Any]]) -> list[Problem]:
    problems: list[Problem] = []
    for name, sha256, judge in (
        ("spec.portrait_sha256", spec.portrait_sha256, media_types.portrait_problem),
        ("spec.voice_sha256", spec.voice_sha256, media_types.voice_problem),
    ):
        try:
            check_hash(sha256, name)
        except exceptions.InvalidRequest as refusal:
            problems += refusal.problems
            continue
        if sha256 not in held:
            problems.append(Problem(name, f"is {sha256}, which has not been uploaded; upload it first"))
        elif problem := judge(held[sha256].media_type):
            problems.append(Problem(name, problem))
    return problems
