"""Write the JSON of every board."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from monitoring.dashboards import fleet, forwarding, latency, node, tenant

FOLDER = Path(__file__).parent / "json"


def files() -> dict[Path, str]:
    boards = [module.board() for module in (fleet, node, tenant, latency, forwarding)]
    return {
        FOLDER / f"{board.uid}.json": json.dumps(board, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
        for board in boards
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
