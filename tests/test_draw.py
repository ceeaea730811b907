"""Colours of images and classes, sheets of panels, and the files of pictures."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tilesegment.draw import (
    check_picture,
    comment_of,
    enlarged,
    legend_of,
    overlay,
    reduce,
    save,
    sheet,
    stretch,
)
from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.metadata import LabelClass

CLASSES = (LabelClass("background", "#000000"), LabelClass("red things", "#ff0000"), LabelClass("blue", "#0000ff"))
GLASS, STROMA = (243, 241, 242), (225, 161, 196)


def he(dtype: str = "uint8", factor: float = 1) -> np.ndarray:
    """Glass and stroma, (3, 40, 40)."""
    image = np.empty((3, 40, 40))
    image[:, :, :20], image[:, :, 20:] = np.array(GLASS)[:, None, None], np.array(STROMA)[:, None, None]
    return (image * factor).astype(dtype)


@given(st.sampled_from(["uint8", "uint16", "float32"]), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20))
def test_stretch_takes_any_type_and_channels(dtype: str, channels: int, height: int, width: int) -> None:
    image = (np.random.default_rng(height * 31 + width).random((channels, height, width)) * 200).astype(dtype)
    picture = stretch(image)
    assert (picture.shape, picture.dtype) == ((height, width, 3), np.uint8)
    if channels < 3:
        assert (picture[..., 0] == picture[..., 2]).all()


def test_stretch_is_robust_to_a_hot_pixel_and_to_what_is_not_a_number() -> None:
    image = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (1, 100, 1))
    image[0, 0, :3] = 1e9, np.nan, np.inf
    picture = stretch(image)[..., 0]
    assert picture[50, 50] == pytest.approx(128, abs=5)
    assert picture[0, 1] == picture[0, 2] == 0
    assert stretch(np.full((1, 3, 3), np.nan)).max() == 0
    assert stretch(np.full((1, 3, 3), 7, np.uint8)).max() == 0


def test_rgb_of_8_bits_is_unchanged_and_alpha_is_no_colour() -> None:
    dark, alpha = he() // 8, np.linspace(0, 255, 1600).reshape(1, 40, 40).astype(np.uint8)
    assert (stretch(dark) == np.moveaxis(dark, 0, -1)).all()
    assert (stretch(np.concatenate([he(), alpha])) == np.moveaxis(he(), 0, -1)).all()


@pytest.mark.parametrize(("dtype", "factor"), [("uint16", 257), ("uint16", 16), ("float32", 1 / 255), ("float32", 1)])
def test_rgb_of_other_types_keeps_its_hue(dtype: str, factor: float) -> None:
    picture = stretch(he(dtype, factor)).astype(float)
    for colour, expected in ((picture[0, 0], GLASS), (picture[0, 30], STROMA)):
        np.testing.assert_allclose(colour / colour.max(), np.array(expected) / max(expected), atol=0.01)
    assert picture.max() >= 254


def test_channels_without_a_colour_are_stretched_each() -> None:
    rng = np.random.default_rng(0)
    weak, strong = rng.integers(0, 9, (1, 50, 50)), rng.integers(0, 60_000, (1, 50, 50))
    two = stretch(np.concatenate([weak, strong]).astype(np.uint16))
    assert two[..., 0].max() == two[..., 1].max() == 255 and (two[..., 0] == two[..., 2]).all()
    five = stretch(np.concatenate([weak, strong, weak, strong, strong]).astype(np.uint16))
    assert (five.reshape(-1, 3).max(0) == 255).all()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_only_classes_are_coloured_by_their_opacity(seed: int, opacity: float) -> None:
    rng = np.random.default_rng(seed)
    plain = stretch(rng.integers(0, 256, (1, 12, 9), np.uint8))
    mask = np.repeat(np.repeat(rng.choice(np.array([0, 1, 2, 255], np.uint8), (4, 3)), 3, 0), 3, 1)
    drawn = overlay(plain, mask, CLASSES, opacity).astype(float)
    bare = (mask == 0) | (mask == 255)
    np.testing.assert_array_equal(drawn[bare], plain[bare])
    # the middle of each 3 x 3 square has neighbours of its own class only
    for y, x in np.argwhere(~bare):
        if y % 3 == x % 3 == 1:
            expected = plain[y, x] * (1 - opacity) + np.array(CLASSES[mask[y, x]].rgb) * opacity
            np.testing.assert_allclose(drawn[y, x], expected, atol=0.51)


def test_regions_have_an_outline_of_one_pixel() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 2:7] = 1
    red = overlay(np.zeros((9, 9, 3), np.uint8), mask, CLASSES)[..., 0]
    assert set(red[2, 2:7]) == set(red[2:7, 6]) == {230}
    assert set(red[3:6, 3:6].ravel()) == {102}
    assert red[mask == 0].max() == 0


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 12))
def test_blocks_are_reduced_as_the_whole(height: int, width: int, factor: int) -> None:
    image = np.random.default_rng(height * width).integers(0, 999, (2, height, width), np.uint16)

    def read(region: Region) -> np.ndarray:
        assert max(region.shape) <= 20
        return image[:, *region.slices]

    np.testing.assert_array_equal(reduce(read, (height, width), factor, block=20), image[:, ::factor, ::factor])
    means = reduce(read, (height, width), factor, mean=True, block=20)
    for y, x in np.ndindex(means.shape[1:]):
        part = image[:, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        assert np.abs(means[:, y, x] - part.mean((1, 2))).max() <= 0.51


def test_a_sheet_has_a_legend_of_every_class_but_the_first() -> None:
    many = (*CLASSES, *(LabelClass(f"class with a long name {k}\n", f"#00{k:02x}80") for k in range(20)))
    panel = enlarged(np.zeros((10, 10, 3), np.uint8), 105)
    drawn = np.asarray(sheet([[panel]], title="a title\nof two lines", legends={"classes": legend_of(many)}))
    assert (drawn[37:137, 12:112] == 0).all() and drawn.shape[1] == 640
    colours = {tuple(colour) for colour in np.unique(drawn[149:].reshape(-1, 3), axis=0)}
    assert {entry.rgb for entry in many[1:]} <= colours


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_a_file_keeps_its_comment_and_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a b{suffix}"
    path.write_text("an older one")
    save(Image.new("RGB", (50, 40), "white"), path, "made of blots")
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG" if suffix == ".png" else "JPEG", (50, 40))
    assert comment_of(path) == "made of blots"
    check_picture(path, overwrite=False, same="made of")
    with pytest.raises(MaskError, match=r"--overwrite"):
        check_picture(path, overwrite=False, same="something else")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["p.gif", "p", "p.png.txt", "no/p.png"])
def test_other_suffixes_and_missing_folders_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MaskError, match=name):
        check_picture(tmp_path / name)
