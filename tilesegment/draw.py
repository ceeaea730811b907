"""All pictures: pixels become colours, panels a sheet, and a sheet a file."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tilesegment.errors import MaskError, one_line
from tilesegment.files import replacing
from tilesegment.geometry import Region
from tilesegment.metadata import LabelClass

Legend = Sequence[tuple[str, str]]  # names and their colours, `#rrggbb`

# from Okabe and Ito's palette (2008), distinguishable by colour-blind readers
_MISSED, _FALSE, _CONFUSED, UNLABELLED = "#d55e00", "#56b4e9", "#f0e442", "#808080"
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_BY = "by tilesegment of "  # in the comment of each picture that may lie among images
PREVIEW, HEATMAP = f"preview {_BY}", f"heat map {_BY}"
_OUTLINE = 0.9  # opacity
_GAP = 12  # pixels between and around the panels
_NARROWEST = 640  # pixels: room for title and legends beside a single small panel
_LARGEST, _SMALLEST = 700, 320  # sides of the panels of `compare` in pixels


def stretch(image: np.ndarray) -> np.ndarray:
    """Draw an image in its own colours.

    Three or four channels are red, green, blue and an opacity that is ignored. As uint8 they are drawn unchanged; other
    types share one scale, from 0 (or the 1st percentile, if negative) to the 99.8th percentile, since separate scales
    would turn white to cyan. Other channels are stretched one by one, from the 1st to the 99.8th percentile: one
    is grey, two are green and magenta, and of five and more the first three are red, green and blue.

    Args:
        image: (C, h, w) of any number type. NaN and infinity are black.

    Returns:
        (h, w, 3) uint8.
    """
    colour = len(image) in (3, 4)
    if colour and image.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(image[:3], 0, -1))
    pixels = np.asarray(image[:3], np.float32)
    if colour:
        low, high = _percentiles(pixels)
        planes = list(_scaled(pixels, min(low, 0), high))
    else:
        planes = [_scaled(plane, *_percentiles(plane)) for plane in pixels]
    if len(planes) == 2:
        planes = [planes[1], planes[0], planes[1]]
    return np.stack(planes * (3 // len(planes)), axis=-1)


def _percentiles(pixels: np.ndarray) -> tuple[float, float]:
    known = pixels[np.isfinite(pixels)]
    low, high = np.percentile(known, (1, 99.8)) if known.size else (0, 1)
    return float(low), float(high)


def _scaled(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = np.where(np.isfinite(pixels), (pixels - low) / max(high - low, 1e-12) * 255, 0)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def overlay(picture: np.ndarray, ids: np.ndarray, classes: Sequence[LabelClass], opacity: float = 0.4) -> np.ndarray:
    """Draw classes over a picture: a light fill, and the outermost pixels of each region nearly opaque.

    Args:
        picture: (h, w, 3) uint8.
        ids: (h, w) uint8 class ids. Class 0, and ids beyond `classes` (no data), stay bare.
        classes: their colours.
        opacity: of the fill, 0 to 1.

    Returns:
        (h, w, 3) uint8.
    """
    colours = np.zeros((256, 3), np.float32)
    colours[: len(classes)] = [entry.rgb for entry in classes]
    shown = (ids > 0) & (ids < len(classes))
    cover = (np.where(_outline(ids), max(_OUTLINE, opacity), opacity) * shown)[..., None]
    return np.rint(picture * (1 - cover) + colours[ids] * cover).astype(np.uint8)


def _outline(ids: np.ndarray) -> np.ndarray:
    """Pixels (h, w) next to another class; within two pixels of it in a large picture."""
    edge = np.zeros(ids.shape, bool)
    for shift in (1, 2) if max(ids.shape) > 800 else (1,):
        down, across = ids[shift:] != ids[:-shift], ids[:, shift:] != ids[:, :-shift]
        edge[shift:] |= down
        edge[:-shift] |= down
        edge[:, shift:] |= across
        edge[:, :-shift] |= across
    return edge


def paint(picture: np.ndarray, where: np.ndarray, colour: str, opacity: float) -> np.ndarray:
    """Cover the pixels `where` (h, w) of a picture (h, w, 3) uint8 with a colour."""
    cover = opacity * where[..., None]
    return np.rint(picture * (1 - cover) + np.array(LabelClass("", colour).rgb) * cover).astype(np.uint8)


def heat(values: np.ndarray) -> tuple[np.ndarray, Legend]:
    """Draw values (h, w) from 0 to 1 as colours (h, w, 3) uint8 of evenly growing brightness, with a legend."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    legend = [(f"{n / 255:g}", f"#{colours[n].tobytes().hex()}") for n in range(0, 256, 51)]
    return colours[np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)], legend


