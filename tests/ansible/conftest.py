"""The collection, placed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ansible import collection


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collection.place(tmp_path_factory.mktemp("collections"))
