"""Read the JSON of labelme: shapes drawn on one image, as features.

Coordinates are those of `geojson.Feature`: x and y from the upper left corner of the image, so that the pixel (0, 0)
covers 0 to 1. Format: https://github.com/wkentaro/labelme, `labelme/label_file.py` and `labelme/utils/shape.py`.
"""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tilesegment.labels.geojson import Feature, Polygon

_CORNERS = 64  # of the polygon that a circle becomes
_AREAS = ("polygon", "rectangle", "circle", "mask")
_PATHS = ("point", "points", "line", "linestrip")
_FEWEST = {"rectangle": 2, "circle": 2, "mask": 2}  # points of a shape; others need a triangle


def is_labelme(document: object) -> bool:
    """Whether a JSON document is labelme's."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list)


def size_of(document: dict[str, Any]) -> tuple[int, int] | None:
    """Return (height, width) of the image that was drawn on, or None."""
    height, width = document.get("imageHeight"), document.get("imageWidth")
    return (int(height), int(width)) if height and width else None


def features_of(document: dict[str, Any]) -> Iterator[Feature]:
    """Yield one feature per object: a shape, or all shapes of one label and `group_id`; lines and points are its paths.

    Raises:
        ValueError, TypeError, LookupError: a shape is damaged.
    """
    groups: dict[tuple[str, object], list[Feature]] = {}
    for number, shape in enumerate(document["shapes"]):
        name, group = " ".join(str(shape["label"]).split()), shape.get("group_id")
        key = (name, f"shape {number}" if group is None else group)
        kind = shape.get("shape_type") or "polygon"
        polygons, paths = tuple(_polygons(shape, kind)), tuple(_paths(shape, kind))
        groups.setdefault(key, []).append(Feature(kind, polygons, name or None, "annotation", 0, paths=paths))
    for members in groups.values():
        areas = [one for one in members if one.polygons] or members
        polygons = tuple(polygon for one in areas for polygon in one.polygons)
        paths = tuple(path for one in members for path in one.paths)
        yield Feature(areas[0].geometry, polygons, areas[0].name, "annotation", 0, paths=paths)


def _paths(shape: dict[str, Any], kind: str) -> Iterator[np.ndarray]:
    """Yield the lines and points of a shape, (n, 2) float64 of (y, x)."""
    if kind in _PATHS:
        points = _points(shape)
        yield from ([points] if kind.startswith("line") else points[:, None])


def _polygons(shape: dict[str, Any], kind: str) -> Iterator[Polygon]:
    """Yield the polygons of a shape, rings (n, 2) float64 of (y, x)."""
    if kind not in _AREAS:
        return
    points = _points(shape)
    if len(points) < _FEWEST.get(kind, 0):
        raise ValueError(f"a {kind} of {len(points)} points")
    if kind == "polygon":
        yield (points,)
    elif kind == "circle":  # its centre, and a point on it
        radius = np.hypot(*(points[1] - points[0]))
        angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        # of the same area as the circle
        radius *= np.sqrt(2 * np.pi / (_CORNERS * np.sin(2 * np.pi / _CORNERS)))
        yield (points[0] + radius * np.column_stack([np.sin(angles), np.cos(angles)]),)
    else:
        (y0, x0), (y1, x1) = points.min(axis=0), points.max(axis=0)
        if kind == "rectangle":
            yield (np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)]),)
        else:
            yield _mask(shape["mask"], int(y0), int(x0))


def _points(shape: dict[str, Any]) -> np.ndarray:
    """The points of a shape, (n, 2) float64 of (y, x)."""
    points = np.array(shape["points"], np.float64).reshape(-1, 2)[:, ::-1]
    if not np.isfinite(points).all():
        raise ValueError("coordinates are NaN or infinite")
    return points


def _mask(encoded: str, y: int, x: int) -> Polygon:
    """The runs of the pixels of a PNG in base64, whose first pixel is (y, x), as rectangles."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=("PNG",)) as image:
            inside = np.pad(np.array(image).astype(bool), ((0, 0), (1, 1)))
    except OSError as error:
        raise ValueError("a mask is no PNG") from error
    edges = np.diff(inside.astype(np.int8), axis=1)
    rows, begin = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    return rectangles(rows + y, begin + x, rows + y + 1, end + x)


def rectangles(y0: np.ndarray, x0: np.ndarray, y1: np.ndarray, x1: np.ndarray) -> Polygon:
    """Return the rings of half-open rectangles, whose sides are arrays (n,)."""
    corners = np.stack([y0, x0, y0, x1, y1, x1, y1, x0], axis=1).astype(np.float64)
    return tuple(corners.reshape(-1, 4, 2))
