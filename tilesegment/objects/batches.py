"""What is written about objects: batches of rows with outlines, and what all writers have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.objects.polygons import Polygons

LABEL, PLANE, CLASS, NAME = "label", "plane", "class", "name"


@dataclass(frozen=True)
class Placement:
    """Where grid points of the mask lie in level 0 of the image: at `offset + scale * point`.

    Attributes:
        offset: (y, x) pixels of level 0.
        scale: (y, x) pixels of level 0 per pixel of the mask.
    """

    offset: tuple[float, float] = (0, 0)
    scale: tuple[float, float] = (1, 1)


@dataclass(frozen=True)
class Batch:
    """Some rows of a table of objects.

    Attributes:
        columns: arrays (n,) by name, the same names in each batch: `label`, the object's id; perhaps `plane`, the
            plane of a stack, `class`, its name, and `name`; others are measurements, or text.
        polygons: the outlines of the same rows, in pixels of the mask; None if they are not wanted.
    """

    columns: Mapping[str, np.ndarray]
    polygons: Polygons | None = None

    def __post_init__(self) -> None:
        assert LABEL in self.columns and {len(column) for column in self.columns.values()} == {len(self)}
        assert self.polygons is None or np.array_equal(self.polygons.ids, self.columns[LABEL])

    def __len__(self) -> int:
        return len(self.columns[LABEL])

    def rows(self, start: int, stop: int) -> Self:
        """Rows start .. stop - 1."""
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        return type(self)(columns, None if self.polygons is None else self.polygons.rows(start, stop))

    def pieces(self, rows: int, vertices: int) -> Iterator[Self]:
        """Cut it into batches of at most `rows` rows and, unless a single object has more, `vertices` vertices."""
        ends = np.zeros(len(self) + 1, int) if self.polygons is None else self.polygons.ends()
        start = 0
        while start < len(self):
            stop = int(np.searchsorted(ends, ends[start] + vertices, side="right")) - 1
            stop = min(max(stop, start + 1), start + rows, len(self))
            yield self.rows(start, stop)
            start = stop


class ObjectsWriter(ABC):
    """Writes batches to a file, one after the other, and holds at most a few of them.

    A context manager: at its end the file is complete, after an error it is not and should be deleted.

    Args:
        path: final name of the file, for messages.
        to: the file to write, if it gets its final name later.
    """

    def __init__(self, path: Path, to: Path | None = None) -> None:
        self.path = path
        with self._reporting():
            # closed in `close` or `_abandon`
            self._file = (to or path).open("wb")

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Append rows. An empty batch tells a table its columns.

        Raises:
            MaskError: the file cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Complete the file.

        Raises:
            MaskError: the file cannot be written.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Close the file as it is, without a word: it is complete, or an error is on its way."""
        with suppress(OSError):
            self._file.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn an OSError into a MaskError."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            message = f"cannot write {self.path}: {reason}; check space and permissions, then run it again"
            raise MaskError(message) from error


def is_number(column: np.ndarray) -> bool:
    """Return whether a column holds numbers or booleans, not text."""
    return column.dtype.kind in "biuf"


def coded(column: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the different texts of a column in the order in which they occur, and which each row has; None is ""."""
    texts = ["" if value is None else str(value) for value in column.tolist()]
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return list(places), np.fromiter((places[text] for text in texts), np.intp, len(texts))
