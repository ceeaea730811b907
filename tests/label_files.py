"""Small images of two classes, and ways to write their labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from data_sets import cells, write_files, write_palette

from tilesegment.metadata import LabelClass
from tilesegment.training.data import open_dataset

SIDE = 48
PAIRS = [cells(SIDE, SIDE, n) for n in range(3)]
IMAGES, INSIDE = [image for image, _ in PAIRS], [inside.astype(np.uint8) for _, inside in PAIRS]
THREE = np.add.outer(np.arange(SIDE) // 8, np.arange(SIDE) // 8).astype(np.uint8) % 3
TWENTY = (np.arange(SIDE * SIDE) % 20).reshape(SIDE, SIDE).astype(np.uint8)
COLOURS = np.array([(200, 0, 0), (0, 0, 255), (0, 255, 0)], np.uint8)
CLASSES = (LabelClass("outside", "#000000", 0), LabelClass("inside", "#e69f00", 255))
RGB = np.array([one.rgb for one in CLASSES], np.uint8)

Write = Callable[[Path, np.ndarray], object]


def save(path: Path, pixels: np.ndarray) -> None:
    write_files(path.parent, {path.name: pixels})


def write(folder: Path, *labels: np.ndarray | Write, suffixes: tuple[str, ...] = (".png",)) -> Path:
    """Images with labels: arrays, or written by a function of path and inside, (H, W) uint8 of 0 and 1."""
    for n, one in enumerate(labels):
        save(folder / "images" / f"{n}.png", IMAGES[n])
        path = folder / "labels" / f"{n}{suffixes[n % len(suffixes)]}"
        path.parent.mkdir(exist_ok=True)
        save(path, one) if isinstance(one, np.ndarray) else one(path, INSIDE[n])
    return folder


def check(folder: Path, values: list[int], *ids: np.ndarray, **options: object) -> None:
    data = open_dataset(folder, **options)  # type: ignore[arg-type]
    assert [one.value for one in data.classes] == values
    for section, expected in zip(data.sections, ids, strict=True):
        np.testing.assert_array_equal(section.label, expected)


def palette(colours: np.ndarray) -> Write:
    return lambda path, _: write_palette(path, THREE, colours.tolist())
