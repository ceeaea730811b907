"""Masks over an image: classes in their colours, probabilities as heat maps, ids of objects in colours of their own."""

import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.draw.colours import COLOUR_MAPS, colour_map
from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.stores import Place, place_of
from tilesegment.viewer.layer import JSON, Look, Picture, Placement, Progress
from tilesegment.viewer.looks import check_names, choice, numbers, share
from tilesegment.viewer.mask_files import Opened, open_over
from tilesegment.viewer.mask_pixels import Sampler
from tilesegment.viewer.palettes import id_colours, id_indices, inner_outline, picture
from tilesegment.viewer.regions import coordinates_of, region_at
from tilesegment.viewer.tiling import TileAt

DRAWN = ("fill", "outline")
GROUNDS = ("clear", "solid")  # of heat maps: improbable pixels show the image, or cover it
FOREGROUND = "foreground"  # every class but 0
_IDS = 256


class MaskLayer(ABC):
    """What the kinds of masks share. See `Layer`; a mask in progress becomes the finished one by itself.

    Args:
        place: of the mask.
        opened: it, open.
        image: that it lies on, which stays open as long as the layer.
    """

    kind: str

    def __init__(self, place: Place, opened: Opened, image: ImageSource) -> None:
        self.name = place.name or str(place)
        self.shape: tuple[int, int] = opened.pixels.shape
        self.placement: Placement = opened.placement
        self.depth = None if opened.first_plane is None else opened.pixels.depth
        self._place, self._image, self._lock = place, image, threading.Lock()
        self._now = (opened, self._sampler(opened))

    @staticmethod
    def _sampler(opened: Opened) -> Sampler:
        return Sampler(opened.pixels, mean=opened.kind == "probabilities")

    def current(self) -> tuple[Opened, Sampler]:
        """Return what is read now: once a mask in progress is finished, the finished one.

        Raises:
            MaskError: it is gone, or is another.
        """
        with self._lock:
            opened, sampler = self._now
            if opened.growing is None:
                return opened, sampler
            if not isinstance(self._place, Path):
                opened.growing.progress()  # on a server one has to look
            if not opened.growing.is_gone():
                return opened, sampler
            finished = open_over(self._place, self._image)
            if (finished.kind, finished.pixels.shape) != (opened.kind, opened.pixels.shape):
                finished.close()
                raise MaskError(f"{self._place} was replaced by another one: open it again")
            opened.close()
            self._now = (finished, self._sampler(finished))
            return self._now

    def progress(self) -> Progress | None:
        """Return how far it is; None if it is finished."""
        opened = self._now[0]
        return None if opened.growing is None else opened.growing.progress()

    def close(self) -> None:
        """Close its files."""
        self._now[0].close()

    def described(self) -> dict[str, JSON]:
        """Return what the page has to know: see the kinds; and `notes`."""
        return {"notes": list(self._now[0].notes), **self._controls()}

    @abstractmethod
    def _controls(self) -> dict[str, JSON]:
        """Return what the page has to know to draw controls."""

    @abstractmethod
    def _drawn(self, opened: Opened, pixels: np.ndarray, look: Look) -> tuple[np.ndarray, np.ndarray]:
        """Draw pixels with one more on each side: (h + 2, w + 2) or (C, h + 2, w + 2).

        Returns:
            (h, w) uint8, and the colours (n, 4) uint8 of these numbers.
        """

    @abstractmethod
    def _meaning(self, opened: Opened, stored: Any) -> JSON:
        """Return what a stored pixel means, a number or (C,)."""

    def tile(self, at: TileAt, z: int, look: Look) -> Picture:
        """Draw a tile; the first plane is 0 where the mask begins on another one of the image."""
        opened, sampler = self.current()
        own, plane = at.pixels(self.shape), _plane(opened, z)
        # drawn even where nothing is, so that a malformed look is always refused
        if plane is None:
            blank = np.full((*opened.pixels.lead, 2 + own.height, 2 + own.width), opened.pixels.empty, np.uint8)
            indices, colours = self._drawn(opened, blank, look)
            return picture(np.zeros_like(indices), np.zeros((1, 4), np.uint8))
        ys, xs = (
            (np.arange(start - 1, stop + 1) + 0.5) * at.step for start, stop in ((own.y0, own.y1), (own.x0, own.x1))
        )
        indices, colours = self._drawn(opened, sampler.at(ys, xs, at.step, plane), look)
        return picture(indices, colours, lasting=opened.growing is None)

    def _pixel(self, opened: Opened, y: float, x: float, z: int) -> tuple[int, int, int] | None:
        """Return row, column and plane of the pixel under a point of the image; None where nothing is (yet)."""
        place, plane, (height, width) = self.placement, _plane(opened, z), self.shape
        row = int(np.floor((y - place.y) / place.height * height))
        column = int(np.floor((x - place.x) / place.width * width))
        if plane is None or not (0 <= row < height and 0 <= column < width):
            return None
        pixel = Region(row, column, row + 1, column + 1)
        return (row, column, plane) if opened.pixels.is_stored(pixel, plane) else None

    def value(self, y: int, x: int, z: int) -> JSON:
        """Return what is stored under a pixel of the image; None where nothing is (yet)."""
        opened, _ = self.current()
        found = self._pixel(opened, y + 0.5, x + 0.5, z)
        if found is None:
            return None
        row, column, plane = found
        stored = opened.pixels.read(Region(row, column, row + 1, column + 1), 0, plane)
        return self._meaning(opened, stored[..., 0, 0])

    def object_at(self, y: float, x: float, z: int, hidden: frozenset[int] = frozenset()) -> dict[str, JSON] | None:
        """Return the connected region under a point of the image as an object, as `ObjectLayer.object_at` does.

        None where there is none, of probabilities, and of class 0 or `hidden` ones.

        Raises:
            ViewError: it is too large.
        """
        opened, _ = self.current()
        found = None if self.kind == "probabilities" else self._pixel(opened, y, x, z)
        if found is None:
            return None
        row, column, plane = found
        meaning = self._meaning(opened, opened.pixels.read(Region(row, column, row + 1, column + 1), 0, plane)[0, 0])
        if meaning is None or meaning["stored"] == 0 or meaning.get("id") in hidden:
            return None
        polygons, area = region_at(opened.pixels, row, column, plane)
        outline = coordinates_of(polygons, self.placement, self.shape)
        (x0, y0), (x1, y1) = np.min(outline[0], axis=0).tolist(), np.max(outline[0], axis=0).tolist()
        is_class = self.kind == "classes"
        return {
            "n": None,
            "box": [y0, x0, y1, x1],
            "id": "" if is_class else str(meaning["stored"]),
            "class": meaning["text"] if is_class else None,
            "coordinates": outline,
            "measurements": [{"name": "area", "value": area, "unit": "px"}],
        }

    def classes_over(self, ys: np.ndarray, xs: np.ndarray, step: float, z: int) -> np.ndarray:
        """Return class ids at pixels of the image, (n, m) int64: -1 where nothing is; ids of objects are class 1.

        Args:
            ys, xs: (n,), (m,) positions in pixels of level 0 of the image, float64, ascending.
            step: pixels of the image that each stands for.
            z: plane of the image.
        """
        opened, sampler = self.current()
        plane, place, (height, width) = _plane(opened, z), self.placement, self.shape
        scale = place.height / height
        rows, columns = (ys - place.y) / scale, (xs - place.x) / (place.width / width)
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
        if plane is None or not inside.any():
            return np.full(inside.shape, -1)
        found = self._as_classes(opened, sampler.at(rows, columns, max(step / scale, 1.0), plane))
        return np.where(inside, found, -1)

    def _as_classes(self, opened: Opened, pixels: np.ndarray) -> np.ndarray:
        """Return class ids (h, w) int64 of pixels; -1 where nothing is."""
        known = np.zeros(_IDS, bool)
        known[[one.id for one in opened.classes]] = True
        known |= opened.has_others
        return np.where(known[pixels], pixels.astype(np.int64), -1)


