"""Read GeoJSON, as QuPath and we write it: features one by one, from a file of any size."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from tilesegment.errors import DataError, one_line
from tilesegment.stores import Place

SUFFIXES = (".geojson", ".geojson.gz")
CHUNK = 1 << 20  # characters that are read at once, at least
CROWD = "crowd"  # the object type of regions in which objects are not told apart
IMAGE = "image"  # the item of a feature's metadata that names the image
_IGNORED = ("Ignore*", "__ignore__")  # names of classes
_SPACE = " \t\r\n"
_EXPECTED = "expected GeoJSON: a FeatureCollection, as QuPath exports it"

Polygon = tuple[np.ndarray, ...]  # rings (n, 2) float64 of (y, x): the outline, then holes


@dataclass(frozen=True)
class Feature:
    """One feature; coordinates are in pixels of level 0, pixel corners: the pixel (0, 0) covers 0 to 1.

    Attributes:
        geometry: `Polygon`, `MultiPolygon`, `Point`, `LineString`, ...
        polygons: of areas, which are not closed: the first vertex is not repeated. Empty for points and lines.
        name: of its class, or None.
        object_type: QuPath's: `annotation`, `detection`, `cell`, ... `annotation` if the file has none.
        plane: of a stack, from 0.
        paths: of points and lines: (n, 2) float64 of (y, x); a point has one vertex.
        colour: of its class, `#rrggbb`, or None.
        image: the name of that on which it was found, which QuPath keeps; None if nothing says it.
    """

    geometry: str
    polygons: tuple[Polygon, ...]
    name: str | None
    object_type: str
    plane: int
    paths: tuple[np.ndarray, ...] = ()
    colour: str | None = None
    image: str | None = None

    @property
    def is_object(self) -> bool:
        """Whether it is of QuPath's types of single objects; other features may be regions that hold them."""
        return self.object_type.lower() in ("detection", "cell")

    @property
    def is_void(self) -> bool:
        """Whether it is a region without labels: of QuPath's class `Ignore*`, labelme's `__ignore__`, a COCO crowd."""
        return self.object_type == CROWD or self.name in _IGNORED


def is_geojson(path: Place) -> bool:
    """Whether a file is GeoJSON by its name."""
    return path.name.lower().endswith(SUFFIXES)


def read_features(path: Path) -> Iterator[Feature]:
    """Yield the features of a file, plain or gzipped, without holding it in memory.

    Raises:
        DataError: the file cannot be read, is no GeoJSON, or a geometry is damaged.
    """
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            for number, document in enumerate(FeatureReader(file, path).features(), 1):
                try:
                    yield feature_of(document)
                except (TypeError, ValueError, AttributeError, LookupError) as error:
                    raise DataError(
                        f"{path}: feature {number} is damaged ({one_line(error, 80)}); export it again"
                    ) from error
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({one_line(error, 80)}); {_EXPECTED}") from error


def feature_of(document: dict[str, Any]) -> Feature:
    """Read a GeoJSON feature.

    Raises:
        TypeError, ValueError, AttributeError, LookupError: it is no feature, or its geometry is damaged.
    """
    if document.get("type") != "Feature":
        raise ValueError(f"it is of type {document.get('type')!r}, not 'Feature'")
    geometry, properties = document.get("geometry") or {}, document.get("properties") or {}
    classification = properties.get("classification") or {}
    # QuPath before 0.3 wrote `object_type`
    kind = properties.get("objectType") or properties.get("object_type") or document.get("objectType") or "annotation"
    names = classification.get("names") or []
    plane = geometry.get("plane") or properties.get("plane") or {}
    return Feature(
        geometry=str(geometry.get("type", "none")),
        polygons=tuple(_polygons(geometry)),
        name=classification.get("name") or ": ".join(map(str, names)) or None,
        object_type=str(kind),
        plane=int(plane.get("z", 0)),
        image=(properties.get("metadata") or {}).get(IMAGE),
        paths=tuple(_paths(geometry)),
        colour=_colour(classification),
    )


def _colour(classification: dict[str, Any]) -> str | None:
    """The colour of a class, [red, green, blue], or as one number by QuPath before 0.4; None if it is neither."""
    rgb, packed = classification.get("color"), classification.get("colorRGB")
    if type(packed) is int:
        return f"#{packed & 0xFFFFFF:06x}"
    if isinstance(rgb, list) and len(rgb) >= 3 and all(type(one) is int and 0 <= one <= 255 for one in rgb):
        return "#" + bytes(rgb[:3]).hex()
    return None


