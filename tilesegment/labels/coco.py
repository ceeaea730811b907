"""Read the JSON of COCO: the objects of many images, as features of each.

Coordinates are those of `geojson.Feature`. Format: https://cocodataset.org/#format-data; masks are run-length encoded
as in https://github.com/cocodataset/cocoapi, `common/maskApi.c`: columns from the left, each from above, runs of 0 and
1 in turn; a string holds them in groups of five bits, from the fourth run on as differences to the run two before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilesegment.labels.geojson import CROWD, Feature, Polygon
from tilesegment.labels.labelme import rectangles


@dataclass(frozen=True)
class CocoImage:
    """An image of a COCO file."""

    file_name: str
    size: tuple[int, int] | None  # (height, width)
    features: tuple[Feature, ...]  # one per object


def is_coco(document: object) -> bool:
    """Whether a JSON document is COCO's, with segmentations or bare boxes."""
    parts = ("images", "annotations")
    return isinstance(document, dict) and all(isinstance(document.get(part), list) for part in parts)


def images_of(document: dict[str, Any]) -> tuple[CocoImage, ...]:
    """Return the images of a document with their objects.

    Raises:
        ValueError, TypeError, LookupError: an entry is damaged.
    """
    names = {one["id"]: " ".join(str(one["name"]).split()) for one in document.get("categories") or []}
    sizes = {one["id"]: _size(one) for one in document["images"]}
    objects: dict[object, list[Feature]] = {number: [] for number in sizes}
    for number, one in enumerate(document["annotations"], 1):
        if one["image_id"] not in objects:
            raise ValueError(f"annotation {number} is of the image {one['image_id']!r}, which the file does not list")
        objects[one["image_id"]].append(_feature(one, names, sizes[one["image_id"]]))
    return tuple(
        CocoImage(str(one["file_name"]), sizes[one["id"]], tuple(objects[one["id"]])) for one in document["images"]
    )


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (int(height), int(width)) if height and width else None


def _feature(annotation: dict[str, Any], names: dict[object, str], size: tuple[int, int] | None) -> Feature:
    shape = annotation.get("segmentation")
    if isinstance(shape, dict) and size not in (None, tuple(shape["size"])):
        raise ValueError(f"a mask of the size {shape['size']} for an image of {size}")
    polygons = (_runs(shape),) if isinstance(shape, dict) else tuple(map(_polygon, shape or ()))
    kind = "Polygon" if polygons else "box without a segmentation"
    crowd = CROWD if annotation.get("iscrowd") else "annotation"
    return Feature(kind, polygons, names.get(annotation.get("category_id")), crowd, 0)


def _polygon(flat: list[float]) -> Polygon:
    """A polygon [x, y, x, y, ...]."""
    points = np.array(flat, np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("coordinates are NaN or infinite")
    closed = len(points) > 1 and (points[0] == points[-1]).all()
    return (points[: len(points) - bool(closed), ::-1],)


def _runs(mask: dict[str, Any]) -> Polygon:
    """The runs of an encoded mask as rectangles one column wide."""
    height, width = (int(side) for side in mask["size"])
    counts = np.array(run_lengths(mask["counts"]) if isinstance(mask["counts"], str) else mask["counts"], np.int64)
    ends = np.cumsum(counts)
    if counts.min(initial=0) < 0 or ends[-1:].sum() != height * width:
        raise ValueError(f"a mask of {ends[-1:].sum()} pixels for {height} x {width}")
    begin, end = ends[0::2][: len(ends) // 2], ends[1::2]
    columns = list(_columns(begin[end > begin], end[end > begin], height))
    return rectangles(*map(np.concatenate, zip(*columns, strict=True))) if columns else ()


def _columns(begin: np.ndarray, end: np.ndarray, height: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Cut runs (n,) of pixels, numbered down the columns, at the ends of the columns: y0, x0, y1, x1."""
    while begin.size:
        x = begin // height
        stop = np.minimum(end, (x + 1) * height)
        yield begin - x * height, x, stop - x * height, x + 1
        begin, end = stop[stop < end], end[stop < end]


def run_lengths(text: str) -> list[int]:
    """Decode the run lengths in a string.

    Raises:
        ValueError: it is damaged.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"a mask holds the character {letter!r}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (1 << shift) if bits & 0x10 else 0  # the sign
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("a mask is cut off")
    return counts
