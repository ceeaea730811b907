"""Pixels that lie in a file as they would in memory, read row by row.

Not memory-mapped: pages that were read would count as resident memory, which would grow with the image, and a file that
is truncated while it is read would kill the process.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tilesegment.geometry import Region
from tilesegment.images.byte_ranges import ByteRanges, DiskFile
from tilesegment.images.layout import Layout
from tilesegment.images.source import ImageSource, Level, Shown
from tilesegment.metadata import Frame


def read_rows(file: ByteRanges, start: int, stride: int, shape: tuple[int, int]) -> np.ndarray:
    """Read rows of bytes, (rows, bytes) uint8, the first from `start` of a file on, each `stride` after the last.

    Raises:
        ValueError: the file ends before.
    """
    rows = np.empty(shape, np.uint8)
    spans = [(start + number * stride, start + number * stride + shape[1]) for number in range(shape[0])]
    data_of = file.fetch(spans)
    for row, span in zip(rows, spans, strict=True):
        data = data_of(span)
        if len(data) < shape[1]:
            raise ValueError("the file ends before")
        row[:] = np.frombuffer(data, np.uint8)
    return rows


@dataclass(frozen=True)
class Storage:
    """How the planes of a file lie in it, one after the other, row by row.

    Attributes:
        offset: of the first byte.
        dtype: of a sample, in the file's byte order.
        samples: of a pixel, one after the other.
        bits: of a pixel; of fewer than 8 several share a byte, and a row begins with a byte.
        unpack: makes pixels (h, n * 8 / bits) of `dtype` of such bytes (h, n).
    """

    offset: int
    dtype: np.dtype
    samples: int = 1
    bits: int = 0
    unpack: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def pixel_bits(self) -> int:
        return self.bits or self.samples * self.dtype.itemsize * 8

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a row of so many pixels."""
        return -(-width * self.pixel_bits // 8)

    def read(self, file: int, plane: tuple[int, int], number: int, region: Region) -> np.ndarray:
        """Read a region of plane `number`, which is (height, width) as they all are: (samples, h, w)."""
        row, bits = self.row_bytes(plane[1]), self.pixel_bits
        first, last = region.x0 * bits // 8, -(-region.x1 * bits // 8)
        start = self.offset + (number * plane[0] + region.y0) * row + first
        rows = read_rows(DiskFile(file), start, row, (region.height, last - first))
        if self.unpack is None:
            return rows.view(self.dtype).reshape(*region.shape, self.samples).transpose(2, 0, 1)
        before = region.x0 - first * 8 // bits
        return self.unpack(rows)[None, :, before : before + region.width]


class RawSource(ImageSource):
    """An image whose planes lie raw in a file.

    Of its layout y and x come after all that counts planes, and before the samples where a pixel has several.
    """

    def __init__(
        self,
        path: str,
        format: str,
        storage: Storage,
        layout: Layout,
        frame: Frame,
        shown: Shown,
    ) -> None:
        levels = [Level(layout.plane, (1.0, 1.0))]
        super().__init__(path, format, levels, layout.depth, layout.channels, storage.dtype, frame, shown)
        self._storage, self._layout = storage, layout
        self._file = os.open(path, os.O_RDONLY)

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        index, stacked = self._layout.index(region, z), self._layout.axes.index("y")
        counts = self._layout.shape[:stacked]
        numbers = np.arange(math.prod(counts)).reshape(counts)[index[:stacked]].ravel().tolist()
        # of the samples of a pixel all or one
        taken = (
            slice(index[-1], index[-1] + 1) if len(index) > stacked + 2 and isinstance(index[-1], int) else slice(None)
        )
        read = [self._storage.read(self._file, self._layout.plane, number, region)[taken] for number in numbers]
        return read[0] if len(read) == 1 else np.concatenate(read)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
