"""How far the layers are that still change; the page asks once a second while there are any."""

from collections.abc import Sequence

from tilesegment.viewer.handler import Handler
from tilesegment.viewer.layer import JSON, Layer, Progress


class ProgressRequest(Handler):
    """What is in progress."""

    async def get(self) -> None:
        """Send it."""
        self.answer(await self.in_pool(lambda: in_progress(self.view.scene.layers)))


def in_progress(layers: Sequence[Layer]) -> dict[str, JSON]:
    """Return how far each layer is that still changes: `{"layers": [...]}`, empty if none does.

    Each has its number as `layer`, blocks as `done` and `total`, a `version` that grows with its tiles, megapixels per
    second as `rate`, and the seconds that are `left`; the last two are None where nothing was stored of late.
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
    }


def seconds_left(layer: Layer, how: Progress) -> float | None:
    """Return the seconds until all of a layer is stored, at the speed of late; None if that is unknown or zero."""
    if not how.rate:
        return None
    pixels = layer.shape[0] * layer.shape[1] * (layer.depth or 1)
    return pixels * (1 - how.done / how.total) / 1e6 / how.rate
