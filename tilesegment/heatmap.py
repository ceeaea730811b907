"""A picture of how probable a class is in a whole image, drawn from a reduced level of its probabilities."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tilesegment.errors import MaskError, PlanError
from tilesegment.geometry import Region
from tilesegment.masks.reader import open_probabilities
from tilesegment.masks.store import BlockArray
from tilesegment.metadata import LabelClass
from tilesegment.preview import BY, check_place, comment_of, save_picture, shortened

_BLOCK = 1024
_SHOWS = f"heat map {BY}"  # begins the comment by which one of ours is known
_GAP, _BAR = 12, 18
# every eighth of matplotlib's map inferno: evenly brighter, so that it reads as well in grey
_INFERNO = (
    *((0, 0, 4), (31, 12, 72), (87, 15, 109), (136, 34, 106), (188, 55, 84)),
    *((227, 89, 51), (249, 142, 9), (249, 201, 50), (252, 255, 164)),
)


@dataclass(frozen=True)
class Heatmap:
    """A heat map to draw.

    Attributes:
        path: a PNG.
        probabilities: the Zarr that it is drawn from.
        shown: id of the class; None is every class but 0.
    """

    path: Path
    probabilities: Path
    shown: int | None = None

    def draw(self, max_side: int = 2048) -> None:
        """Draw plane 0 of the finest level that has at most `max_side` pixels a side, and write the PNG.

        A smaller level is a mean of the larger ones, so each of its pixels is the mean of what it covers.

        Raises:
            MaskError: the probabilities cannot be read, or the picture cannot be written.
        """
        spec, levels = open_probabilities(self.probabilities)
        number = next((n for n, level in enumerate(levels) if max(level.shape) <= max_side), len(levels) - 1)
        values = self._values(levels[number], max_side)
        name = "any class but 0" if self.shown is None else spec.classes[self.shown].name
        if self.shown is None and len(spec.classes) == 2:
            name = spec.classes[1].name
        title = f"{self.probabilities.name}: probability of {name}, level {number}"
        picture = _compose(values, title)
        save_picture(picture, self.path, "heat map", f"{_SHOWS}{name}")

    def _values(self, level: BlockArray, max_side: int) -> np.ndarray:
        """Probabilities (h, w) float32 of what is shown, every n-th where even the smallest level is too large."""
        height, width = level.shape
        every = -(-max(height, width) // max_side)
        side = _BLOCK // every * every or every
        values = np.empty((-(-height // every), -(-width // every)), np.float32)
        for region in Region.of_shape(level.shape).squares(side):
            pixels = level.read(region, 0)
            chosen = 1.0 - _unit(pixels[0]) if self.shown is None else _unit(pixels[self.shown])
            part = chosen[::every, ::every]
            y, x = region.y0 // every, region.x0 // every
            values[y : y + part.shape[0], x : x + part.shape[1]] = part
        return values


def class_to_show(wanted: str | None, classes: tuple[LabelClass, ...]) -> int | None:
    """The id of the class of this name or number; None is the foreground, every class but 0.

    Raises:
        PlanError: there is none.
    """
    if wanted is None or wanted == "foreground":
        return None
    names = [one.name for one in classes]
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise PlanError(
        f"--heatmap-class {wanted}: the model has no such class; allowed: foreground, {', '.join(names)}, "
        f"or a number from 0 to {len(names) - 1}"
    )


def check_heatmap(path: Path, overwrite: bool) -> None:
    """Whether a heat map can be written to `path`, before there is one. One that was drawn before is replaced.

    Raises:
        MaskError: another suffix than .png, no such folder, or another file of this name.
    """
    if path.suffix.lower() != ".png":
        raise MaskError(f"{path}: a heat map is written as .png, not {path.suffix!r}: choose such a name")
    check_place(path)
    if path.is_dir() or (path.exists() and not overwrite and not comment_of(path).startswith(_SHOWS)):
        raise MaskError(f"{path} exists and is no heat map of ours; choose another name, or use --overwrite")


def _unit(values: np.ndarray) -> np.ndarray:
    """Probabilities as float32 from 0 to 1."""
    return values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1)


def palette() -> np.ndarray:
    """The 256 colours from 0 to 1, (256, 3) uint8."""
    places = np.linspace(0, 1, len(_INFERNO))
    parts = [np.interp(np.linspace(0, 1, 256), places, part) for part in zip(*_INFERNO, strict=True)]
    return np.rint(np.stack(parts, axis=-1)).astype(np.uint8)


def _compose(values: np.ndarray, title: str) -> Image.Image:
    """The map of `values` (h, w), 0 to 1, under a title and above a bar of its colours."""
    height, width = values.shape
    colours = palette()
    size = int(np.clip(width / 40, 13, 28))
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    top, wide = _GAP + 2 * size, max(width, 260)
    canvas = Image.new("RGB", (wide + 2 * _GAP, top + height + _BAR + 2 * size + 2 * _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, _GAP // 2 + size), shortened(title, font, wide), "black", font, anchor="lm")
    canvas.paste(Image.fromarray(colours[np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)]), (_GAP, top))
    length, bar = min(wide, 20 * size), top + height + _GAP
    ramp = np.broadcast_to(colours[np.linspace(0, 255, length).astype(np.uint8)], (_BAR, length, 3))
    canvas.paste(Image.fromarray(np.ascontiguousarray(ramp)), (_GAP, bar))
    draw.rectangle((_GAP - 1, bar - 1, _GAP + length, bar + _BAR), outline="black")
    for share, anchor in ((0.0, "lt"), (0.5, "mt"), (1.0, "rt")):
        draw.text((_GAP + share * length, bar + _BAR + size // 3), f"{share:g}", "black", font, anchor=anchor)
    return canvas
