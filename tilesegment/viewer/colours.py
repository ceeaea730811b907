"""How the values of an image become colours: channels, each in a colour over a range; or red, green, blue as stored."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tilesegment.errors import ViewError
from tilesegment.viewer.layer import Picture

_CHANNEL = re.compile(r"(\d{1,3}):([0-9a-f]{6}):([-+.0-9e]{1,24}):([-+.0-9e]{1,24})", re.ASCII)
MOST_CHANNELS = 8  # that are mixed at once
_COLOURS = {
    1: ("ffffff",),
    2: ("00ff00", "ff00ff"),
    3: ("ff0000", "00ff00", "0000ff"),
}
_MANY = ("0000ff", "00ff00", "ff0000", "ffffff", "00ffff", "ff00ff", "ffff00", "ff8000")
_QUALITY = 90  # of JPEG


@dataclass(frozen=True)
class Channel:
    """A channel that is shown: its number, its colour as rrggbb, and the values that are black and full colour."""

    number: int
    colour: str
    low: float
    high: float

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green, blue, each 0 to 255."""
        return int(self.colour[:2], 16), int(self.colour[2:4], 16), int(self.colour[4:], 16)


def parse_channels(text: str, count: int) -> tuple[Channel, ...]:
    """Read `number:rrggbb:low:high,...` of an image of `count` channels.

    Raises:
        ViewError: it is malformed, or names too many channels or one that there is not.
    """
    parts = text.split(",") if text else []
    if len(parts) > MOST_CHANNELS:
        raise ViewError(f"{len(parts)} channels are too many: at most {MOST_CHANNELS} are mixed")
    channels = []
    for part in parts:
        match = _CHANNEL.fullmatch(part)
        try:
            low, high = (float(one) for one in match.groups()[2:]) if match else (math.nan, math.nan)
        except ValueError:
            match = None
        if match is None or not (math.isfinite(low) and math.isfinite(high)):
            raise ViewError(f"{part!r} is no channel: give number:rrggbb:low:high, such as 0:ff0000:0:255")
        if int(match[1]) >= count:
            raise ViewError(f"there is no channel {match[1]}: choose from 0 to {count - 1}")
        channels.append(Channel(int(match[1]), match[2], low, high))
    return tuple(channels)


def usual_colours(count: int) -> tuple[str, ...]:
    """Return a colour for each of `count` channels, as rrggbb."""
    return _COLOURS.get(count) or tuple(_MANY[n % len(_MANY)] for n in range(count))


def mixed(pixels: np.ndarray, channels: Sequence[Channel]) -> np.ndarray:
    """Add up channels in their colours.

    Args:
        pixels: (C, h, w) uint8, uint16 or float32; NaN is black.
        channels: which of them, how.

    Returns:
        (h, w) uint8 if all are grey, else (h, w, 3) uint8.
    """
    grey = all(len(set(one.rgb)) == 1 for one in channels)
    total = np.zeros((*pixels.shape[1:], 1 if grey else 3), np.float32)
    for one in channels:
        light = _light(pixels[one.number], one.low, one.high)
        for n, full in enumerate(one.rgb[:1] if grey else one.rgb):
            if full:
                total[..., n] += light * np.float32(full)
    drawn = np.rint(np.minimum(total, 255)).astype(np.uint8)
    return drawn[..., 0] if grey else drawn


def _light(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 at `low` and below to 1 at `high`, (h, w) float32; the other way round where `high` is less."""
    if values.dtype.kind == "u":
        table = _ramp(np.arange(np.iinfo(values.dtype).max + 1), low, high)
        return table[values]
    return _ramp(values, low, high)


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    span = high - low or 1e-30
    with np.errstate(invalid="ignore", over="ignore"):
        light = np.clip((values.astype(np.float64) - low) / span, 0, 1)
    return np.nan_to_num(light, nan=0.0).astype(np.float32)


def as_stored(pixels: np.ndarray) -> np.ndarray:
    """Return red, green and blue, (h, w, 3) uint8, of (3 or 4, h, w) uint8; what is transparent is on white."""
    colours = np.ascontiguousarray(np.moveaxis(pixels[:3], 0, -1))
    if len(pixels) == 4 and pixels[3].min() < 255:
        share = pixels[3, ..., None].astype(np.float32) / 255
        colours = np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)
    return colours


def encoded(drawn: np.ndarray, *, exact: bool, lasting: bool = True) -> Picture:
    """Encode (h, w) or (h, w, 3) uint8 as PNG if it is to be exact, else as JPEG."""
    out = io.BytesIO()
    if exact:
        Image.fromarray(drawn).save(out, "PNG", compress_level=1)
        return Picture(out.getvalue(), "image/png", lasting)
    Image.fromarray(drawn).save(out, "JPEG", quality=_QUALITY, subsampling=0)
    return Picture(out.getvalue(), "image/jpeg", lasting)
