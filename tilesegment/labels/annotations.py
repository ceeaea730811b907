"""Open outlines drawn by hand, as GeoJSON, labelme or COCO, as a label image of the image they were drawn on."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from tilesegment.errors import DataError, one_line
from tilesegment.labels import coco, labelme
from tilesegment.labels.geojson import Feature, is_geojson, read_features
from tilesegment.labels.outlines import OutlineLabel, Outlines, label_of

_EXPECTED = (
    "expected GeoJSON (a FeatureCollection), labelme (an object with shapes) or COCO (one with images and annotations)"
)
_REGION = "Region*"  # QuPath's class of regions of interest
_HELD = 0.9  # share of the objects that lie in regions, if these are what was labelled
_FEWEST = 3  # vertices of an area
_MARGIN = 1.0  # pixels that an outline may reach beyond its image
_DAMAGES = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError)


@dataclass(frozen=True)
class Annotation:
    """The objects drawn on one image."""

    outlines: Outlines
    size: tuple[int, int] | None = None  # (height, width) of the image that was drawn on, if the file says so
    regions: Outlines | None = None  # outside of which nothing is labelled


@dataclass(frozen=True)
class Drawing:
    """All that was drawn on one image, in the order of the file; areas, lines and points."""

    features: tuple[Feature, ...]
    size: tuple[int, int] | None = None  # (height, width) of the image that was drawn on, if the file says so
    is_geojson: bool = True


def is_annotation(path: Path) -> bool:
    """Whether a file holds outlines by its name."""
    return is_geojson(path) or path.suffix.lower() == ".json"


def kind_of(path: Path) -> str | None:
    """Return `geojson`, `labelme` or `coco` by the content of a file, or None."""
    if is_geojson(path):
        return "geojson"
    try:
        document = _document(path, path.stat().st_mtime_ns)
    except (DataError, OSError):
        return None
    if coco.is_coco(document):
        return "coco"
    if labelme.is_labelme(document):
        return "labelme"
    kind = document.get("type") if isinstance(document, dict) else None
    return "geojson" if kind in ("FeatureCollection", "Feature") else None


def read_annotation(path: Path, entry: str | None = None) -> Annotation:
    """Read the objects of an image.

    Args:
        path: a file of GeoJSON, labelme or COCO.
        entry: of a COCO file, the `file_name` of the image.

    Raises:
        DataError: the file cannot be read, is of no such format, or is damaged.
    """
    try:
        return _annotation(path, entry, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error


def read_drawing(path: Path, entry: str | None = None) -> Drawing:
    """Read all that was drawn on an image; arguments and errors as in `read_annotation`."""
    try:
        return _drawing(path, entry, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error


def read_coco(path: Path) -> tuple[coco.CocoImage, ...]:
    """Read the images of a COCO file with their objects.

    Raises:
        DataError: the file cannot be read, or an entry is damaged.
    """
    return _coco(path, path.stat().st_mtime_ns)


def forget() -> None:
    """Free the files that are kept in memory, as they are read more than once."""
    for kept in (_annotation, _coco, _document):
        kept.cache_clear()


@contextmanager
def open_annotation(
    path: Path,
    entry: str | None,
    shape: tuple[int, int],
    planes: int,
    name: str,
    drawn_at: tuple[tuple[int, int], tuple[float, float]] | None = None,
) -> Iterator[OutlineLabel]:
    """Open the objects of an image as a label.

    Args:
        path, entry: as in `read_annotation`.
        shape, planes: (H, W) and planes of the image that they were drawn on.
        name: of the image, for messages.
        drawn_at: shape (H, W) of the label, and the (y, x) pixels of the image that one of its pixels spans; None is as
            the image.

    Raises:
        DataError: they were drawn on another image.
    """
    found = read_annotation(path, entry)
    what = path.name if entry is None else f"{entry} in {path.name}"
    check_drawn_on(found.size, shape, what, name)
    notes = [*found.outlines.notes, *doubts(found.outlines, shape, what)]
    shape, scale = drawn_at or (shape, (1.0, 1.0))
    regions = None
    if found.regions is not None:
        count = found.regions.planes.size
        regions = label_of(found.regions.within((0, 0), scale, 0), shape, planes, what).read
        notes.append(
            f"{what}: nothing is labelled outside the {count} annotation{'s' * (count > 1)} around the objects"
        )
    outlines = replace(found.outlines, notes=tuple(notes)).within((0, 0), scale, 0)
    label = label_of(outlines, shape, planes, what)
    yield replace(label, regions=regions)


def check_drawn_on(size: tuple[int, int] | None, shape: tuple[int, int], what: str, name: str) -> None:
    """Check that `what` was drawn on an image of the `shape` of that called `name`; a file may not say `size`.

    Raises:
        DataError: it was drawn on another image.
    """
    if size is not None and size != shape:
        drawn, here = ("{} x {}".format(*one) for one in (size, shape))
        raise DataError(
            f"{what} was drawn on an image of {drawn} (y, x), {name} is {here}: export it for this image, or take "
            "the image that it was drawn on"
        )


@lru_cache(maxsize=32)
def _annotation(path: Path, entry: str | None, stamp: int) -> Annotation:
    """Read a file in the state `stamp`; see `read_annotation`."""
    found = _drawing(path, entry, stamp)
    if found.is_geojson:
        return _of_features(found.features, path.name)
    return Annotation(Outlines.of(found.features, entry or path.name), found.size)


def _drawing(path: Path, entry: str | None, stamp: int) -> Drawing:
    """Read a file in the state `stamp`; see `read_drawing`."""
    if is_geojson(path):
        return Drawing(tuple(read_features(path)))
    document = _document(path, stamp)
    if coco.is_coco(document):
        for one in _coco(path, stamp):
            if entry in (one.file_name, None):
                return Drawing(tuple(one.features), one.size, is_geojson=False)
        raise DataError(f"{path} lists no image {entry}")
    if labelme.is_labelme(document):
        try:
            return Drawing(tuple(labelme.features_of(document)), labelme.size_of(document), is_geojson=False)
        except _DAMAGES as error:
            raise DataError(f"{path} is damaged ({one_line(error, 80)}); save it again with labelme") from error
    if isinstance(document, dict) and "type" in document:
        return Drawing(tuple(read_features(path)))
    keys = ", ".join(map(repr, [*document][:3])) if isinstance(document, dict) else ""
    raise DataError(f"{path} holds {f'an object with {one_line(keys, 60)}' if keys else 'no objects'}; {_EXPECTED}")


def _of_features(features: Iterable[Feature], name: str) -> Annotation:
    """Tell objects from regions that hold them: annotations around detections or cells, or of the class `Region*`."""
    given = list(features)
    some = any(one.is_object and one.polygons for one in given)
    regions = [one for one in given if one.polygons and _is_region(one, some)]
    rest = [one for one in given if not (one.polygons and _is_region(one, some))]
    if not _hold(regions, [one for one in rest if one.polygons and not one.is_void]):
        regions, rest = [], given
    objects = [replace(one, object_type="detection") if some and one.is_void else one for one in rest]
    return Annotation(Outlines.of(objects, name), None, Outlines.of(regions, name) if regions else None)


def _is_region(feature: Feature, some: bool) -> bool:
    """Whether an area may hold objects; `some` tells whether there are detections or cells."""
    return not feature.is_void and not feature.is_object and (some or feature.name == _REGION)


def _hold(regions: list[Feature], objects: list[Feature]) -> bool:
    """Whether nearly all objects begin within regions."""
    if not regions or not objects:
        return False
    points = np.array([one.polygons[0][0].mean(axis=0) for one in objects if len(one.polygons[0][0])]).reshape(-1, 2)
    held = np.zeros(len(points), bool)
    for polygon in (polygon for one in regions for polygon in one.polygons if len(polygon[0]) >= _FEWEST):
        held |= shapely.contains_xy(shapely.make_valid(shapely.Polygon(polygon[0])), points)
    return bool(len(points) and held.mean() >= _HELD)


@lru_cache(maxsize=4)
def _coco(path: Path, stamp: int) -> tuple[coco.CocoImage, ...]:
    try:
        return coco.images_of(_document(path, stamp))
    except _DAMAGES as error:
        raise DataError(f"{path} is damaged ({one_line(error, 80)}); export it again") from error


@lru_cache(maxsize=4)
def _document(path: Path, stamp: int) -> Any:
    """Parse a JSON file in the state `stamp`.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise DataError(f"{path} is empty; {_EXPECTED}")
        return json.loads(text)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid JSON, or is cut off ({one_line(error, 60)}); {_EXPECTED}") from error


