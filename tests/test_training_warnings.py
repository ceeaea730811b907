"""What is told of labelled data before training starts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_sets import write_files, write_pairs
from scipy import ndimage

from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.training.data import (
    IGNORE,
    Dataset,
    Section,
    open_dataset,
    summary,
)
from tilesegment.training.data.summary import split_warnings


def section(name: str, image: np.ndarray, ids: tuple[int, ...] = (0, 1)) -> Section:
    """A section whose label holds `ids`."""
    return Section(name, image, np.resize(np.array(ids, np.uint8), image.shape[1:]))


def picture(seed: int, light: float = 0) -> np.ndarray:
    """(1, 256, 256) uint8, a texture under a light that falls off to a side."""
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((256, 256)), 2)
    return (40 + 60 * texture + np.linspace(0, light, 256)).clip(0, 255).astype(np.uint8)[None]


def test_empty_unlabelled_and_rare_labels_are_told(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 7)
    ids = np.resize(np.array([0, 2], np.uint8), (80, 80))
    ids[3, 3:9] = 1
    for n in range(7):
        label = ids if n < 1 else np.full((80, 80), 255 if n == 1 else 2, np.uint8)
        write_files(folder, {f"labels/{n:02}.png": label})
    data = open_dataset(folder)
    assert [s.name for s in data.sections] == ["00", "02", "03", "04", "05", "06"]
    unlabelled, uniform, rare = data.warnings
    assert unlabelled.startswith("01:") and uniform.startswith("02, 03, 04 and 2 more:") and "value 1" in rare


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the same": lambda image: image,
    "brighter": lambda image: (image * 1.2 + 9).astype(np.uint8),
    "smoothed": lambda image: ndimage.gaussian_filter(image, (0, 1, 1)),
    "noisy": lambda image: (image + np.random.default_rng(0).integers(0, 9, image.shape)).astype(np.uint8),
    "smaller": lambda image: image.reshape(1, 128, 2, 128, 2).mean((2, 4)).astype(np.uint8),
    "16 bits": lambda image: image.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_images_on_both_sides_are_told(change: str) -> None:
    train, held = (
        [section(str(n), picture(n)) for n in range(6)],
        [section(f"v{n}", CHANGES[change](picture(n))) for n in range(1, 5)],
    )
    (warning,) = split_warnings(train, held)
    assert warning.endswith("1 and v1, 2 and v2, 3 and v3 and 1 more")
    assert split_warnings(train[:1], held) == split_warnings(train, []) == split_warnings([], []) == ()


def test_images_under_the_same_light_are_not_the_same() -> None:
    """Of images that share their shading the small ones look alike: the detail tells."""
    train, held = [section("a", picture(1, 180))], [section("b", picture(2, 180))]
    small = [s.image[0].reshape(32, 8, 32, 8).mean((1, 3)).ravel() for s in (train[0], held[0])]
    assert np.corrcoef(small)[0, 1] > 0.99
    assert split_warnings(train, held) == ()


def test_a_class_that_is_only_held_out_is_told() -> None:
    train, held = [section("a", picture(1), (0, 1, IGNORE))], [section("b", picture(2), (0, 2, IGNORE))]
    (warning,) = split_warnings(train, held)
    assert warning.startswith("class 2 ")


def test_held_out_images_without_objects_are_told() -> None:
    full, empty = section("a", picture(1)), section("b", picture(2))
    full = replace(full, objects=np.ones(full.label.shape, np.int32))
    empty = replace(empty, objects=np.zeros(full.label.shape, np.int32))
    assert split_warnings([empty], [full]) == ()
    (warning,) = split_warnings([full], [empty])
    assert warning.startswith("no held-out image has an object")


def test_the_summary() -> None:
    names = (LabelClass("membrane", "#000000", 0), LabelClass("n" * 60, "#e69f00", 200))
    sections = (section("a", picture(1), (0, 1, 1, IGNORE)), section("s[0]", picture(2)), section("s[1]", picture(2)))
    layout = "images/ and labels/, paired by name"
    data = Dataset(sections, names, PixelSize(0.004, 0.004), layout, ("an " + "odd " * 30 + "thing",), 255)
    lines = summary(data, sections[2:]).splitlines()
    assert lines[:12] == [
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
    ]
    assert "s[0] and s[1]" in " ".join("".join(lines[12:]).split())
    assert "no score" in summary(data, ())
    colours = tuple(LabelClass(c, c, int(c[1:], 16)) for c in ("#0000ff", "#ff0000"))
    many = tuple(section(str(n), np.zeros((3, 8 + n, 9), np.uint16)) for n in (0, 0, 1, 2, 3, 4))
    text = summary(Dataset(many, colours, None, "x"), ())
    assert "size (y x x)  2 of 8 x 9, 1 of 9 x 9, 1 of 10 x 9, 1 of 11 x 9 and 1 more\n" in text
    assert "pixels        3 channels of uint16\n" in text
    assert "classes       id  class     colour    share\n               0  #0000ff  #0000ff  " in text
    assert "not labelled" not in text and "pixel size    unknown; if you know it, give --source-mpp MICRONS\n" in text
    assert max(map(len, text.splitlines())) <= 100
