"""The hub: does it answer, are there nodes, and does its clock agree with ours."""

from __future__ import annotations

import asyncio
import email.utils
import http.client
import time
import urllib.error
import urllib.request

from sonic import exceptions
from sonic.config import ClientConfig, Settings
from sonic.doctor.findings import Finding, State

ANSWER_TIMEOUT_S = 3.0
SKEW_WARNING_S = 2.0  # a Date header counts whole seconds
SKEW_PROBLEM_S = 15.0


def check_hub(settings: Settings) -> list[Finding]:
    """Ask the hub for its nodes."""
    from sonic.cli.submit import connect
    from sonic.v1 import nodes_pb2

    chosen = settings.build(ClientConfig)

    async def ask() -> list[nodes_pb2.Node]:
        async with connect(chosen, ANSWER_TIMEOUT_S) as client:
            return await client.nodes()

    try:
        nodes = asyncio.run(ask())
    except (exceptions.HubError, exceptions.FileTrouble) as error:
        advice = "start one with `sonic hub`, or name yours with --hub or SONIC_HUB"
        return [Finding("hub", State.PROBLEM, str(error), advice)]
    ready = sum(node.state == nodes_pb2.NODE_STATE_READY for node in nodes)
    found = f"answers at {chosen.hub}, {ready} of {len(nodes)} nodes ready"
    if not ready:
        return [Finding("hub", State.WARNING, found, "start an agent with `sonic agent`; see also `sonic nodes list`")]
    return [Finding("hub", State.OK, found)]


def check_clock(settings: Settings) -> list[Finding]:
    """Compare our clock with the Date that the hub's HTTP side sends."""
    url = settings.build(ClientConfig).health_url
    if not url.startswith(("http://", "https://")):
        return [Finding("clock", State.PROBLEM, f"health_url is {url!r}", "give it as http://host:port/healthz")]
    advice = "set client.health_url to the hub's http_listen address, http://host:port/healthz"
    asked_s = time.time()
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_S) as response:  # noqa: S310 - checked above
            date = response.headers.get("Date")
    except (urllib.error.URLError, OSError, ValueError) as error:
        why = getattr(error, "reason", error)  # urllib wraps what happened
        why = getattr(why, "strerror", None) or why
        return [Finding("clock", State.SKIPPED, f"{url} does not answer ({why})", advice)]
    except http.client.InvalidURL as error:
        correct = "give it as http://host:port/healthz, with the hub's host and the number of its port"
        return [Finding("clock", State.PROBLEM, f"health_url is {url!r}: {error}", correct)]
    except http.client.HTTPException:
        return [Finding("clock", State.SKIPPED, f"{url} answers, but not in HTTP", advice)]
    now_s = (asked_s + time.time()) / 2
    try:
        skew_s = now_s - email.utils.parsedate_to_datetime(date).timestamp() - 0.5
    except (TypeError, ValueError):
        return [Finding("clock", State.SKIPPED, f"{url} sends no Date", "is it really the hub?")]
    return [judge_skew(skew_s)]


def judge_skew(skew_s: float) -> Finding:
    """`skew_s` is by how many seconds our clock is ahead of the hub's."""
    if abs(skew_s) < SKEW_WARNING_S:
        return Finding("clock", State.OK, "agrees with the hub's")
    found = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the hub's"
    state = State.PROBLEM if abs(skew_s) > SKEW_PROBLEM_S else State.WARNING
    return Finding("clock", state, found, "switch on time synchronisation on both: timedatectl set-ntp true")
