"""Objects as GeoJSON, in the form that QuPath writes and reads, as a stream.

A feature's `id` is made from the run's fingerprint and the object's id: it is the same whenever the run is repeated.
Coordinates are (x, y) in pixels of level 0 of the image, pixel (0, 0) covers 0..1. With y up, as RFC 7946 has it,
shells are counter-clockwise and holes clockwise; QuPath takes either.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha1
from itertools import pairwise
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

import imagecodecs
import numpy as np

from tilesegment.objects import text
from tilesegment.objects.batches import CLASS, LABEL, NAME, PLANE, Batch, ObjectsWriter, Placement, coded, is_number
from tilesegment.objects.polygons import Polygons

OBJECT_TYPES = ("detection", "annotation")
DIGITS = 9  # of measurements: enough to tell any two float32 apart, which is what QuPath keeps of detections
DECIMALS = 3  # of coordinates, where the mask's pixels are not those of level 0
_ROWS, _VERTICES = 2048, 1 << 18  # formatted at once: a few megabytes
MEMBER = 1 << 22  # bytes of text in a member of a .gz file
_LEVEL = 1  # of 12: level 5 makes it a fifth smaller and takes twice as long
_HEX = np.array([f"{byte:02x}" for byte in range(256)], "S2").view(np.uint16)
# before a vertex: the first of an object; another; the first of another ring, of another polygon
_FIRST, _NEXT, _RING, _POLYGON = ("[[", "],[", "]],[[", "]]],[[[")


class GeoJSONWriter(ObjectsWriter):
    """Writes a FeatureCollection, `.geojson` or, compressed, `.geojson.gz`; see `ObjectsWriter`.

    Numbers become measurements, unless they are NaN or infinite; other text than `class` and `name` becomes metadata.

    Args:
        path, to: see `ObjectsWriter`.
        fingerprint: of the run, for the ids.
        object_type: "detection" (cells) or "annotation" (regions).
        colours: (red, green, blue) of classes by name; QuPath gives others a colour of its choice.
        placement: of the mask in level 0.
    """

    def __init__(
        self,
        path: Path,
        to: Path | None = None,
        *,
        fingerprint: str = "",
        object_type: str = "detection",
        colours: Mapping[str, tuple[int, int, int]] | None = None,
        placement: Placement | None = None,
    ) -> None:
        assert object_type in OBJECT_TYPES
        super().__init__(path, to)
        self._fingerprint, self._type = fingerprint, object_type
        self._colours, self._placement = colours or {}, placement or Placement()
        self._compresses = path.suffix.lower() == ".gz"
        self._waiting = [b'{"type":"FeatureCollection","features":[']
        self._is_first = True

    def write(self, batch: Batch) -> None:
        """Append objects with their outlines, in order of their ids."""
        assert batch.polygons is not None
        for piece in batch.pieces(_ROWS, _VERTICES):
            features = self._features(piece)
            # each begins with a comma
            self._waiting.append(features[1:] if self._is_first else features)
            self._is_first = False
            if sum(map(len, self._waiting)) >= MEMBER:
                self._flush()

    def close(self) -> None:
        """Complete the file."""
        self._waiting.append(b"\n]}\n")
        self._flush()
        with self._reporting():
            self._file.close()

    def _flush(self) -> None:
        content = b"".join(self._waiting)
        self._waiting = []
        with self._reporting():
            # members one after the other are one stream, to Python and Java alike; they hold no name and no time
            self._file.write(imagecodecs.gzip_encode(content, level=_LEVEL) if self._compresses else content)

    def _features(self, batch: Batch) -> bytes:
        """Return the features of a batch, each after a comma."""
        assert batch.polygons is not None
        count, several = len(batch), (np.diff(batch.polygons.objects) > 1).astype(np.intp)
        before = [
            text.constant(',\n{"type":"Feature","id":"', count),
            _uuids(self._namespace, batch),
            text.constant('","geometry":{"type":"', count),
            text.choices(['Polygon","coordinates":[', 'MultiPolygon","coordinates":[['], several),
        ]
        after = [text.choices(["]]]", "]]]]"], several), *self._properties(batch)]
        rows, head = text.join([*before, *after]), sum(field.shape[1] for field in before)
        vertices, ends = _vertices(batch.polygons, self._placement)
        # all are NULs and text of one width per row or vertex: where an object's are is known without counting
        around, inside, width = rows.tobytes(), vertices.tobytes(), rows.shape[1]
        parts = [around[:head]]
        for row, (start, stop) in enumerate(pairwise((ends * vertices.shape[1]).tolist())):
            parts += inside[start:stop], around[head + row * width : head + (row + 1) * width]
        return b"".join(parts).translate(None, text.NUL)

    @cached_property
    def _namespace(self) -> UUID:
        return uuid5(NAMESPACE_URL, f"tilesegment:{self._fingerprint}")

    def _properties(self, batch: Batch) -> list[np.ndarray]:
        """Return the texts of all that follows the coordinates."""
        columns, count = dict(batch.columns), len(batch)
        fields = []
        if PLANE in columns:
            fields += [text.constant(',"plane":{"c":-1,"z":', count), text.integers(columns.pop(PLANE))]
            fields.append(text.constant(',"t":0}', count))
        fields.append(text.constant(f'}},"properties":{{"objectType":"{self._type}"', count))
        if NAME in columns:
            names, which = coded(columns.pop(NAME))
            fields.append(text.choices([f',"name":{json.dumps(name)}' if name else "" for name in names], which))
        if CLASS in columns:
            names, which = coded(columns.pop(CLASS))
            fields.append(text.choices([self._classification(name) for name in names], which))
        numbers = {name: column for name, column in columns.items() if is_number(column)}
        texts = {name: column for name, column in columns.items() if not is_number(column)}
        fields += [text.constant(',"measurements":{', count), *_measurements(numbers), text.constant("}", count)]
        for place, (name, column) in enumerate(texts.items()):
            lead = ("," if place else ',"metadata":{') + json.dumps(name) + ":"
            values, which = coded(column)
            fields.append(text.choices([lead + json.dumps(value) for value in values], which))
        fields.append(text.constant("}}}" if texts else "}}", count))
        return fields

    def _classification(self, name: str) -> str:
        """Return the property of a class; nothing if it has no name."""
        colour = self._colours.get(name)
        known = {"name": name} if colour is None else {"name": name, "color": list(colour)}
        return f',"classification":{json.dumps(known, separators=(",", ":"))}' if name else ""


def feature_id(fingerprint: str, label: int, plane: int | None = None) -> UUID:
    """Return the id of a feature: of an object of a run, or of its outline in a plane."""
    namespace = uuid5(NAMESPACE_URL, f"tilesegment:{fingerprint}")
    return uuid5(namespace, f"{label}" if plane is None else f"{label}/{plane}")


def _uuids(namespace: UUID, batch: Batch) -> np.ndarray:
    """Return the ids of features, (n, 36) uint8; as `uuid5` makes them, several times faster."""
    names = [str(label) for label in batch.columns[LABEL].tolist()]
    if PLANE in batch.columns:
        names = [f"{name}/{plane}" for name, plane in zip(names, batch.columns[PLANE].tolist(), strict=True)]
    lead = namespace.bytes
    hashes = b"".join([sha1(lead + name.encode(), usedforsecurity=False).digest()[:16] for name in names])
    ids = np.frombuffer(hashes, np.uint8).reshape(-1, 16).copy()
    ids[:, 6] = ids[:, 6] & 0x0F | 0x50  # version 5
    ids[:, 8] = ids[:, 8] & 0x3F | 0x80  # of RFC 9562
    digits = _HEX[ids].view(np.uint8)
    dash = text.constant("-", len(names))
    cuts = pairwise((0, 8, 12, 16, 20, 32))
    fields = [field for start, stop in cuts for field in (dash, digits[:, start:stop])]
    return text.join(fields[1:])


def _measurements(numbers: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the texts of names and numbers with commas in between; what is not finite is left out."""
    fields: list[np.ndarray] = []
    follows: np.ndarray | None = None  # whether a measurement precedes
    for name, column in numbers.items():
        is_float = column.dtype.kind == "f"
        is_there = np.isfinite(column) if is_float else np.ones(len(column), bool)
        comma = np.zeros((len(column), 1), np.uint8) if follows is None else follows[:, None] * np.uint8(ord(","))
        value = text.floats(column, DIGITS) if is_float else text.integers(column)
        item = [comma, text.constant(f"{json.dumps(name)}:", len(column)), value]
        fields += item if is_there.all() else [field * is_there[:, None] for field in item]
        follows = is_there if follows is None else follows | is_there
    return fields


