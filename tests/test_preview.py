"""Previews: what is coloured and what is not, and the files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tilesegment.errors import MaskError
from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.preview import overlay, save_preview, stretch

CLASSES = (LabelClass("background", "#000000"), LabelClass("red things", "#ff0000"), LabelClass("blue", "#0000ff"))

GLASS, STROMA = (243, 241, 242), (225, 161, 196)


def grey(height: int, width: int) -> np.ndarray:
    return np.linspace(0, 1000, height * width).reshape(1, height, width).astype(np.uint16)


@given(st.sampled_from(["uint8", "uint16", "float32"]), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20))
def test_stretch_takes_any_type_and_channels(dtype, channels, height, width):
    image = (np.random.default_rng(height * 31 + width).random((channels, height, width)) * 200).astype(dtype)
    picture = stretch(image)
    assert (picture.shape, picture.dtype) == ((height, width, 3), np.uint8)
    if channels < 3:
        assert (picture[..., 0] == picture[..., 2]).all()


def test_stretch_is_robust_to_a_hot_pixel_and_to_what_is_not_a_number():
    image = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (1, 100, 1))
    image[0, 0, :3] = 1e9, np.nan, np.inf
    picture = stretch(image)[..., 0]
    assert picture[50, 50] == pytest.approx(128, abs=5)
    assert picture[0, 1] == picture[0, 2] == 0
    assert stretch(np.full((1, 3, 3), np.nan)).max() == 0
    assert stretch(np.full((1, 3, 3), 7, np.uint8)).max() == 0


def he(dtype: str = "uint8", factor: float = 1) -> np.ndarray:
    """Glass and stroma, (3, 40, 40)."""
    image = np.empty((3, 40, 40))
    image[:, :, :20], image[:, :, 20:] = np.array(GLASS)[:, None, None], np.array(STROMA)[:, None, None]
    return (image * factor).astype(dtype)


def test_rgb_of_8_bits_is_shown_as_it_is():
    assert (stretch(he()) == np.moveaxis(he(), 0, -1)).all()
    dark = (he() // 8).astype(np.uint8)
    assert (stretch(dark) == np.moveaxis(dark, 0, -1)).all()


def test_alpha_is_no_colour():
    alpha = np.linspace(0, 255, 1600).reshape(1, 40, 40).astype(np.uint8)
    assert (stretch(np.concatenate([he(), alpha])) == np.moveaxis(he(), 0, -1)).all()


@pytest.mark.parametrize(("dtype", "factor"), [("uint16", 257), ("uint16", 16), ("float32", 1 / 255), ("float32", 1)])
def test_rgb_of_other_types_keeps_its_hue(dtype, factor):
    picture = stretch(he(dtype, factor)).astype(float)
    for colour, expected in ((picture[0, 0], GLASS), (picture[0, 30], STROMA)):
        np.testing.assert_allclose(colour / colour.max(), np.array(expected) / max(expected), atol=0.01)
    assert picture.max() >= 254


def test_channels_without_a_colour_are_stretched_each():
    rng = np.random.default_rng(0)
    weak, strong = rng.integers(0, 9, (1, 50, 50)), rng.integers(0, 60_000, (1, 50, 50))
    two = stretch(np.concatenate([weak, strong]).astype(np.uint16))
    assert two[..., 0].max() == two[..., 1].max() == 255 and (two[..., 0] == two[..., 2]).all()
    five = stretch(np.concatenate([weak, strong, weak, strong, strong]).astype(np.uint16))
    assert (five.reshape(-1, 3).max(0) == 255).all()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_only_classes_are_coloured_by_their_opacity(seed, opacity):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (1, 12, 9), np.uint8)
    mask = np.repeat(np.repeat(rng.choice(np.array([0, 1, 2, 255], np.uint8), (4, 3)), 3, 0), 3, 1)
    plain, drawn = stretch(image).astype(float), overlay(image, mask, CLASSES, opacity)
    bare = (mask == 0) | (mask == 255)
    np.testing.assert_array_equal(drawn[bare], plain[bare])
    # the middle of each 3 x 3 square has neighbours of its own class only
    for y, x in np.argwhere(~bare):
        if y % 3 == x % 3 == 1:
            expected = plain[y, x] * (1 - opacity) + np.array(CLASSES[mask[y, x]].rgb) * opacity
            np.testing.assert_allclose(drawn[y, x], expected, atol=0.51)


def test_regions_have_an_outline_of_one_pixel():
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 2:7] = 1
    red = overlay(np.zeros((1, 9, 9), np.uint8), mask, CLASSES)[..., 0]
    assert set(red[2, 2:7]) == set(red[2:7, 6]) == {230}
    assert set(red[3:6, 3:6].ravel()) == {102}
    assert red[mask == 0].max() == 0


def test_mask_and_image_must_agree():
    with pytest.raises(MaskError, match=r"\(4, 5\) and the image \(5, 4\)"):
        overlay(grey(5, 4), np.zeros((4, 5), np.uint8), CLASSES)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_files_hold_both_panels_and_leave_nothing_behind(tmp_path, suffix):
    path = tmp_path / f"a b{suffix}"
    path.write_text("an older one")
    mask = np.zeros((200, 300), np.uint8)
    mask[50:150, 100:200] = 1
    save_preview(path, grey(200, 300), mask, CLASSES, "a title\nof two lines", pixel_size=PixelSize(0.5, 0.5))
    with Image.open(path) as picture:
        assert picture.format == ("PNG" if suffix == ".png" else "JPEG")
        assert picture.width == 2 * 300 + 3 * 12
        assert picture.height > 200 + 24
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_legend_shows_every_class_but_the_first_in_its_colour(tmp_path):
    many = (*CLASSES, *(LabelClass(f"class with a long name {k}", f"#00{k:02x}80") for k in range(20)))
    save_preview(tmp_path / "p.png", grey(100, 100), np.zeros((100, 100), np.uint8), many)
    legend = np.asarray(Image.open(tmp_path / "p.png"))[112:]
    colours = {tuple(colour) for colour in np.unique(legend.reshape(-1, 3), axis=0)}
    assert {entry.rgb for entry in many[1:]} <= colours


@pytest.mark.parametrize(("width", "length"), [(0.004, 0.2), (0.01, 0.5), (0.5, 20), (40, 2000)])
def test_scale_bar_is_a_round_length(tmp_path, width, length):
    args = np.zeros((1, 200, 200), np.uint8), np.zeros((200, 200), np.uint8), CLASSES
    save_preview(tmp_path / "p.png", *args, pixel_size=PixelSize(width, width))
    row = np.asarray(Image.open(tmp_path / "p.png"))[12 : 12 + 200, 12:212]
    bar = (row == 255).all(-1).sum(1).max()
    assert bar * width == pytest.approx(length, rel=0.05)


def test_large_images_are_reduced(tmp_path):
    save_preview(tmp_path / "p.png", grey(90, 301), np.ones((90, 301), np.uint8), CLASSES, max_side=100)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width == 2 * 76 + 36  # every fourth column


@pytest.mark.parametrize("name", ["p.gif", "p", "p.png.txt"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(MaskError, match=r"\.png, \.jpg or \.jpeg"):
        save_preview(tmp_path / name, grey(9, 9), np.zeros((9, 9), np.uint8), CLASSES)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MaskError, match="there is no folder"):
        save_preview(tmp_path / "no" / "p.png", grey(9, 9), np.zeros((9, 9), np.uint8), CLASSES)
