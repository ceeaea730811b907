"""A picture of an evaluation: image, truth, prediction and errors of the worst images and the best, in a row each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.labels import BLOCK, IGNORE, LabelOptions
from tilesegment.preview import check_preview_path, save_picture, stretch
from tilesegment.scoring.inputs import open_pair
from tilesegment.scoring.matching import Matching, Plane
from tilesegment.scoring.results import Evaluation, ImageScore

_PANEL = 560  # most pixels a side of a panel; larger images are reduced by leaving out rows and columns
_SMALL = 280  # smaller ones are enlarged to about this
_GAP = 14
_TEXT = 17  # height of letters in pixels
_ROWS = 3
_NAME = 40  # most letters of a name
# vermilion, blue (Okabe and Ito 2008, told apart by colour-blind readers), and greys for what is not an error
_MISSED, _FALSE, _IGNORED = (213, 94, 0), (0, 114, 178), (150, 150, 150)
_RIGHT = ((222, 222, 222), (255, 255, 255))  # class 0, others
# light and dark, as labels of cells are drawn everywhere: a palette would only distract from the errors
_TWO = ((0, 0, 0), (255, 255, 255))

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Panel:
    """A titled picture, (h, w, 3) uint8."""

    title: str
    pixels: np.ndarray


def check_figure(path: Path, inputs: Sequence[str | Path]) -> None:
    """Whether a figure can be written to `path`, before hours of work.

    Raises:
        MaskError: no such kind of picture, or no such folder.
        DataError: it would overwrite what is read.
    """
    check_preview_path(path)
    if path.is_dir() or any(
        path.resolve() == file or file in path.resolve().parents for file in map(_resolved, inputs)
    ):
        raise DataError(f"figure {path} is, or lies in, what is compared; choose another place")


def draw_figure(
    path: Path, planes: Sequence[Plane], found: Evaluation, matching: Matching, options: LabelOptions
) -> None:
    """Draws the two worst images and the best one (all, up to three) by V_Rand, or by mIoU where cells are not scored.

    Args:
        path: `.png` or `.jpg`, replaced in one go once the picture is complete.
        planes: all of them.
        found: their scores, in the same order.
        matching: what values mean.
        options: how the files are opened.

    Raises:
        MaskError: it cannot be written.
        ImageError: an image cannot be read.
    """
    rows = [
        (f"{rank}{found.images[n].name[-_NAME:]}: {_words(found.images[n])}", _panels(planes[n], matching, options))
        for rank, n in _chosen(found.images)
    ]
    legend = _legend(matching, matching.truth.ignore is not None)
    save_picture(_compose(rows, legend), path, "figure")


def _resolved(path: str | Path) -> Path:
    return Path(path).resolve()


def _chosen(images: Sequence[ImageScore]) -> list[tuple[str, int]]:
    """Rank in words and index of the images that are drawn."""
    scores = {n: one.v_rand if one.v_rand is not None else one.miou for n, one in enumerate(images)}
    order = sorted((n for n, score in scores.items() if score is not None), key=lambda n: scores[n] or 0.0)
    if len(order) == 1:
        return [("", order[0])]
    ranks = ("worst, ", "second worst, ", "best, ") if len(order) >= _ROWS else ("worst, ", "best, ")
    return list(zip(ranks, [*order[: len(ranks) - 1], order[-1]], strict=True))


def _words(score: ImageScore) -> str:
    values = {"accuracy": score.accuracy, "mIoU": score.miou, "V_Rand": score.v_rand, "V_Info": score.v_info}
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items() if value is not None)


def _panels(plane: Plane, matching: Matching, options: LabelOptions) -> list[Panel]:
    """The panels of a plane, read block by block and reduced."""
    factor, name = -(-max(plane.shape) // _PANEL), plane.pair.name
    with open_pair(plane.pair, options) as (prediction, truth):
        read = (
            lambda region: matching.truth.ids(truth.read(region, plane.z), name)[None],
            lambda region: matching.predicted_ids(prediction.read(region, plane.z), name)[None],
        )
        true, guess = (_reduced(ids, plane.shape, factor)[0] for ids in read)
    ignored = true == IGNORE
    # at ignored pixels the prediction may hold values that are no class
    true, guess = (np.where(ids == IGNORE, 0, ids) for ids in (true, guess))
    colours = np.array(_colours(matching), np.uint8)
    panels = []
    if plane.pair.image is not None:
        with open_image(plane.pair.image, invert=options.invert) as image:
            pixels = _reduced(lambda region: image.read(region, 0, plane.z), plane.shape, factor)
        panels.append(Panel("image", stretch(pixels)))
    grey, dull = ignored[..., None], np.array(_IGNORED, np.uint8)
    panels.append(Panel("truth", np.where(grey, dull, colours[true])))
    panels.append(Panel("prediction", colours[guess]))
    panels += [Panel(title, np.where(grey, dull, shown)) for title, shown in _errors(true, guess, colours)]
    enlarged = max(_SMALL // max(true.shape), 1)
    return [Panel(one.title, one.pixels.repeat(enlarged, 0).repeat(enlarged, 1)) for one in panels]


def _errors(true: np.ndarray, guess: np.ndarray, colours: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Title and pixels (h, w, 3) of the panels of errors, of class ids (h, w).

    Two classes need one panel: what is missed of one is false of the other. More need two, since every wrong pixel is
    missed for one class and false for another.
    """
    right = np.array(_RIGHT, np.uint8)[np.minimum(true, 1)]
    wrong = (true != guess)[..., None]
    if len(colours) == 2:
        kinds = np.array((_FALSE, _MISSED), np.uint8)
        return [("errors", np.where(wrong, kinds[true], right))]
    plain = np.full_like(right, 255)
    return [
        ("missed, by true class", np.where(wrong, colours[true], plain)),
        ("false, by predicted class", np.where(wrong, colours[guess], plain)),
    ]


