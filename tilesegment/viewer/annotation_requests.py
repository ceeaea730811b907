"""Requests of what is drawn: the file, its replacement, and the eraser."""

import json
import re
from http import HTTPStatus

from tornado.web import HTTPError

from tilesegment.errors import ViewError, one_line
from tilesegment.viewer.annotations import Annotations, ChangedError
from tilesegment.viewer.drawn import MAX_BYTES, LimitError
from tilesegment.viewer.erasing import Geometry, erased
from tilesegment.viewer.handler import Handler


class DrawnRequest(Handler):
    """A request of what is drawn; 404 if nothing is."""

    def annotations(self) -> Annotations:
        """Return the file that is drawn in."""
        annotations = self.view.scene.annotations
        if annotations is None:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        return annotations

    def refuse(self, error: ViewError) -> None:
        """Say why nothing was done, in one line."""
        is_limit = isinstance(error, LimitError)
        self.set_status(HTTPStatus.REQUEST_ENTITY_TOO_LARGE if is_limit else HTTPStatus.CONFLICT)
        self.answer({"error": one_line(error)})


class AnnotationsRequest(DrawnRequest):
    """The annotations, as GeoJSON; the version of the file is the ETag."""

    async def get(self) -> None:
        """Send them; 304 if the browser names their version in If-None-Match."""
        annotations = self.annotations()
        if self.request.headers.get("If-None-Match"):
            version = await self.in_pool(annotations.version)
            if self.request.headers["If-None-Match"].strip() == f'"{version}"':
                self.set_status(HTTPStatus.NOT_MODIFIED)
                return
        stored = await self.in_pool(annotations.read)
        self.set_header("Content-Type", "application/geo+json")
        self.set_header("ETag", f'"{stored.version}"')
        self.finish(stored.text)

    async def put(self) -> None:
        """Store others in place of the version in If-Match: 409 if the file has another, 413 if they are too large."""
        annotations, body = self.annotations(), self.request.body
        match = re.fullmatch(r'"([0-9a-f]{32})"', self.request.headers.get("If-Match", "").strip())
        if match is None:
            raise HTTPError(HTTPStatus.PRECONDITION_REQUIRED, reason="If-Match is missing, or is no version")
        try:
            version = await self.in_pool(lambda: annotations.replace(body, match[1]))
        except (ChangedError, LimitError) as error:
            self.refuse(error)
        else:
            self.set_header("ETag", f'"{version}"')
            self.answer({"version": version})

    def compute_etag(self) -> None:
        """The ETag is the version of the file, not of the answer."""


class EraseRequest(DrawnRequest):
    """Geometries without an area; nothing is stored."""

    async def post(self) -> None:
        """Send a list: of each geometry what is left, null where nothing is."""
        self.annotations()
        try:
            geometries, area = _to_erase(self.request.body)
            self.answer({"geometries": await self.in_pool(lambda: erased(geometries, area))})
        except LimitError as error:
            self.refuse(error)


def _to_erase(body: bytes) -> tuple[list[Geometry], Geometry]:
    if len(body) > MAX_BYTES:
        raise LimitError(f"what is to be erased has {len(body):,} bytes, at most {MAX_BYTES:,} are allowed")
    try:
        document = json.loads(body)
        geometries, area = document["geometries"], document["area"]
        if not isinstance(geometries, list):
            raise TypeError("geometries are no list")
    except (TypeError, ValueError, LookupError, RecursionError) as error:
        raise ViewError(f"what is to be erased is not readable: {one_line(error, 80)}") from error
    return geometries, area
