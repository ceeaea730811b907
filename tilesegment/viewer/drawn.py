"""GeoJSON that is drawn in the page: read as QuPath writes it, checked before it is stored, written one feature a line.

A feature that comes back from the page as it was is stored as it stood in the file, whatever it holds: only what is new
or changed is checked. JavaScript has no integers, so that 1.0 and 1 are the same here.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np

from tilesegment.errors import ViewError, one_line
from tilesegment.labels.geojson import Feature, feature_of

MAX_BYTES = 32 << 20
MAX_FEATURES = 100_000
MAX_POINTS = 1_000_000
_FARTHEST = 1e9  # pixels, of a coordinate
_DEEPEST = 100  # lists and objects in each other
_LONGEST = 1000  # characters of a name or an id
_CLOSED = 4  # positions of the smallest closed ring
# how deep lists of positions are nested
_DEPTHS = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2, "MultiPolygon": 3}
_EXPECTED = "expected GeoJSON: a FeatureCollection, as QuPath exports it"
_DAMAGES = (TypeError, ValueError, AttributeError, LookupError, RecursionError)
# a number that may be infinite as a float, or none
_INFINITE = re.compile(rb"NaN|Infinity|[\[,:\s]-?\d[\d.]*[eE]\+?\d{3}|\d{300}")


class LimitError(ViewError):
    """There are more annotations than the page handles."""


@dataclass(frozen=True)
class Canvas:
    """What is drawn on: `shape` (H, W) of level 0 and number of planes."""

    shape: tuple[int, int]
    planes: int = 1


@dataclass(frozen=True)
class Drawn:
    """A feature that is stored: as it was parsed, as text, and the number of its positions."""

    feature: Any
    text: str
    points: int

    @classmethod
    def of(cls, feature: Any) -> "Drawn":
        """Write a feature as text.

        Raises:
            ValueError, RecursionError: it is no JSON.
        """
        text = json.dumps(feature, separators=(",", ":"), allow_nan=False)
        return cls(feature, text, points_of(feature.get("geometry")))


@dataclass(frozen=True)
class Document:
    """A FeatureCollection: its features, and its other members."""

    features: list[Drawn]
    others: dict[str, Any]

    @cached_property
    def text(self) -> bytes:
        """The document as JSON: its other members, then one feature a line."""
        head = json.dumps(self.others, separators=(",", ":"), allow_nan=False)[:-1]
        lines = ",\n".join(one.text for one in self.features)
        return f'{head},"features":[\n{lines}\n]}}\n'.encode()

    @cached_property
    def by_id(self) -> dict[object, Drawn]:
        """Features by their id."""
        return {_key(one.feature): one for one in self.features if "id" in one.feature}

    @cached_property
    def without_id(self) -> dict[str, Drawn]:
        """Features that have no id, by what they are to JavaScript."""
        return {_canonical(one.feature): one for one in self.features if "id" not in one.feature}

    def find(self, feature: dict[str, Any]) -> Drawn | None:
        """Return the feature that is the same to JavaScript, or None."""
        if "id" not in feature:
            return self.without_id.get(_canonical(feature))
        found = self.by_id.get(_key(feature))
        if found is None or found.feature == feature or _canonical(found.feature) == _canonical(feature):
            return found
        return None


def read_document(content: bytes, name: str, canvas: Canvas) -> tuple[Document, list[Feature]]:
    """Read a file: a FeatureCollection, or a list of features or a lone one, which become one.

    Measurements that are NaN are left out, which is the same to QuPath and no valid JSON.

    Raises:
        ViewError: it is no GeoJSON, a feature is damaged, or is in a plane that the image does not have.
        LimitError: it is larger than allowed.
    """
    try:
        # without content there is nothing drawn: a file that was just made
        given, others = _collection(_json(content, float) if content.strip() else [])
    except (ValueError, RecursionError) as error:
        raise ViewError(f"{name} is not readable ({one_line(error, 80)}); {_EXPECTED}") from error
    _check_count(given, name)
    drawn, features = [], []
    for number, one in enumerate(given, 1):
        try:
            features.append(feature_of(one))
            _check_plane(features[-1].plane, canvas)
            drawn.append(Drawn.of(one))
        except _DAMAGES as error:
            raise ViewError(f"{name}: feature {number} is damaged ({one_line(error, 80)}); export it again") from error
    _check_points(drawn, name)
    return Document(drawn, others), features


def merged(old: Document, content: bytes, name: str, canvas: Canvas) -> Document:
    """Return the document that the page sends in place of `old`, with unchanged features as they are in `old`.

    Raises:
        ViewError: it is not valid GeoJSON.
        LimitError: it is larger than allowed.
    """
    try:
        document = _json(content, _refuse)
        if not isinstance(document, dict) or document.get("type") != "FeatureCollection":
            raise ValueError("it is no FeatureCollection")
        given, others = _collection(document)
    except (ValueError, RecursionError) as error:
        raise ViewError(f"what is to be stored in {name} is no GeoJSON ({one_line(error, 80)})") from error
    _check_count(given, name)
    drawn = []
    for number, one in enumerate(given, 1):
        try:
            kept = old.find(one) if isinstance(one, dict) else None
            if kept is None:
                _check_feature(one, canvas)
            drawn.append(kept or Drawn.of(one))
        except _DAMAGES as error:
            raise ViewError(f"feature {number} cannot be stored in {name}: {one_line(error, 80)}") from error
    _check_points(drawn, name)
    return Document(drawn, others)


def check_geometry(geometry: object) -> None:
    """Check a geometry as RFC 7946 has it.

    Raises:
        ValueError: it is not valid.
    """
    if not isinstance(geometry, dict):
        raise ValueError("its geometry is no object")
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        for part in _list(geometry.get("geometries"), "geometries"):
            if isinstance(part, dict) and part.get("type") == kind:
                raise ValueError("a GeometryCollection lies in another")
            check_geometry(part)
    elif isinstance(kind, str) and kind in _DEPTHS:
        _check_coordinates(kind, geometry.get("coordinates"))
    else:
        raise ValueError(f"its geometry is of type {kind!r}; allowed: {', '.join(_DEPTHS)}, GeometryCollection")


def points_of(geometry: object) -> int:
    """Count the positions of a geometry, roughly: lists of numbers in it."""
    if not isinstance(geometry, dict):
        return 0
    parts = geometry.get("geometries")
    if isinstance(parts, list):
        return sum(points_of(part) for part in parts)
    return _positions(geometry.get("coordinates"))


def _positions(value: object) -> int:
    if not isinstance(value, list):
        return 0
    return sum(map(_positions, value)) if value and isinstance(value[0], list) else 1


def _json(content: bytes, constant: Callable[[str], Any]) -> Any:
    """Parse a text of the size of a slide's annotations quickly: what need not be looked through is not."""
    value = json.loads(content.decode("utf-8-sig"), parse_constant=constant)
    return _finite(value) if _INFINITE.search(content) or _depth(content) > _DEEPEST else value


