"""Requests for objects: what they are, those of a tile, the one under the cursor."""

import math

from tornado.web import HTTPError

from tilesegment.errors import ViewError
from tilesegment.viewer.handler import Handler
from tilesegment.viewer.looks import numbers
from tilesegment.viewer.mask_layers import MaskLayer
from tilesegment.viewer.object_layer import ObjectLayer
from tilesegment.viewer.tile_requests import layer_of
from tilesegment.viewer.tiling import TileAt

_CLASSES = 1 << 15


class ObjectRequest(Handler):
    """A request for objects, perhaps without those of `hidden` classes, on plane `z`."""

    def layer(self, number: str) -> ObjectLayer:
        """Return the layer; else the answer is 404."""
        found = layer_of(self, number)
        if not isinstance(found, ObjectLayer):
            raise HTTPError(404)
        return found

    def looked_at(self, *more: str) -> tuple[dict[str, str], int, frozenset[int]]:
        """Return the parameters, the plane, and the hidden classes.

        Raises:
            ViewError: there are others than these and `more`, or they are malformed.
        """
        given = self.query()
        unknown = set(given) - {"z", "hidden", *more}
        if unknown:
            raise ViewError(f"there is no parameter {min(unknown):.40}; allowed: {', '.join(('z', 'hidden', *more))}")
        z = self.whole("z", given, 0)
        if not self.view.scene.has_plane(z):
            raise ViewError(f"there is no plane {z}")
        return given, z, numbers(given, "hidden", _CLASSES, frozenset())


class Objects(ObjectRequest):
    """What the objects are."""

    async def get(self, layer: str) -> None:
        """Send whether they are known yet, how many there are, and their classes."""
        self.answer(await self.in_pool(self.layer(layer).described))


class ObjectTile(ObjectRequest):
    """The objects of a tile."""

    async def get(self, layer: str, zoom: str, row: str, column: str) -> None:
        """Send them, see `ObjectLayer.outlines`."""
        found, at = self.layer(layer), TileAt(int(zoom), int(row), int(column))
        _, z, hidden = self.looked_at()
        if not at.is_within(found.shape):
            raise HTTPError(404)
        text = await self.in_pool(lambda: found.outlines(at, z, hidden))
        self.set_header("Content-Type", "application/json")
        self.finish(text)


class ObjectAt(ObjectRequest):
    """The object under the cursor, or the connected region of a mask."""

    async def get(self, layer: str) -> None:
        """Send it, null if there is none."""
        found = layer_of(self, layer)
        if not isinstance(found, ObjectLayer | MaskLayer):
            raise HTTPError(404)
        given, z, hidden = self.looked_at("y", "x")
        y, x = (_number(given, name) for name in "yx")
        self.answer(await self.in_pool(lambda: found.object_at(y, x, z, hidden)))


def _number(given: dict[str, str], name: str) -> float:
    """Return a number among the parameters."""
    try:
        value = float(given[name])
    except (KeyError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ViewError(f"{name} has to be a number")
    return value
