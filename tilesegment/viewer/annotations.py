"""A file of annotations that browsers and other programs change: read, compared and replaced whole, never in part.

A version is a hash of what lies on the disk. Whoever stores names the version that they changed: if another browser or
program has stored since, nothing is written.
"""

import gzip
import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tilesegment.errors import DataError, ViewError, one_line
from tilesegment.files import in_turn, replacing, sweep
from tilesegment.labels.annotations import doubts
from tilesegment.labels.geojson import Feature, is_geojson
from tilesegment.labels.outlines import Outlines
from tilesegment.stores import Location, Place, place_of
from tilesegment.viewer.drawn import MAX_BYTES, Canvas, Document, LimitError, merged, read_document


class ChangedError(ViewError):
    """The file has been changed since it was read."""


@dataclass(frozen=True)
class Stored:
    """What lies on the disk: GeoJSON text, a FeatureCollection, and its version."""

    text: bytes
    version: str


class Annotations:
    """A GeoJSON file, plain or gzipped, of one image; it need not exist yet. Safe to use from several threads.

    Args:
        path: of the file.
        canvas: the image that is drawn on.

    Attributes:
        notes: what is doubtful in the file as it was opened, one sentence each.

    Raises:
        ViewError: the file cannot be read or written, is no GeoJSON, or belongs to another image.
    """

    def __init__(self, path: str | Path, canvas: Canvas) -> None:
        self._path, self._canvas = _checked(place_of(path)), canvas
        self._turn = threading.Lock()
        sweep(self._path)
        with self._reporting("read"):
            raw = self._raw()
            document, features = read_document(self._content(raw), self.name, canvas)
        self._last = version_of(raw), document  # as long as the file has this version it is not parsed again
        self.notes = tuple(_doubts(features, canvas.shape, self.name))

    @property
    def name(self) -> str:
        """The name of the file, without folders."""
        return self._path.name

    def read(self) -> Stored:
        """Read the file.

        Raises:
            ViewError: it cannot be read, or another program has damaged it.
        """
        with self._reporting("read"):
            raw = self._raw()
            version = version_of(raw)
            return Stored(self._document(raw, version).text, version)

    def version(self) -> str:
        """Return the version of the file without reading its features.

        Raises:
            ViewError: it cannot be read.
        """
        with self._reporting("read"):
            return version_of(self._raw())

    def replace(self, text: bytes, version: str) -> str:
        """Store GeoJSON text in place of the file's `version`; return the new version.

        Raises:
            ChangedError: the file has another version.
            LimitError: the text is larger than allowed.
            ViewError: the text is not valid GeoJSON, or the file cannot be written.
        """
        if len(text) > MAX_BYTES:
            raise LimitError(f"{self.name} would have {len(text):,} bytes, at most {MAX_BYTES:,} can be drawn")
        with self._turn, self._reporting("written"), in_turn(self._path if self._path.exists() else None):
            raw = self._raw()
            if version_of(raw) != version:
                raise ChangedError(f"{self.name} has been changed by another browser or program: load it again")
            document = merged(self._document(raw, version), text, self.name, self._canvas)
            new = gzip.compress(document.text, 5, mtime=0) if _is_gzipped(self._path) else document.text
            with replacing(self._path) as (temporary,):
                temporary.write_bytes(new)
                if self._path.exists():
                    shutil.copymode(self._path, temporary)
            self._last = version_of(new), document
        return self._last[0]

    def _document(self, raw: bytes, version: str) -> Document:
        known, document = self._last
        if known != version:
            document = read_document(self._content(raw), self.name, self._canvas)[0]
            self._last = version, document
        return document

    def _raw(self) -> bytes:
        """The bytes of the file; none if there is no file.

        Raises:
            LimitError: they are more than allowed.
        """
        try:
            with self._path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return b""
        return _within_limit(raw, self.name)

    def _content(self, raw: bytes) -> bytes:
        """The text in the bytes of the file."""
        if not raw or not _is_gzipped(self._path):
            return raw
        inflated, rest = b"", raw
        while rest:  # members one after the other
            member = zlib.decompressobj(wbits=31)
            inflated += member.decompress(rest, MAX_BYTES + 1 - len(inflated))
            _within_limit(inflated, self.name)
            if not member.eof:
                raise ViewError(f"{self._path} is cut off; save it again")
            rest = member.unused_data
        return inflated

    @contextmanager
    def _reporting(self, done: str) -> Iterator[None]:
        try:
            yield
        except (OSError, zlib.error) as error:
            said = getattr(error, "strerror", None) or one_line(error, 80)
            raise ViewError(f"{self._path} cannot be {done} ({said}); check it and its permissions") from error


def version_of(raw: bytes) -> str:
    """Return the version of a file with this content, 32 hexadecimal digits."""
    return sha256(raw).hexdigest()[:32]


def _within_limit(content: bytes, name: str) -> bytes:
    if len(content) > MAX_BYTES:
        raise LimitError(f"{name} has more than {MAX_BYTES:,} bytes, which is the most that can be drawn")
    return content


def _is_gzipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _checked(path: Place) -> Path:
    """Return the path of the file that is replaced, links followed.

    Raises:
        ViewError: it is no file on a disk that can be written, or is not named as GeoJSON.
    """
    if isinstance(path, Location):
        raise ViewError(f"{path} is a URL, and annotations are stored on a disk: download it")
    if not is_geojson(path):
        raise ViewError(f"{path} is not named .geojson or .geojson.gz, as annotations are stored")
    real = path.resolve()
    if not real.parent.is_dir():
        raise ViewError(f"{path} cannot be written: there is no folder {real.parent}")
    if real.exists() and not real.is_file():
        raise ViewError(f"{path} is no file")
    for place, rights in ((real, os.W_OK), (real.parent, os.W_OK | os.X_OK)):
        if place.exists() and not os.access(place, rights, effective_ids=True):
            raise ViewError(f"{path} cannot be written: {place} is read-only; copy the annotations to another folder")
    return real


def _doubts(features: list[Feature], shape: tuple[int, int], name: str) -> list[str]:
    """Say which areas are not as they should be.

    Raises:
        ViewError: most of them lie outside the image.
    """
    areas = [one for one in features if one.polygons]
    try:
        return doubts(Outlines.of(areas, name), shape, name) if areas else []
    except DataError as error:
        raise ViewError(error) from error
