"""Blocks that are skipped as empty: of one value, without tissue, or outside a mask or areas of the user.

The invariant: a block is predicted whole, from the same pixels as ever, or not at all, so what is predicted never
depends on what is skipped.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilesegment.errors import PlanError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.images.artefacts import Shares
from tilesegment.images.overview import Overview, grid_lines
from tilesegment.labels.areas import is_areas, read_areas
from tilesegment.masks import find_mask
from tilesegment.prediction.tissue import colours_of, doubts_of, mean_shares, tissue_of

if TYPE_CHECKING:
    from tilesegment.prediction.plan import Plan

CONSTANT, TISSUE = "constant", "tissue"


@dataclass(frozen=True)
class Skipping:
    """The blocks known to be empty before they are read: small, plain data.

    Attributes:
        mode: constant, tissue, mask or areas; None skips nothing.
        shape: (planes, rows, columns) of blocks.
        bits: for each block, in order, whether it is known to be empty, packed as by `numpy.packbits`; b"" if none is.
        share: of the pixels, those in blocks that are known to be empty.
        thresholds: for tissue, one per plane; None where tissue could not be told from glass.
        said: notes on how a mask was read, or on the tissue.
        shares: for tissue, of glass, pen marks and blur.
    """

    mode: str | None = None
    shape: tuple[int, int, int] = (0, 0, 0)
    bits: bytes = b""
    share: float = 0.0
    thresholds: tuple[float | None, ...] = ()
    said: tuple[str, ...] = ()
    shares: Shares | None = None

    @property
    def empty(self) -> np.ndarray:
        """Whether each block is known to be empty, bool (planes, rows, columns)."""
        if not self.bits:
            return np.zeros(self.shape, bool)
        return (
            np.unpackbits(np.frombuffer(self.bits, np.uint8), count=prod(self.shape)).astype(bool).reshape(self.shape)
        )

    def is_empty(self, plane: int, row: int, column: int) -> bool:
        """Whether one block is known to be empty; planes are counted from the first that is predicted."""
        _, rows, columns = self.shape
        number = (plane * rows + row) * columns + column
        return bool(self.bits) and bool(self.bits[number >> 3] >> (7 - number % 8) & 1)

    def finds_empty(self, pixels: np.ndarray) -> bool:
        """Whether a block's pixels (C, H, W) show that it is empty: each channel has one value."""
        return self.mode == CONSTANT and bool((pixels == pixels[:, :1, :1]).all())

    @property
    def blocks(self) -> int | None:
        """How many blocks are empty; None where that is found only as they are read."""
        return None if self.mode == CONSTANT else int(np.count_nonzero(self.empty))

    @property
    def decides(self) -> dict[str, str | None]:
        """The choice of blocks, for the fingerprint."""
        bits = self.bits or bytes(-(-prod(self.shape) // 8))
        return {"mode": self.mode, "digest": hashlib.sha256(f"{self.shape}".encode() + bits).hexdigest()}

    @property
    def record(self) -> dict[str, Any]:
        """The choice of blocks, for the record of the mask."""
        if self.blocks is None:
            return {"mode": self.mode}
        known: dict[str, Any] = {"mode": self.mode, "blocks": self.blocks, "share": round(self.share, 6)}
        if self.shares is not None:
            known |= {"thresholds": list(self.thresholds), "shares": asdict(self.shares)}
        return known

    def lines(self) -> list[tuple[str, str]]:
        """Describe how much is skipped in lines of label and text."""
        if self.mode is None:
            return []
        if self.blocks is None:
            return [("empty", "blocks of one value are skipped, as they are found")]
        found = f"{self.blocks:,} of {prod(self.shape):,} blocks, {100 * self.share:.1f} % of the pixels"
        lines = [("empty", f"{found}, are skipped ({self.mode})")]
        return lines if self.shares is None else [*lines, ("tissue", self.shares.words)]

    def notes(self, path: str) -> tuple[str, ...]:
        """Return notes for the user on the image at `path`."""
        blind = self.thresholds.count(None)
        if blind:
            where = "" if len(self.thresholds) == 1 else f" in {blind} of {len(self.thresholds)} planes"
            return (
                f"{path}: tissue cannot be told from glass{where}, nothing is skipped there; a mask can say it",
                *self.said,
            )
        if self.mode not in (None, CONSTANT) and self.share in (0, 1):
            return (*self.said, f"{path}: {'no block is' if self.share == 0 else 'all blocks are'} empty ({self.mode})")
        return self.said


def choose_skipping(source: ImageSource, plan: "Plan") -> Skipping:
    """Choose the blocks of an image to skip.

    Raises:
        PlanError: `skip_empty` is neither a mode nor a file, or the mask does not fit the image.
        DataError: areas cannot be read, or do not lie in the image.
        ImageError: the image or the mask cannot be read.
    """
    chosen, shape = plan.settings.skip_empty, (len(plan.planes), *plan.grid.shape)
    if chosen in (None, CONSTANT):
        return Skipping(chosen, shape)
    if chosen == TISSUE:
        return _without_tissue(source, plan)
    if not os.path.exists(chosen):
        raise PlanError(
            f"--skip-empty is {chosen!r}; allowed: {CONSTANT}, {TISSUE}, or a file: an image, zero where nothing is to "
            "be predicted, or areas to predict, as GeoJSON"
        )
    if is_areas(chosen):
        return _outside_areas(chosen, source, plan)
    with _opened(chosen, plan.settings.invert) as mask:
        return replace(_skipping("mask", plan, _outside(mask, source, plan)), said=mask.notes)


def _skipping(mode: str, plan: "Plan", empty: np.ndarray) -> Skipping:
    """Return the blocks `empty`, bool (planes, blocks of a plane)."""
    empty = empty.reshape(len(plan.planes), *plan.grid.shape)
    share = float(plan.areas[empty].sum() / plan.pixels)
    planes, rows, columns = empty.shape
    return Skipping(mode, (planes, rows, columns), np.packbits(empty).tobytes(), share)


def _without_tissue(source: ImageSource, plan: "Plan") -> Skipping:
    """Return the blocks without tissue, plane by plane; all are kept where it is not told from glass."""
    overview = Overview.of(source)
    parts = _touched(_boxes(plan), grid_lines(overview.shape, overview.scale, source.shape))
    empty, thresholds, shares = [], [], []
    for z in plan.planes:
        tissue = tissue_of(source, plan.channels, z)
        empty.append([not tissue.mask[part.slices].any() for part in parts])
        thresholds.append(tissue.threshold)
        shares.append(tissue.shares)
    found, mean = _skipping(TISSUE, plan, np.array(empty)), mean_shares(shares)
    return replace(found, thresholds=tuple(thresholds), shares=mean, said=doubts_of(source.path, mean))


def _outside_areas(path: str, source: ImageSource, plan: "Plan") -> Skipping:
    """Return the blocks that no area touches."""
    areas = read_areas(path, [one.shape for one in source.stored_levels], source.depth or 1, source.place.name)
    boxes = _boxes(plan)
    empty = [~areas.touches(boxes, z if areas.by_plane else 0) for z in plan.planes]
    return replace(_skipping("areas", plan, np.array(empty)), said=areas.notes)


class _Outline(NamedTuple):
    """A mask of any kind: `read` gives values (..., h, w) of a region of a plane, 0 where nothing is predicted."""

    path: str
    shape: tuple[int, int]
    depth: int
    read: Callable[[Region, int], np.ndarray]
    notes: tuple[str, ...] = ()


@contextmanager
def _opened(path: str, invert: bool) -> Iterator[_Outline]:
    """Open a mask that we wrote by its class ids, any other image by its values."""
    mask = find_mask(path)
    if mask is not None:
        region, shape = (mask.spec.fingerprint.get(name) for name in ("region", "shape"))
        if isinstance(region, list) and isinstance(shape, list) and region != [0, 0, *shape]:
            # a mask of a part would be taken for one of a smaller level
            part = f"{region[0]}:{region[2]},{region[1]}:{region[3]}"
            raise PlanError(
                f"the mask {path} covers {part} of its image, {shape[0]} x {shape[1]}; give one of the whole image"
            )
        yield _Outline(path, mask.spec.shape, mask.spec.depth or 1, lambda region, z: mask.read(region, 0, z))
        return
    with open_image(path, invert=invert) as source:
        colours = list(colours_of(source))

        def read(region: Region, z: int) -> np.ndarray:
            return source.read(region, 0, z)[colours]

        yield _Outline(path, source.shape, source.depth or 1, read, source.notes)


def _outside(mask: _Outline, source: ImageSource, plan: "Plan") -> np.ndarray:
    """Return whether a mask is zero in all of each block, bool (planes, blocks of a plane).

    Raises:
        PlanError: it is not a mask of this image.
    """
    (rows, columns), (height, width) = mask.shape, source.shape
    # sides are whole numbers: the aspect ratio may be off by their rounding
    if abs(rows * width - columns * height) > max(height, width) or mask.depth not in (1, plan.depth):
        given, wanted = (f" x {n} planes" if n else "" for n in (mask.depth if mask.depth > 1 else None, plan.depth))
        raise PlanError(
            f"the mask {mask.path} is {rows} x {columns} pixels{given}, the image {height} x {width}{wanted}: give one "
            "of the same aspect ratio, of any size, with one plane or as many"
        )
    parts = _touched(_boxes(plan), _lines_of(mask.shape, source))
    planes = plan.planes if mask.depth > 1 else range(1)
    empty = np.array([[not mask.read(part, z).any() for part in parts] for z in planes])
    return np.broadcast_to(empty, (len(plan.planes), len(parts)))


def _lines_of(shape: tuple[int, int], source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    """Return where the pixels of a mask of `shape` lie on the image, as `grid_lines` does.

    A mask of the size of the overview or of a level lies on its pixels, whose sides are whole but for the last; any
    other is stretched over the image.
    """
    overview = Overview.of(source)
    grids = [(overview.shape, overview.scale), *((one.shape, one.scale) for one in source.stored_levels)]
    for of_grid, scale in grids:
        if of_grid == shape:
            return grid_lines(shape, scale, source.shape)
    rows, columns = (np.arange(n + 1) * size / n for n, size in zip(shape, source.shape, strict=True))
    return rows, columns


def _boxes(plan: "Plan") -> np.ndarray:
    """Return the `write` region of each block of a plane, (n, 4) float64: y0, x0, y1, x1 in pixels of level 0."""
    regions = [(one.y0, one.x0, one.y1, one.x1) for one in plan.region.squares(plan.block)]
    return np.array(regions, np.float64) * (*plan.scale, *plan.scale)


def _touched(boxes: np.ndarray, lines: tuple[np.ndarray, np.ndarray]) -> Sequence[Region]:
    """Return the pixels of a smaller image that touch each box; they lie between `lines`, as of `grid_lines`."""
    sides = []
    for axis, at in enumerate(lines):
        # sides of levels are rounded: the last pixels of the image may lie beyond them
        first = np.searchsorted(at[1:-1], boxes[:, axis], side="right")
        sides += [first, np.maximum(np.searchsorted(at[:-1], boxes[:, axis + 2], side="left"), first + 1)]
    y0, y1, x0, x1 = (side.tolist() for side in sides)
    return [Region(*box) for box in zip(y0, x0, y1, x1, strict=True)]
