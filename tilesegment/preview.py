"""Pictures for a quick look: the image beside itself with the mask drawn over it, a legend and a scale bar."""

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tilesegment.errors import MaskError
from tilesegment.files import replacing
from tilesegment.metadata import LabelClass, PixelSize

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
BY = "by tilesegment of "  # in the comment of each picture that we write
_SHOWS = f"preview {BY}"  # begins that of a preview; the digest of the mask follows
_GAP = 12  # pixels between and around the panels
_OUTLINE = 0.9  # opacity of the outlines


def stretch(image: np.ndarray) -> np.ndarray:
    """Draw an image as a picture in the colours that it has.

    Three or four channels are red, green, blue, and an opacity that is left out. As uint8 they are drawn as they are.
    Of another type they share one scale, from 0 (or the 1st percentile, where that is negative) to their 99.8th
    percentile: scales of their own would turn white to cyan and pink to brown. Other channels have no colour, so each
    is stretched from its 1st to its 99.8th percentile: one is grey, two are green and magenta, and of five and more
    the first three are red, green and blue.

    Args:
        image: (C, h, w) of any number type. NaN and infinity are black.

    Returns:
        (h, w, 3) uint8.
    """
    if len(image) in (3, 4):
        return _colours(image[:3])
    planes = [_scaled(plane, *_percentiles(plane)) for plane in np.asarray(image[:3], np.float32)]
    if len(image) == 2:
        planes = [planes[1], planes[0], planes[1]]
    return np.stack(planes * (3 // len(planes)), axis=-1)


def _colours(image: np.ndarray) -> np.ndarray:
    """Red, green and blue (3, h, w) as a picture (h, w, 3) uint8."""
    if image.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(image, 0, -1))
    shown = np.asarray(image, np.float32)
    low, high = _percentiles(shown)
    return np.moveaxis(_scaled(shown, min(low, 0), high), 0, -1)


def _percentiles(pixels: np.ndarray) -> tuple[float, float]:
    """The 1st and the 99.8th of those that are finite."""
    known = pixels[np.isfinite(pixels)]
    low, high = np.percentile(known, (1, 99.8)) if known.size else (0, 1)
    return float(low), float(high)


def _scaled(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """`low` to `high` as 0 to 255, uint8 of the same shape; what is not finite is 0."""
    scaled = np.where(np.isfinite(pixels), (pixels - low) / max(high - low, 1e-12) * 255, 0)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def overlay(image: np.ndarray, mask: np.ndarray, classes: tuple[LabelClass, ...], opacity: float = 0.4) -> np.ndarray:
    """The image with the classes' colours over it: a light fill, and a crisp outline where a class begins.

    Class 0 stays bare. The outline is the outermost pixel of every region of the other classes, drawn nearly opaque.

    Args:
        image: (C, h, w), drawn as `stretch` does.
        mask: (h, w) uint8 class ids; ids beyond `classes` (no data) stay bare too.
        classes: their colours.
        opacity: of the fill, 0 to 1.

    Returns:
        (h, w, 3) uint8.

    Raises:
        MaskError: the mask is of another size than the image.
    """
    if mask.shape != image.shape[1:]:
        raise MaskError(f"the mask is {mask.shape} and the image {image.shape[1:]} (height, width): they must agree")
    colours = np.zeros((256, 3), np.float32)
    colours[: len(classes)] = [entry.rgb for entry in classes]
    shown = (mask > 0) & (mask < len(classes))
    cover = np.where(_outline(mask), max(_OUTLINE, opacity), opacity) * shown
    return np.rint(stretch(image) * (1 - cover[..., None]) + colours[mask] * cover[..., None]).astype(np.uint8)


def save_preview(
    path: Path,
    image: np.ndarray,
    mask: np.ndarray,
    classes: tuple[LabelClass, ...],
    title: str | None = None,
    max_side: int = 2048,
    pixel_size: PixelSize | None = None,
    made_of: str = "",
) -> None:
    """Write the plain image, and beside it the overlay, above a legend and a scale bar.

    Args:
        path: `.png` or `.jpg`, replaced in one go once the picture is complete.
        image: (C, h, w).
        mask: (h, w) uint8 class ids.
        classes: names and colours for the legend.
        title: one line above the panels.
        max_side: larger images are reduced to this many pixels a side, by leaving out rows and columns.
        pixel_size: of `image` as given; without it there is no scale bar.
        made_of: digest of the mask, which is kept in the file: `shows` finds it.

    Raises:
        MaskError: another suffix, the mask is of another size, or the file cannot be written.
    """
    check_preview_path(path)
    # every n-th pixel: classes cannot be averaged, and image and mask must stay aligned
    every = max(-(-max(mask.shape) // max_side), 1)
    image, mask = image[:, ::every, ::every], mask[::every, ::every]
    width = pixel_size.x * every if pixel_size else None
    picture = _compose(stretch(image), overlay(image, mask, classes), classes, title, width)
    save_picture(picture, path, "preview", f"{_SHOWS}{made_of}" if made_of else None)


def shows(path: Path) -> str | None:
    """The digest of the mask that the preview `path` was made of; None if it is no preview, or does not say."""
    text = comment_of(path)
    return text.removeprefix(_SHOWS) if text.startswith(_SHOWS) else None


def is_picture_of_ours(path: Path) -> bool:
    """Whether a file is a preview or a heat map that was drawn here."""
    return BY in comment_of(path)


def comment_of(path: Path) -> str:
    """The comment that `save_picture` kept in a file; empty if it has none, or is no PNG or JPEG."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:  # no pixel is decoded
            comment = picture.info.get("comment", b"")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""
    return comment.decode(errors="replace") if isinstance(comment, bytes) else str(comment)


def save_picture(picture: Image.Image, path: Path, what: str, comment: str | None = None) -> None:
    """Writes a PNG or JPEG, by the suffix of `path`, whole or not at all; `comment` is kept in it.

    Raises:
        MaskError: it cannot be written; `what` it is stands in the message.
    """
    text = PngInfo()
    if comment is not None:
        text.add_text("comment", comment)
    try:
        with replacing(path) as (temporary,):
            # each format takes one of the two
            picture.save(temporary, format=_FORMATS[path.suffix.lower()], pnginfo=text, comment=comment or b"")
    except OSError as error:
        raise MaskError(
            f"{path}: the {what} cannot be written ({error}): check the folder and its free space"
        ) from error


def check_preview_path(path: Path) -> None:
    """Whether a preview can be written to `path`, before there is one.

    Raises:
        MaskError: another suffix than .png, .jpg or .jpeg, or no such folder.
    """
    if path.suffix.lower() not in _FORMATS:
        raise MaskError(
            f"{path}: a preview is written as .png, .jpg or .jpeg, not {path.suffix!r}: choose one of these"
        )
    check_place(path)


def check_place(path: Path) -> None:
    """Whether a file can be made in the folder of `path`.

    Raises:
        MaskError: there is no such folder, or it cannot be written to.
    """
    if not path.parent.is_dir():
        raise MaskError(f"{path}: there is no folder {path.parent}; create it, or choose another place")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise MaskError(f"{path}: the folder {path.parent} cannot be written to; choose another place")


def _compose(
    plain: np.ndarray, covered: np.ndarray, classes: tuple[LabelClass, ...], title: str | None, width: float | None
) -> Image.Image:
    """Lay out both panels (h, w, 3) with title, legend and, for pixels of `width` micrometres, a scale bar."""
    height, panel = plain.shape[:2]
    size = int(np.clip(panel / 28, 13, 40))
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    top = _GAP + (2 * size if title else 0)
    rows = _legend_rows(classes, font, 2 * panel + _GAP)
    canvas = Image.new("RGB", (2 * panel + 3 * _GAP, top + height + len(rows) * 2 * size + 2 * _GAP), "white")
    canvas.paste(Image.fromarray(plain), (_GAP, top))
    canvas.paste(Image.fromarray(covered), (2 * _GAP + panel, top))
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((_GAP, _GAP // 2 + size), shortened(title, font, canvas.width - 2 * _GAP), "black", font, anchor="lm")
    for k, row in enumerate(rows):
        middle = top + height + _GAP + (2 * k + 1) * size
        for x, entry in row:
            draw.rectangle((x, middle - size // 2, x + size, middle + size // 2), entry.colour, "black")
            draw.text((x + 1.5 * size, middle), entry.name, "black", font, anchor="lm")
    if width is not None:
        _scale_bar(draw, (_GAP, top + height), panel, width, font)
    return canvas


def _outline(mask: np.ndarray) -> np.ndarray:
    """(h, w) bool: pixels with a 4-neighbour of another class; two in a large picture."""
    edge = np.zeros(mask.shape, bool)
    for shift in (1, 2) if max(mask.shape) > 800 else (1,):
        down, across = mask[shift:] != mask[:-shift], mask[:, shift:] != mask[:, :-shift]
        edge[shift:] |= down
        edge[:-shift] |= down
        edge[:, shift:] |= across
        edge[:, :-shift] |= across
    return edge


def _legend_rows(
    classes: tuple[LabelClass, ...], font: ImageFont.FreeTypeFont, width: int
) -> list[list[tuple[float, LabelClass]]]:
    """The classes that are drawn, as rows of (left edge, class) that fit into `width`."""
    rows: list[list[tuple[float, LabelClass]]] = [[]]
    left = float(_GAP)
    for entry in classes[1:]:
        entry = LabelClass(shortened(entry.name, font, width - 3 * font.size), entry.colour)
        space = font.getlength(entry.name) + 3 * font.size
        if rows[-1] and left + space > _GAP + width:
            rows.append([])
            left = float(_GAP)
        rows[-1].append((left, entry))
        left += space
    return rows


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text on one line, shortened by dots where it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _scale_bar(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], panel: int, width: float, font: ImageFont.FreeTypeFont
) -> None:
    """A bar of a round length, about a quarter of the panel, into its lower left `corner` (x, y)."""
    longest = panel * width / 4
    decade = 10.0 ** math.floor(math.log10(longest))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= longest)
    unit, factor = ("nm", 1000) if length < 0.999 else ("um", 1) if length < 999 else ("mm", 1e-3)
    x, y, thick = corner[0] + font.size, corner[1] - font.size, max(font.size // 4, 3)
    right = x + round(length / width)
    text = f"{length * factor:g} {unit}"
    wide = max(right - x, math.ceil(font.getlength(text)))
    draw.rectangle((x - thick, y - thick - 1.6 * font.size, x + wide + thick, y + thick), "black")
    draw.rectangle((x, y - thick, right, y), "white")
    draw.text((x, y - 2 * thick), text, "white", font, anchor="ls")
