"""The connected region of a mask under a pixel, with its outline: to be taken over and corrected."""

from itertools import pairwise

import numpy as np
from skimage.measure import label

from tilesegment.errors import ViewError
from tilesegment.geometry import Region
from tilesegment.objects.outlines import corners_of_block, trace
from tilesegment.objects.polygons import Polygons, polygons_of
from tilesegment.viewer.layer import JSON, Placement
from tilesegment.viewer.mask_pixels import Pixels

_SIDES = (256, 1024, 4096)  # of the squares around the pixel in which its region is looked for, one after the other
_DECIMALS = 3


def region_at(pixels: Pixels, row: int, column: int, z: int) -> tuple[Polygons, int]:
    """Find the pixels that hold the same value as one, and are connected with it along their edges.

    Args:
        pixels: of the mask.
        row, column: of its finest level.
        z: its plane.

    Returns:
        One object, in pixels of the mask; and its area in these.

    Raises:
        ViewError: it is too large.
    """
    whole = Region.of_shape(pixels.shape)
    for side in _SIDES:
        half = side // 2
        window = Region(row - half, column - half, row + half, column + half).intersect(whole)
        values = pixels.read(window, 0, z)
        here = (row - window.y0, column - window.x0)
        pieces = label(values == values[here], connectivity=1)
        piece = pieces == pieces[here]
        if not _is_cut(piece, window, whole):
            numbers = np.pad(piece, 1).astype(np.uint32)
            rings = trace(corners_of_block(numbers, Region.of_shape(piece.shape), piece.shape))
            found = polygons_of(rings, np.array([0, 1], np.uint32))
            shift = np.array([window.y0, window.x0], np.int32)
            moved = Polygons(found.ids, found.objects, found.polygons, found.rings, found.vertices + shift)
            return moved, int(np.count_nonzero(piece))
    raise ViewError(f"the region under the cursor is larger than {_SIDES[-1] // 2} pixels: draw its outline anew")


def _is_cut(piece: np.ndarray, window: Region, whole: Region) -> bool:
    """Whether a piece goes on beyond the window."""
    edges = (
        (piece[0], window.y0 > whole.y0),
        (piece[-1], window.y1 < whole.y1),
        (piece[:, 0], window.x0 > whole.x0),
        (piece[:, -1], window.x1 < whole.x1),
    )
    return any(edge.any() for edge, goes_on in edges if goes_on)


def coordinates_of(polygons: Polygons, placement: Placement, shape: tuple[int, int]) -> JSON:
    """Return the outline of one object as GeoJSON has it, (x, y) in pixels of level 0 of the image.

    Args:
        polygons: of one polygon.
        placement: of the mask.
        shape: (h, w) of the mask.
    """
    scale = np.array([placement.height / shape[0], placement.width / shape[1]])
    indices, rings = polygons.closed()
    placed = np.round(polygons.vertices[indices] * scale + (placement.y, placement.x), _DECIMALS)[:, ::-1]
    return [placed[start:stop].tolist() for start, stop in pairwise(rings)]