def _plane(opened: Opened, z: int) -> int | None:
    """Return the plane of a mask that lies on plane `z` of the image; None if there is none."""
    if opened.first_plane is None:
        return 0
    plane = z - opened.first_plane
    return plane if 0 <= plane < opened.pixels.depth else None


def described_classes(opened: Opened) -> list[dict[str, JSON]]:
    """Return classes for the page."""
    return [{"id": one.id, "name": one.name, "colour": one.colour, "stored": one.stored} for one in opened.classes]


def shown_only(ids: np.ndarray, rgb: np.ndarray, shown: np.ndarray, drawn: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw classes, filled or as outlines, which are told apart only where they are shown.

    Args:
        ids: (h + 2, w + 2) uint8.
        rgb: (256, 3) uint8, colours by id.
        shown: (256,) bool.
        drawn: one of `DRAWN`.

    Returns:
        (h, w) uint8, and the colours (n, 4) uint8 of these numbers; 0 is clear.
    """
    chosen = np.flatnonzero(shown)[: _IDS - 1]
    table = np.zeros(_IDS, np.uint8)
    table[chosen] = np.arange(1, len(chosen) + 1)
    colours = np.zeros((len(chosen) + 1, 4), np.uint8)
    colours[1:, :3], colours[1:, 3] = rgb[chosen], 255
    indices = table[ids]
    if drawn == "outline":
        return np.where(inner_outline(indices), indices[1:-1, 1:-1], 0).astype(np.uint8), colours
    return indices[1:-1, 1:-1], colours


class ClassLayer(MaskLayer):
    """Classes in their colours.

    A look has `hidden`, the ids that are not shown (`0` if it is not given), and `draw`, `fill` or `outline`: the
    pixels of a class that touch what is shown of another, or nothing.
    """

    kind = "classes"

    def _controls(self) -> dict[str, JSON]:
        return {"classes": described_classes(self._now[0]), "draw": list(DRAWN)}

    def _drawn(self, opened: Opened, pixels: np.ndarray, look: Look) -> tuple[np.ndarray, np.ndarray]:
        check_names(look, ("hidden", "draw"))
        hidden, drawn = numbers(look, "hidden", _IDS, frozenset({0})), choice(look, "draw", DRAWN)
        shown, rgb = np.full(_IDS, opened.has_others), np.zeros((_IDS, 3), np.uint8)
        if opened.has_others:
            rgb[:] = [LabelClass("", colour).rgb for colour in default_colours(_IDS)]
        for one in opened.classes:
            shown[one.id], rgb[one.id] = True, one.rgb
        shown[list(hidden)] = False
        return shown_only(pixels, rgb, shown, drawn)

    def _meaning(self, opened: Opened, stored: Any) -> JSON:
        number = int(stored)
        entry = next((one for one in opened.classes if one.id == number), None)
        if entry is None:
            return {"text": f"value {number}", "stored": number} if opened.has_others else None
        return {"text": entry.name, "id": entry.id, "stored": entry.stored}


class ProbabilityLayer(MaskLayer):
    """The probability of a class as a heat map.

    A look has `class`, its number or `foreground` (every class but 0, the default), `map`, a colour map, `low` and
    `high`, the probabilities of its ends, and `ground`: `clear`, as clear as the class is improbable, or `solid`.
    """

    kind = "probabilities"

    def _controls(self) -> dict[str, JSON]:
        ramp = [f"#{row[:3].tobytes().hex()}" for row in colour_map(COLOUR_MAPS[0])[::51]]
        more = {"maps": list(COLOUR_MAPS), "grounds": list(GROUNDS), "ramp": ramp}
        return {"classes": described_classes(self._now[0]), **more}

    def _drawn(self, opened: Opened, pixels: np.ndarray, look: Look) -> tuple[np.ndarray, np.ndarray]:
        check_names(look, ("class", "map", "low", "high", "ground"))
        allowed = (FOREGROUND, *(str(number) for number in range(len(opened.classes))))
        shown, low, high = choice(look, "class", allowed), share(look, "low", 0), share(look, "high", 1)
        colours = np.full((_IDS, 4), 255, np.uint8)
        colours[:, :3] = colour_map(choice(look, "map", COLOUR_MAPS))
        if choice(look, "ground", GROUNDS) == "clear":
            colours[:, 3] = np.arange(_IDS)
        inner = pixels[:, 1:-1, 1:-1].astype(np.float32) / np.float32(opened.unit)
        values = _foreground(inner) if shown == FOREGROUND else inner[int(shown)]
        scaled = (np.nan_to_num(values) - low) / max(high - low, 1e-6)
        return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8), colours

    def _meaning(self, opened: Opened, stored: Any) -> JSON:
        shares = [round(float(one) / opened.unit, 6) for one in stored]
        known = [value if np.isfinite(value) else None for value in shares]
        likely = max(range(len(known)), key=lambda n: known[n] or 0)
        text = f"{opened.classes[likely].name} {known[likely] or 0:.3f}"
        raw = [one.item() if np.isfinite(one) else None for one in stored]
        return {"text": text, "probabilities": known, "stored": raw}

    def _as_classes(self, opened: Opened, pixels: np.ndarray) -> np.ndarray:
        if len(pixels) == 1:
            return (pixels[0] > opened.unit / 2).astype(np.int64)
        return pixels.argmax(0)


def _foreground(shares: np.ndarray) -> np.ndarray:
    """Return the probability (h, w) of every class but 0 of (C, h, w); a lone channel is that of class 1."""
    foreground: np.ndarray = shares[0] if len(shares) == 1 else 1 - shares[0]
    return foreground


class IdLayer(MaskLayer):
    """Ids of objects, each in a colour that depends on it alone.

    A look has `draw`, `fill` or `outline`.
    """

    kind = "ids"

    def _controls(self) -> dict[str, JSON]:
        return {"draw": list(DRAWN)}

    def _drawn(self, opened: Opened, pixels: np.ndarray, look: Look) -> tuple[np.ndarray, np.ndarray]:
        check_names(look, ("draw",))
        indices = id_indices(pixels[1:-1, 1:-1])
        if choice(look, "draw", DRAWN) == "outline":
            indices = np.where(inner_outline(pixels), indices, 0).astype(np.uint8)
        return indices, id_colours()

    def _meaning(self, opened: Opened, stored: Any) -> JSON:
        number = int(stored)
        return {"text": f"object {number}" if number else "no object", "id": number, "stored": number}

    def _as_classes(self, opened: Opened, pixels: np.ndarray) -> np.ndarray:
        return (pixels != 0).astype(np.int64)


_KINDS: dict[str, type[MaskLayer]] = {one.kind: one for one in (ClassLayer, ProbabilityLayer, IdLayer)}


def open_mask_layer(path: str | Place, image: ImageSource) -> MaskLayer:
    """Open a mask, probabilities or a label image, finished or in progress, that lies on `image`.

    Raises:
        ImageError, MaskError: it cannot be read, is none of these, or does not lie on the image.
    """
    opened = open_over(path, image)
    return _KINDS[opened.kind](place_of(path), opened, image)
