"""Questions to the Prometheus of a demo, and their answers."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TypedDict

ARRIVES_WITHIN_S = 15.0
_LOOK_AGAIN_S = 0.2
_TIMEOUT_S = 5.0
QUERIES = (
    "sum by (region, node_id, model_version) (sonic_node_request_total)",
    "sonic_realtime_factor",
    "sum by (tenant, state) (sonic_hub_jobs_ended_total)",
)


class Value(TypedDict):
    """One series of an answer."""

    labels: dict[str, str]
    value: float


class Answer(TypedDict):
    query: str
    series: list[Value]


@dataclass(frozen=True)
class Prometheus:
    """A server that listens at `url`."""

    url: str

    async def ready(self) -> bool:
        try:
            await asyncio.to_thread(self._get, "/-/ready")
        except OSError:
            return False
        return True

    async def answers(self) -> list[Answer]:
        """To each of QUERIES, as soon as all have one; after a while without those that have none."""
        answers: list[Answer] = []
        try:
            async with asyncio.timeout(ARRIVES_WITHIN_S):
                while not (answers and all(answer["series"] for answer in answers)):
                    answers = [await self._answer(query) for query in QUERIES]
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            pass
        return answers

    async def _answer(self, query: str) -> Answer:
        """Series that have not moved from 0 yet say nothing."""
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": f"{query} > 0"})
        result = json.loads(await asyncio.to_thread(self._get, path))["data"]["result"]
        series: list[Value] = [{"labels": _named(one["metric"]), "value": float(one["value"][1])} for one in result]
        return {"query": query, "series": series}

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - our own, on loopback
            found: bytes = answer.read()
        return found


def _named(labels: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in sorted(labels.items()) if name != "__name__"}
