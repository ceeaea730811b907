"""Regions of interest as polygons: pixels outside are class 0, blocks that hold none inside are not computed.

The invariant: tiles and blocks are those of the whole image, so that inside, the mask equals that of the whole image.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilesegment.errors import PlanError
from tilesegment.geometry import Region, TileGrid
from tilesegment.images import ImageSource
from tilesegment.labels.areas import Areas, is_areas, read_areas

if TYPE_CHECKING:
    from tilesegment.images.source import Level


@dataclass(frozen=True, eq=False)
class Roi:
    """What is predicted of each plane of an image; plain data, with the polygons, so that no worker needs their file.

    Attributes:
        areas: in pixels of the level that is predicted.
        inside: how many pixels of each block lie in them, int64 (rows, columns).
        share: of the pixels of a plane, those inside.
        digest: of the runs of pixels inside: the same for other polygons around the same pixels.
    """

    areas: Areas
    inside: np.ndarray
    share: float
    digest: str

    @property
    def record(self) -> dict[str, Any]:
        """The regions in the record of a mask."""
        return {"polygons": len(self.areas.drawn.ids), "pixels": int(self.inside.sum()), "share": round(self.share, 6)}

    def lines(self) -> list[tuple[str, str]]:
        """Describe the regions in lines of label and text."""
        count = len(self.areas.drawn.ids)
        polygons = f"{count:,} polygon{'s' * (count > 1)}"
        blocks = f"{np.count_nonzero(self.inside):,} of {self.inside.size:,} blocks of a plane"
        return [("regions", f"{polygons}, {100 * self.share:.1f} % of the pixels, in {blocks}")]

    def confine(self, region: Region, ids: np.ndarray, likely: np.ndarray | None) -> None:
        """Make the pixels of a block that lie outside class 0, in place.

        Args:
            region: the block, in the level.
            ids: class ids (h, w).
            likely: class probabilities (K, h, w), if wanted: outside, class 0 has 1.
        """
        outside = ~self.areas.inside(region)
        ids[outside] = 0
        if likely is not None:
            likely[:, outside] = 0
            likely[0, outside] = 1


def choose_roi(path: str | Path, source: ImageSource, level: "Level", grid: TileGrid) -> Roi:
    """Read the regions of interest of an image.

    Args:
        path: a GeoJSON file, in pixels of level 0.
        source: the image.
        level: that is predicted, whole.
        grid: its blocks.

    Raises:
        PlanError: the file is no GeoJSON by its name, or no pixel lies in its areas.
        DataError: it cannot be read, holds no area, or its areas do not lie in the image.
    """
    if not is_areas(path):
        raise PlanError(f"--roi is {str(path)!r}; allowed: y0:y1,x0:x1, or a GeoJSON file, such as rois.geojson")
    areas = read_areas(path, [one.shape for one in source.stored_levels], source.depth or 1, source.place.name)
    if areas.by_plane:
        raise PlanError(
            f"{path} has areas in several planes; --roi takes those of one, for all planes (--z chooses planes)"
        )
    areas = areas.at(level.scale)
    inside, digest = np.zeros(grid.shape, np.int64), hashlib.sha256(f"{level.shape}".encode())
    for row in range(grid.shape[0]):
        band = grid.at(row, 0).write
        band = Region(band.y0, grid.region.x0, band.y1, grid.region.x1)
        rows, starts, stops = areas.runs(band)
        digest.update(np.stack([rows + band.y0, starts, stops], 1).astype("<i8").tobytes())
        changes = np.bincount(starts, minlength=band.width + 1) - np.bincount(stops, minlength=band.width + 1)
        inside[row] = np.add.reduceat(changes.cumsum()[:-1], np.arange(0, band.width, grid.block))
    if not inside.any():
        raise PlanError(f"{path}: no pixel of the image lies in its areas; draw larger ones")
    return Roi(areas, inside, float(inside.sum() / grid.region.area), digest.hexdigest())
