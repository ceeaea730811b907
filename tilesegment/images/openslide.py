"""Slides that OpenSlide reads: MRXS, VMS, BIF, SVSLIDE, NDPI that tifffile does not read, DICOM.

Where a slide says which part of it was scanned (`openslide.bounds-...`, as MRXS does), the image is that part, as in
QuPath: its first pixel is the one at bounds-y, bounds-x. What was not scanned is transparent and gets the slide's
background colour, white if it names none.
"""

import os
from collections.abc import Mapping

import numpy as np
import openslide

from tilesegment.errors import ImageError, one_line
from tilesegment.geometry import Region
from tilesegment.images.companions import check_companions
from tilesegment.images.layout import Choices, chosen_series, note_on_inversion
from tilesegment.images.slide import SlideSource, check_choices, check_size, number, slide_frame
from tilesegment.images.source import About, Level, Shown
from tilesegment.metadata import Frame

_CACHE = 64 << 20  # bytes of tiles that OpenSlide keeps
_WHOLE = 1e-6  # by which a downsample may differ from a whole number
_FORMATS = {"mirax": "MRXS", "ventana": "BIF", "sakura": "SVSLIDE", "dicom": "DICOM", "leica": "SCN", "aperio": "SVS"}
_VENDORS = {
    "aperio": "Aperio",
    "generic-tiff": "",
    "hamamatsu": "Hamamatsu",
    "leica": "Leica",
    "mirax": "3DHISTECH",
    "philips": "Philips",
    "sakura": "Sakura",
    "trestle": "Trestle",
    "ventana": "Ventana",
    "zeiss": "Zeiss",
}


