"""Who did what: every action of an operator and everything that is done with a credential, as lines of JSON.

Logger `audit`; its lines go where the hub's log goes.
"""

from __future__ import annotations

import logging

from hub.server.callers import Context

_log = logging.getLogger("audit")


def record(context: Context, action: str, subject: str, outcome: str = "done", **detail: object) -> None:
    """Note that whoever is behind `context` did `action` to `subject`; `detail` must hold no secret."""
    about = {"action": action, "subject": subject, "outcome": outcome, "peer": context.peer(), **detail}
    _log.log(logging.INFO if outcome == "done" else logging.WARNING, "%s", action, extra=about)
