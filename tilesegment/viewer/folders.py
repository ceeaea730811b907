"""A server of folders of this machine for the page of another site, as neuroglancer's: read only, by a secret name."""

import asyncio
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

from tilesegment.errors import ViewError
from tilesegment.viewer.security import Names, new_token

_HOST = "127.0.0.1"
_LOOPBACK = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")


class FolderServer:
    """Serves the files of folders, with HEAD and ranges of bytes, to pages of one site and of this machine.

    Attributes:
        base: the address under which the names of the folders lie, ending with a slash.
    """

    def __init__(self, folders: Mapping[str, Path], site: str, port: int = 0) -> None:
        """Listen on the loopback; port 0 takes a free one.

        Raises:
            ViewError: the port cannot be had.
        """
        try:
            self._sockets = bind_sockets(port, _HOST)
        except (OSError, OverflowError) as error:
            raise ViewError(f"port {port} cannot be listened on ({error}): choose another --port") from error
        token = new_token()
        self.base = f"http://{_HOST}:{self._sockets[0].getsockname()[1]}/{token}/"
        routes: list[Any] = [
            (f"/{token}/{name}/(.*)", _File, {"path": os.path.realpath(folder), "site": site})
            for name, folder in folders.items()
        ]
        self._application = Application(routes, log_function=_quiet)
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        """Serve until `stop`, or until Ctrl-C, which is raised."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = HTTPServer(self._application, max_body_size=0, max_header_size=16 << 10)
        server.add_sockets(self._sockets)
        try:
            await self._stop.wait()
        finally:
            server.stop()
            with suppress(asyncio.CancelledError):
                await server.close_all_connections()

    def stop(self) -> None:
        """Let `run` return; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)


class _File(StaticFileHandler):
    """A file of a folder; nothing that a link in it leads to elsewhere."""

    def initialize(self, path: str, site: str) -> None:  # type: ignore[override]
        """Take the folder, and the site that may ask."""
        self._site = site
        super().initialize(path)

    def prepare(self) -> None:
        """Refuse strangers, and say to a browser that its page may read the answer."""
        if not Names(_HOST).allows_host(self.request.headers.get("Host", "")):
            raise HTTPError(403)
        origin = self.request.headers.get("Origin")
        if origin is None:
            return
        if origin != self._site and not _LOOPBACK.fullmatch(origin):
            raise HTTPError(403)
        self.set_header("Access-Control-Allow-Origin", origin)
        self.set_header("Access-Control-Expose-Headers", "Content-Length, Content-Range, ETag")
        self.set_header("Vary", "Origin")

    def options(self, path: str) -> None:
        """Answer what a browser asks before it asks for a range of a file of this machine."""
        self.set_header("Access-Control-Allow-Methods", "GET, HEAD")
        self.set_header("Access-Control-Allow-Headers", "Range, If-None-Match")
        self.set_header("Access-Control-Allow-Private-Network", "true")
        self.set_status(204)

    def set_extra_headers(self, path: str) -> None:
        """Let the browser ask again, as a mask may be replaced."""
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Content-Type-Options", "nosniff")

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        """Return the path of a file in the folder.

        Raises:
            HTTPError: there is none.
        """
        real = os.path.realpath(absolute_path)
        if not os.path.isfile(real) or not real.startswith(os.path.join(root, "")):
            raise HTTPError(404)
        return real


def _quiet(handler: RequestHandler) -> None:
    """Log no requests."""