def reduce(
    read: Callable[[Region], np.ndarray], shape: tuple[int, int], factor: int, *, mean: bool = False, block: int = 2048
) -> np.ndarray:
    """Reduce an image of any size, block by block.

    Args:
        read: the pixels of a region, (C, h, w).
        shape: of the image, (height, width).
        factor: by which both sides are divided.
        mean: average `factor` x `factor` pixels; else keep the first, as class ids need.
        block: largest side in pixels that is read at once.

    Returns:
        (C, ceil(height / factor), ceil(width / factor)) of the same type.
    """
    side = max(block // factor, 1) * factor
    shrink = _mean if mean else lambda pixels, factor: pixels[:, ::factor, ::factor]
    height, width = shape
    rows = [
        [shrink(read(Region(y, x, min(y + side, height), min(x + side, width))), factor) for x in range(0, width, side)]
        for y in range(0, height, side)
    ]
    return np.block(rows)


def _mean(pixels: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return pixels
    starts = [np.arange(0, size, factor) for size in pixels.shape[1:]]
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float32), starts[0], axis=1), starts[1], axis=2)
    heights, widths = (np.diff(s, append=size) for s, size in zip(starts, pixels.shape[1:], strict=True))
    means = sums / (heights[:, None] * widths)
    return (means if pixels.dtype.kind == "f" else np.rint(means)).astype(pixels.dtype)


