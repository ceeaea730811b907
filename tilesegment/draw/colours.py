"""Pixels become colours: images, classes, values from 0 to 1."""

from collections.abc import Sequence

import numpy as np

from tilesegment.metadata import LabelClass

Legend = Sequence[tuple[str, str]]  # names and their colours, `#rrggbb`

COLOUR_MAPS = ("inferno", "viridis", "magma", "cividis", "gray")  # of evenly growing brightness
_OUTLINE = 0.9  # opacity


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
    cover = (np.where(outline(ids), max(_OUTLINE, opacity), opacity) * shown)[..., None]
    return np.rint(picture * (1 - cover) + colours[ids] * cover).astype(np.uint8)


def outline(ids: np.ndarray) -> np.ndarray:
    """Return the pixels (h, w) next to another id; within two pixels of it in a large picture."""
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
    colours = colour_map(COLOUR_MAPS[0])
    legend = [(f"{n / 255:g}", f"#{colours[n].tobytes().hex()}") for n in range(0, 256, 51)]
    return colours[np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)], legend


def colour_map(name: str) -> np.ndarray:
    """Return the colours of 256 values in ascending order, one of `COLOUR_MAPS`: (256, 3) uint8."""
    from matplotlib import colormaps

    assert name in COLOUR_MAPS
    colours: np.ndarray = colormaps[name](np.arange(256), bytes=True)[:, :3]
    return colours


def legend_of(classes: Sequence[LabelClass]) -> Legend:
    """Return names and colours of all classes but the first, which is not drawn."""
    return [(one.name, one.colour) for one in classes[1:]]
