"""What docs/testing-against-a-hub.md shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing-against-a-hub.md"


async def test_the_example_passes(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    await names["test_my_code"](tmp_path)  # type: ignore[operator]
    assert (tmp_path / "video.mp4").read_bytes()[4:8] == b"ftyp"