def doubts(outlines: Outlines, shape: tuple[int, int], what: str) -> list[str]:
    """Say which outlines are not as they should be, one sentence each.

    Raises:
        DataError: most of them lie outside the image.
    """
    notes = []
    boxes = outlines.object_boxes()
    (height, width), some = shape, boxes[:, 2] >= boxes[:, 0]
    y0, x0, y1, x1 = boxes[some].T
    outside = np.count_nonzero((y1 <= 0) | (x1 <= 0) | (y0 >= height) | (x0 >= width))
    if 2 * outside > y0.size:
        raise DataError(
            f"{what}: {outside} of {y0.size} outlines lie outside the image of {height} x {width} (y, x); they belong "
            "to another image, or to another resolution of it"
        )
    beyond = (y0 < -_MARGIN) | (x0 < -_MARGIN) | (y1 > height + _MARGIN) | (x1 > width + _MARGIN)
    if count := int(np.count_nonzero(beyond)):
        notes.append(f"{what}: {count} of {y0.size} outlines reach beyond the image and are cut off there")
    sizes = np.diff(outlines.ring_starts)
    if count := int(np.count_nonzero(sizes < _FEWEST)):
        notes.append(f"{what}: {count} outlines have fewer than {_FEWEST} points and are left out")
    if count := crossing_rings(outlines):
        notes.append(f"{what}: {count} outlines cross themselves; they are filled by the even-odd rule")
    return notes


def crossing_rings(outlines: Outlines) -> int:
    """Count the rings that enclose a place twice, or clockwise and anticlockwise; one that touches itself does not."""
    sizes = np.diff(outlines.ring_starts)
    large = np.flatnonzero(sizes >= _FEWEST)
    kept = np.repeat(sizes >= _FEWEST, sizes)
    owner = np.repeat(np.arange(large.size), sizes[large])
    rings = shapely.linearrings(outlines.vertices[kept], indices=owner)
    doubtful = shapely.polygons(rings[~shapely.is_simple(rings)])
    filled = shapely.area(shapely.make_valid(doubtful))
    signed = np.array([_shoelace(shapely.get_coordinates(one)) for one in doubtful])
    return int(np.count_nonzero(np.abs(np.abs(signed) - filled) > 0.01 * filled)) if doubtful.size else 0


def _shoelace(points: np.ndarray) -> float:
    """The signed area within a closed ring (n, 2)."""
    (x, y), (following_x, following_y) = points[:-1].T, points[1:].T
    return float((x * following_y - following_x * y).sum() / 2)
