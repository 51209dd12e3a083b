"""Every thing that can be wrong with a portrait has its own error, and hostile bytes raise nothing else."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sonic_runtime import errors
from sonic_runtime.faces import FaceFinder
from sonic_runtime.media import portraits
from sonic_runtime.models.samples import Samples


@pytest.fixture(scope="module")
def picture(samples: Samples) -> Image.Image:
    return Image.open(samples.smile).convert("RGB")


def saved(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["p.jpg", "p.png", "p.webp"])
def test_formats_are_read(picture: Image.Image, tmp_path: Path, name: str) -> None:
    rgb = portraits.read(saved(picture, tmp_path / name))
    assert np.abs(rgb.astype(int) - np.asarray(picture)).mean() < 6


def test_heic_is_read(picture: Image.Image, tmp_path: Path) -> None:
    pillow_heif.from_pillow(picture).save(tmp_path / "p.heic", quality=90)
    assert portraits.read(tmp_path / "p.heic").shape == (512, 512, 3)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_modes_become_rgb(picture: Image.Image, tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        converted = picture.convert(mode)
    path = saved(converted, tmp_path / ("p.jpg" if mode == "CMYK" else "p.png"))
    rgb = portraits.read(path)
    assert rgb.shape == (512, 512, 3)
    assert 60 < rgb.mean() < 200


def test_exif_orientation_is_honoured(picture: Image.Image, tmp_path: Path, finder: FaceFinder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    portrait = portraits.load(saved(lying, tmp_path / "p.jpg", exif=exif), finder)
    assert abs(portrait.face.roll_degrees) < 10


def test_transparency_is_white(tmp_path: Path) -> None:
    path = saved(Image.new("RGBA", (200, 200), (0, 0, 0, 0)), tmp_path / "p.png")
    assert portraits.read(path).min() == 255


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = saved(Image.new("1", (20_000, 20_000)), tmp_path / "p.png")
    with pytest.raises(errors.PortraitTooLarge, match="50 million"):
        portraits.read(path)


def test_a_jpeg_of_a_thousand_scans_is_refused_before_it_is_decoded(picture: Image.Image, tmp_path: Path) -> None:
    usual = saved(picture, tmp_path / "p.jpg", progressive=True).read_bytes()
    last = usual[usual.rindex(b"\xff\xda") : -2]
    (tmp_path / "150.jpg").write_bytes(usual[:-2] + 150 * last + usual[-2:])
    assert portraits.read(tmp_path / "150.jpg").shape == (512, 512, 3)
    for between in (b"", b"\xff\x02\xff\xff"):  # a marker that decoders pass over hides nothing
        (tmp_path / "1000.jpg").write_bytes(usual[:-2] + 1000 * (between + last) + usual[-2:])
        with pytest.raises(errors.PortraitUnreadable, match="more than 200 scans; save it anew"):
            portraits.read(tmp_path / "1000.jpg")


def test_what_is_kept_beside_a_jpegs_picture_are_no_scans(picture: Image.Image, tmp_path: Path) -> None:
    looks_like_it = b"\xff\xda" * 1000  # a comment's bytes, or those of the film that phones write behind a picture
    path = saved(picture, tmp_path / "p.jpg", comment=looks_like_it)
    path.write_bytes(path.read_bytes() + looks_like_it)
    assert portraits.read(path).shape == (512, 512, 3)


def test_small_animated_and_truncated_pictures_are_refused(picture: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(errors.PortraitTooSmall, match="100 x 90"):
        portraits.read(saved(picture.resize((100, 90)), tmp_path / "s.png"))
    frames = [picture.resize((200, 200)), picture.resize((200, 200)).rotate(9)]
    with pytest.raises(errors.PortraitAnimated):
        portraits.read(saved(frames[0], tmp_path / "a.webp", save_all=True, append_images=frames[1:]))
    for name in ("t.png", "t.jpg"):
        whole = saved(picture, tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(errors.PortraitTruncated):
            portraits.read(tmp_path / name)


def test_what_is_no_picture_is_refused(tmp_path: Path, samples: Samples) -> None:
    with pytest.raises(errors.PortraitUnreadable, match="JPEG"):
        portraits.read(samples.voice)


def test_faces_are_judged(picture: Image.Image, tmp_path: Path, finder: FaceFinder) -> None:
    with pytest.raises(errors.NoFace):
        portraits.load(saved(picture.crop((0, 300, 512, 512)), tmp_path / "n.png"), finder)
    with pytest.raises(errors.FaceTooSmall, match="at least 48"):
        portraits.load(saved(picture.resize((200, 200)), tmp_path / "s.png"), finder)
    with pytest.raises(errors.FaceCutOff, match="whole face"):
        portraits.load(saved(picture.crop((0, 0, 512, 146)), tmp_path / "c.png"), finder)
    two = Image.new("RGB", (900, 512), "grey")
    two.paste(picture, (0, 0))
    two.paste(picture.resize((400, 400)), (500, 60))
    cautions = {c.reason: c.message for c in portraits.load(saved(two, tmp_path / "2.png"), finder).cautions}
    assert "2 faces" in cautions["SEVERAL_FACES"]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_bytes_raise_nothing_but_bad_portrait(
    picture: Image.Image, tmp_path: Path, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    picture.resize((160, 160)).save(buffer, format=data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"])))
    content = bytearray(buffer.getvalue())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=30)):
        content[at] = data.draw(st.integers(0, 255))
    (tmp_path / "x").write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(errors.BadPortrait):
        portraits.read(tmp_path / "x")
