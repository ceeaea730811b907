"""How far the layers are that still change; the page asks once a second while there are any."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tilesegment.errors import ViewError
from tilesegment.masks.target import partial_name, read_record
from tilesegment.stores import Place
from tilesegment.viewer.handler import Handler
from tilesegment.viewer.layer import JSON, Layer, Progress

MOST_CELLS = 64  # along each axis


def is_begun(mask: Place) -> bool:
    """Whether there is anything under the name of a mask, or one of that name is in progress."""
    if any(read_record(place) is not None for place in (mask, partial_name(mask))):
        return True
    return isinstance(mask, Path) and mask.exists()


class ProgressRequest(Handler):
    """What is in progress."""

    async def get(self) -> None:
        """Send it."""
        if self.query():
            raise ViewError("progress takes no parameters")
        self.answer(await self.in_pool(lambda: in_progress(self.view.scene.layers)))


def in_progress(layers: Sequence[Layer]) -> dict[str, JSON]:
    """Return how far each layer is that still changes: `{"layers": [...]}`, empty if none does.

    Each has its number as `layer`, blocks as `done` and `total`, a `version` that grows with its tiles, megapixels per
    second as `rate`, the seconds that are `left`, and where blocks are done as `cells`; the last three are None where
    they are unknown.
    """
    found = ((number, layer, layer.progress()) for number, layer in enumerate(layers))
    return {"layers": [_as_json(number, layer, how) for number, layer, how in found if how is not None]}


def _as_json(number: int, layer: Layer, how: Progress) -> dict[str, JSON]:
    return {
        "layer": number,
        "done": how.done,
        "total": how.total,
        "version": how.version,
        "rate": how.rate,
        "left": seconds_left(layer, how),
        "cells": cells_of(how),
    }


def seconds_left(layer: Layer, how: Progress) -> float | None:
    """Return the seconds until all of a layer is stored, at the speed of late; None if that is unknown or zero."""
    if not how.rate:
        return None
    pixels = layer.shape[0] * layer.shape[1] * (layer.depth or 1)
    return pixels * (1 - how.done / how.total) / 1e6 / how.rate


def cells_of(how: Progress) -> dict[str, JSON] | None:
    """Return where blocks are done: a tile has changed if the sum over the cells that it touches has.

    That is the `side` of a cell in pixels of the layer, and the number of its blocks that are done in all planes, as
    `counts`, row by row; at most 64 x 64 cells, however many blocks there are.
    """
    if how.stored is None:
        return None
    counts = how.stored.sum(axis=0, dtype=np.int64)
    factor = -(-max(counts.shape) // MOST_CELLS)
    for axis in (0, 1):
        counts = np.add.reduceat(counts, range(0, counts.shape[axis], factor), axis=axis)
    return {"side": how.block * factor, "counts": counts.tolist()}
