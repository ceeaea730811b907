"""What all requests have in common: who may ask, how errors are said, where work is done."""

import asyncio
import hmac
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tornado.web import HTTPError, RequestHandler

from tilesegment.errors import TilesegmentError, ViewError, one_line
from tilesegment.viewer.cache import TileCache
from tilesegment.viewer.layer import JSON
from tilesegment.viewer.pool import BusyError, Pool
from tilesegment.viewer.scene import Scene
from tilesegment.viewer.security import HEADERS, Names

T = TypeVar("T")
_LONGEST_QUERY = 2000  # characters
_PARTS = {"token": r"[^/]{1,64}", "layer": r"\d{1,4}", "z": r"\d{1,9}", "zoom": r"\d{1,2}", "name": r"[^?]{1,200}"}


@dataclass(frozen=True)
class View:
    """What the handlers share: the scene, who may ask, threads and cached tiles."""

    scene: Scene
    token: str
    names: Names
    pool: Pool = field(default_factory=Pool)
    cache: TileCache = field(default_factory=TileCache)


def address(pattern: str) -> str:
    """Return the regular expression of an address below the token; `{layer}`, `{z}`, `{zoom}`, `{row}` are numbers."""
    names = re.findall(r"\{(\w+)\}", pattern)
    for name in names:
        pattern = pattern.replace(f"{{{name}}}", f"(?P<{name}>{_PARTS.get(name, r'[0-9]{1,7}')})")
    return f"/(?P<token>{_PARTS['token']})/{pattern}"


class Handler(RequestHandler):
    """A request: a subclass has `get` or `put`, whose arguments are the parts of the address as text.

    The token and the headers `Host` and `Origin` are checked before. A `TilesegmentError` that a method raises is 400
    if it is a `ViewError`, else 500; it is sent as {"error": message}.
    """

    view: View

    def initialize(self, view: View) -> None:
        """Take what the handlers share."""
        self.view = view
        self._work: asyncio.Future[Any] | None = None

    def set_default_headers(self) -> None:
        """Set what protects the page; nothing is kept by the browser unless a handler says so."""
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        """Refuse strangers."""
        host = self.request.headers.get("Host", "")
        token = self.path_kwargs.pop("token", "")
        if not self.view.names.allows_host(host):
            raise HTTPError(403, reason="Wrong host")
        if not self.view.names.allows_origin(self.request.headers.get("Origin"), host):
            raise HTTPError(403, reason="Wrong origin")
        if not hmac.compare_digest(token.encode(), self.view.token.encode()):
            raise HTTPError(404)
        if len(self.request.query) > _LONGEST_QUERY:
            raise HTTPError(414)

    def query(self) -> dict[str, str]:
        """Return the parameters of the address.

        Raises:
            ViewError: one is given twice.
        """
        given = {}
        for name in self.request.query_arguments:
            values = self.get_query_arguments(name, strip=False)
            if len(values) > 1:
                raise ViewError(f"{name} is given twice")
            given[name] = values[0]
        return given

    def whole(self, name: str, given: dict[str, str], default: int | None = None) -> int:
        """Return a whole number among the parameters.

        Raises:
            ViewError: it is missing or no whole number of at most nine digits.
        """
        text = given.get(name)
        if text is None and default is not None:
            return default
        if text is None or re.fullmatch(r"-?[0-9]{1,9}", text) is None:
            raise ViewError(f"{name} has to be a whole number")
        return int(text)

    async def in_pool(self, function: Callable[[], T]) -> T:
        """Do work in a thread of the pool; it is dropped if the browser goes away before it begins."""
        self._work = asyncio.wrap_future(self.view.pool.submit(function))
        try:
            result: T = await self._work
        finally:
            self._work = None
        return result

    def on_connection_close(self) -> None:
        """Drop work that nobody waits for."""
        if self._work is not None:
            self._work.cancel()

    def answer(self, value: JSON) -> None:
        """Send JSON."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value, allow_nan=False, separators=(",", ":")))

    def log_exception(self, *about: Any) -> None:
        """Say nothing of what users cause; the rest is ours."""
        if not isinstance(about[1], (HTTPError, TilesegmentError, asyncio.CancelledError)):
            super().log_exception(*about)

    def write_error(self, status_code: int, **given: Any) -> None:
        """Send an error as JSON, in one line."""
        error = given["exc_info"][1] if "exc_info" in given else None
        message = self._reason
        if isinstance(error, TilesegmentError):
            self.set_status(503 if isinstance(error, BusyError) else 400 if isinstance(error, ViewError) else 500)
            message = one_line(error)
        self.answer({"error": message})
