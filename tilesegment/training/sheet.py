"""Sheets of pictures: panels in rows at their own pixels, with a title, headings, captions and legends."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tilesegment.files import write_atomically
from tilesegment.preview import shortened

_GAP = 12  # pixels between and around the panels
_NARROWEST = 640  # so that title and legends have room beside a single small panel


def draw_sheet(
    path: Path,
    rows: Sequence[Sequence[np.ndarray]],
    *,
    title: str,
    headings: Sequence[str] = (),
    captions: Sequence[str] = (),
    legends: Mapping[str, Mapping[str, str]],
) -> None:
    """Writes panels as one PNG, atomically. No panel is resampled, so outlines of one pixel stay crisp.

    Args:
        path: of the PNG.
        rows: panels, each (h, w, 3) uint8; rows may differ in length.
        title: line above everything.
        headings: of the columns, or none.
        captions: lines above the rows, or none.
        legends: below everything, each under its heading: the colour `#rrggbb` of each name.
    """
    columns = max(map(len, rows))
    widths = [max(row[n].shape[1] for row in rows if n < len(row)) for n in range(columns)]
    heights = [max(panel.shape[0] for panel in row) for row in rows]
    width = max(sum(widths) + _GAP * (columns + 1), _NARROWEST)
    # a wide sheet is looked at from further away
    font = ImageFont.load_default(min(max(width // 75, 14), 28))
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    line = int(1.8 * font.size)
    below = _legend_rows(legends, font, width - 2 * _GAP)
    lines = 1 + bool(headings) + len(captions) + len(below)
    canvas = Image.new("RGB", (width, 2 * _GAP + lines * line + sum(heights) + len(rows) * _GAP), "white")
    draw = ImageDraw.Draw(canvas)

    def write(x: int, y: int, text: str, ink: str = "black", room: int = width - 2 * _GAP) -> None:
        draw.text((x, y + line // 2), fitting(text, font, room), ink, font, anchor="lm")

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
        top += tall + _GAP
    for entries in below:
        for left, text, colour in entries:
            if colour is None:
                write(_GAP + left, top, text, "#666666")
            else:
                box, side = top + (line - font.size) // 2, int(font.size)
                draw.rectangle((_GAP + left, box, _GAP + left + side, box + side), colour, "black")
                write(_GAP + left + int(1.5 * side), top, text)
        top += line
    content = BytesIO()
    canvas.save(content, "PNG")
    write_atomically(path, content.getvalue())


def enlarged(panel: np.ndarray, side: int) -> np.ndarray:
    """A small panel (h, w, 3) with each pixel repeated, as long as it stays within `side` pixels."""
    times = max(side // max(panel.shape[:2]), 1)
    return panel.repeat(times, axis=0).repeat(times, axis=1)


def fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A name as one printable line, shortened by dots where it is wider than `width` pixels."""
    return shortened("".join(c if c.isprintable() else "?" for c in " ".join(text.split())), font, width)


def _legend_rows(
    legends: Mapping[str, Mapping[str, str]], font: ImageFont.FreeTypeFont, width: int
) -> list[list[tuple[int, str, str | None]]]:
    """Rows of (left edge, text, colour) that fit into `width` pixels; a legend's heading has no colour."""
    rows: list[list[tuple[int, str, str | None]]] = []
    for heading, entries in legends.items():
        left = 0
        rows.append([])
        for text, colour in ((f"{heading}:", None), *entries.items()):
            text = fitting(text, font, width / 2)
            wide = int(font.getlength(text) + (3 if colour else 1) * font.size)
            if left + wide > width:
                left = 0
                rows.append([])
            rows[-1].append((left, text, colour))
            left += wide
    return rows
