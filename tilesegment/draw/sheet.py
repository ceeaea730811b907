"""Panels become a sheet, with titles, captions, legends and a scale bar."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tilesegment.draw.colours import Legend
from tilesegment.errors import one_line

_GAP = 12  # pixels between and around the panels
_NARROWEST = 640  # pixels: room for title and legends beside a single small panel


def scale_bar(picture: np.ndarray, width: float) -> np.ndarray:
    """Draw a scale bar of a round length, up to a quarter of the picture, into the lower left corner.

    Args:
        picture: (h, w, 3) uint8.
        width: width of a pixel, in micrometres.
    """
    canvas, size = Image.fromarray(picture), int(np.clip(picture.shape[1] / 28, 13, 40))
    draw, font = ImageDraw.Draw(canvas), _font(size)
    longest = picture.shape[1] * width / 4
    decade = 10.0 ** math.floor(math.log10(longest))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= longest)
    unit, factor = ("nm", 1000) if length < 0.999 else ("um", 1) if length < 999 else ("mm", 1e-3)
    x, y, thick, text = size, len(picture) - size, max(size // 4, 3), f"{length * factor:g} {unit}"
    right = x + round(length / width)
    wide = max(right - x, math.ceil(font.getlength(text)))
    draw.rectangle((x - thick, y - thick - 1.6 * size, x + wide + thick, y + thick), "black")
    draw.rectangle((x, y - thick, right, y), "white")
    draw.text((x, y - 2 * thick), text, "white", font, anchor="ls")
    return np.asarray(canvas)


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    title: str,
    headings: Sequence[str] = (),
    captions: Sequence[str] = (),
    legends: Mapping[str, Legend],
) -> Image.Image:
    """Lay out panels without resampling, so that outlines of one pixel stay crisp.

    Args:
        rows: panels, each (h, w, 3) uint8; rows may differ in length.
        title: line above everything.
        headings: of the columns, or none.
        captions: lines above the rows, or none.
        legends: below everything, each under its heading, which may be empty.
    """
    count = max(map(len, rows))
    widths = [max(row[n].shape[1] for row in rows if n < len(row)) for n in range(count)]
    heights = [max(len(panel) for panel in row) for row in rows]
    width = max(sum(widths) + _GAP * (count + 1), _NARROWEST)
    font = _font(min(max(width // 75, 14), 28))  # wide sheets are viewed scaled down
    line = int(1.8 * font.size)
    keys = _legend_lines(legends, font, width - 2 * _GAP)
    lines = 1 + bool(headings) + len(captions) + len(keys)
    canvas = Image.new("RGB", (width, 2 * _GAP + lines * line + sum(heights) + len(rows) * _GAP), "white")
    draw = ImageDraw.Draw(canvas)

    def write(x: int, y: int, text: str, ink: str = "black", room: int = width - 2 * _GAP) -> None:
        draw.text((x, y + line // 2), _fitting(text, font, room), ink, font, anchor="lm")

    write(_GAP, _GAP, title)
    top, lefts = _GAP + line, np.cumsum([_GAP] + [wide + _GAP for wide in widths]).tolist()
    for left, wide, heading in zip(lefts, widths, headings, strict=False):
        write(left, top, heading, "#666666", wide)
    top += line * bool(headings)
    for n, (row, tall) in enumerate(zip(rows, heights, strict=True)):
        if captions:
            write(_GAP, top, captions[n])
            top += line
        for left, panel in zip(lefts, row, strict=False):
            canvas.paste(Image.fromarray(panel), (left, top))
            draw.rectangle((left - 1, top - 1, left + panel.shape[1], top + len(panel)), outline="#999999")
        top += tall + _GAP
    for entries in keys:
        for left, text, colour in entries:
            if colour is None:
                write(left, top, text, "#666666")
            else:
                box, side = top + (line - font.size) // 2, int(font.size)
                draw.rectangle((left, box, left + side, box + side), colour, "black")
                write(left + int(1.5 * side), top, text)
        top += line
    return canvas


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Put the text on one line, shortened with dots to `width` pixels."""
    text = one_line(" ".join(text.split()) or " ", 1000)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _legend_lines(
    legends: Mapping[str, Legend], font: ImageFont.FreeTypeFont, width: int
) -> list[list[tuple[int, str, str | None]]]:
    """Break legends into lines of (left edge, text, colour) that fit into `width` pixels; headings have no colour."""
    lines: list[list[tuple[int, str, str | None]]] = []
    for heading, entries in legends.items():
        left = 0
        lines.append([])
        first: list[tuple[str, str | None]] = [(f"{heading}:", None)] if heading else []
        for text, colour in (*first, *entries):
            text = _fitting(text, font, width / 2)
            wide = int(font.getlength(text) + (3 if colour else 1) * font.size)
            if left and left + wide > width:
                left = 0
                lines.append([])
            lines[-1].append((_GAP + left, text, colour))
            left += wide
    return lines
