"""From a picture file to a portrait with a face that can be trusted, or to an error that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sonic.parameters import Caution
from sonic_runtime import errors
from sonic_runtime.engines.base import Face, Portrait
from sonic_runtime.faces import topology

MAX_PIXELS = 50_000_000
MAX_SCANS = 200  # of a JPEG: each is decoded, whatever little it holds; cameras and programs write about ten
MIN_SIDE_PX = 128
MIN_FACE_PX, SMALL_FACE_PX = 48, 128  # width
MAX_YAW_DEGREES, LARGE_YAW_DEGREES = 45.0, 25.0
MAX_PITCH_DEGREES = 40.0
MIN_CONFIDENCE = 0.6
_FORMATS = ("JPEG", "PNG", "WEBP", "HEIF")
_MUST_BE_SEEN = (
    topology.LEFT_EYE_OUTER,
    topology.LEFT_EYE_INNER,
    topology.RIGHT_EYE_OUTER,
    topology.RIGHT_EYE_INNER,
    topology.MOUTH_LEFT,
    topology.MOUTH_RIGHT,
    topology.OUTER_LIP_TOP,
    topology.OUTER_LIP_BOTTOM,
)
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
_JPEG_SEGMENT = re.compile(rb"\xff([^\x00-\xbf\xd0-\xd8\xff])")  # markers with a length; decoders pass over the others
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"


pillow_heif.register_heif_opener()


class Finder(Protocol):
    """What finds faces: `sonic_runtime.faces.FaceFinder`."""

    def find(self, rgb: NDArray[np.uint8]) -> list[Face]: ...


def load(path: Path, finder: Finder) -> Portrait:
    """The picture, upright, with its largest face. Raises errors.BadPortrait, one class for each thing gone wrong."""
    rgb = read(path)
    faces = finder.find(rgb)
    if not faces:
        raise errors.NoFace("choose a picture that shows a face from the front, well lit and not covered")
    face = faces[0]
    _check_face(face, rgb.shape[:2])
    return Portrait(rgb, face, tuple(_cautions(faces)))


def read(path: Path) -> NDArray[np.uint8]:
    """The picture's pixels, uint8 [height, width, 3], upright, transparency on white. Raises errors.BadPortrait."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_size(image)
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise errors.PortraitAnimated("send one of its frames as JPEG or PNG")
            if image.format in ("JPEG", "MPO"):
                _check_scans(path)
            image.load()
            return np.asarray(_as_rgb(ImageOps.exif_transpose(image)))
    except errors.BadPortrait:
        raise
    except UnidentifiedImageError:
        raise errors.PortraitUnreadable(_advice(path)) from None
    except Image.DecompressionBombError:
        raise errors.PortraitTooLarge(f"{MAX_PIXELS // 1_000_000} million are allowed; scale it down") from None
    except Exception as error:  # decoders fail in many ways on hostile bytes
        if "truncated" in str(error) or "broken data stream" in str(error):
            raise errors.PortraitTruncated("send the whole file again") from None
        raise errors.PortraitUnreadable(f"its decoder says: {error}") from None


