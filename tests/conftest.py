"""Material and servers for all tests. Faces and voices are kept beside the models, so that they are fetched once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import onnxruntime
import pytest
from xdist.scheduler import LoadScopeScheduling

from sonic_runtime import models, probe, providers
from sonic_runtime.faces import FaceFinder
from sonic_runtime.models.samples import Samples, fetch_samples
from tests import postgres, s3

if TYPE_CHECKING:
    from xdist.remote import Producer

TESTS = Path(__file__).resolve().parent
MATERIAL = TESTS.parent.parent / "shared"
# A machine that does other things, too, is no mistake of what is tested.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")
COMPUTING = {"diffusion", "faces", "models", "mouth", "quality", "runtime"}
LONG = {"faults", "integration"}
NICENESS = os.nice(0)


def computes(file: Path) -> bool:
    """Whether the tests of a file need the processor all the time; the others mostly wait for processes."""
    return file.relative_to(TESTS).parts[0] in COMPUTING or file.name == "test_diffusion.py"


class Groups(LoadScopeScheduling):
    """Deals out all that computes as one group, and each file of those that wait as another, to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "computing" if computes(self.config.rootpath / file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest groups come first, so that nobody is left with one at the end."""
    items.sort(key=lambda item: (not computes(item.path), item.path.parent.name not in LONG))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What computes lets go before those who wait, for whom time counts."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        with contextlib.suppress(PermissionError):  # only root can go back
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS + (10 if computes(item.path) else 0))


@pytest.fixture(scope="session")
def samples() -> Samples:
    """Portraits, one with a toothy smile, and a short recording."""
    return fetch_samples(models.root() / "samples")


@pytest.fixture(scope="session")
def finder() -> FaceFinder:
    models.fetch("face-mesh", lambda _message: None)
    return FaceFinder()


@pytest.fixture
def lists_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An onnxruntime that lists CUDA and computes on the CPU in silence, as its GPU build does on a box without one."""
    available = onnxruntime.get_available_providers()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", *available])
    providers.trial.cache_clear()
    yield
    providers.trial.cache_clear()


@pytest.fixture(scope="session")
def tiny_sonic() -> str:
    """The version of a diffusion model with drawn weights that is in the model folder, for SONIC_MODEL_VERSION."""
    pytest.importorskip("diffusers")
    return models.fetch("sonic-tiny", lambda _message: None).version


@pytest.fixture(scope="session")
def short_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of "ah"."""
    path = tmp_path_factory.mktemp("voice") / "ah.wav"
    probe.write_voice(path)
    return path


@pytest.fixture(scope="session")
def material() -> Path:
    """More portraits and voices, where the checkout has them beside it."""
    if not MATERIAL.exists():
        pytest.skip("no further material beside the checkout")
    return MATERIAL


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    """One PostgreSQL for all tests; each makes a database of its own in it."""
    with postgres.cluster(fsync="off") as running:  # no test takes the power away
        yield running


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    """One S3 server for all tests; each makes a bucket of its own in it."""
    with s3.server(tmp_path_factory.mktemp("s3")) as running:
        yield running
