"""What is encoded is what a receiver decodes, within the bounds of a request."""

from __future__ import annotations

import math
import struct

import cramjam
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.forward import encoding
from hub.forward.encoding import EARLIEST_MS, LATEST_MS, Encoder
from hub.forward.layouts import Layout, packed
from hub.forward.spool import STALE, Batch
from tests.remote_write import Sample, decode

from .material import NOW_MS, batch, series

CONTENT_TYPES = {1: "", 2: "application/x-protobuf;proto=io.prometheus.write.v2.Request"}
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True)
LABELS = st.dictionaries(NAMES, st.text(min_size=1, max_size=20), max_size=5)
VALUES = st.floats(allow_nan=False)


def expected(batches: list[Batch]) -> list[Sample]:
    found = []
    for one in batches:
        for made, value in zip(one.layout.parsed(), one.values.tolist(), strict=True):
            labels = sorted([("__name__", made.name), *((label.name, label.value) for label in made.labels)])
            found.append(Sample(tuple(labels), one.at_unix_ms, value))
    return found


@st.composite
def batches(draw: st.DrawFn) -> list[Batch]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        made = draw(st.lists(st.tuples(NAMES, LABELS), min_size=1, max_size=8))
        layout = Layout(f"node-{number}", tuple(packed(series(name, labels)) for name, labels in made))
        values = draw(st.lists(VALUES, min_size=len(made), max_size=len(made)))
        found.append(Batch(layout, draw(st.integers(EARLIEST_MS, LATEST_MS)), np.array(values)))
    return found


@pytest.mark.parametrize("version", [1, 2])
@given(given_batches=batches(), max_samples=st.integers(1, 20))
def test_requests_hold_every_sample_in_order_and_no_more_than_allowed(version, given_batches, max_samples) -> None:
    requests = list(Encoder(version).requests(given_batches, max_samples))
    decoded = [list(decode(request.body, CONTENT_TYPES[version])) for request in requests]
    assert [sample for part in decoded for sample in part] == expected(given_batches)
    assert [len(part) for part in decoded] == [request.samples for request in requests]
    assert max(map(len, decoded)) <= max_samples
    assert [one.values.tolist() for request in requests for one in request.batches] != []


@pytest.mark.parametrize("version", [1, 2])
def test_an_encoder_that_is_used_again_says_the_same(version: int) -> None:
    encoder = Encoder(version)
    for round_number in range(3):
        given_batches = [batch(f"node-{n}", 5, NOW_MS + round_number, [round_number + n] * 5) for n in range(4)]
        (request,) = encoder.requests(given_batches, 100)
        assert list(decode(request.body, CONTENT_TYPES[version])) == expected(given_batches)


@pytest.mark.parametrize("version", [1, 2])
def test_a_staleness_marker_keeps_its_bits(version: int) -> None:
    (request,) = Encoder(version).requests([Batch(batch("a", 1).layout, NOW_MS, STALE)], 10)
    (sample,) = decode(request.body, CONTENT_TYPES[version])
    assert math.isnan(sample.value)
    assert struct.pack("<d", sample.value) == bytes.fromhex("020000000000f07f")


def test_more_symbols_than_a_reference_holds_are_divided_over_requests() -> None:
    made = tuple(packed(series("m", {"a": f"a{number}", "b": f"b{number}"})) for number in range(10_000))
    given_batches = [Batch(Layout("big", made), NOW_MS, np.arange(10_000.0))]
    requests = list(Encoder(2).requests(given_batches, 10_000))
    assert len(requests) > 1
    assert [s for r in requests for s in decode(r.body, CONTENT_TYPES[2])] == expected(given_batches)


@pytest.mark.parametrize("version", [1, 2])
def test_a_request_is_bounded_in_bytes_before_it_is_compressed(version, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_BYTES", 4000)
    given_batches = [batch(f"node-{number}", 10) for number in range(20)]
    requests = list(Encoder(version).requests(given_batches, 10_000))
    assert max(len(bytes(cramjam.snappy.decompress_raw(request.body))) for request in requests) <= 4000
    assert [s for r in requests for s in decode(r.body, CONTENT_TYPES[version])] == expected(given_batches)


def test_what_is_kept_of_layouts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_KEPT_TEMPLATES", 3)
    monkeypatch.setattr(encoding, "MAX_KEPT_SYMBOLS", 40)
    encoder = Encoder(2)
    for number in range(30):
        given_batches = [batch(f"node-{number}", 5), batch(f"other-{number}", 5)]
        (request,) = encoder.requests(given_batches, 100)
        assert list(decode(request.body, CONTENT_TYPES[2])) == expected(given_batches)