def _depth(content: bytes) -> int:
    """How deep brackets lie in each other, at most; those within texts are counted too."""
    steps = np.zeros(256, np.int8)
    steps[[*b"[{"]], steps[[*b"]}"]] = 1, -1
    taken = steps[np.frombuffer(content, np.uint8)]
    return int(np.cumsum(taken[taken != 0], dtype=np.int32).max(initial=0))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _collection(document: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the features of what a file holds, and the other members of its FeatureCollection."""
    others = {"type": "FeatureCollection"}
    if isinstance(document, list):
        return document, others
    if isinstance(document, dict) and document.get("type") == "Feature":
        return [document], others
    if not isinstance(document, dict) or document.get("type") != "FeatureCollection":
        raise ValueError("it is no FeatureCollection")
    features = document.pop("features", None)
    if not isinstance(features, list):
        raise ValueError("it has no list of features")
    return features, document


def _key(feature: dict[str, Any]) -> object:
    """Return the id of a feature, if it is one."""
    return feature["id"] if isinstance(feature["id"], str | int | float) else json.dumps(feature["id"])


def _finite(value: Any, depth: int = 0) -> Any:
    """Leave out members that are NaN or infinite.

    Raises:
        ValueError: one is in a list, as coordinates are, or lists lie in lists without end.
    """
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        return {key: _finite(one, depth + 1) for key, one in value.items() if not _is_infinite(one)}
    if isinstance(value, list):
        if any(map(_is_infinite, value)):
            raise ValueError("a list holds NaN or an infinite number")
        return (
            [_finite(one, depth + 1) for one in value] if any(isinstance(one, list | dict) for one in value) else value
        )
    return value


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and not isfinite(value)


def _canonical(feature: object) -> str:
    """Return the same text for features that are the same to JavaScript."""
    return json.dumps(json.loads(json.dumps(feature), parse_int=float), sort_keys=True)


def _check_count(features: list[Any], name: str) -> None:
    if len(features) > MAX_FEATURES:
        raise LimitError(f"{name} has {len(features):,} features, at most {MAX_FEATURES:,} can be drawn")


def _check_points(drawn: list[Drawn], name: str) -> None:
    points = sum(one.points for one in drawn)
    if points > MAX_POINTS:
        raise LimitError(f"{name} has {points:,} points, at most {MAX_POINTS:,} can be drawn")


def _check_feature(feature: object, canvas: Canvas) -> None:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise ValueError("it is no Feature")
    if "geometry" not in feature or "properties" not in feature:
        raise ValueError("it has no geometry or no properties")
    identity = feature.get("id", "")
    if isinstance(identity, bool) or not isinstance(identity, str | int | float) or len(str(identity)) > _LONGEST:
        raise ValueError("its id is neither text nor a number, or is too long")
    if feature["geometry"] is not None:
        check_geometry(feature["geometry"])
    if feature["properties"] is not None:
        _check_properties(feature["properties"])
    _check_plane(feature_of(feature).plane, canvas)


def _check_properties(properties: object) -> None:
    if not isinstance(properties, dict):
        raise ValueError("its properties are no object")
    if not isinstance(properties.get("objectType", ""), str):
        raise ValueError("its objectType is no text")
    classification = properties.get("classification")
    if classification is None:
        return
    if not isinstance(classification, dict):
        raise ValueError("its classification is no object")
    name = classification.get("name", "")
    if not isinstance(name, str) or len(name) > _LONGEST:
        raise ValueError("the name of its class is no text, or is too long")
    colour = classification.get("color", [0, 0, 0])
    is_colour = isinstance(colour, list) and len(colour) == 3
    if not is_colour or not all(type(value) is int and 0 <= value <= 255 for value in colour):
        raise ValueError("the colour of its class is not three integers of 0 to 255")


def _check_plane(plane: int, canvas: Canvas) -> None:
    if not 0 <= plane < canvas.planes:
        raise ValueError(f"it lies in plane {plane}; the image has the planes 0 to {canvas.planes - 1}")


def _check_coordinates(kind: str, coordinates: object) -> None:
    for line in _lines(coordinates, _DEPTHS[kind]):
        if any(type(value) not in (int, float) for position in line for value in position):
            raise ValueError("a coordinate is no number")
        if any(not abs(value) <= _FARTHEST for position in line for value in position):
            raise ValueError(f"a coordinate is not finite, or is beyond {_FARTHEST:g}")
        if "Polygon" in kind and (len(line) < _CLOSED or line[0] != line[-1]):
            raise ValueError(f"a ring is not closed, or has fewer than {_CLOSED} positions")
        if "LineString" in kind and len(line) < 2:
            raise ValueError("a line has fewer than two positions")


def _lines(coordinates: object, depth: int) -> Iterator[list[list[float]]]:
    """Yield the innermost lists of positions, each a list of two or three values."""
    if depth > 1:
        for part in _list(coordinates, "coordinates"):
            yield from _lines(part, depth - 1)
        return
    line = _list(coordinates, "coordinates")
    positions = [line] if depth == 0 else line
    if any(not isinstance(one, list) or len(one) not in (2, 3) for one in positions):
        raise ValueError("a position is not two numbers [x, y]")
    yield positions


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"its {what} are no list")
    return value
