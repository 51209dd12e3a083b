"""What nodes and regions may be called, and jobs are."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_JOB_ID = re.compile(r"[0-9a-f]{32}")


def name_problem(name: str) -> str | None:
    """Why a name cannot be a node's or a region's, or None."""
    if _NAME.fullmatch(name):
        return None
    return f"is {name[:80]!r}; use 1 to 63 letters, digits and ._- and begin with a letter or digit"


def is_job_id(said: str) -> bool:
    """Whether a hub could have given a job this id; no store can look for everything else that is said."""
    return bool(_JOB_ID.fullmatch(said))
