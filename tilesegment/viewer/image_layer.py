"""The image as a layer: its zooms as tiles, its channels as colours."""

import math
import threading
from contextlib import nullcontext
from pathlib import PurePath
from typing import Any

import numpy as np

from tilesegment.errors import ViewError
from tilesegment.geometry import Region
from tilesegment.images.source import ImageSource
from tilesegment.viewer.colours import (
    Channel,
    as_stored,
    encoded,
    mixed,
    parse_channels,
    usual_colours,
)
from tilesegment.viewer.computed import ComputedZooms, is_too_large
from tilesegment.viewer.layer import JSON, Look, Picture, Placement, Progress
from tilesegment.viewer.means import Zoom
from tilesegment.viewer.ranges import Range, ranges_of
from tilesegment.viewer.tiling import TileAt, zooms

_EXACT = 1 << 22  # pixels of level 0 up to which tiles are PNG
_KEPT = 1 << 26  # bytes of decoded pieces of the file that are kept
_UNKNOWN = 128  # grey of what is not computed yet
_SHOWN = 4  # channels that are shown at first


class ImageLayer:
    """An open image. See `Layer`.

    The look `channels` is `number:rrggbb:low:high,...`, see `colours.parse_channels`; without it colours of 8 bits are
    as they are stored, and of others the first channels are shown, each over its range.
    """

    kind = "image"

    def __init__(self, source: ImageSource) -> None:
        source.keep_at_most(_KEPT)
        self.source = source
        self.name = PurePath(source.path).name or source.path
        self.shape, self.depth = source.shape, source.depth
        self.placement = Placement.of(Region.of_shape(source.shape))
        self.is_colour = source.dtype == np.uint8 and source.channels in (3, 4)
        self._zooms = [Zoom(source, zoom) for zoom in range(zooms(source.shape))]
        needed = any(is_too_large(zoom) for zoom in self._zooms)
        self._computed = ComputedZooms(source, self._zooms) if needed else None
        self._lock = threading.Lock()
        self._ranges: tuple[Range, ...] | None = None

    @property
    def ranges(self) -> tuple[Range, ...]:
        """What values the channels have, found once."""
        with self._lock:
            if self._ranges is None:
                self._ranges = ranges_of(self.source)
            return self._ranges

    def described(self) -> dict[str, JSON]:
        """Return type, pixel size, format, notes, and the channels with colour and range."""
        source, size = self.source, self.source.pixel_size
        return {
            "format": source.format,
            "dtype": str(source.stored_dtype),
            "mpp": None if size is None else {"y": size.y, "x": size.x},
            "is_colour": self.is_colour,
            "channels": [
                {"number": n, "name": f"channel {n}", "colour": colour, "visible": n < _SHOWN, **one.as_json()}
                for n, (colour, one) in enumerate(zip(usual_colours(source.channels), self.ranges, strict=True))
            ],
            "notes": list(source.notes),
        }

    def tile(self, at: TileAt, z: int, look: Look) -> Picture:
        """Draw a tile."""
        if set(look) - {"channels"}:
            raise ViewError(f"the image has no {', '.join(sorted(set(look) - {'channels'}))}: give channels")
        given = parse_channels(look["channels"], self.source.channels) if "channels" in look else None
        pixels, known = self._read(at, self.plane(z))
        if given is None and self.is_colour:
            drawn = as_stored(pixels)
        else:
            drawn = mixed(pixels, self._usual() if given is None else given)
        if known is not None and not known.all():
            drawn[~known] = _UNKNOWN
            return encoded(drawn, exact=False, lasting=False)
        return encoded(drawn, exact=math.prod(self.shape) <= _EXACT)

    def _read(self, at: TileAt, z: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the pixels of a tile, (C, h, w), and which of them are known, (h, w); None: all."""
        if self._computed is not None and self._computed.covers(at.zoom):
            return self._computed.read(at, z)
        with nullcontext() if self._computed is None else self._computed.ahead():
            return self._zooms[at.zoom].read(at.pixels(self.shape), z), None

    def _usual(self) -> tuple[Channel, ...]:
        colours = usual_colours(self.source.channels)
        return tuple(Channel(n, colours[n], one.low, one.high) for n, one in enumerate(self.ranges[:_SHOWN]))

    def plane(self, z: int) -> int:
        """Return the plane of the image that is shown at `z`."""
        return z if self.depth is not None else 0

    def value(self, y: int, x: int, z: int) -> JSON:
        """Return the stored value of a pixel, of several channels a list."""
        if not (0 <= y < self.shape[0] and 0 <= x < self.shape[1]):
            return None
        stored = self.source.read_stored(Region(y, x, y + 1, x + 1), 0, self.plane(z))[:, 0, 0]
        values = [_number(one) for one in stored]
        return values[0] if len(values) == 1 else values

    def progress(self) -> Progress | None:
        """Return how far the zooms are that the file lacks."""
        return None if self._computed is None else self._computed.progress()

    def close(self) -> None:
        """Close the image."""
        if self._computed is not None:
            self._computed.close()
        self.source.close()


def _number(value: Any) -> JSON:
    """Return a value for JSON, which knows no NaN and no infinity."""
    number = value.item()
    return number if not isinstance(number, float) or math.isfinite(number) else str(number)
