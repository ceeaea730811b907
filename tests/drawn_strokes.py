"""Strokes on slides, in the formats of programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conftest import noise
from data_sets import write_files

from tilesegment.training.data import IGNORE, Section

SHAPE = (1300, 900)
Box = tuple[int, int, int, int]  # y0, x0, y1, x1, half-open
STROKES: tuple[tuple[Box, str], ...] = (
    ((10, 10, 30, 90), "stroma"),
    ((25, 80, 60, 100), "tumour"),  # overlaps the first: one group, and this is on top
    ((400, 500, 420, 700), "stroma"),
    ((1015, 300, 1035, 330), "tumour"),  # across the line between two squares that are read
    ((1270, 860, 1300, 900), "tumour"),  # in the corner
    ((600, 30, 640, 60), "stroma"),
)
CLASSES = ("stroma", "tumour")


def area(box: Box) -> dict[str, Any]:
    y0, x0, y1, x1 = box
    return {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]}


def feature(geometry: dict[str, Any], name: str | None, colour: Sequence[int] = (1, 2, 3)) -> dict[str, Any]:
    of_class = {} if name is None else {"classification": {"name": name, "color": [*colour]}}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation", **of_class}}


def geojson(*features: dict[str, Any]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features or (feature(area(b), n) for b, n in STROKES))}


def painted(strokes: Sequence[tuple[Box, str]] = STROKES, side: tuple[int, int] = SHAPE) -> np.ndarray:
    """What strokes mean, class ids (H, W) uint8 and IGNORE elsewhere."""
    label = np.full(side, IGNORE, np.uint8)
    for (y0, x0, y1, x1), name in strokes:
        label[y0:y1, x0:x1] = CLASSES.index(name)
    return label


def values() -> np.ndarray:
    """The same as a label image: 0 where nothing is drawn, 1 and 2."""
    label = painted()
    return np.where(label == IGNORE, 0, label + 1).astype(np.uint8)


def write_slide(folder: Path, name: str = "slide.tif", seed: int = 0) -> Path:
    write_files(folder, {name: noise(SHAPE, seed)})
    return folder / name


def laid_out(sections: Sequence[Section], side: tuple[int, int] = SHAPE) -> np.ndarray:
    """The labels of sections where they belong."""
    label = np.full(side, IGNORE, np.uint8)
    for section in sections:
        y, x = map(int, section.name.partition("@")[2].partition("#")[0].split(","))
        part = label[y : y + section.label.shape[0], x : x + section.label.shape[1]]
        drawn = section.label != IGNORE
        assert (part[drawn] == IGNORE).all(), "a pixel is in two sections"
        part[drawn] = section.label[drawn]
    return label
