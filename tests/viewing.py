"""Asking the viewer's server as a browser does."""

import http.client
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tilesegment.viewer import Server


@dataclass(frozen=True)
class Answer:
    """What the server sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def picture(self) -> np.ndarray:
        """(h, w) or (h, w, 3) uint8."""
        return np.asarray(Image.open(io.BytesIO(self.body)))


def ask(
    server: Server,
    name: str = "",
    *,
    method: str = "GET",
    token: str | None = None,
    body: bytes | None = None,
    **headers: str,
) -> Answer:
    """Send one request for what is `name` below the token; headers are given with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, f"/{server.token if token is None else token}/{name}", body, named)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()
