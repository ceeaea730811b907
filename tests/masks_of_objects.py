"""Masks full of what is hard to label across blocks, how to write them, and what labelling the whole at once gives."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from scipy import ndimage

from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import LabelClass, PixelSize

CLASSES = tuple(
    LabelClass(name, colour) for name, colour in (("glass", "#000000"), ("cell", "#e69f00"), ("rim", "#56b4e9"))
)


def _noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return (rng.random(shape) < rng.uniform(0.2, 0.8)) * rng.integers(1, 3, shape)


def _worms(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    smooth = ndimage.gaussian_filter(rng.random(shape), 1.2, mode="wrap")
    return (np.abs(smooth - np.median(smooth)) < 0.03) * 1 + (smooth > np.quantile(smooth, 0.9)) * 2 % 3


def _rings(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    y, x = np.indices(shape)
    away = np.maximum(abs(y - shape[0] // 2), abs(x - shape[1] // 2))
    return away // int(rng.integers(1, 3)) % 2 * (1 + (away > 6))


def _spiral(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    path, (y, x), (dy, dx) = np.zeros(shape, int), (0, 0), (0, 1)
    while True:
        path[y, x] = 1
        for _ in range(2):
            ahead, beyond = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
            is_inside = 0 <= ahead[0] < shape[0] and 0 <= ahead[1] < shape[1]
            is_free = is_inside and not path[ahead]
            if is_free and 0 <= beyond[0] < shape[0] and 0 <= beyond[1] < shape[1]:
                is_free = not path[beyond]
            if is_free:
                break
            dy, dx = dx, -dy
        else:
            return path
        y, x = ahead


def _checkerboard(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return np.indices(shape).sum(0) % 2 * rng.integers(1, 3)


def _bridges(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Lines of one pixel along every fourth row and column, broken here and there."""
    y, x = np.indices(shape)
    return ((y % 4 == 3) | (x % 4 == 3)) & (rng.random(shape) < 0.9)


KINDS = (_noise, _worms, _rings, _spiral, _checkerboard, _bridges)


@st.composite
def masks(draw: st.DrawFn, largest: int = 40) -> np.ndarray:
    """Masks (h, w) uint8 of the classes 0 to 2."""
    shape = (draw(st.integers(1, largest)), draw(st.integers(1, largest)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.asarray(draw(st.sampled_from(KINDS))(shape, rng)).astype(np.uint8)


def sides(mask: np.ndarray, most: int = 5) -> st.SearchStrategy[int]:
    """Sides of blocks that cut a mask into at most `most` x `most`, down to single pixels of a small one."""
    longest = max(mask.shape[-2:])
    return st.integers(-(-longest // most), longest + 2)


def write_mask(path: Path, mask: np.ndarray, classes: tuple[LabelClass, ...] = CLASSES, **more: object) -> Path:
    """Write a mask (h, w) or (D, h, w) uint8 as `predict` does."""
    depth = None if mask.ndim == 2 else len(mask)
    spec = MaskSpec(mask.shape[-2:], depth, 64, 64, classes, PixelSize(0.5, 0.5), **more)  # type: ignore[arg-type]
    writer = create_mask(path, spec)
    for region, z in writer.base.blocks():
        writer.write(region, np.ascontiguousarray((mask if depth is None else mask[z])[region.slices]), z)
    writer.finish()
    return path


def read_labels(path: Path) -> np.ndarray:
    """Return a label image, (h, w) or (D, h, w) uint32."""
    with open_image(path) as image:
        assert image.stored_dtype == np.uint32
        planes = [image.read_stored(Region.of_shape(image.shape), 0, z)[0] for z in range(image.depth or 1)]
        return planes[0] if image.depth is None else np.stack(planes)


def labelled(mask: np.ndarray, connectivity: int = 4) -> np.ndarray:
    """Label each class of the whole with scipy, and number the objects by their first pixel."""
    structure = np.ones((3,) * mask.ndim) if connectivity == 8 else None
    found, count = np.zeros(mask.shape, np.int64), 0
    for one in np.unique(mask[mask > 0]):
        labels, more = ndimage.label(mask == one, structure)
        found += np.where(labels > 0, labels + count, 0)
        count += more
    return numbered(found)


def numbered(ids: np.ndarray) -> np.ndarray:
    """Number ids 1, 2, ... by their first pixel in raster order."""
    values, first = np.unique(ids, return_index=True)
    values, first = values[values > 0], first[values > 0]
    table = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    table[values[np.argsort(first)]] = np.arange(1, len(values) + 1)
    return table[ids]