class OpenSlideSource(SlideSource):
    """A slide: RGB, level 0 and the levels whose downsample is a whole number.

    OpenSlide rounds positions on other levels to pixels of level 0, so that neighbours do not fit.
    """

    def __init__(self, path: str, file: str, slide: openslide.OpenSlide, part: Region, notes: list[str]) -> None:
        """Take the open slide in `file`, which is closed with this; `part` of its level 0 is the image."""
        said = slide.properties
        levels = {n: round(one) for n, one in enumerate(slide.level_downsamples) if _is_whole(one)}
        levels = {n: d for n, d in levels.items() if min(part.shape) >= d}
        if left := [f"{n} ({slide.level_downsamples[n]:.5g})" for n in range(slide.level_count) if n not in levels]:
            notes.append(
                f"{path}: level {', '.join(left)} is left out: only levels reduced by a whole number are read exactly"
            )
        tiles = [_tile(said, n) for n in levels]
        is_whole = part.shape == slide.dimensions[::-1]
        shapes = [
            slide.level_dimensions[n][::-1] if is_whole else (part.height // d, part.width // d)
            for n, d in levels.items()
        ]
        described = [Level(shape, (float(d), float(d))) for shape, d in zip(shapes, levels.values(), strict=True)]
        vendor = said.get("openslide.vendor", "")
        suffix = os.path.splitext(path)[1][1:].upper()
        super().__init__(
            path,
            _FORMATS.get(vendor, suffix),
            described,
            tiles,
            np.dtype(np.uint8),
            3,
            _frame(path, said, part, notes),
            Shown(notes=notes, about=_about(said, vendor)),
        )
        self._file, self._slide, self._part = file, slide, part
        self._numbers = list(levels.items())
        self._background = np.array([_background(said)], np.uint16).reshape(3, 1, 1)
        slide.set_cache(openslide.OpenSlideCache(_CACHE))

    @property
    def cache_bytes(self) -> int:
        """Also of the tiles that OpenSlide keeps."""
        return super().cache_bytes + _CACHE

    def _decode(self, region: Region, level: int) -> np.ndarray:
        stored, factor = self._numbers[level]
        place = self._part.x0 + region.x0 * factor, self._part.y0 + region.y0 * factor
        try:
            image = self._slide.read_region(place, stored, (region.width, region.height))
        except openslide.OpenSlideError:
            # a slide that failed once fails for ever: what is not damaged is read by another
            self._slide = openslide.OpenSlide(self._file)
            image = self._slide.read_region(place, stored, (region.width, region.height))
        rgba = np.asarray(image).transpose(2, 0, 1)
        pixels, alpha = rgba[:3], rgba[3]
        if alpha.min() == 255:
            return pixels
        opaque = alpha.astype(np.uint16)
        return ((pixels * opaque + self._background * (255 - opaque) + 127) // 255).astype(np.uint8)

    def close(self) -> None:
        """Close the slide and drop what is kept."""
        super().close()
        self._slide.close()


def open_openslide(path: str, choices: Choices, file: str | None = None) -> OpenSlideSource:
    """Open a slide by the name of its file, or of `file` if `path` is a folder."""
    check_choices(path, choices)
    check_companions(path)
    try:
        slide = openslide.OpenSlide(file or path)
    except openslide.OpenSlideUnsupportedFormatError:
        raise ImageError(
            f"{path} is not a slide that OpenSlide reads: its name says so, but it is damaged or of another kind"
        ) from None
    except openslide.OpenSlideError as error:
        raise ImageError(
            f"{path} cannot be opened ({one_line(error, 200)}): it is damaged or not complete: copy the whole slide "
            "again, or export it as TIFF"
        ) from error
    try:
        chosen_series(path, choices.series, ())
        notes = note_on_inversion(path, choices.invert)
        return OpenSlideSource(path, file or path, slide, _scanned(path, slide, notes), notes)
    except BaseException:
        slide.close()
        raise


def _scanned(path: str, slide: openslide.OpenSlide, notes: list[str]) -> Region:
    """Return the part of level 0 that was scanned, as far as the slide says."""
    width, height = slide.dimensions
    check_size(path, (height, width))
    whole = Region(0, 0, height, width)
    try:
        x, y, w, h = (int(slide.properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return whole
    part = Region(y, x, y + h, x + w).intersect(whole)
    if part in (whole, Region(0, 0, 0, 0)) or not part.area:
        return whole
    notes.append(
        f"{path} is {height} x {width} pixels of which {part} (y, x) were scanned: these are the image, as in QuPath, "
        f"and its first pixel is y {part.y0}, x {part.x0} of OpenSlide"
    )
    return part


def _is_whole(downsample: float) -> bool:
    return abs(downsample - round(downsample)) < _WHOLE


def _tile(said: Mapping[str, str], level: int) -> tuple[int, int]:
    """Return the (height, width) of the tiles of a level; 0 where it does not say."""
    height, width = (said.get(f"openslide.level[{level}].tile-{name}", "0") for name in ("height", "width"))
    return int(height), int(width)


def _frame(path: str, said: Mapping[str, str], part: Region, notes: list[str]) -> Frame:
    y, x = (number(said.get(f"openslide.mpp-{axis}")) for axis in "yx")
    return slide_frame(path, None if y is None or x is None else (y, x), notes, (part.y0, part.x0))


def _about(said: Mapping[str, str], vendor: str) -> About:
    maker = said.get("dicom.Manufacturer", "") if vendor == "dicom" else _VENDORS.get(vendor, vendor)
    prefix, height = "openslide.associated.", ".height"
    names = sorted(key[len(prefix) : -len(height)] for key in said if key.startswith(prefix) and key.endswith(height))
    associated = {name: (int(said[f"{prefix}{name}.height"]), int(said[f"{prefix}{name}.width"])) for name in names}
    return About(maker, number(said.get("openslide.objective-power")), associated)


def _background(said: Mapping[str, str]) -> tuple[int, ...]:
    """Return the red, green and blue of what was not scanned."""
    text = said.get("openslide.background-color", "")
    return tuple(bytes.fromhex(text)) if len(text) == 6 else (255, 255, 255)
