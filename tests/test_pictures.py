"""WebP, BMP, PNM and JPEG 2000: what is refused, and what is said."""

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from image_files import GREY, RGB, Write, fails, make_pixels, read_all
from picture_files import jpeg2000, picture, plain_pnm
from PIL import Image

from tilesegment.geometry import Region
from tilesegment.images import begins_as_image, open_image


@pytest.mark.parametrize("write", [picture("webp"), picture("bmp"), picture("ppm"), plain_pnm("P3"), jpeg2000()])
def test_a_truncated_picture_is_refused(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, RGB)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        fails(path)


def test_colours_of_a_palette_are_applied(tmp_path: Path) -> None:
    Image.fromarray(RGB.transpose(1, 2, 0)).quantize(16).save(tmp_path / "a.bmp")
    with Image.open(tmp_path / "a.bmp") as image:
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    with open_image(tmp_path / "a.bmp") as source:
        np.testing.assert_array_equal(source.read(Region.of_shape(source.shape)), expected)


def test_frames_of_a_webp_are_series(tmp_path: Path) -> None:
    frames = [Image.fromarray(RGB[n]).convert("RGB") for n in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert "2 other images" in read_all(tmp_path / "a.webp")[1]
    np.testing.assert_array_equal(read_all(tmp_path / "a.webp", series=2)[0], RGB[2])


@pytest.mark.parametrize(
    "text", [b"P5", b"P5 ", b"P5 12 ", b"P5 0 5 255\n", b"P5 5 5 70000\n", b"P6 99999999999 5 255\n"]
)
def test_damaged_headers_of_pnm(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(text)
    fails(tmp_path / "a.pgm")


def test_what_a_pnm_says_besides_its_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 3 2 100\n" + bytes(range(6)) + b"P5 1 1 255\n0")
    pixels, notes = read_all(tmp_path / "a.pgm")
    np.testing.assert_array_equal(pixels, [[0, 1, 2], [3, 4, 5]])
    assert "calls 100 white" in notes and "12 bytes after its image" in notes


def test_bits_as_text_need_no_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.pbm").write_bytes(b"P1\n# 1 is black\n4 2\n0101\n1 0 1 1\n")
    np.testing.assert_array_equal(read_all(tmp_path / "a.pbm")[0], np.array([[1, 0, 1, 0], [0, 1, 0, 0]]) * 255)


def test_texts_that_begin_as_pictures_do_are_none(tmp_path: Path) -> None:
    for text in ("BMI and age", "P2P networks", "RIFF raff"):
        (tmp_path / "a").write_text(text)
        assert not begins_as_image(tmp_path / "a")


def test_jpeg_2000_that_would_be_shown_wrongly_is_refused(tmp_path: Path) -> None:
    path = jpeg2000()(tmp_path, RGB)
    whole = path.read_bytes()
    place = whole.index(b"colr")
    assert struct.unpack_from(">I", whole, place + 7) == (16,)
    path.write_bytes(whole[: place + 7] + struct.pack(">I", 18) + whole[place + 11 :])
    fails(path, "colours of kind 18, neither grey nor sRGB")
    path.write_bytes(whole[:place] + b"pclr" + whole[place + 4 :])
    fails(path, "palette")
    stream = whole.index(b"\xff\x4f\xff\x51")
    path.write_bytes(whole[: stream + 43] + b"\2\2" + whole[stream + 45 :])
    fails(path, "components of different sizes")
    path.write_bytes(whole[: stream + 8] + struct.pack(">2I", 60_000, 50_000) + whole[stream + 16 :])
    fails(path, "more than the 134 million")
    path.write_bytes(whole[:stream])
    fails(path, "without an image")


def test_one_sample_of_a_picture(tmp_path: Path) -> None:
    for write in (jpeg2000(), picture("ppm"), plain_pnm("P3")):
        with open_image(write(tmp_path, RGB), select={"s": 1}) as source:
            np.testing.assert_array_equal(source.read(Region(9, 9, 80, 90)), RGB[1:2, 9:80, 9:90])
    fails(picture("pgm")(tmp_path, GREY), "axes are known", axes="yx")
    fails(jpeg2000()(tmp_path, GREY), "axes are known", axes="yx")


def test_bits_of_jpeg_2000_are_not_scaled(tmp_path: Path) -> None:
    pixels = make_pixels(1, 40, 50, dtype="uint16") * 16  # 12 bits
    data = imagecodecs.jpeg2k_encode(pixels[0], reversible=True, bitspersample=12)
    (tmp_path / "a.jp2").write_bytes(data)
    np.testing.assert_array_equal(read_all(tmp_path / "a.jp2")[0], pixels[0])
