"""What the viewer shows: layers, each of which draws its tiles."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from tilesegment.geometry import Region
from tilesegment.viewer.tiling import TileAt

JSON = Any  # what json.dumps takes, without NaN and infinity
Look = Mapping[str, str]  # how a tile is drawn: the parameters of its address, without the version


@dataclass(frozen=True)
class Placement:
    """Where a layer lies, in pixels of level 0 of the image; it may be cut off or scaled."""

    y: float
    x: float
    height: float
    width: float

    @classmethod
    def of(cls, region: Region) -> "Placement":
        """Where a layer lies that covers a region."""
        return cls(region.y0, region.x0, region.height, region.width)

    def as_json(self) -> dict[str, float]:
        """Return y, x, height and width by name."""
        return asdict(self)


@dataclass(frozen=True)
class Picture:
    """A drawn tile.

    Attributes:
        data: of the file.
        kind: its media type.
        lasting: False if the same tile will look different later, as more is computed.
    """

    data: bytes
    kind: str
    lasting: bool = True


@dataclass(frozen=True)
class Progress:
    """How far something is that still changes while it is looked at.

    Attributes:
        done, total: blocks.
        version: grows when tiles have changed.
        rate: megapixels per second, None if unknown.
        stored: which blocks are done, bool (planes, rows, columns); None if it changes everywhere.
        block: side of these blocks in pixels of the layer.
    """

    done: int
    total: int
    version: int
    rate: float | None = None
    stored: np.ndarray | None = field(default=None, compare=False)
    block: int = 0


class Layer(Protocol):
    """One thing that lies on the image, or the image itself. All methods are called by several threads at once.

    Attributes:
        name: for people; it may hold any text.
        kind: image, classes, probabilities, ids, difference or objects.
        shape: (h, w) of its own pixels, which are those of zoom 0.
        placement: where they lie on the image.
        depth: planes; None if it is the same on all planes of the image.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    placement: Placement
    depth: int | None

    def described(self) -> dict[str, JSON]:
        """Return what the page has to know to draw controls: classes with id, name and colour; channels; ..."""

    def tile(self, at: TileAt, z: int, look: Look) -> Picture:
        """Draw a tile that lies within `shape`, of a plane of the image.

        Raises:
            ViewError: the look is unknown or malformed.
        """

    def value(self, y: int, x: int, z: int) -> JSON:
        """Return what is stored at a pixel of level 0 of the image, as it is stored; None where nothing is.

        What has a meaning beyond its number is an object with `text` for people beside whatever else is known.
        """

    def progress(self) -> Progress | None:
        """Return how far it is; None if it does not change (any more)."""

    def close(self) -> None:
        """Close its files; nothing is read afterwards."""
