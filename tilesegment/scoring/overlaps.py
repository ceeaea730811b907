"""The pixels that true and predicted objects share: one sparse table, added up block by block.

Tables of blocks add up to that of the whole, so that scores do not depend on how an image is cut, and memory grows with
the objects, not with the pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tilesegment.errors import DataError
from tilesegment.scoring.pixels import check_shapes

_MOST = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Overlaps:
    """How n true and m predicted objects of one plane overlap; the k pairs that share pixels, by rows and columns."""

    truth: np.ndarray  # (n,) int64 ids, ascending; without 0, the background
    prediction: np.ndarray  # (m,) likewise
    truth_area: np.ndarray  # (n,) int64, pixels
    prediction_area: np.ndarray  # (m,)
    rows: np.ndarray  # (k,) int64, positions among `truth`
    columns: np.ndarray  # (k,) positions among `prediction`
    pixels: np.ndarray  # (k,) int64, in common
    counted: int  # pixels of the plane, without those that are ignored

    @classmethod
    def of(cls, table: np.ndarray) -> "Overlaps":
        """Split a table of `add_up` into objects and pairs."""
        true, guess, pixels = table.T
        truth, truth_area = _areas(true, pixels)
        prediction, prediction_area = _areas(guess, pixels)
        both = (true != 0) & (guess != 0)
        rows, columns = np.searchsorted(truth, true[both]), np.searchsorted(prediction, guess[both])
        return cls(
            truth, prediction, truth_area, prediction_area, rows, columns, pixels[both], int(pixels.sum(dtype=np.int64))
        )

    @cached_property
    def unions(self) -> np.ndarray:
        """Pixels in either object of each pair, (k,) int64."""
        return self.truth_area[self.rows] + self.prediction_area[self.columns] - self.pixels

    @cached_property
    def iou(self) -> np.ndarray:
        """Intersection over union of each pair, (k,) float64 above 0."""
        return self.pixels / self.unions


def overlaps(truth: np.ndarray, prediction: np.ndarray, ignore: int | None = None) -> Overlaps:
    """Count the overlaps of two label images (H, W) of ids; see `count_overlaps`."""
    return Overlaps.of(count_overlaps(truth, prediction, ignore))


def count_overlaps(truth: np.ndarray, prediction: np.ndarray, ignore: int | None = None) -> np.ndarray:
    """Count the pixels of a block by the ids in both files.

    Args:
        truth: (h, w) ids of objects, whole numbers, 0 for background. They may have gaps, and objects several pieces.
        prediction: (h, w) likewise.
        ignore: pixels where `truth` has this value are not counted.

    Returns:
        (r, 3) int64, one row per pair of ids that occurs, 0 included: true id, predicted id, pixels; by ids, ascending.

    Raises:
        DataError: the shapes differ, or a value is no id.
    """
    check_shapes(truth, prediction)
    true, guess = np.ravel(truth), np.ravel(prediction)
    # runs of equal pairs along the rows are many times fewer than pixels
    changes = np.flatnonzero((true[1:] != true[:-1]) | (guess[1:] != guess[:-1])) + 1
    starts = np.concatenate([np.zeros(min(true.size, 1), np.int64), changes])
    true, guess, lengths = true[starts], guess[starts], np.diff(starts, append=true.size)
    if ignore is not None:
        known = true != ignore
        true, guess, lengths = true[known], guess[known], lengths[known]
    return add_up([np.column_stack([_ids("truth", true), _ids("prediction", guess), lengths])])


def add_up(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Add tables (r, 3) of blocks: one row per pair of ids, by ids, ascending."""
    rows = np.concatenate([np.zeros((0, 3), np.int64), *tables])
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    if not len(rows):
        return rows
    first = np.flatnonzero(np.append(True, (rows[1:, :2] != rows[:-1, :2]).any(axis=1)))
    return np.column_stack([rows[first, :2], np.add.reduceat(rows[:, 2], first)])


def _areas(ids: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids that occur but 0, ascending, and their pixels, both int64."""
    found, places = np.unique(ids, return_inverse=True)
    areas = np.zeros(found.size, np.int64)
    np.add.at(areas, places, pixels)
    return found[found != 0], areas[found != 0]


def _ids(what: str, values: np.ndarray) -> np.ndarray:
    """Values (n,) as int64 ids.

    Raises:
        DataError: they are negative, too large or not whole.
    """
    if not values.size:
        return values.astype(np.int64)
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise DataError(f"the {what} holds numbers that are not whole; expected ids of objects, 0 for background")
    low, high = values.min(), values.max()
    if low < 0 or high > _MOST:
        wrong = low if low < 0 else high
        ignored = f": give --ignore {wrong} if it means no label" if what == "truth" else ""
        raise DataError(f"the {what} holds {wrong}; expected ids of objects from 1, 0 for background{ignored}")
    return values.astype(np.int64)