def _polygons(geometry: dict[str, Any]) -> Iterator[Polygon]:
    """Yield the polygons of a geometry."""
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _polygons(part)
    elif kind in ("Polygon", "MultiPolygon"):
        for rings in [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]:
            if rings:
                yield tuple(_ring(ring) for ring in rings)


def _paths(geometry: dict[str, Any]) -> Iterator[np.ndarray]:
    """Yield the points and lines of a geometry."""
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _paths(part)
    elif kind in ("Point", "LineString"):
        given = [geometry["coordinates"]] if kind == "Point" else geometry["coordinates"]
        if given:
            yield _vertices(given)
    elif kind == "MultiPoint":
        yield from (_vertices([one]) for one in geometry["coordinates"])
    elif kind == "MultiLineString":
        yield from (_vertices(one) for one in geometry["coordinates"] if one)


def _ring(coordinates: list[list[float]]) -> np.ndarray:
    """A ring [[x, y], ...] as (n, 2) float64 of (y, x), not closed."""
    if not coordinates:
        return np.zeros((0, 2))
    closed = len(coordinates) > 1 and coordinates[0] == coordinates[-1]
    return _vertices(coordinates)[: len(coordinates) - closed]


def _vertices(coordinates: list[list[float]]) -> np.ndarray:
    """Positions [[x, y], ...] as (n, 2) float64 of (y, x)."""
    points = np.array(coordinates, np.float64).reshape(len(coordinates), -1)
    if points.shape[1] < 2:
        raise ValueError("a point has fewer than two coordinates")
    if not np.isfinite(points).all():
        raise ValueError("coordinates are NaN or infinite")
    return points[:, 1::-1]


class FeatureReader:
    """Read the features of a JSON text part by part.

    Attributes:
        span: where the last feature lies in the text: its first character, and the one after its last.
    """

    def __init__(self, file: TextIO, path: Path) -> None:
        self.span = (0, 0)
        self._file, self._path = file, path
        # `before` characters precede those of `text`
        self._text, self._at, self._before, self._ended = "", 0, 0, False
        self._decode = json.JSONDecoder().raw_decode

    def features(self) -> Iterator[dict[str, Any]]:
        """Yield the features of a FeatureCollection, or of a list of features, or a lone feature."""
        first = self._next()
        if first == "[":
            yield from self._items()
        elif first == "{":
            yield from self._members()
        else:
            raise DataError(f"{self._path} holds no JSON object; {_EXPECTED}")
        if self._peek():
            raise DataError(f"{self._path} goes on after its end: it is damaged; {_EXPECTED}")

    def _members(self) -> Iterator[dict[str, Any]]:
        """Yield the features of an object whose brace is read; check that it is a FeatureCollection or a Feature."""
        start = self._before + self._at - 1
        members: dict[str, Any] = {}
        if self._peek() == "}":
            self._at += 1
        else:
            while True:
                name = self._value()
                if self._next() != ":" or not isinstance(name, str):
                    raise self._damaged()
                if name == "features" and self._peek() == "[":
                    self._at += 1
                    members[name] = True
                    yield from self._items()
                else:
                    members[name] = self._value()
                mark = self._next()
                if mark == "}":
                    break
                if mark != ",":
                    raise self._damaged()
        if members.get("type") == "Feature":
            self.span = (start, self._before + self._at)
            yield members
        elif members.get("type") != "FeatureCollection" or members.get("features") is not True:
            found = f"an object of type {members['type']!r}" if "type" in members else "another JSON object"
            raise DataError(f"{self._path} holds {one_line(found, 60)}; {_EXPECTED}")

    def _items(self) -> Iterator[dict[str, Any]]:
        """Yield the items of a list whose bracket is read."""
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            yield self._value()
            mark = self._next()
            if mark == "]":
                return
            if mark != ",":
                raise self._damaged()

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended:
                    raise self._damaged() from error
            else:
                # a number may go on in the next part
                if self._ended or end < len(self._text):
                    self.span = (self._before + self._at, self._before + end)
                    self._at = end
                    return value
            self._more()

    def _peek(self) -> str:
        """The next character that is no space, without reading it; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def _next(self) -> str:
        mark = self._peek()
        self._at += len(mark)
        return mark

    def _more(self) -> None:
        """Read on; twice as much where a value is long, so that it is not decoded many times."""
        rest = self._text[self._at :]
        self._before += self._at
        part = self._file.read(max(CHUNK, len(rest)))
        self._text, self._at, self._ended = rest + part, 0, not part

    def _damaged(self) -> DataError:
        return DataError(f"{self._path} is no valid JSON, or is cut off; {_EXPECTED}")
