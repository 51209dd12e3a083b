"""A short look at every reader of bytes from outside; `python -m tests.fuzz --minutes N` looks longer."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.live import attack
from tests.fuzz.targets import TARGETS, Target

SECONDS = 1.0


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_nothing_that_is_like_a_good_input_is_more_than_refused(target: Target) -> None:
    seeds = target.seeds()
    for seed in seeds:
        target.run(seed)
    draw, until = Random(1), time.monotonic() + SECONDS
    while time.monotonic() < until:
        target.run(target.draw(seeds, draw))


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=2000))
def test_no_bytes_at_all_are_more_than_refused(target: Target, data: bytes) -> None:
    target.run(data)


@pytest.mark.parametrize("what", ["rpc", "secured", "http"])
async def test_a_hub_refuses_what_it_does_not_understand_and_goes_on(what: str) -> None:
    outcome = await attack(2.0, 1, what)
    assert outcome["tried"] > 20
    assert outcome["findings"] == {}
