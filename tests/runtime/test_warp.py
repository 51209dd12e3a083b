"""A posed portrait: lips meet, part and round, the jaw carries the chin, and what does not move is left alone."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sonic.parameters import RenderParameters
from sonic_runtime import errors
from sonic_runtime.engines.base import Face, Portrait
from sonic_runtime.engines.warp import framing, planes
from sonic_runtime.engines.warp.head import Pose
from sonic_runtime.engines.warp.mouth import Shape
from sonic_runtime.engines.warp.portrayed import Portrayed
from sonic_runtime.faces import FaceFinder, topology
from sonic_runtime.media import portraits
from sonic_runtime.models.samples import Samples

STILL, SHUT = Pose(0, 0, 0, 0, 0, 0), Shape(0, 0, 0, 0, 0)
SIDE = 512


@pytest.fixture(scope="module")
def smile(samples: Samples, finder: FaceFinder) -> framing.Framed:
    return framing.frame(portraits.load(samples.smile, finder), RenderParameters(min_resolution=SIDE))


@pytest.fixture(scope="module")
def closed(samples: Samples, finder: FaceFinder) -> framing.Framed:
    return framing.frame(portraits.load(samples.portrait, finder), RenderParameters(min_resolution=SIDE))


def rgb(framed: framing.Framed, pose: Pose = STILL, shape: Shape = SHUT, blink: float = 0.0) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(Portrayed(framed).frame(pose, shape, blink), cv2.COLOR_YUV2RGB_I420))


def landmarks(finder: FaceFinder, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    (face, *_) = finder.find(picture)
    return face.landmarks[:, :2]


def lips_apart(points: NDArray[np.float32]) -> float:
    eyes = np.hypot(*(points[topology.RIGHT_EYE_OUTER] - points[topology.LEFT_EYE_OUTER]))
    return float(np.hypot(*(points[topology.INNER_LIP_BOTTOM] - points[topology.INNER_LIP_TOP])) / eyes)


def opened(opening: float, **about: float) -> Shape:
    return dataclasses.replace(SHUT, opening=opening, **about)


@pytest.mark.parametrize("name", ["smile", "closed"])
def test_lips_meet_and_part_as_far_as_they_are_told(
    name: str, request: pytest.FixtureRequest, finder: FaceFinder
) -> None:
    framed = request.getfixturevalue(name)
    apart = [lips_apart(landmarks(finder, rgb(framed, shape=opened(opening)))) for opening in (0, 0.3, 0.6, 1.0)]
    assert apart[0] < 0.03
    assert apart == sorted(apart)
    assert apart[-1] > 0.12


def test_the_jaw_takes_the_chin_along_and_leaves_the_eyes(closed: framing.Framed, finder: FaceFinder) -> None:
    before, after = (landmarks(finder, rgb(closed, shape=opened(opening))) for opening in (0, 1))
    eyes = np.hypot(*(before[topology.RIGHT_EYE_OUTER] - before[topology.LEFT_EYE_OUTER]))
    moved = (after - before) / eyes
    assert moved[topology.CHIN, 1] > 0.05
    assert np.abs(moved[[topology.LEFT_EYE_OUTER, topology.RIGHT_EYE_OUTER, topology.NOSE_TIP]]).max() < 0.03


def test_the_mouth_rounds_and_spreads(closed: framing.Framed, finder: FaceFinder) -> None:
    def width(amount: float) -> float:
        points = landmarks(finder, rgb(closed, shape=opened(0.3, width=amount)))
        return float(np.hypot(*(points[topology.MOUTH_RIGHT] - points[topology.MOUTH_LEFT])))

    assert width(-1) < 0.93 * width(0)
    assert width(1) > 1.02 * width(0)


def test_eyes_close(closed: framing.Framed) -> None:
    portrayed = Portrayed(closed)
    before = portrayed.frame(STILL, SHUT, 0).copy()
    shut = portrayed.frame(STILL, SHUT, 1).copy()
    again = portrayed.frame(STILL, SHUT, 0)
    assert np.abs(shut.astype(int) - before).max() > 40
    assert (again == before).all()


def test_a_still_portrait_is_the_picture_and_the_background_stays(closed: framing.Framed) -> None:
    portrayed = Portrayed(closed)
    luma = planes.from_rgb(closed.rgb)[0].astype(int)
    still = portrayed.frame(STILL, SHUT, 0)[:SIDE].copy()
    assert np.abs(still - luma).mean() < 0.05
    posed = portrayed.frame(Pose(0.02, 0.02, 0.04, 0.06, 0.06, 1), opened(1.0), 1.0)[:SIDE]
    edge = SIDE // 12
    for cut in (np.s_[:, :edge], np.s_[:, -edge:]):
        assert (posed[cut] == luma[cut]).all()


def test_a_little_more_is_a_little_different(closed: framing.Framed) -> None:
    portrayed = Portrayed(closed)
    frames = [portrayed.frame(STILL, opened(0.02 * step), 0).astype(int) for step in range(40)]
    changes = [np.abs(after - before).mean() for before, after in itertools.pairwise(frames)]
    assert max(changes) < 0.35


def test_faces_near_edges_turned_and_mirrored_can_be_posed(samples: Samples, finder: FaceFinder, tmp_path) -> None:
    picture = portraits.read(samples.smile)
    chance = np.random.default_rng(7)
    posed = 0
    for _ in range(25):
        turn = cv2.getRotationMatrix2D((225, 130), chance.uniform(-40, 40), chance.uniform(0.8, 3))
        width, height = (int(size) for size in chance.integers(150, 700, 2))
        turn[:, 2] += [width * chance.uniform(0.1, 0.9) - 225, height * chance.uniform(0.1, 0.9) - 130]
        path = tmp_path / "posed.png"
        cv2.imwrite(str(path), cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REPLICATE))
        try:
            portrait = portraits.load(path, finder)
        except errors.BadPortrait:
            continue
        parameters = RenderParameters(min_resolution=256, expand_ratio=float(chance.choice([0, 0.18, 0.5])))
        framed = framing.frame(portrait, parameters)
        frame = Portrayed(framed).frame(Pose(*chance.normal(0, 0.03, 6)), opened(1.25, width=-1, press=1), 1.0)
        assert frame.shape == (framed.rgb.shape[0] * 3 // 2, framed.rgb.shape[1])
        posed += 1
    assert posed > 5


@pytest.mark.parametrize("width", [290, 260, 240, 210])
def test_a_close_up_keeps_the_chin_and_gives_up_hair(width: int) -> None:
    close = blank(width, 600, face=(10.0, 100.0, width - 10.0, 300.0))
    framed = framing.frame(close, RenderParameters(min_resolution=256))
    top, bottom = (landmark[1] / 256 for landmark in framed.landmarks[:2])
    assert top >= -0.01
    assert bottom <= 1.01
    assert 1 - bottom == pytest.approx(min(0.12 * 200, width - 200) / width, abs=0.01)


def test_a_head_that_fits_is_in_the_middle_hair_to_neck() -> None:
    framed = framing.frame(blank(800, 800, face=(300.0, 300.0, 450.0, 500.0)), RenderParameters(min_resolution=256))
    top, bottom = (landmark[1] / 256 for landmark in framed.landmarks[:2])
    assert top - 0.45 * (bottom - top) == pytest.approx(1 - bottom - 0.12 * (bottom - top), abs=0.01)


@pytest.mark.parametrize(("width", "height", "side"), [(20_000, 128, 256), (128, 20_000, 2048)])
def test_a_picture_that_is_too_long_for_a_video_is_refused(width: int, height: int, side: int) -> None:
    with pytest.raises(errors.BadParameters, match=r"4096 on each side are allowed; choose") as caught:
        framing.frame(blank(width, height), RenderParameters(min_resolution=side, expand_ratio=0.0))
    assert f"{width * side // 128} x {height * side // 128}" in caught.value.message
    assert [problem.field for problem in caught.value.problems] == ["parameters.expand_ratio"]


def test_the_longest_video_is_made() -> None:
    framed = framing.frame(blank(4096, 256), RenderParameters(min_resolution=256, expand_ratio=0.0))
    assert framed.rgb.shape == (256, 4096, 3)


def blank(width: int, height: int, face: tuple[float, float, float, float] = (10.0, 10.0, 90.0, 110.0)) -> Portrait:
    """A picture with nothing on it; the first two landmarks are the corners of the face."""
    landmarks = np.zeros((478, 3), np.float32)
    landmarks[:2, :2] = np.reshape(face, (2, 2))
    return Portrait(np.zeros((height, width, 3), np.uint8), Face(landmarks, face, 1.0, 0, 0, 0))
