"""Requests of the page itself: its files, the scene, tiles, values under the cursor."""

from functools import cache
from pathlib import Path

from tornado.web import HTTPError

from tilesegment.errors import ViewError
from tilesegment.viewer.handler import Handler
from tilesegment.viewer.layer import Layer, Picture
from tilesegment.viewer.tiling import TileAt

PAGE = Path(__file__).parent / "page"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
VENDOR = "vendor/openseadragon.min.js"
# modules that the page loads after main.js, in this order, as far as they are there
MODULES = ("layers.js", "objects.js", "live.js", "annotate.js", "places.js")
_KEPT = "private, max-age=86400"  # tiles that last: the token is new with each start


@cache
def page_files() -> dict[str, Path]:
    """Return the files of the page that are served, by name; no other file ever is."""
    found = (path for path in sorted(PAGE.rglob("*")) if path.suffix in _KINDS and path.is_file())
    return {path.relative_to(PAGE).as_posix(): path for path in found}


def page_is_complete() -> bool:
    """Return whether OpenSeadragon is among the files of the page, which the build fetches."""
    return VENDOR in page_files()


class Page(Handler):
    """The page."""

    def get(self) -> None:
        """Send it."""
        self.set_header("Content-Type", _KINDS[".html"])
        self.finish((PAGE / "index.html").read_bytes())


class PageFile(Handler):
    """A file of the page."""

    def get(self, name: str) -> None:
        """Send it."""
        path = page_files().get(name)
        if path is None:
            raise HTTPError(404)
        self.set_header("Content-Type", _KINDS[path.suffix])
        self.set_header("Cache-Control", "no-cache")
        self.finish(path.read_bytes())


class SceneRequest(Handler):
    """What there is to show."""

    async def get(self) -> None:
        """Send it."""
        described = await self.in_pool(self.view.scene.described)
        self.answer(described | {"modules": [name for name in MODULES if name in page_files()]})


class Tile(Handler):
    """A tile of a layer."""

    async def get(self, layer: str, z: str, zoom: str, row: str, column: str) -> None:
        """Send the picture."""
        scene, at = self.view.scene, TileAt(int(zoom), int(row), int(column))
        one = layer_of(self, layer)
        if not (at.is_within(one.shape) and scene.has_plane(int(z))):
            raise HTTPError(404)
        look = self.query()
        look.pop("v", None)  # only makes addresses differ, for the browser
        key = (int(layer), int(z), at, tuple(sorted(look.items())))
        picture = self.view.cache.get(key)
        if picture is None:
            picture = await self.in_pool(lambda: one.tile(at, int(z), look))
            self.view.cache.put(key, picture)
        self._send(picture)

    def _send(self, picture: Picture) -> None:
        self.set_header("Content-Type", picture.kind)
        if picture.lasting:
            self.set_header("Cache-Control", _KEPT)
        self.finish(picture.data)


class Value(Handler):
    """What the layers hold at a pixel of the image."""

    async def get(self) -> None:
        """Send a list: of each layer its number and its value."""
        given = self.query()
        if set(given) - {"y", "x", "z"}:
            raise ViewError("give y, x and z")
        y, x, z = (self.whole(name, given, 0 if name == "z" else None) for name in "yxz")
        if not self.view.scene.has_plane(z):
            raise ViewError(f"there is no plane {z}")
        self.answer(await self.in_pool(lambda: self.view.scene.values(y, x, z)))


def layer_of(handler: Handler, number: str) -> Layer:
    """Return a layer by its number; else the answer is 404."""
    layers = handler.view.scene.layers
    if int(number) >= len(layers):
        raise HTTPError(404)
    return layers[int(number)]