def _advice(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(4) == b"GIF8":
            return "it is a GIF; send one of its frames as JPEG or PNG"
    return "send a JPEG, PNG, WebP or HEIC file"


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        allowed = f"it has {width} x {height}, {MAX_PIXELS // 1_000_000} million are allowed; scale it down"
        raise errors.PortraitTooLarge(allowed)
    if min(width, height) < MIN_SIDE_PX:
        raise errors.PortraitTooSmall(f"it has {width} x {height}, at least {MIN_SIDE_PX} on each side are needed")


def _check_scans(path: Path) -> None:
    """Raises PortraitUnreadable for a JPEG of too many scans. They are counted as decoders find them: what is written
    within other segments, or behind the picture's end, is none."""
    jpeg = path.read_bytes()
    scans, at = 0, 2
    while (segment := _JPEG_SEGMENT.search(jpeg, at)) and segment[1] != _END_OF_IMAGE:
        scans += segment[1] == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise errors.PortraitUnreadable(f"its JPEG has more than {MAX_SCANS} scans; save it anew, not progressive")
        at = segment.end() + int.from_bytes(jpeg[segment.end() : segment.end() + 2], "big")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image, np.float32)
        image = Image.fromarray((values / max(float(values.max()), 255.0) * 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _check_face(face: Face, size: tuple[int, int]) -> None:
    """Raises FaceTooSmall, FaceCutOff, FaceTurned, FaceUntrusted."""
    width = face.box[2] - face.box[0]
    if width < MIN_FACE_PX:
        raise errors.FaceTooSmall(
            f"it is {width:.0f} pixels wide, at least {MIN_FACE_PX} are needed; cut it out larger"
        )
    seen = face.landmarks[list(_MUST_BE_SEEN), :2]
    if (seen < 0).any() or (seen >= size[::-1]).any():
        raise errors.FaceCutOff("choose a picture that shows the whole face")
    if abs(face.yaw_degrees) > MAX_YAW_DEGREES or abs(face.pitch_degrees) > MAX_PITCH_DEGREES:
        turned = f"{abs(face.yaw_degrees):.0f}° to the side, {abs(face.pitch_degrees):.0f}° up or down"
        limit = f"{MAX_YAW_DEGREES:.0f}° and {MAX_PITCH_DEGREES:.0f}° are the limits; choose a picture from the front"
        raise errors.FaceTurned(f"{turned}; {limit}")
    if face.confidence < MIN_CONFIDENCE:
        raise errors.FaceUntrusted(
            f"confidence {face.confidence:.2f}, at least {MIN_CONFIDENCE} is needed; choose a clear photograph"
        )
    if odd := _odd_proportion(face):
        raise errors.FaceUntrusted(f"{odd}; choose a photograph of a person")


def _odd_proportion(face: Face) -> str:
    """What in the face's proportions is not a person's, or nothing. All lengths in outer eye distances."""
    roll = np.radians(face.roll_degrees)
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    level = face.landmarks[:, :2] @ turn
    eyes = level[topology.RIGHT_EYE_OUTER] - level[topology.LEFT_EYE_OUTER]
    unit = max(float(eyes[0]), 1e-3)
    middle = (level[topology.RIGHT_EYE_OUTER] + level[topology.LEFT_EYE_OUTER]) / 2

    def below_eyes(point: int) -> float:
        return float(level[point, 1] - middle[1]) / unit

    mouth = float(level[topology.MOUTH_RIGHT, 0] - level[topology.MOUTH_LEFT, 0]) / unit
    heights = [below_eyes(topology.NOSE_TIP), below_eyes(topology.OUTER_LIP_TOP), below_eyes(topology.CHIN)]
    if not 0.35 <= mouth <= 1.05:
        return f"the mouth is {mouth:.2f} eye distances wide"
    if not 0.1 < heights[0] < heights[1] < heights[2] < 2.2:
        return "nose, mouth and chin are not where a person's are"
    return ""


def _cautions(faces: list[Face]) -> Iterator[Caution]:
    face = faces[0]
    width = face.box[2] - face.box[0]
    if len(faces) > 1:
        where = f"at ({face.box[0]:.0f}, {face.box[1]:.0f})"
        yield Caution("SEVERAL_FACES", f"{len(faces)} faces were found; the largest one is used, {where}")
    if width < SMALL_FACE_PX:
        yield Caution("SMALL_FACE", f"the face is {width:.0f} pixels wide; from {SMALL_FACE_PX} on it looks sharp")
    if abs(face.yaw_degrees) > LARGE_YAW_DEGREES:
        turned = f"the face is turned by {abs(face.yaw_degrees):.0f}°; up to {LARGE_YAW_DEGREES:.0f}° look best"
        yield Caution("TURNED_FACE", turned)
