"""Pictures of few colours as PNG, and the outlines of regions."""

from colorsys import hsv_to_rgb
from io import BytesIO

import numpy as np
from PIL import Image

from tilesegment.viewer.layer import Picture

_LEVEL = 1  # of 9: tiles are made while someone waits
_STEPS = 255  # colours of ids
_HUES, _SATURATIONS, _VALUES = 0.61803398875, (0.55, 0.75, 0.95), (1.0, 0.85)
# odd, about 2 ** 64 divided by the golden ratio: neighbouring ids get colours that lie far apart
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def picture(indices: np.ndarray, colours: np.ndarray, *, lasting: bool = True) -> Picture:
    """Draw a tile as a PNG with a palette, exactly.

    Args:
        indices: (h, w) uint8.
        colours: (n, 4) uint8, red, green, blue and opacity of each index; n is at most 256.
        lasting: see `Picture`.
    """
    drawn = Image.fromarray(np.ascontiguousarray(indices))
    drawn.putpalette(colours[:, :3].tobytes())
    buffer = BytesIO()
    drawn.save(buffer, format="PNG", compress_level=_LEVEL, transparency=colours[:, 3].tobytes())
    return Picture(buffer.getvalue(), "image/png", lasting)


def inner_outline(ids: np.ndarray) -> np.ndarray:
    """Return the pixels beside another id: of (h + 2, w + 2) those of the inner (h, w)."""
    inner = ids[1:-1, 1:-1]
    edge: np.ndarray = inner != ids[:-2, 1:-1]
    edge |= inner != ids[2:, 1:-1]
    edge |= inner != ids[1:-1, :-2]
    edge |= inner != ids[1:-1, 2:]
    return edge


def id_indices(ids: np.ndarray) -> np.ndarray:
    """Return the place of each id in `id_colours`, uint8 of the same shape: 0 for 0, the same for an id everywhere."""
    spread = ids.astype(np.uint64) * _SPREAD >> np.uint64(32)
    return np.where(ids == 0, 0, spread % np.uint64(_STEPS) + np.uint64(1)).astype(np.uint8)


def id_colours() -> np.ndarray:
    """Return the colours of ids, (256, 4) uint8: bright ones of all hues, the first is clear."""
    colours = np.zeros((256, 4), np.uint8)
    for number in range(_STEPS):
        rgb = hsv_to_rgb(number * _HUES % 1, _SATURATIONS[number % 3], _VALUES[number % 2])
        colours[number + 1] = [*(round(255 * part) for part in rgb), 255]
    return colours
