"""What is told before training starts: what is unusual, what is held out, all of it in a table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_sets import write_files, write_pairs
from scipy import ndimage

from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.training.data import IGNORE, Dataset, Section, open_dataset, split_warnings, summary


def section(name: str, image: np.ndarray, ids: tuple[int, ...] = (0, 1)) -> Section:
    """A section whose label holds `ids`."""
    label = np.resize(np.array(ids, np.uint8), image.shape[1:])
    return Section(name, image, label)


def picture(seed: int, shade: float = 0) -> np.ndarray:
    """(1, 256, 256) uint8, a texture under a light that falls off to a side."""
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((256, 256)), 2)
    return (40 + 60 * texture + np.linspace(0, shade, 256)).clip(0, 255).astype(np.uint8)[None]


def test_empty_and_unlabelled_images_are_told(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 7)
    ids = np.resize(np.array([0, 1, 2], np.uint8), (80, 80))
    for n in range(7):
        label = ids if n < 1 else np.full((80, 80), 255 if n == 1 else 2, np.uint8)
        write_files(folder, {f"labels/{n:02}.png": label})
    data = open_dataset(folder)
    assert [s.name for s in data.sections] == ["00", "02", "03", "04", "05", "06"]
    assert data.warnings == (
        "01: no pixel is labelled, left out",
        "02, 03, 04 and 2 more: the label is wholly one class; remove it if it was never drawn",
    )


def test_a_rare_class_is_told(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 2)
    label = np.zeros((80, 80), np.uint8)
    label[:40], label[3, 3:9] = 255, 7
    write_files(folder, {"labels/00.png": label})
    assert open_dataset(folder, ["a", "b", "c"]).warnings == (
        "class b has 0.047 % of the labelled pixels; it will hardly be learnt",
    )


def test_the_same_images_on_both_sides_are_told() -> None:
    train, held = [section(str(n), picture(n)) for n in range(6)], [section(f"v{n}", picture(n)) for n in (1, 2, 3, 4)]
    assert split_warnings(train, held) == (
        "nearly the same images are trained on and held out, so the scores are too good: 1 and v1, 2 and v2, 3 and v3 "
        "and 1 more",
    )
    assert split_warnings(train[:1], held) == ()
    assert split_warnings(train, []) == () == split_warnings([], [])


CHANGES = {
    "brighter": lambda image: (image * 1.2 + 9).astype(np.uint8),
    "smoothed": lambda image: ndimage.gaussian_filter(image, (0, 1, 1)),
    "noisy": lambda image: (image + np.random.default_rng(0).integers(0, 9, image.shape)).astype(np.uint8),
    "smaller": lambda image: image.reshape(1, 128, 2, 128, 2).mean((2, 4)).astype(np.uint8),
    "16 bits": lambda image: image.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_nearly_the_same_images_are_told(change: object, tmp_path: Path) -> None:
    assert callable(change)
    train, held = [section(str(n), picture(n)) for n in range(3)], [section("v", change(picture(1)))]
    assert split_warnings(train, held) == (
        "nearly the same images are trained on and held out, so the scores are too good: 1 and v",
    )


def test_images_under_the_same_light_are_not_the_same() -> None:
    """Of images that share their shading the small ones look alike: the detail tells."""
    train, held = [section("a", picture(1, 180))], [section("b", picture(2, 180))]
    small = [np.asarray(s.image[0].reshape(32, 8, 32, 8).mean((1, 3))).ravel() for s in (train[0], held[0])]
    assert np.corrcoef(small)[0, 1] > 0.99
    assert split_warnings(train, held) == ()


def test_a_class_that_is_only_held_out_is_told() -> None:
    train, held = [section("a", picture(1), (0, 1, IGNORE))], [section("b", picture(2), (0, 2, IGNORE))]
    assert split_warnings(train, held) == (
        "class 2 is in held-out images only, so that it is not learnt: hold out others",
    )


def test_neighbours_in_real_stacks_are_not_the_same(isbi: Path, vnc: Path) -> None:
    for folder in (isbi, vnc):
        data = open_dataset(folder)
        train, held = data.sections[::2], data.sections[1::2]
        assert split_warnings(train, held) == ()


def test_the_summary() -> None:
    names = [LabelClass("membrane", "#000000", 0), LabelClass("n" * 60, "#e69f00", 200)]
    sections = (section("a", picture(1), (0, 1, 1, IGNORE)), section("s[0]", picture(2)), section("s[1]", picture(2)))
    layout = "images/ and labels/, paired by name"
    data = Dataset(sections, tuple(names), PixelSize(0.004, 0.004), layout, ("an " + "odd " * 30 + "thing",), 255)
    assert summary(data, sections[2:]).splitlines() == [
        "data          3 labelled images from 2 files",
        "layout        images/ and labels/, paired by name",
        "size (y x x)  256 x 256",
        "pixels        1 channel of uint8",
        "pixel size    0.004 x 0.004 micrometres (y, x)",
        "classes       id  class                                        value    share",
        "               0  membrane                                         0  45.45 %",
        "               1  nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...    200  54.55 %",
        "not labelled  8.33 % of the pixels (value 255)",
        "held out      1: s[1]",
        "warning       an odd odd odd odd odd odd odd odd odd odd odd odd odd odd odd odd odd odd odd odd odd",
        "              odd odd odd odd odd odd odd odd odd thing",
        "warning       nearly the same images are trained on and held out, so the scores are too good: s[0]",
        "              and s[1]",
    ]
    assert summary(data, sections[2:]) == summary(replace(data), sections[2:])
    assert "held out      nothing, so there will be no score" in summary(data, ())


def test_the_summary_of_colours_and_of_many_sizes() -> None:
    classes = tuple(LabelClass(c, c, int(c[1:], 16)) for c in ("#0000ff", "#ff0000"))
    images = [np.zeros((3, 8 + n, 9), np.uint16) for n in (0, 0, 1, 2, 3, 4)]
    sections = tuple(section(str(n), image) for n, image in enumerate(images))
    text = summary(Dataset(sections, classes, None, "x"), ())
    assert "size (y x x)  2 of 8 x 9, 1 of 9 x 9, 1 of 10 x 9, 1 of 11 x 9 and 1 more\n" in text
    assert "pixels        3 channels of uint16\n" in text
    assert "classes       id  class     colour    share\n               0  #0000ff  #0000ff  " in text
    assert "not labelled" not in text and "pixel size" not in text
    assert max(map(len, text.splitlines())) <= 100