def _vertices(polygons: Polygons, placement: Placement) -> tuple[np.ndarray, np.ndarray]:
    """Return the texts of vertices, (vertices, width) uint8 with what separates them, and where objects begin.

    An object begins with the brackets of its first vertex and ends without those that close the last one.
    """
    indices, rings = polygons.closed()
    before = np.full(len(indices), _word(_NEXT), np.uint64)
    before[rings[:-1]] = _word(_RING)
    before[rings[polygons.polygons[:-1]]] = _word(_POLYGON)
    ends = rings[polygons.polygons[polygons.objects]]
    before[ends[:-1]] = _word(_FIRST)
    y, x = (
        _coordinates(polygons.vertices[:, axis], indices, offset, scale, after)
        for axis, (offset, scale, after) in enumerate(zip(placement.offset, placement.scale, ("", ","), strict=True))
    )
    words = np.empty((len(indices), 1 + x.shape[1] + y.shape[1]), np.uint64)
    words[:, 0] = before
    words[:, 1 : 1 + x.shape[1]] = x
    words[:, 1 + x.shape[1] :] = y
    return words.view(np.uint8), ends


def _word(brackets: str) -> np.uint64:
    return np.frombuffer(brackets.encode().ljust(8, text.NUL), np.uint64)[0]


def _coordinates(values: np.ndarray, indices: np.ndarray, offset: float, scale: float, after: str) -> np.ndarray:
    """Return the texts of `offset + scale * values[indices]` and `after`, (n, width / 8) uint64, NULs at the end.

    Each value is written only once, however many vertices have it.
    """
    least, most = int(values.min(initial=0)), int(values.max(initial=0))
    if most - least < 4 * len(values):
        different, which = np.arange(least, most + 1), values - least
    else:
        different, which = np.unique(values, return_inverse=True)
    placed = np.round(offset + scale * different.astype(np.float64), DECIMALS)
    written = text.integers(placed) if (placed == np.rint(placed)).all() else text.floats(placed)
    fields = [written, text.constant(after, len(different))]
    width = sum(field.shape[1] for field in fields)
    fields.append(np.zeros((len(different), -width % 8), np.uint8))
    return text.join(fields).view(np.uint64)[which[indices]]
