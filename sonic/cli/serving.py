"""What `sonic hub` and `sonic agent` become when their options are read: a process without the parts that read them.

`python -m sonic.cli.serving NAME OPTIONS`, the options as JSON. An agent takes a fifth less memory for it.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from sonic import config, exceptions, logs
from sonic.cli import running

_TABLES = {"hub": ("hub", "forward"), "agent": ("agent",)}


def become(name: str, given: Mapping[str, Any]) -> NoReturn:
    """Replace this process; `given` are options by name, None are those that were not given."""
    chosen = json.dumps({option: value for option, value in given.items() if value is not None}, default=str)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", __name__, name, chosen])  # noqa: S606


def serve(name: str, given: Mapping[str, Any]) -> None:
    """Run until the service ends. Where a library crashes the process, the log says where it was."""
    faulthandler.enable()
    settings = config.of_options(given, name)
    log = settings.build(config.LogConfig)
    chosen: list[Any] = [settings.build(config.kind_of(table)) for table in _TABLES[name]]
    logs.configure(log.format, log.level)
    service = running.need(f"{name}.{'simulation' if getattr(chosen[0], 'simulate', 0) else 'service'}", name)
    try:
        running.run(service.run(*chosen))
    except importlib.import_module(f"{name}.config").InvalidConfig as error:
        raise exceptions.BadSettings(str(error)) from error


def main() -> None:
    running.prepare()
    name, given = sys.argv[1:]
    running.guarded(lambda: serve(name, json.loads(given)))


if __name__ == "__main__":
    main()
