"""The agent itself, which also writes down in JOURNAL every sample that it has put into its spool."""

from __future__ import annotations

import json
import os
from typing import Any

from agent import spool
from sonic.cli import main, serving

_append = spool.Spool.append


def append(self: spool.Spool, values: Any, at_unix_ms: int) -> dict[str, int]:
    lost = _append(self, values, at_unix_ms)
    samples = [[{"__name__": series.name, **dict(series.labels)}, value] for series, value in values.items()]
    with open(os.environ["JOURNAL"], "a", encoding="utf-8") as journal:
        journal.write(json.dumps([at_unix_ms, samples]) + "\n")
    return lost


spool.Spool.append = append  # type: ignore[method-assign]
serving.become = serving.serve  # type: ignore[assignment] # another process would have the spool as it is
main()
