"""temporary"""

from __future__ import annotations

from typing import Any


class Quarantine:
    def failed(self, *a: Any) -> Any:
        return None

    def succeeded(self, *a: Any) -> None: ...
