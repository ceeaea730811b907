"""What tests of the viewer's layers share: an image that they lie on, and what their tiles look like."""

from io import BytesIO

import numpy as np
from PIL import Image

from tilesegment.geometry import Region
from tilesegment.images import ImageSource, Level
from tilesegment.metadata import MICROMETRE, Frame, Spacing
from tilesegment.viewer.layer import Layer, Picture
from tilesegment.viewer.tiling import TileAt, shape_at

UNITS = Frame(y=Spacing(0.5, 0.0, MICROMETRE), x=Spacing(0.5, 0.0, MICROMETRE))
_SHOWN = {"hidden": ""}


class Blank(ImageSource):
    """A black image of any size, which holds no pixels; those of level 0 are 0.5 micrometres."""

    def __init__(self, shape: tuple[int, int], depth: int | None = None) -> None:
        super().__init__("blank", "blank", [Level(shape, (1.0, 1.0))], depth, 1, np.dtype(np.uint8), UNITS)

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        return np.zeros((1, *region.shape), np.uint8)

    def close(self) -> None:
        """Nothing is open."""


def drawn(picture: Picture) -> np.ndarray:
    """The colours of a picture, (h, w, 4) uint8."""
    assert picture.kind == "image/png"
    return np.asarray(Image.open(BytesIO(picture.data)).convert("RGBA"))


def whole(layer: Layer, zoom: int = 0, z: int = 0, look: dict[str, str] | None = None) -> np.ndarray:
    """All tiles of a zoom, side by side: (h, w, 4) uint8."""
    given = _SHOWN if look is None else look
    rows, columns = (-(-side // 512) for side in shape_at(layer.shape, zoom))
    return np.concatenate(
        [
            np.concatenate(
                [drawn(layer.tile(TileAt(zoom, row, column), z, given)) for column in range(columns)], axis=1
            )
            for row in range(rows)
        ]
    )
