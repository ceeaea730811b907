"""The places that a page lists, read once at the start."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tilesegment.errors import ViewError
from tilesegment.prediction.places import Place, read_places
from tilesegment.viewer.layer import JSON

_MOST = 2000  # in the list of a page


@dataclass(frozen=True)
class Places:
    """Places to step through.

    Attributes:
        name: of their file.
        listed: in order of their ranks.
        digest: tells them from others: the page remembers by it which are done.
    """

    name: str
    listed: tuple[Place, ...]
    digest: str

    @classmethod
    def of(cls, path: str | Path, shape: tuple[int, int]) -> Self:
        """Read the places of an image of `shape` (height, width).

        Raises:
            DataError: the file cannot be read, or holds no places.
            ViewError: there are too many of them, or one lies outside the image.
        """
        places, (height, width) = read_places(path), shape
        if len(places) > _MOST:
            raise ViewError(
                f"{path} holds {len(places):,} places; a page lists up to {_MOST:,}: ask for fewer (--count)"
            )
        for one in places:
            region = one.region
            if region.y0 >= height or region.x0 >= width or region.y1 <= 0 or region.x1 <= 0:
                raise ViewError(
                    f"{path}: place {one.rank} at {region} lies outside the image, {height} x {width} (y, x): they are "
                    "those of another image"
                )
        digest = hashlib.sha256(repr(places).encode()).hexdigest()[:16]
        return cls(Path(path).name, places, digest)

    def as_json(self) -> dict[str, JSON]:
        """Return what the page gets."""
        return {"name": self.name, "digest": self.digest, "places": [one.as_json() for one in self.listed]}
