"""Blocks that are skipped as empty: of one value, without tissue, or outside a mask of the user.

The invariant: a block is predicted whole, from the same pixels as ever, or not at all, so what is predicted never
depends on what is skipped.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, floor, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilesegment.errors import PlanError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.images.tissue import find_tissue, read_overview, white_of
from tilesegment.masks import find_mask

if TYPE_CHECKING:
    from tilesegment.prediction.plan import Plan

CONSTANT, TISSUE = "constant", "tissue"


@dataclass(frozen=True)
class Skipping:
    """The blocks known to be empty before they are read: small, plain data.

    Attributes:
        mode: constant, tissue or mask; None skips nothing.
        shape: (planes, rows, columns) of blocks.
        bits: for each block, in order, whether it is known to be empty, packed as by `numpy.packbits`; b"" if none is.
        share: of the pixels, those in blocks that are known to be empty.
        thresholds: for tissue, one per plane; None where tissue could not be told from glass.
        said: notes on how a mask was read.
    """

    mode: str | None = None
    shape: tuple[int, int, int] = (0, 0, 0)
    bits: bytes = b""
    share: float = 0.0
    thresholds: tuple[float | None, ...] = ()
    said: tuple[str, ...] = ()

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
        known = {"mode": self.mode, "blocks": self.blocks, "share": round(self.share, 6)}
        return known | ({"thresholds": list(self.thresholds)} if self.thresholds else {})

    def lines(self) -> list[tuple[str, str]]:
        """Describe how much is skipped in lines of label and text."""
        if self.mode is None:
            return []
        if self.blocks is None:
            return [("empty", "blocks of one value are skipped, as they are found")]
        found = f"{self.blocks:,} of {prod(self.shape):,} blocks, {100 * self.share:.1f} % of the pixels"
        return [("empty", f"{found}, are skipped ({self.mode})")]

    def notes(self, path: str) -> tuple[str, ...]:
        """Return notes for the user on the image at `path`."""
        blind = self.thresholds.count(None)
        if blind:
            where = "" if len(self.thresholds) == 1 else f" in {blind} of {len(self.thresholds)} planes"
            return (f"{path}: tissue cannot be told from glass{where}, nothing is skipped there; a mask can say it",)
        if self.mode not in (None, CONSTANT) and self.share in (0, 1):
            return (*self.said, f"{path}: {'no block is' if self.share == 0 else 'all blocks are'} empty ({self.mode})")
        return self.said


def choose_skipping(source: ImageSource, plan: "Plan") -> Skipping:
    """Choose the blocks of an image to skip.

    Raises:
        PlanError: `skip_empty` is neither a mode nor a file, or the mask does not fit the image.
        ImageError: the image or the mask cannot be read.
    """
    chosen, shape = plan.settings.skip_empty, (len(plan.planes), *plan.grid.shape)
    if chosen in (None, CONSTANT):
        return Skipping(chosen, shape)
    if chosen == TISSUE:
        found = [_without_tissue(source, plan, z) for z in plan.planes]
        return _skipping(chosen, plan, np.stack([empty for empty, _ in found]), tuple(limit for _, limit in found))
    if not os.path.exists(chosen):
        raise PlanError(
            f"--skip-empty is {chosen!r}; allowed: {CONSTANT}, {TISSUE}, or an image file, zero where nothing is to be "
            "predicted"
        )
    with _opened(chosen, plan.settings.invert) as mask:
        return replace(_skipping("mask", plan, _outside(mask, source, plan)), said=mask.notes)


def _skipping(mode: str, plan: "Plan", empty: np.ndarray, thresholds: tuple[float | None, ...] = ()) -> Skipping:
    planes, rows, columns = empty.shape
    share = float(plan.areas[empty].sum() / plan.pixels)
    return Skipping(mode, (planes, rows, columns), np.packbits(empty).tobytes(), share, thresholds)


def _without_tissue(source: ImageSource, plan: "Plan", z: int) -> tuple[np.ndarray, float | None]:
    """Return whether each block of a plane lacks tissue, bool (rows, columns), and the threshold of `find_tissue`."""
    overview, (sy, sx) = read_overview(source, z)
    tissue, threshold = find_tissue(overview[list(plan.channels)], white_of(source))
    if threshold is None:
        return np.zeros(plan.grid.shape, bool), None
    scale = (sy / plan.scale[0], sx / plan.scale[1])
    size = (tissue.shape[0], tissue.shape[1])
    return _by_block(plan, lambda region: not tissue[_covering(region, scale, size).slices].any()), threshold


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
        colours = source.channels - (source.channels in (2, 4))  # alpha says nothing

        def read(region: Region, z: int) -> np.ndarray:
            return source.read(region, 0, z)[:colours]

        yield _Outline(path, source.shape, source.depth or 1, read, source.notes)


def _outside(mask: _Outline, source: ImageSource, plan: "Plan") -> np.ndarray:
    """Return whether a mask is zero in all of each block, bool (planes, rows, columns).

    Raises:
        PlanError: it is not a mask of this image.
    """
    (rows, columns), (sy, sx) = mask.shape, (1.0, 1.0)
    height, width = plan.shape
    if plan.resampled is not None:  # the sides of level 0 are not rounded
        (height, width), (sy, sx) = source.shape, plan.resampled
    # sides are whole numbers: the aspect ratio may be off by their rounding
    if abs(rows * width - columns * height) > max(height, width) or mask.depth not in (1, plan.depth):
        given, wanted = (f" x {n} planes" if n else "" for n in (mask.depth if mask.depth > 1 else None, plan.depth))
        raise PlanError(
            f"the mask {mask.path} is {rows} x {columns} pixels{given}, the image {height} x {width}{wanted}: give one "
            "of the same aspect ratio, of any size, with one plane or as many"
        )
    scale = (height / rows / sy, width / columns / sx)

    def empty_at(z: int) -> np.ndarray:
        return _by_block(plan, lambda region: not mask.read(_covering(region, scale, mask.shape), z).any())

    if mask.depth == 1:
        return np.repeat(empty_at(0)[None], len(plan.planes), 0)
    return np.stack([*map(empty_at, plan.planes)])


def _by_block(plan: "Plan", is_empty: Callable[[Region], bool]) -> np.ndarray:
    """Return `is_empty` of the `write` region of each block of a plane, bool (rows, columns)."""
    found = [is_empty(region) for region in plan.region.squares(plan.block)]
    return np.array(found, bool).reshape(plan.grid.shape)


def _covering(region: Region, scale: tuple[float, float], shape: tuple[int, int]) -> Region:
    """Return the pixels of a smaller image of `shape` that touch `region`, where one spans `scale` (y, x) pixels."""
    (sy, sx), (height, width) = scale, shape
    # sides of levels are rounded: the last pixels of the image may lie beyond them
    y0, x0 = min(floor(region.y0 / sy), height - 1), min(floor(region.x0 / sx), width - 1)
    return Region(y0, x0, min(max(ceil(region.y1 / sy), y0 + 1), height), min(max(ceil(region.x1 / sx), x0 + 1), width))
