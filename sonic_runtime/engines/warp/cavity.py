"""What a mouth looks like inside: throat, tongue, teeth; the portrait's own teeth where it shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonic_runtime.engines.warp import planes
from sonic_runtime.engines.warp.grid import Field
from sonic_runtime.engines.warp.head import eased

_CHEEK_LUMA = 150.0  # of the face that the colours are made for
_TINT = 0.45  # how much of the skin's colour the light gives to the teeth


@dataclass(frozen=True)
class Inside:
    """Pixels between the lips, each [rows, columns], in pixels; u and v are those of the skull."""

    u: Field
    v: Field
    from_top: Field  # below the upper lip's edge
    from_bottom: Field  # above the lower lip's edge
    own_top: Field  # v of the lips' edges in the portrait
    own_bottom: Field
    arch: Field  # 1 in the middle of the mouth, 0 at its corners


class Cavity:
    """The inside of one portrait's mouth."""

    def __init__(self, points: NDArray[np.float64], picture: NDArray[np.uint8], width: float) -> None:
        self._width = np.float32(width)
        cheeks = np.clip(points[[50, 280]], 2, np.array(picture.shape[:0:-1]) - 3).astype(int)
        skin = np.mean([picture[:, y - 2 : y + 3, x - 2 : x + 3].mean(axis=(1, 2)) for x, y in cheeks], axis=0)
        self._light = np.float32(np.clip((skin[0] - 16) / (_CHEEK_LUMA - 16), 0.45, 1.15))
        self._teeth = planes.colour(214, 203, 188)
        self._teeth[1:] += np.float32(_TINT) * (skin[1:] - self._teeth[1:])
        self._dark, self._rim = planes.colour(24, 8, 9), planes.colour(92, 42, 40)
        self._tongue = planes.colour(158, 84, 82)
        self._grooves = _grooves(width)

    def colours(self, seen: Inside, tongue: float, own: NDArray[np.uint8]) -> Field:
        """Luma and chroma, float32 [3, rows, columns]; `own` is the portrait at the same places of the skull."""
        width = self._width
        from_top, from_bottom = np.maximum(seen.from_top, 0), np.maximum(seen.from_bottom, 0)
        gap = np.maximum(from_top + from_bottom, 1)
        out = self._depth(from_top, from_bottom)
        self._lay(out, 0.85 * self._tongue_cover(seen, gap, tongue), self._tongue, 0.72 + 0.3 * from_bottom / gap)
        lower = eased((0.05 * width - from_bottom) / (0.02 * width)) * eased(1 - (np.abs(seen.u) / width - 0.15) / 0.12)
        self._lay(out, 0.55 * lower * eased((gap / width - 0.14) / 0.1), self._teeth, 0.5 + 0.35 * seen.arch)
        grooves = self._grooves[np.minimum(np.abs(seen.u), len(self._grooves) - 1).astype(np.int32)]
        edge = seen.own_top + width * (0.084 - 0.20 * (seen.u / width) ** 2 - 0.012 * grooves)
        upper = eased((edge - seen.v) / (0.014 * width) + 0.5) * eased(1 - (np.abs(seen.u) / width - 0.26) / 0.12)
        upper *= eased((gap / width - 0.015) / 0.04)  # lips that hardly part show none
        shade = (0.5 + 0.5 * eased(from_top / (0.075 * width))) * (0.62 + 0.38 * seen.arch)
        self._lay(out, upper, self._teeth, shade * (1 - 0.13 * grooves))
        out[0] = 16 + (out[0] - 16) * self._light
        below_edge = np.clip((seen.v - seen.own_top - 1) / 2.5, 0, 1)
        shown = below_edge * np.clip((seen.own_bottom - seen.v - 1) / (0.02 * width + 1), 0, 1)
        out += shown * (own - out)
        return out

    def _depth(self, from_top: Field, from_bottom: Field) -> Field:
        """From the lips' wet rim to the dark of the throat."""
        depth = eased(np.minimum(from_top, from_bottom) / (0.11 * self._width))
        return np.stack([rim + depth * (dark - rim) for rim, dark in zip(self._rim, self._dark, strict=True)])

    def _tongue_cover(self, seen: Inside, gap: Field, tongue: float) -> Field:
        """The tongue's back, low in an open mouth, and its tip behind the teeth where a sound wants it."""
        share = gap / self._width
        height = (0.40 + 0.35 * tongue) * gap
        low = eased((height - seen.from_bottom) / (0.3 * gap)) * eased((share - 0.06) / 0.12)
        return low * eased(1 - (np.abs(seen.u) / self._width - 0.13) / 0.16)

    @staticmethod
    def _lay(out: Field, cover: Field, colour: NDArray[np.float32], light: Field) -> None:
        """Lay a colour over what is there, its luma dimmed by `light`."""
        out[0] += cover * (16 + (colour[0] - 16) * light - out[0])
        for plane, value in zip(out[1:], colour[1:], strict=True):
            plane += cover * (value - plane)


def _grooves(width: float) -> Field:
    """1 between neighbouring teeth, the two in the middle the widest, 0 elsewhere; by pixels from the middle."""
    along = np.arange(int(width)) / width
    apart = np.abs(along[:, None] - [0.0, 0.095, 0.165, 0.235, 0.29]).min(axis=1)
    return np.asarray(np.exp(-((apart / 0.009) ** 2)), np.float32)