def enlarged(panel: np.ndarray, side: int) -> np.ndarray:
    """Enlarge a small panel (h, w, 3) by a whole factor, up to `side` pixels."""
    times = max(side // max(panel.shape[:2]), 1)
    return panel.repeat(times, axis=0).repeat(times, axis=1)


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


@dataclass(frozen=True)
class Sample:
    """An image, its labels and a prediction.

    Attributes:
        caption: its name and score.
        image: (C, H, W) of any number type; None to compare without it.
        truth, prediction: (H, W) uint8 class ids; larger ids in `truth` mean not labelled.
    """

    caption: str
    image: np.ndarray | None
    truth: np.ndarray
    prediction: np.ndarray


def compare(samples: Sequence[Sample], classes: Sequence[LabelClass], title: str) -> Image.Image:
    """Draw one row per sample: image, labels, prediction and errors, at most 700 pixels a side.

    Over an image, two classes are drawn as outlines of class 1, so that the image stays visible, and more classes in
    half-transparent colours. Either all samples have an image or none; without one, two classes are black and white.
    """
    first, pictured = classes[0].name, samples[0].image is not None
    if not pictured and len(classes) == 2:
        classes = (classes[0], replace(classes[1], colour="#ffffff"))
    errors = [(f"missed ({first} predicted)", _MISSED), (f"false ({first} in the labels)", _FALSE)]
    if len(classes) > 2:
        errors.append(("another class than in the labels", _CONFUSED))
    if any(np.any(sample.truth >= len(classes)) for sample in samples):
        errors.append(("not labelled", UNLABELLED))
    drawn = "outlines" if pictured and len(classes) == 2 else "classes"
    return sheet(
        [_row(sample, classes) for sample in samples],
        title=title,
        headings=("image", "labels", "prediction", "errors")[not pictured :],
        captions=[sample.caption for sample in samples],
        legends={drawn: legend_of(classes), "errors": errors},
    )


def legend_of(classes: Sequence[LabelClass]) -> Legend:
    """Return names and colours of all classes but the first, which is not drawn."""
    return [(one.name, one.colour) for one in classes[1:]]


def _row(sample: Sample, classes: Sequence[LabelClass]) -> list[np.ndarray]:
    factor = -(-max(sample.truth.shape) // _LARGEST)
    truth, prediction = sample.truth[::factor, ::factor], sample.prediction[::factor, ::factor]
    known = truth < len(classes)
    if sample.image is None:
        base, opacity = np.zeros((*truth.shape, 3), np.uint8), 1.0
        dim = np.repeat(np.uint8(60) * (known & (truth > 0))[..., None], 3, -1)
    else:
        base = np.asarray(Image.fromarray(stretch(sample.image)).reduce(factor))
        dim, opacity = (base * 0.55).astype(np.uint8), 0.0 if len(classes) == 2 else 0.5
    labels = paint(overlay(base, truth, classes, opacity), ~known, UNLABELLED, 0.6)
    errors, wrong = paint(dim, ~known, UNLABELLED, 0.6), known & (truth != prediction)
    for part, colour in ((prediction == 0, _MISSED), (truth == 0, _FALSE), ((prediction > 0) & (truth > 0), _CONFUSED)):
        errors = paint(errors, wrong & part, colour, 0.9)
    panels = [base, labels, overlay(base, prediction, classes, opacity), errors]
    return [enlarged(panel, _SMALLEST) for panel in panels[sample.image is None :]]


def save(picture: Image.Image, path: Path, comment: str = "") -> None:
    """Write a picture atomically, as PNG or JPEG by the suffix of `path`, with `comment` in its metadata.

    Raises:
        MaskError: it cannot be written.
    """
    text = PngInfo()
    if comment:
        text.add_text("comment", comment)
    try:
        with replacing(path) as (partial,):
            # PNG takes pnginfo, JPEG the comment
            picture.save(partial, format=_FORMATS[path.suffix.lower()], pnginfo=text, comment=comment.encode())
    except OSError as error:
        raise MaskError(f"{path} cannot be written ({error}): check the folder and its free space") from error


def comment_of(path: Path) -> str:
    """Return the comment that `save` wrote; empty if there is none, or `path` is no PNG or JPEG."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:  # no pixel is decoded
            comment = picture.info.get("comment", b"")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""
    return comment.decode(errors="replace") if isinstance(comment, bytes) else str(comment)


def is_picture_of_ours(path: Path) -> bool:
    """Whether a file is a preview or a heat map."""
    return _BY in comment_of(path)


def check_picture(path: Path, *, overwrite: bool = True, same: str | None = None) -> None:
    """Check, before a picture is drawn, that it can be written to `path`.

    Args:
        path: file of the picture.
        overwrite: whether any file may be replaced.
        same: a picture whose comment begins with this may be replaced anyway.

    Raises:
        MaskError: a suffix other than .png, .jpg or .jpeg, no writable folder, or a file that must not be replaced.
    """
    if path.suffix.lower() not in _FORMATS:
        raise MaskError(
            f"{path}: a picture is written as {', '.join(_FORMATS)}, not {path.suffix!r}: choose one of these"
        )
    if not path.parent.is_dir():
        raise MaskError(f"{path}: there is no folder {path.parent}; create it, or choose another place")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise MaskError(f"{path}: the folder {path.parent} cannot be written to; choose another place")
    if path.is_dir() or (path.exists() and not overwrite and not (same and comment_of(path).startswith(same))):
        raise MaskError(f"{path} exists and is another picture; choose another name, or replace it with --overwrite")
