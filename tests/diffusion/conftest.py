"""The engine sets how torch's threads wait before it loads torch: so it comes first here, too."""

from __future__ import annotations

import sonic_runtime.engines.sonic  # noqa: F401