def _colours(matching: Matching) -> tuple[Colour, ...]:
    return _TWO if len(matching.classes) == 2 else tuple(one.rgb for one in matching.classes)


def _legend(matching: Matching, ignored: bool) -> list[tuple[Colour, str]]:
    entries = [(colour, one.name) for colour, one in zip(_colours(matching), matching.classes, strict=True)]
    if len(entries) == 2:
        name = matching.classes[1].name
        entries += [(_MISSED, f"missed: {name} in the truth only"), (_FALSE, f"false: {name} in the prediction only")]
    return [*entries, (_IGNORED, "ignored")] if ignored else entries


def _reduced(read: Callable[[Region], np.ndarray], shape: tuple[int, int], factor: int) -> np.ndarray:
    """Every `factor`-th row and column of what `read` gives of a plane, (C, h / factor, w / factor), by blocks."""
    small: np.ndarray | None = None
    for region in Region.of_shape(shape).squares(BLOCK):
        # the first row and column of a block that are multiples of the factor
        top, left = -region.y0 % factor, -region.x0 % factor
        part = read(region)[:, top::factor, left::factor]
        if small is None:
            small = np.empty((len(part), -(-shape[0] // factor), -(-shape[1] // factor)), part.dtype)
        y, x = (region.y0 + top) // factor, (region.x0 + left) // factor
        small[:, y : y + part.shape[1], x : x + part.shape[2]] = part
    assert small is not None
    return small


def _compose(rows: Sequence[tuple[str, Sequence[Panel]]], legend: Sequence[tuple[Colour, str]]) -> Image.Image:
    """Rows of panels under a title each, all above a legend."""
    font = ImageFont.load_default(_TEXT)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    line = 2 * _TEXT
    widths = [sum(one.pixels.shape[1] + _GAP for one in panels) + _GAP for _, panels in rows]
    width = max(*widths, *(int(font.getlength(title)) + 2 * _GAP for title, _ in rows))
    lines = _wrapped(legend, font, width)
    heights = [2 * line + _GAP + max(one.pixels.shape[0] for one in panels) for _, panels in rows]
    canvas = Image.new("RGB", (width, sum(heights) + len(lines) * line + _GAP), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for (title, panels), height in zip(rows, heights, strict=True):
        draw.text((_GAP, top + line // 2), title, "black", font, anchor="lm", stroke_width=0.3)
        left = _GAP
        for one in panels:
            draw.text((left, top + line + line // 2), one.title, (80, 80, 80), font, anchor="lm")
            canvas.paste(Image.fromarray(one.pixels), (left, top + 2 * line))
            h, w = one.pixels.shape[:2]
            draw.rectangle((left - 1, top + 2 * line - 1, left + w, top + 2 * line + h), outline=(120, 120, 120))
            left += w + _GAP
        top += height
    for n, entries in enumerate(lines):
        middle = top + n * line + line // 2
        for x, colour, name in entries:
            draw.rectangle((x, middle - _TEXT // 2, x + _TEXT, middle + _TEXT // 2), colour, "black")
            draw.text((x + 1.5 * _TEXT, middle), name, "black", font, anchor="lm")
    return canvas


def _wrapped(
    legend: Sequence[tuple[Colour, str]], font: ImageFont.FreeTypeFont, width: int
) -> list[list[tuple[int, Colour, str]]]:
    """The entries of a legend in lines of at most `width` pixels, each with its x."""
    lines: list[list[tuple[int, Colour, str]]] = [[]]
    x = _GAP
    for colour, name in legend:
        needed = int(font.getlength(name) + 3.5 * _TEXT)
        if x + needed > width and lines[-1]:
            lines.append([])
            x = _GAP
        lines[-1].append((x, colour, name))
        x += needed
    return lines
