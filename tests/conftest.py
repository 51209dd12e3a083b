"""Material for tests: real faces and voices. What is fetched is kept beside the models, so that it is fetched once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sonic_runtime import models
from sonic_runtime.faces import FaceFinder
from sonic_runtime.models.samples import Samples, fetch_samples

MATERIAL = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def samples() -> Samples:
    """Portraits, one with a toothy smile, and a short recording."""
    return fetch_samples(models.root() / "samples")


@pytest.fixture(scope="session")
def finder() -> FaceFinder:
    models.fetch("face-mesh", lambda _message: None)
    return FaceFinder()


@pytest.fixture(scope="session")
def material() -> Path:
    """More portraits and voices, where the checkout has them beside it."""
    if not MATERIAL.exists():
        pytest.skip("no further material beside the checkout")
    return MATERIAL
