"""What a receiver's answer means for the request that it answers.

Remote write: 2xx, the request is done; 429 and 5xx, later; any other 4xx, never again. Beyond that, as Mimir behaves:
400 says that part of the request was refused and the rest stored; a request that is too large is a 400 with an id of
its own; and 401, 403, 404, 405 and 422 speak of the settings, not of the samples, which are kept until that is mended.
A receiver that takes a 2.0 request without a Written header has not understood it (2.0-rc.4, "Required Written
Response Headers").
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

_ID = re.compile(r"\berr-mimir-([a-z0-9-]{1,60})")
_TEXTS = {  # what Prometheus says
    "out of order": "sample-out-of-order",
    "duplicate sample": "sample-duplicate-timestamp",
    "out of bounds": "sample-out-of-bounds",
    "too old": "sample-timestamp-too-old",
}
_TOO_LARGE = "distributor-max-write-message-size"


@dataclass(frozen=True)
class Answer:
    """An answer to one request; status 0 is none at all, and `text` says why."""

    status: int
    text: str = ""
    retry_after_s: float | None = None
    written: bool = False  # whether it has a Written header of remote write 2.0

    @property
    def reason(self) -> str:
        """Why samples were refused: a short stable name, fit for a label."""
        if found := _ID.search(self.text):
            return found[1]
        return next((name for text, name in _TEXTS.items() if text in self.text), "other")


class Verdict(enum.Enum):
    """What is to be done."""

    DELIVERED = enum.auto()
    REFUSED = enum.auto()  # in part, and for good
    LATER = enum.auto()
    SMALLER = enum.auto()
    OLDER_VERSION = enum.auto()
    HOLD = enum.auto()  # nothing of this tenant can be delivered before a person has mended something


def judge(answer: Answer, version: int) -> Verdict:
    """What an answer to a request of this version of remote write means."""
    status = answer.status
    if status // 100 == 2:
        return Verdict.OLDER_VERSION if version == 2 and not answer.written else Verdict.DELIVERED
    if status == 415 and version == 2:
        return Verdict.OLDER_VERSION
    if status == 413 or (status == 400 and answer.reason == _TOO_LARGE):
        return Verdict.SMALLER
    if status == 400:
        return Verdict.REFUSED
    if status in (0, 408, 429) or status >= 500:
        return Verdict.LATER
    return Verdict.HOLD
