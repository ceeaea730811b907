"""Large images become panels: reduced block by block, or enlarged."""

from collections.abc import Callable

import numpy as np

from tilesegment.geometry import Region


def reduce(
    read: Callable[[Region], np.ndarray], shape: tuple[int, int], factor: int, *, mean: bool = False, block: int = 2048
) -> np.ndarray:
    """Reduce an image of any size, block by block.

    Args:
        read: the pixels of a region, (C, h, w).
        shape: of the image, (height, width).
        factor: by which both sides are divided.
        mean: average `factor` x `factor` pixels; else keep the first, as class ids need.
        block: largest side in pixels that is read at once.

    Returns:
        (C, ceil(height / factor), ceil(width / factor)) of the same type.
    """
    side = max(block // factor, 1) * factor
    shrink = means if mean else lambda pixels, factor: pixels[:, ::factor, ::factor]
    height, width = shape
    rows = [
        [shrink(read(Region(y, x, min(y + side, height), min(x + side, width))), factor) for x in range(0, width, side)]
        for y in range(0, height, side)
    ]
    return np.block(rows)


def means(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Return the mean of each square of `factor` pixels a side, (C, h, w) of the same dtype; integers are rounded."""
    if factor == 1:
        return pixels
    starts = [np.arange(0, size, factor) for size in pixels.shape[-2:]]
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float32), starts[0], axis=-2), starts[1], axis=-1)
    heights, widths = (np.diff(s, append=size) for s, size in zip(starts, pixels.shape[-2:], strict=True))
    means = sums / (heights[:, None] * widths)
    return (means if pixels.dtype.kind == "f" else np.rint(means)).astype(pixels.dtype)


def enlarged(panel: np.ndarray, side: int) -> np.ndarray:
    """Enlarge a small panel (h, w, 3) by a whole factor, up to `side` pixels."""
    times = max(side // max(panel.shape[:2]), 1)
    return panel.repeat(times, axis=0).repeat(times, axis=1)
