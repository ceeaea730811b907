"""A local server of tiles, and the page that shows an image, masks over it and what is drawn on it."""

from tilesegment.viewer.scene import Scene, open_scene
from tilesegment.viewer.server import Server

__all__ = ["Scene", "Server", "open_scene"]
