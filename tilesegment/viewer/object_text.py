"""Single objects, read from the text of a file: outlines, class, measurements with their units."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilesegment.viewer.layer import JSON
from tilesegment.viewer.object_index import class_of, parse_record

_COORDINATES = re.compile(rb'"coordinates"\s*:\s*(\[[-+\[\]\d\s.,eE]*\])')
_AREAS = ("Polygon", "MultiPolygon")
# endings of names, as docs/objects.md has them
_UNITS = {"_px": "px", "_um2": "µm²", "_um3": "µm³", "_um": "µm", "_vx": "voxels", "_rad": "rad"}
_MOST_MEASUREMENTS = 200
_BESIDES = ("label", "class", "plane", "name")  # columns of tables that measure nothing


@dataclass(frozen=True)
class One:
    """An object.

    Attributes:
        id: its label if it has one, else what the file calls it.
        kind: name of its class; None without one.
        coordinates: of its outline, (x, y) as GeoJSON has them; None if only its box is known.
        measurements: name, value and unit of each.
    """

    id: str
    kind: str | None
    coordinates: JSON
    measurements: tuple[tuple[str, float, str], ...]

    def as_json(self) -> dict[str, JSON]:
        """Return it for the page."""
        measured = [{"name": name, "value": value, "unit": unit} for name, value, unit in self.measurements]
        return {"id": self.id, "class": self.kind, "coordinates": self.coordinates, "measurements": measured}


def outline_text(text: bytes) -> bytes:
    """Return the coordinates of the outline of a feature as JSON: as they stand in it where there are some once.

    Raises:
        ValueError, ...: it is no feature.
    """
    if text.count(b'"coordinates"') == 1 and (found := _COORDINATES.search(text)) is not None:
        return found[1]
    return json.dumps(outline(json.loads(text).get("geometry") or {})).encode()


def outline(geometry: dict[str, Any]) -> JSON:
    """Return the coordinates of a geometry; of a collection those of all its areas, as of a MultiPolygon."""
    if geometry.get("type") != "GeometryCollection":
        return geometry.get("coordinates") or []
    parts = [one for one in geometry["geometries"] if one.get("type") in _AREAS]
    return [
        polygon
        for one in parts
        for polygon in ([one["coordinates"]] if one["type"] == "Polygon" else one["coordinates"])
    ]


def feature(text: bytes) -> One:
    """Read a feature of GeoJSON."""
    document = json.loads(text)
    properties = document.get("properties") or {}
    given = properties.get("measurements") or {}
    if isinstance(given, list):  # QuPath before 0.4
        given = {one["name"]: one["value"] for one in given}
    measured = {str(name): value for name, value in given.items() if _is_number(value)}
    kind, _ = class_of(properties)
    label = measured.pop("label", None)
    named = properties.get("name") or document.get("id") or ""
    known = str(named if label is None else label)
    return One(known, kind, outline(document.get("geometry") or {}), _with_units(measured))


def row(record: bytes, columns: Sequence[str]) -> One:
    """Read a row of a table."""
    values = dict(zip(columns, parse_record(record), strict=False))
    measured = {}
    for name, value in values.items():
        if name in _BESIDES:
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        if math.isfinite(number):
            measured[name] = int(number) if number.is_integer() and "." not in value else number
    return One(values.get("label", ""), values.get("class") or None, None, _with_units(measured))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _with_units(measured: dict[str, float]) -> tuple[tuple[str, float, str], ...]:
    found = []
    for name, value in list(measured.items())[:_MOST_MEASUREMENTS]:
        ending = next((one for one in _UNITS if name.endswith(one)), "")
        found.append((name.removesuffix(ending), value, _UNITS.get(ending, "")))
    return tuple(found)


def contains(coordinates: JSON, y: float, x: float) -> bool:
    """Whether a point lies within an outline, by the even-odd rule: within a shell, and not within a hole."""
    return sum(_crossings(ring, y, x) for ring in _rings(coordinates)) % 2 == 1


def _rings(coordinates: JSON) -> list[np.ndarray]:
    """Return the rings (n, 2) of (x, y) of a polygon or of several; none of points and lines."""
    if not coordinates or not isinstance(coordinates[0], list) or not isinstance(coordinates[0][0], list):
        return []
    if isinstance(coordinates[0][0][0], list):
        return [ring for polygon in coordinates for ring in _rings(polygon)]
    return [np.array([point[:2] for point in ring], np.float64) for ring in coordinates if len(ring) > 2]


def _crossings(ring: np.ndarray, y: float, x: float) -> int:
    """Count how often a ray from a point to the right crosses a ring."""
    (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
    crosses = (y0 > y) != (y1 > y)
    x0, y0, x1, y1 = (one[crosses] for one in (x0, y0, x1, y1))
    return int(np.count_nonzero(x0 + (y - y0) / (y1 - y0) * (x1 - x0) > x))
