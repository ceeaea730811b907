"""How large the pixels of a TIFF are, as its many dialects say it."""

import math
import re
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPageSeries

from tilesegment.errors import ImageError
from tilesegment.images.units import pixel_size
from tilesegment.metadata import PixelSize

# micrometres a pixel for which resolution tags are believed: 72 to 2400 dots per inch are for printers
_PLAUSIBLE = (1e-3, 10.0)
_MAX_PLANES = 1 << 20  # of an OME-TIFF


def tiff_format(tiff: TiffFile) -> str:
    """Which kind of TIFF it is, for people."""
    return "OME-TIFF" if tiff.is_ome else "SVS" if tiff.is_svs else "TIFF"


def check_description(path: str, tiff: TiffFile) -> None:
    """Refuse a description that would fill the memory, before tifffile makes anything of it.

    Raises:
        ImageError: XML that defines entities, which can blow up to any size, or OME-XML that claims too many planes.
    """
    description = tiff.pages.first.description
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise ImageError(f"{path} has XML with a document type in its description, which is not accepted: remove it")
    planes = _claimed_planes(description) if tiff.is_ome else 0
    if not planes <= _MAX_PLANES:
        raise ImageError(
            f"{path} has OME-XML that claims {planes:.3g} planes; at most {_MAX_PLANES} are supported: it is damaged"
        )


def _claimed_planes(xml: str) -> float:
    """How many planes OME-XML names in all, which tifffile lists one by one; NaN where it names no number."""
    try:
        elements = ElementTree.fromstring(xml).iter()
    except ElementTree.ParseError:  # tifffile does not read it either
        return 0
    planes = 0.0
    for element in elements:
        # names end so for tifffile
        if element.tag.endswith("Pixels"):
            planes += math.prod(abs(float(element.get(f"Size{axis}", 1))) for axis in "ZCT")
        elif element.tag.endswith("TiffData"):
            planes += abs(float(element.get("PlaneCount", element.get("NumPlanes", 0))))
        elif element.tag[:-1].endswith("Along") and "Start" in element.attrib:
            start, end, step = (float(element.get(name, 1)) for name in ("Start", "End", "Step"))
            planes += abs((end - start) / step)
    return planes


def tiff_pixel_size(tiff: TiffFile, series: TiffPageSeries) -> PixelSize | None:
    """Pixel size of level 0 of `series`, None if it is not said.

    From OME-XML, else Aperio's MPP, else ImageJ's unit, else the resolution tags: these only in centimetres or inches,
    and only if they give 0.001 to 10 micrometres a pixel. Coarser ones are the 72 or 300 dots per inch that programs
    write without meaning anything.
    """
    if tiff.is_ome:
        number = next((i for i, other in enumerate(tiff.series) if other is series), 0)
        return _of_ome(tiff.ome_metadata or "", number if series.kind == "ome" else 0)
    page = series.keyframe
    if tiff.is_svs:
        found = re.search(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)", page.description)
        return _microns(found.group(1), found.group(1)) if found else None
    across, down = page.resolution
    if not (across > 0 and down > 0):
        return None
    unit = (tiff.imagej_metadata or {}).get("unit") if tiff.is_imagej else None
    if unit:
        return pixel_size(1 / down, 1 / across, (str(unit), str(unit)))
    unit = {2: "inch", 3: "cm"}.get(int(page.resolutionunit))
    size = pixel_size(1 / down, 1 / across, (unit, unit)) if unit else None
    return size if size and all(_PLAUSIBLE[0] <= side <= _PLAUSIBLE[1] for side in (size.y, size.x)) else None


def _microns(y: str, x: str) -> PixelSize | None:
    try:
        return pixel_size(float(y), float(x), ("um", "um"))
    except ValueError:  # not a number: then the size is not known
        return None


def _of_ome(xml: str, index: int) -> PixelSize | None:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:  # tifffile has then read the pages as they are, so shall we, without a size
        return None
    images = root.findall("{*}Image/{*}Pixels")
    if index >= len(images):
        return None
    said = images[index].attrib
    try:
        y, x = float(said["PhysicalSizeY"]), float(said["PhysicalSizeX"])
    except (KeyError, ValueError):  # not said, or not a number
        return None
    return pixel_size(y, x, (said.get("PhysicalSizeYUnit", "um"), said.get("PhysicalSizeXUnit", "um")))
