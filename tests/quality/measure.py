"""What is measured of one rendered video; BOUNDS says what is good enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from tests.quality import landmarks
from training.mouth.phones import Phone, curves, is_bilabial

FPS = 25
# Of every video, and of the median over all.
BOUNDS: dict[str, tuple[float, float]] = {
    "offset_ms": (-40, 40),
    "correlation": (0.70, 1.0),
    "bilabials_closed": (0.70, 1.0),
    "pauses_closed": (0.75, 1.0),
    "least_confidence": (0.9, 1.0),
    "identity": (0.0, 0.02),
    "background": (0.0, 1.0),
    "flicker": (0.0, 0.6),
    "seams": (0.0, 1.35),
}
MEDIAN_BOUNDS: dict[str, tuple[float, float]] = {
    "offset_ms": (-20, 20),
    "correlation": (0.85, 1.0),
    "bilabials_closed": (0.95, 1.0),
    "pauses_closed": (0.95, 1.0),
}
REACH_S = 0.2  # how far an offset is looked for
CLOSED_SHARE = 0.22  # of the take's own range of apertures: below it, lips count as closed


@dataclass(frozen=True)
class Figures:
    """Of one video."""

    offset_ms: float  # positive: the mouth comes late
    correlation: float  # of the measured with the expected aperture, at that offset
    bilabials_closed: float  # share of m, b, p at which the lips meet
    pauses_closed: float  # share of the frames of pauses with closed lips
    least_confidence: float  # that there is a face, over all frames
    identity: float  # mean distance of eyes and nose from the portrait's, in eye distances, after a rigid fit
    background: float  # 99th percentile of the change of luma along the picture's border
    flicker: float  # how far nose and cheeks leave the middle between the frames around, in steps of a 64-pixel face
    seams: float  # strongest edges of the face but for the mouth, against those of the first frame


def frames_of(path: Path) -> Iterator[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def measured(path: Path, phones: list[Phone], duration_s: float, model: Path, box: tuple[float, ...]) -> Figures:
    """Look at every frame of a video whose speech is known."""
    tracker = landmarks.Tracker(model, box)  # type: ignore[arg-type]
    apertures, confidences, unlike, changes, cheeks, edges = [], [], [], [], [], []
    first: NDArray[np.uint8] | None = None
    for rgb in frames_of(path):
        points, confidence = tracker.look(rgb)
        apertures.append(landmarks.aperture(points))
        confidences.append(confidence)
        if first is None:
            first, still = rgb, points
        unlike.append(_unlike(points, still))
        changes.append(_border_change(rgb, first))
        cheeks.append(_cheeks(rgb, points))
        edges.append(_edges(rgb, points))
    opening = np.array(apertures)
    offset_s, correlation = _alignment(opening, phones, duration_s)
    return Figures(
        offset_ms=1000 * offset_s,
        correlation=correlation,
        bilabials_closed=_closed_at_bilabials(opening, phones, offset_s),
        pauses_closed=_closed_in_pauses(opening, phones, duration_s),
        least_confidence=min(confidences),
        identity=float(np.mean(unlike)),
        background=float(np.percentile(changes, 99)),
        flicker=_flicker(np.stack(cheeks)),
        seams=max(edges) / edges[0],
    )


def _alignment(opening: NDArray[np.float64], phones: list[Phone], duration_s: float) -> tuple[float, float]:
    """The offset at which the mouth follows best what is said, and how well."""
    expected = curves(phones, duration_s)[:, 0]
    at_s = (np.arange(len(expected)) + 0.5) / 100
    frame_s = (np.arange(len(opening)) + 0.5) / FPS
    offsets = np.arange(-REACH_S, REACH_S + 1e-9, 0.005)
    alike = [float(np.corrcoef(opening, np.interp(frame_s - offset, at_s, expected))[0, 1]) for offset in offsets]
    best = int(np.argmax(alike))
    return float(offsets[best]), alike[best]


def _closed_at_bilabials(opening: NDArray[np.float64], phones: list[Phone], offset_s: float) -> float:
    bound = _closed_below(opening)
    spans = [(phone.start + offset_s, phone.end + offset_s) for phone in phones if is_bilabial(phone.sound)]
    met = [opening[max(int(start * FPS - 0.5), 0) : int(end * FPS + 1.5)].min() < bound for start, end in spans]
    return float(np.mean(met)) if met else 1.0


def _closed_in_pauses(opening: NDArray[np.float64], phones: list[Phone], duration_s: float) -> float:
    silence = curves(phones, duration_s)[:, 6]
    frame = np.minimum(((np.arange(len(opening)) + 0.5) / FPS * 100).astype(int), len(silence) - 1)
    quiet = np.array([silence[max(i - 10, 0) : i + 11].min() > 0.9 for i in frame])  # pauses of 0.2 seconds and more
    return float((opening[quiet] < _closed_below(opening)).mean()) if quiet.any() else 1.0


def _closed_below(opening: NDArray[np.float64]) -> float:
    low, high = np.percentile(opening, [3, 97])
    return float(low + CLOSED_SHARE * (high - low))


def _unlike(points: NDArray[np.float64], still: NDArray[np.float64]) -> float:
    """What is left of the distances of rigid points after the best similarity transform."""
    source, target = points[list(landmarks.RIGID)], still[list(landmarks.RIGID)]
    fit, _ = cv2.estimateAffinePartial2D(source, target, method=cv2.LMEDS)
    apart = np.hypot(*(source @ fit[:, :2].T + fit[:, 2] - target).T)
    return float(apart.mean() / np.hypot(*(still[landmarks.EYES[1]] - still[landmarks.EYES[0]])))


def _border_change(rgb: NDArray[np.uint8], first: NDArray[np.uint8]) -> float:
    """Along the rim of the picture, an eighth of its width, the part below the chin left out."""
    side = rgb.shape[1] // 16
    rim = np.s_[: rgb.shape[0] // 2]
    parts = [np.abs(rgb[rim, cut].astype(np.int16) - first[rim, cut]) for cut in (np.s_[:side], np.s_[-side:])]
    return float(np.mean([part.mean() for part in parts]))


def _aligned(rgb: NDArray[np.uint8], points: NDArray[np.float64], side: int) -> NDArray[np.float32]:
    """The face brought to one place, luma, [side, side]: outer eye corners level at a third of its height."""
    left, right = points[landmarks.EYES[0]], points[landmarks.EYES[1]]
    down = np.array([left[1] - right[1], right[0] - left[0]])
    source = np.stack([left, right, (left + right) / 2 + down]).astype(np.float32)
    target = np.array([[0.2, 0.3], [0.8, 0.3], [0.5, 0.9]], np.float32) * side
    crop = cv2.warpAffine(rgb, cv2.getAffineTransform(source, target), (side, side), flags=cv2.INTER_LINEAR)
    return cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _cheeks(rgb: NDArray[np.uint8], points: NDArray[np.float64]) -> NDArray[np.float32]:
    """Nose and cheeks, [20, 48]: eyes and mouth, which move on purpose, are left out."""
    return _aligned(rgb, points, 64)[24:44, 8:56]


def _flicker(cheeks: NDArray[np.float32]) -> float:
    texture = np.abs(np.diff(cheeks, axis=2)).mean()
    return float(np.abs(cheeks[1:-1] - (cheeks[:-2] + cheeks[2:]) / 2).mean() / texture)


def _edges(rgb: NDArray[np.uint8], points: NDArray[np.float64]) -> float:
    """Strength of the strongest edges of the lower face outside the mouth."""
    luma = cv2.GaussianBlur(_aligned(rgb, points, 192), (0, 0), 0.8)
    strength = np.hypot(cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1))
    strength[112:176, 50:142] = 0  # the mouth
    return float(np.percentile(strength[76:, 24:168], 99))
