"""Slides of scanners that are TIFFs: whose they are, and what they say of themselves."""

import math
import re
from collections.abc import Sequence

from tifffile import TiffFile, TiffPageSeries

from tilesegment.images.layout import ASSOCIATED
from tilesegment.images.slide import number, slide_frame
from tilesegment.images.source import About
from tilesegment.metadata import Frame, size_of

# what tifffile calls a format, what people do, and who makes it
_SLIDES = (
    ("is_svs", "SVS", "Aperio"),
    ("is_ndpi", "NDPI", "Hamamatsu"),
    ("is_scn", "SCN", "Leica"),
    ("is_philips", "Philips TIFF", "Philips"),
    ("is_qpi", "QPTIFF", "PerkinElmer"),
    ("is_avs", "AVS", "Argos"),
)
_POWER = 65421  # tag of NDPI
_OBJECTIVES = {
    "SVS": r"\|\s*AppMag\s*=\s*([0-9.]+)",
    "SCN": r"<objective>\s*([0-9.]+)\s*</objective>",
    "QPTIFF": r"<(?:Objective|Magnification)[^>]*>\s*([0-9.]+)",
}
_SPACING = re.compile(
    r"DICOM_PIXEL_SPACING\"[^>]*>\s*(?:\"|&quot;)([0-9.eE+-]+)(?:\"|&quot;)\s+(?:\"|&quot;)([0-9.eE+-]+)"
)


def kind_of(tiff: TiffFile) -> tuple[str, str]:
    """Return what the format of a file is called, and who makes such slides; empty if it is none."""
    if tiff.is_ome:
        return "OME-TIFF", ""
    return next(((kind, maker) for flag, kind, maker in _SLIDES if getattr(tiff, flag)), ("TIFF", ""))


def without_associated(tiff: TiffFile, images: Sequence[TiffPageSeries]) -> list[TiffPageSeries]:
    """Return the images of a file that may be predicted: of a slide without its label, macro and thumbnail."""
    if not kind_of(tiff)[1]:
        return list(images)
    kept = [one for one in images if not _is_associated(one)]
    return kept or list(images)


def _is_associated(image: TiffPageSeries) -> bool:
    return image.name.lower() in ASSOCIATED


def about(tiff: TiffFile, images: Sequence[TiffPageSeries]) -> About:
    """Return what a slide says of itself; `images` are all that it holds."""
    kind, maker = kind_of(tiff)
    if not maker:
        return About()
    text = tiff.pages.first.description
    if kind == "NDPI":
        powers = [tiff.pages.first.tags.valueof(_POWER)]
    else:
        powers = re.findall(_OBJECTIVES[kind], text) if kind in _OBJECTIVES else []
    found = [power for one in powers if (power := number(one)) is not None]
    pictures = {
        one.name.lower(): (int(one.keyframe.imagelength), int(one.keyframe.imagewidth))
        for one in images
        if _is_associated(one)
    }
    return About(maker, max(found, default=None), pictures)


def believed_frame(path: str, tiff: TiffFile, frame: Frame, notes: list[str]) -> Frame:
    """Return where the pixels of a slide lie; of another image `frame`."""
    kind, maker = kind_of(tiff)
    if kind == "Philips TIFF":
        found = [(number(y), number(x)) for y, x in _SPACING.findall(tiff.pages.first.description)]
        sides = [(1000 * y, 1000 * x) for y, x in found if y is not None and x is not None]
        return slide_frame(path, min(sides, key=math.prod, default=None), notes)
    size = size_of(frame)
    return frame if not maker or size is None else slide_frame(path, (size.y, size.x), notes)
