"""The `sonic` command with small files for those of the published model: `python -m tests.models.small_sonic …`.

SMALL_PINS is a JSON table of the hashes that are known beforehand; all others are not.
"""

from __future__ import annotations

import dataclasses
import json
import os

from sonic import cli
from sonic_runtime.models import sonic

if __name__ == "__main__":
    pins = json.loads(os.environ.pop("SMALL_PINS", "{}"))
    sonic.FILES = tuple(dataclasses.replace(file, sha256=pins.get(file.path, "")) for file in sonic.FILES)
    cli.main()
