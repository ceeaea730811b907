"""Outlines of squares in the formats of programs, and images for them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from data_sets import write_files

SIDE = 64
Box = tuple[int, int, int, int]  # y0, x0, y1, x1, half-open
BOXES: tuple[Box, ...] = ((2, 2, 12, 12), (2, 12, 12, 22), (30, 40, 50, 60))  # the first two touch
NAMES = ("stroma", "tumour", "stroma")


def ids_of(boxes: tuple[Box, ...] = BOXES, side: int = SIDE) -> np.ndarray:
    """What the outlines mean, (side, side) int32."""
    ids = np.zeros((side, side), np.int32)
    for number, (y0, x0, y1, x1) in enumerate(boxes, 1):
        ids[y0:y1, x0:x1] = number
    return ids


def corners(box: Box) -> list[list[int]]:
    """A square as [[x, y], ...]."""
    y0, x0, y1, x1 = box
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def write_images(folder: Path, *names: str, side: int = SIDE) -> None:
    for n, name in enumerate(names):
        pixels = np.random.default_rng(n).integers(0, 255, (side, side), np.uint8)
        write_files(folder, {name: pixels})


def write_json(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def geojson(boxes: tuple[Box, ...] = BOXES, names: tuple[str | None, ...] = NAMES) -> dict[str, Any]:
    def feature(box: Box, name: str | None) -> dict[str, Any]:
        geometry = {"type": "Polygon", "coordinates": [[*corners(box), corners(box)[0]]]}
        of_class = {} if name is None else {"classification": {"name": name, "color": [1, 2, 3]}}
        return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "detection", **of_class}}

    return {"type": "FeatureCollection", "features": list(map(feature, boxes, names))}


def shape(points: object, name: str, kind: str | None = "polygon", group: int | None = None) -> dict[str, Any]:
    return {"label": name, "points": points, "group_id": group, "shape_type": kind, "flags": {}}


def labelme(*shapes: dict[str, Any], side: int = SIDE) -> dict[str, Any]:
    shapes = shapes or tuple(shape(corners(box), name) for box, name in zip(BOXES, NAMES, strict=True))
    return {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imageHeight": side, "imageWidth": side}


def annotation(image: int, segmentation: object, category: int = 1, **more: object) -> dict[str, Any]:
    return {"image_id": image, "segmentation": segmentation, "category_id": category, "iscrowd": 0, **more}


def coco(files: list[str], *annotations: dict[str, Any], side: int = SIDE) -> dict[str, Any]:
    """A document that lists images 1, 2, ...; without annotations each has BOXES."""
    flat = [[one for point in corners(box) for one in point] for box in BOXES]
    if not annotations:
        kinds = [{"stroma": 7, "tumour": 3}[name] for name in NAMES]
        numbers = range(1, len(files) + 1)
        annotations = tuple(annotation(n, [one], kind) for n in numbers for one, kind in zip(flat, kinds, strict=True))
    images = [{"id": n, "file_name": name, "height": side, "width": side} for n, name in enumerate(files, 1)]
    categories = [{"id": 7, "name": "stroma"}, {"id": 3, "name": "tumour"}, {"id": 1, "name": "cell"}]
    return {"info": {}, "images": images, "annotations": list(annotations), "categories": categories}
