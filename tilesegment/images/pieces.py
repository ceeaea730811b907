"""Images stored in pieces (chunks, tiles, strips), read region by region and each piece decoded about once.

Blocks overlap by their margins, and hardly ever end where a piece does. So the pieces that the next reads need are
kept: those at the right and at the bottom of a read, as blocks are read row by row. That is a band across the image,
not a row of blocks. The order of the reads changes the work, never the pixels.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

from tilesegment.geometry import Region

MOST_KEPT = 1 << 29  # bytes of decoded pieces
_OVERLAP = 4  # a fourth of a read, on either side, is assumed to be needed by other reads

Take = Callable[[Region, np.ndarray], None]


class PieceReader:
    """Assembles regions from pieces, and keeps some of these; safe in several threads, which take turns.

    Attributes:
        most_kept: bytes of decoded pieces that are kept at most.
        decoded_bytes: of all the pieces decoded so far, padding included.
        kept_bytes: of the pieces that are kept now.
    """

    def __init__(self, most_kept: int = MOST_KEPT) -> None:
        self.most_kept = most_kept
        self.decoded_bytes = 0
        self.kept_bytes = 0
        self._kept: OrderedDict[tuple[Hashable, Region], np.ndarray] = OrderedDict()
        self._expected: set[tuple[Hashable, Region]] = set()  # some of which are kept
        self._lock, self._expecting = threading.Lock(), threading.Lock()

    def expect(self, region: Region, plane: tuple[Hashable, tuple[int, int], tuple[int, int]]) -> list[Region]:
        """Return the pieces that a read of `region` to come will decode: neither kept nor expected before."""
        wanted = {(plane[0], own): own for own in pieces(region, *plane[1:])}
        with self._expecting:  # the other lock may be held for as long as pieces are decoded
            found = [own for key, own in wanted.items() if key not in self._expected and key not in self._kept]
            self._expected.update(wanted)
        return found

    def read(
        self,
        pixels: np.ndarray,
        region: Region,
        plane: tuple[Hashable, tuple[int, int], tuple[int, int]],
        decode: Callable[[list[Region], Take], None],
    ) -> None:
        """Fill `pixels` (C, h, w) with `region`.

        Args:
            pixels: written to where a piece is stored.
            region: within the plane.
            plane: what identifies it, its (height, width), and those of a piece.
            decode: takes the pieces that are needed, clipped to the plane, in row-major order, and calls its second
                argument with the region of each and its pixels (C, h, w), in any order and from any thread. It adds to
                `decoded_bytes`.
        """
        name, shape, _ = plane
        later: list[tuple[Region, np.ndarray]] = []

        def take(own: Region, piece: np.ndarray) -> None:
            shared = own.intersect(region)
            target, source = shared.within(region).slices, shared.within(own).slices
            pixels[:, *target] = piece[:, *source]
            if _is_needed_again(own, region, shape):
                # a view would hold on to all that was decoded with it
                later.append((own, piece if piece.base is None else piece.copy("K")))

        with self._lock:
            needed = []
            for own in pieces(region, *plane[1:]):
                piece = self._kept.pop((name, own), None)
                if piece is None:
                    needed.append(own)
                else:
                    self.kept_bytes -= piece.nbytes
                    take(own, piece)
            if needed:
                decode(needed, take)
            # threads finish in any order; the order of dropping must not depend on it
            for own, piece in sorted(later, key=lambda each: (each[0].y0, each[0].x0)):
                self._kept[name, own] = piece
                self.kept_bytes += piece.nbytes
            self._drop(name, region, shape)
            with self._expecting:
                read = {(name, own) for own in pieces(region, *plane[1:])}
                self._expected -= read - self._kept.keys()

    def _drop(self, name: Hashable, region: Region, shape: tuple[int, int]) -> None:
        """Drop pieces that reads after `region` do not need, then the oldest ones beyond the limit."""
        passed = [key for key in self._kept if key[0] == name and not _is_needed_again(key[1], region, shape)]
        for key in passed:
            self._forget(key)
        while self.kept_bytes > self.most_kept:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: tuple[Hashable, Region]) -> None:
        self.kept_bytes -= self._kept.pop(key).nbytes
        with self._expecting:
            self._expected.discard(key)

    def close(self) -> None:
        """Drop what is kept."""
        with self._lock:
            self._kept.clear()
            self.kept_bytes = 0


def pieces(region: Region, shape: tuple[int, int], side: tuple[int, int]) -> list[Region]:
    """Return the pieces of `side` (height, width) that `region` touches, clipped to a plane of `shape`, row by row."""
    rows, columns = side
    whole = Region.of_shape(shape)
    return [
        Region(y, x, y + rows, x + columns).intersect(whole)
        for y in range(region.y0 // rows * rows, region.y1, rows)
        for x in range(region.x0 // columns * columns, region.x1, columns)
    ]


def _is_needed_again(own: Region, region: Region, shape: tuple[int, int]) -> bool:
    """Return whether the piece `own` lies where reads to the right of `region` or below it will reach."""
    below = region.y1 < shape[0] and own.y1 > region.y1 - region.height // _OVERLAP
    beside = region.x1 < shape[1] and own.x1 > region.x1 - region.width // _OVERLAP
    return own.y1 > region.y0 and (below or beside)
