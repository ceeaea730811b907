"""Objects over an image: dots from afar, outlines from near, class and measurements under the cursor.

The index of a file (see `object_index`) is searched whole for each request, which takes milliseconds for a million
objects; of the objects that it finds a bounded number is read from the file.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource
from tilesegment.metadata import LabelClass
from tilesegment.stores import Location, Place, place_of
from tilesegment.viewer.layer import JSON, Look, Picture, Placement, Progress
from tilesegment.viewer.looks import check_names, numbers
from tilesegment.viewer.object_index import SUFFIXES, ObjectIndex, index_of, is_text
from tilesegment.viewer.object_text import One, contains, feature, outline_text, row
from tilesegment.viewer.palettes import picture
from tilesegment.viewer.tiling import TileAt

T = TypeVar("T")
MOST = 1000  # objects of a tile that are outlined
MOST_BYTES = 4 << 20  # of the text of these
_AT_ONCE = 200  # objects under the cursor that are looked at, the smallest first
_MOST_CLASSES = 254  # that have colours of their own
_LONGEST = 8 << 20  # bytes of an object that is read
_PLAIN = "#e69f00"  # without a class
_DOT = 2  # pixels of the screen along a side
_WAIT = 2.0  # seconds in which a small file is indexed before the page opens


class ObjectLayer:
    """The objects of a file. See `Layer`; while the file is indexed, nothing is there.

    A look has `hidden`, the classes that are not shown.

    Args:
        path: GeoJSON, gzipped or not, a CSV or GeoParquet, as `tileseg objects` or QuPath write it.
        image: that they lie on.

    Raises:
        MaskError: the file cannot be read.
    """

    kind = "objects"

    def __init__(self, path: Path, image: ImageSource) -> None:
        if not path.is_file():
            raise MaskError(f"there is no file {path}: check the path")
        self.path, self.name, self.shape = path, path.name, image.shape
        self.placement, self.depth = Placement.of(Region.of_shape(image.shape)), image.depth
        self._index: ObjectIndex | None = None
        self._error: MaskError | None = None
        self._text = -1  # descriptor of the file that objects are read from
        self._lock, self._is_closed = threading.Lock(), False
        self._thread = threading.Thread(target=self._open, name="objects", daemon=True)
        self._thread.start()
        self._thread.join(_WAIT)
        if self._error is not None:
            raise self._error

    def _open(self) -> None:
        """Index the file."""
        made: str | None = None
        try:
            if not is_text(self.path):
                handle, made = tempfile.mkstemp(suffix=".geojson")
                os.close(handle)
            text = self.path if made is None else Path(made)
            before = os.stat(self.path)
            index = index_of(self.path, text)
            descriptor = os.open(text, os.O_RDONLY)
            if made is None and _state(os.fstat(descriptor)) != _state(before):
                os.close(descriptor)
                raise MaskError(f"{self.path} was changed while it was read: open it again")
            with self._lock:
                self._text, self._index = descriptor, index
                if self._is_closed:
                    self._close_text()
        except (MaskError, OSError) as error:
            self._error = error if isinstance(error, MaskError) else MaskError(f"{self.path}: {error}")
        finally:
            if made is not None:
                os.unlink(made)  # its bytes stay until it is closed

    def index(self) -> ObjectIndex | None:
        """Return the index; None as long as the file is read.

        Raises:
            MaskError: it cannot be read.
        """
        if self._error is not None:
            raise self._error
        return self._index

    def described(self) -> dict[str, JSON]:
        """Return whether the file is indexed, then how many objects it has, and their classes."""
        index = self.index()
        if index is None:
            return {"ready": False, "count": None, "classes": []}
        classes = [{"id": n, "name": name, "colour": colour} for n, (name, colour) in enumerate(index.names)]
        return {"ready": True, "count": len(index), "classes": classes, "plain": _PLAIN, "most": MOST}

    def tile(self, at: TileAt, z: int, look: Look) -> Picture:
        """Draw a tile on which more objects lie than are outlined: a dot each; any other is clear."""
        check_names(look, ("hidden",))
        index, own = self.index(), at.pixels(self.shape)
        hidden = numbers(look, "hidden", 1 << 15, frozenset())
        indices = np.zeros(own.shape, np.uint8)
        if index is None:
            return picture(indices, np.zeros((1, 4), np.uint8), lasting=False)
        found = self._within(index, at.region(self.shape), z, hidden)
        if not self._are_outlined(index, found):
            _dots(indices, index, found, at, own)
        return picture(indices, _colours(index))

    def outlines(self, at: TileAt, z: int, hidden: frozenset[int] = frozenset()) -> bytes:
        """Return the objects that touch a tile as JSON.

        `{"kind": "outlines", "count": n, "objects": [{"n": 17, "class": 0, "coordinates": ...}, ...]}` with coordinates
        (x, y) as in GeoJSON; with `"kind": "boxes"` there is a `box`, y0, x0, y1, x1, instead. On a tile with too many
        objects it is `{"kind": "many", "count": n}`, and `tile` draws them; before the file is indexed, `waiting`.

        Raises:
            MaskError: the file cannot be read.
        """
        index = self.index()
        if index is None:
            return b'{"kind":"waiting","count":0}'
        found = self._within(index, at.region(self.shape), z, hidden)
        if not self._are_outlined(index, found):
            return f'{{"kind":"many","count":{found.size}}}'.encode()
        kind = "boxes" if index.columns else "outlines"
        objects = [
            b'{"n":%d,"class":%d,%s}' % (n, index.classes[n], part)
            for n, part in zip(found.tolist(), self._parts(index, found), strict=True)
        ]
        head = f'{{"kind":"{kind}","count":{found.size},"objects":['.encode()
        return head + b",".join(objects) + b"]}"

    def _parts(self, index: ObjectIndex, found: np.ndarray) -> Sequence[bytes]:
        if index.columns:
            return [f'"box":{index.boxes[:, n].tolist()}'.encode() for n in found.tolist()]
        return [b'"coordinates":' + self._read(outline_text, index, n) for n in found.tolist()]

    def object_at(self, y: float, x: float, z: int, hidden: frozenset[int] = frozenset()) -> dict[str, JSON] | None:
        """Return the smallest object in which a point of the image lies, with its number; None if there is none.

        Raises:
            MaskError: the file cannot be read.
        """
        index = self.index()
        if index is None:
            return None
        y0, x0, y1, x1 = index.boxes
        found = np.flatnonzero((y0 <= y) & (y < y1) & (x0 <= x) & (x < x1) & _shown(index, z, hidden))
        sizes = (y1[found] - y0[found]).astype(np.int64) * (x1[found] - x0[found])
        for n in found[np.argsort(sizes, kind="stable")][:_AT_ONCE].tolist():
            one = self._one(index, n)
            if index.columns or contains(one.coordinates, y, x):
                return {"n": n, "box": index.boxes[:, n].tolist(), **one.as_json()}
        return None

    def value(self, y: int, x: int, z: int) -> JSON:
        """Return class and id of the object under a pixel."""
        found = self.object_at(y + 0.5, x + 0.5, z)
        if found is None:
            return None
        return {"text": f"{found['class'] or 'object'} {found['id']}".strip(), "id": found["id"]}

    def progress(self) -> Progress | None:
        """Nothing changes."""
        return None

    def close(self) -> None:
        """Close the file, and stop waiting for it."""
        with self._lock:
            self._is_closed = True
            self._close_text()

    def _close_text(self) -> None:
        if self._text >= 0:
            os.close(self._text)
            self._text = -1

    def _within(self, index: ObjectIndex, region: Region, z: int, hidden: frozenset[int]) -> np.ndarray:
        """Return which objects touch a region of a plane."""
        y0, x0, y1, x1 = index.boxes
        touches = (y1 > region.y0) & (y0 < region.y1) & (x1 > region.x0) & (x0 < region.x1)
        return np.flatnonzero(touches & _shown(index, z, hidden))

    def _are_outlined(self, index: ObjectIndex, found: np.ndarray) -> bool:
        """Whether so few objects are outlined."""
        starts, ends = index.spans[:, found] if found.size <= MOST else index.spans[:, :0]
        return found.size <= MOST and int((ends - starts).sum()) <= max(MOST_BYTES, _LONGEST * (found.size == 1))

    def _one(self, index: ObjectIndex, n: int) -> One:
        if index.columns:
            return self._read(lambda text: row(text, index.columns), index, n)
        return self._read(feature, index, n)

    def _read(self, parse: Callable[[bytes], T], index: ObjectIndex, n: int) -> T:
        """Read an object from the file."""
        start, end = index.spans[:, n].tolist()
        try:
            return parse(os.pread(self._text, end - start, start))
        except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise MaskError(f"{self.path} was changed since it was opened: open it again") from error


def holds_objects(path: str | Place) -> bool:
    """Whether a file is one of objects by its name."""
    return place_of(path).name.lower().endswith(SUFFIXES)


def open_object_layer(path: str | Place, image: ImageSource) -> ObjectLayer:
    """Open a file of objects that lie on `image`.

    Raises:
        MaskError: it cannot be read, or lies on a server.
    """
    place = place_of(path)
    if isinstance(place, Location):
        raise MaskError(f"{place} holds objects, which are read from a disk: download it")
    return ObjectLayer(place, image)


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _shown(index: ObjectIndex, z: int, hidden: frozenset[int]) -> np.ndarray:
    """Return which objects are shown, (n,) bool."""
    shown: np.ndarray = (index.planes < 0) | (index.planes == z)
    if hidden:
        shown &= ~np.isin(index.classes, list(hidden))
    return shown


def _dots(indices: np.ndarray, index: ObjectIndex, found: np.ndarray, at: TileAt, own: Region) -> None:
    """Put a dot where the middle of each object is; of those at the edge also what reaches in from other tiles."""
    y0, x0, y1, x1 = index.boxes[:, found].astype(np.int64)
    kinds = (index.classes[found].clip(-1, _MOST_CLASSES - 1) + 2).astype(np.uint8)
    for down in range(_DOT):
        for across in range(_DOT):
            rows = (y0 + y1) // 2 // at.step - own.y0 + down
            columns = (x0 + x1) // 2 // at.step - own.x0 + across
            inside = (rows >= 0) & (rows < own.height) & (columns >= 0) & (columns < own.width)
            indices[rows[inside], columns[inside]] = kinds[inside]


def _colours(index: ObjectIndex) -> np.ndarray:
    """Return the colours of dots, (n, 4) uint8: clear, without a class, then the classes."""
    every = [_PLAIN, *(colour for _, colour in index.names[:_MOST_CLASSES])]
    return np.array([(0, 0, 0, 0), *((*LabelClass("", colour).rgb, 255) for colour in every)], np.uint8)
