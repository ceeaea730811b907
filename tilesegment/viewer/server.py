"""The local server of a page."""

import asyncio
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tornado.httpserver import HTTPServer
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
_BACKLOG = 128  # connections that wait to be accepted
_IDLE = 120  # seconds after which a connection without a request is closed


class Server:
    """Serves a scene in a thread of its own while it is a context.

    Attributes:
        port: on which it listens.
        token: random, in each address.
        url: of the page, with the token.
        view: what the requests share.
    """

    def __init__(self, scene: Scene, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Describe a server of a scene; it listens from `__enter__` on.

        Args:
            scene: is not closed.
            host: name or address to listen on; others than the loopback let other machines in.
            port: 0 takes a free one.
        """
        self._host, self.port = host, port
        self.token = new_token()
        self.view = View(scene, self.token, Names(host))
        self._loop = asyncio.new_event_loop()
        self._stopping, self._serving, self._ended = asyncio.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    @property
    def url(self) -> str:
        named = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(self._host, self._host)
        return f"http://{f'[{named}]' if ':' in named else named}:{self.port}/{self.token}/"

    def wait(self) -> None:
        """Wait until it ends, or for a signal, which is raised in the main thread."""
        self._ended.wait()

    def __enter__(self) -> Self:
        """Listen and answer.

        Raises:
            ViewError: the host or the port cannot be had.
        """
        try:
            self._socket = _listening(self._host, self.port)
        except (OSError, OverflowError) as error:
            self._close()
            raise ViewError(
                f"{self._host}:{self.port} cannot be listened on ({getattr(error, 'strerror', None) or error}): choose "
                "another --port, or leave it out for a free one"
            ) from error
        self.port = self._socket.getsockname()[1]
        self._thread.start()
        self._serving.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._close()
        self._socket.close()

    def _close(self) -> None:
        self._loop.close()
        self.view.pool.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._ended.set()

    async def _serve(self) -> None:
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
        server.add_socket(self._socket)
        self._serving.set()
        await self._stopping.wait()
        server.stop()
        with suppress(asyncio.CancelledError):
            await server.close_all_connections()


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


class _Unknown(Handler):
    """An address that there is not."""

    def prepare(self) -> None:
        """Answer 404, whatever the method."""
        self.send_error(404)


def _quiet(handler: RequestHandler) -> None:
    """Log no requests."""
