"""Of large images only the labelled parts are kept, with what surrounds them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tilesegment.training.data import IGNORE, open_dataset

SIDE = 4200
# labelled rectangles y0, x0, y1, x1: the first two touch squares that touch at a corner, the fourth lies near the third
PATCHES = ((300, 300, 500, 500), (600, 600, 700, 760), (2100, 100, 2130, 1500), (2700, 900, 2800, 1000))


def value(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Every pixel of the image tells where it is."""
    return ((y * 7 + x * 13) % 251).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slide")
    label = np.full((SIDE, SIDE), 9, np.uint8)
    for number, (y0, x0, y1, x1) in enumerate(PATCHES):
        label[y0:y1, x0:x1] = number % 2
    for part, pixels in (("images", value(*np.ogrid[:SIDE, :SIDE])), ("labels", label)):
        (folder / part).mkdir()
        tifffile.imwrite(folder / part / "slide.tif", pixels, tile=(256, 256), compression="zlib")
    return folder


def test_only_the_labelled_parts_are_kept(slide: Path) -> None:
    data = open_dataset(slide, ignore=9)
    # squares of 256 px that hold a label, and one more around them
    assert [(s.name, s.label.shape) for s in data.sections] == [
        ("slide@0,0", (1024, 1024)),
        ("slide@1792,0", (768, 1792)),
        ("slide@2304,512", (768, 768)),
    ]
    for section in data.sections:
        y0, x0 = map(int, section.name.split("@")[1].split(","))
        rows, columns = np.ogrid[y0 : y0 + section.label.shape[0], x0 : x0 + section.label.shape[1]]
        np.testing.assert_array_equal(section.image[0], value(rows, columns))
    for patches, section in zip((PATCHES[:2], PATCHES[2:3], PATCHES[3:]), data.sections, strict=True):
        y, x = map(int, section.name.split("@")[1].split(","))
        expected = np.full(section.label.shape, IGNORE, np.uint8)
        for y0, x0, y1, x1 in patches:
            expected[y0 - y : y1 - y, x0 - x : x1 - x] = PATCHES.index((y0, x0, y1, x1)) % 2
        np.testing.assert_array_equal(section.label, expected)
    assert [section.stem for section in data.sections] == ["slide"] * 3
    assert len(data.split(["slide@0,0"])[1]) == 1


def test_every_labelled_pixel_is_kept_once(slide: Path) -> None:
    kept = sum(int((section.label != IGNORE).sum()) for section in open_dataset(slide, ignore=9).sections)
    assert kept == sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in PATCHES)


def test_a_large_image_that_is_labelled_everywhere_is_kept_whole(slide: Path) -> None:
    data = open_dataset(slide)
    assert [(s.name, s.label.shape) for s in data.sections] == [("slide", (SIDE, SIDE))]
    assert [c.value for c in data.classes] == [0, 1, 9]


def test_a_large_image_without_a_label_is_left_out(slide: Path, tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "slide.tif").symlink_to(slide / part / "slide.tif")
        empty = np.full((SIDE, SIDE), 9, np.uint8)
        tifffile.imwrite(tmp_path / part / "empty.tif", empty, tile=(256, 256), compression="zlib")
    data = open_dataset(tmp_path, ignore=9)
    assert [section.stem for section in data.sections] == ["slide"] * 3
    assert "empty: no pixel is labelled, left out" in data.warnings
