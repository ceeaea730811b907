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
from scipy import ndimage
from skimage.filters import threshold_otsu

from tilesegment.errors import PlanError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.masks import find_mask

if TYPE_CHECKING:
    from tilesegment.prediction.plan import Plan

CONSTANT, TISSUE = "constant", "tissue"

_SIDE = 2048  # pixels of an overview, at most: on a slide of 100,000 pixels one of its pixels is 12 micrometres
_GROWN = 128  # tissue grows by this fraction of an overview's side: pale edges and stray cells lie beside what is dark
# share of the variance that Otsu's threshold explains: 0.64 of a normal distribution, 0.75 of a uniform one, so no more
# than that is a single kind of area
_SEPARATE = 0.75
# of white: more colour than this is clipped, as ink and pens would raise the threshold
_COLOURFUL = 0.25
_GLASS = 0.1  # of white: the mean saturation of glass is less, whatever the scanner; pale tissue has more


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
    overview, (sy, sx) = _overview(source, z)
    tissue, threshold = find_tissue(overview[list(plan.channels)], _white(source))
    if threshold is None:
        return np.zeros(plan.grid.shape, bool), None
    scale = (sy / plan.scale[0], sx / plan.scale[1])
    size = (tissue.shape[0], tissue.shape[1])
    return _by_block(plan, lambda region: not tissue[_covering(region, scale, size).slices].any()), threshold


def find_tissue(pixels: np.ndarray, white: float) -> tuple[np.ndarray, float | None]:
    """Find what may be tissue in an overview, generously dilated; also return the threshold, after Otsu.

    Coloured tissue on white glass is told by saturation (not HSV's ratio, which is large in noisy black), other tissue
    by its distance from the most frequent value.

    Args:
        pixels: (C, h, w) float32.
        white: their largest possible value.

    Returns:
        bool (h, w), all of it where the threshold is None: there are not two kinds of area, or neither is glass. NaN
        and infinity count as tissue.
    """
    smooth = ndimage.gaussian_filter(np.where(np.isfinite(pixels), pixels, np.nan), (0, 1, 1))
    everything = np.ones(smooth.shape[1:], bool)
    if np.isnan(smooth).all():
        return everything, None
    in_colour = len(smooth) == 3 and bool(np.nanpercentile(smooth, 90) > white / 2)
    signal = np.minimum(np.ptp(smooth, axis=0), _COLOURFUL * white) if in_colour else _distance(smooth)
    finite = signal[np.isfinite(signal)].astype(np.float64)
    if not finite.size or finite.min() == finite.max():
        return everything, None
    middle = float(threshold_otsu(finite))
    glass, tissue = finite[finite <= middle], finite[finite > middle]
    between = len(glass) * len(tissue) / len(finite) ** 2 * (tissue.mean() - glass.mean()) ** 2
    if between <= _SEPARATE * finite.var() or (in_colour and glass.mean() > _GLASS * white):
        return everything, None
    # pale tissue lies below the middle: what is halfway to glass is in doubt, and kept
    threshold = (middle + float(glass.mean())) / 2
    # written so that NaN counts as tissue: its block is read, which reports the error
    return ndimage.maximum_filter(~(signal <= threshold), 2 * max(2, max(signal.shape) // _GROWN) + 1), threshold


def _distance(pixels: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel of (C, h, w) from the most frequent value; the farthest channel counts."""
    distances = []
    for channel in pixels:
        counts, edges = np.histogram(channel[np.isfinite(channel)], 256)
        commonest = counts.argmax()
        distances.append(np.abs(channel - (edges[commonest] + edges[commonest + 1]) / 2))
    return np.maximum.reduce(distances)


def _white(source: ImageSource) -> float:
    """Return the largest possible value of a pixel; floats are taken to go to 1."""
    return 1.0 if source.stored_dtype.kind == "f" else float(np.iinfo(source.stored_dtype).max)


def _overview(source: ImageSource, z: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Return an overview of a plane, (C, h, w) float32 of means, and the (y, x) pixels of level 0 that its pixels span.

    It is made from the smallest level that is large enough, part by part.
    """
    number = max((n for n, level in enumerate(source.stored_levels) if max(level.shape) >= _SIDE // 2), default=0)
    level = source.levels[number]
    whole, factor = Region.of_shape(level.shape), ceil(max(level.shape) / _SIDE)
    side = max(_SIDE // factor, 1) * factor
    rows = []
    for y in range(0, whole.height, side):
        parts = (Region(y, x, y + side, x + side).intersect(whole) for x in range(0, whole.width, side))
        rows.append(np.concatenate([_reduced(source.read(part, number, z), factor) for part in parts], axis=2))
    return np.concatenate(rows, axis=1), (level.scale[0] * factor, level.scale[1] * factor)


def _reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of `factor` x `factor` pixels, (C, H, W) -> (C, ceil(H / factor), ceil(W / factor)) float32."""
    channels, height, width = pixels.shape
    padded = np.pad(pixels, ((0, 0), (0, -height % factor), (0, -width % factor)), mode="edge")
    cells = padded.reshape(channels, ceil(height / factor), factor, ceil(width / factor), factor)
    return cells.mean((2, 4), dtype=np.float32)


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
