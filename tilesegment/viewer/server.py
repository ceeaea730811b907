"""The local server of a page."""

import asyncio
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from tilesegment.errors import ViewError
from tilesegment.viewer.annotation_requests import AnnotationsRequest, EraseRequest
from tilesegment.viewer.handler import Handler, View, address
from tilesegment.viewer.live import ProgressRequest
from tilesegment.viewer.object_requests import ObjectAt, Objects, ObjectTile
from tilesegment.viewer.place_requests import PlacesRequest
from tilesegment.viewer.scene import Scene
from tilesegment.viewer.security import Names, new_token
from tilesegment.viewer.tile_requests import Page, PageFile, SceneRequest, Tile, Value

# addresses below the token, and what answers them
ROUTES: Sequence[tuple[str, type[Handler]]] = (
    ("", Page),
    ("page/{name}", PageFile),
    ("scene.json", SceneRequest),
    ("tile/{layer}/{z}/{zoom}/{row}/{column}", Tile),
    ("value", Value),
    ("objects/{layer}", Objects),
    ("objects/{layer}/tile/{zoom}/{row}/{column}", ObjectTile),
    ("objects/{layer}/at", ObjectAt),
    ("annotations", AnnotationsRequest),
    ("annotations/erase", EraseRequest),
    ("progress", ProgressRequest),
    ("places", PlacesRequest),
)
MOST_BODY = 64 << 20  # bytes of what a browser sends: annotations
_MOST_HEADER = 16 << 10
_IDLE = 120  # seconds after which a connection without a request is closed


class Server:
    """Serves a scene until it is stopped. As a context manager it does so in a thread of its own.

    Attributes:
        port: on which it listens.
        url: of the page, with the token.
    """

    def __init__(self, scene: Scene, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> None:
        """Listen on a port; 0 takes a free one. Nothing is answered yet.

        Raises:
            ViewError: the host or the port cannot be had.
        """
        try:
            self._sockets = bind_sockets(port, host)
        except (OSError, OverflowError) as error:
            raise ViewError(
                f"{host}:{port} cannot be listened on ({getattr(error, 'strerror', None) or error}): choose another "
                "--port, or leave it out for a free one"
            ) from error
        self.port: int = self._sockets[0].getsockname()[1]
        self.token = token or new_token()
        named = socket.gethostname() if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
        self.url = f"http://{named}:{self.port}/{self.token}/"
        self.view = View(scene, self.token, Names(host))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping, self._thread = asyncio.Event(), None  # type: tuple[asyncio.Event, threading.Thread | None]
        self._serving = threading.Event()

    def run(self) -> None:
        """Serve until `stop`, or until Ctrl-C, which is raised."""
        try:
            asyncio.run(self._serve())
        finally:
            self.view.pool.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        routes: list[Any] = [(address(pattern), handler, {"view": self.view}) for pattern, handler in ROUTES]
        application = Application(
            routes,
            default_handler_class=_Unknown,
            default_handler_args={"view": self.view},
            log_function=_quiet,
            compress_response=False,
        )
        server = HTTPServer(
            application, max_body_size=MOST_BODY, max_header_size=_MOST_HEADER, idle_connection_timeout=_IDLE
        )
        server.add_sockets(self._sockets)
        self._serving.set()
        try:
            await self._stopping.wait()
        finally:
            server.stop()
            with suppress(asyncio.CancelledError):
                await server.close_all_connections()

    def stop(self) -> None:
        """Let `run` return; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.run, name="server", daemon=True)
        self._thread.start()
        self._serving.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        assert self._thread is not None
        self._thread.join()


class _Unknown(Handler):
    """An address that there is not."""

    def prepare(self) -> None:
        """Answer 404, whatever the method."""
        self.send_error(404)


def _quiet(handler: RequestHandler) -> None:
    """Log no requests."""
