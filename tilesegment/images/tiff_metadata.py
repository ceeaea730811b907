"""How large the pixels of a TIFF are and where they lie, as its many dialects say it."""

import math
import re
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPageSeries

from tilesegment.errors import ImageError
from tilesegment.metadata import Frame, PixelSize, Spacing
from tilesegment.units import frame_of_size, micrometres, pixel_size

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


def tiff_frame(tiff: TiffFile, series: TiffPageSeries) -> Frame:
    """Where pixels and planes of level 0 of `series` lie, as far as the file says.

    From OME-XML, else Aperio's MPP, else ImageJ's unit and spacing, else the resolution tags: these only in centimetres
    or inches, and only if they give 0.001 to 10 micrometres a pixel. Coarser ones are the 72 or 300 dots per inch that
    programs write without meaning anything.
    """
    if tiff.is_ome:
        number = next((i for i, other in enumerate(tiff.series) if other is series), 0)
        shape = series.keyframe.imagelength, series.keyframe.imagewidth
        return _of_ome(tiff.ome_metadata or "", number if series.kind == "ome" else 0, shape)
    page = series.keyframe
    if tiff.is_svs:
        found = re.search(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)", page.description)
        return frame_of_size(_microns(found.group(1), found.group(1)) if found else None)
    about = (tiff.imagej_metadata or {}) if tiff.is_imagej else {}
    unit = str(about["unit"]) if about.get("unit") else None
    return Frame(_length(about.get("spacing"), unit), *_of_tags(page.resolution, unit, int(page.resolutionunit)))


def _of_tags(resolution: tuple[float, float], unit: str | None, tag: int) -> tuple[Spacing, Spacing]:
    """Spacing along y and x from pixels a unit across and down: of ImageJ's unit, else that of the tag."""
    across, down = resolution
    if not (across > 0 and down > 0):
        return Spacing(), Spacing()
    named = unit or {2: "inch", 3: "cm"}.get(tag)
    size = pixel_size(1 / down, 1 / across, (named, named)) if named else None
    if size is None or not (unit or all(_PLAUSIBLE[0] <= side <= _PLAUSIBLE[1] for side in (size.y, size.x))):
        return Spacing(), Spacing()
    frame = frame_of_size(size)
    return frame.y, frame.x


def _microns(y: str, x: str) -> PixelSize | None:
    try:
        return pixel_size(float(y), float(x), ("um", "um"))
    except ValueError:  # not a number: then the size is not known
        return None


def size_in_xml(pixels: "ElementTree.Element[str]") -> tuple[int, int] | None:
    """(height, width) that a Pixels element of OME-XML claims; None if it claims none."""
    try:
        return int(pixels.attrib["SizeY"]), int(pixels.attrib["SizeX"])
    except (KeyError, ValueError):
        return None


def _of_ome(xml: str, index: int, shape: tuple[int, int]) -> Frame:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:  # tifffile has then read the pages as they are, so shall we, without a size
        return Frame()
    images = root.findall("{*}Image/{*}Pixels")
    if index >= len(images):
        return Frame()
    pixels = images[index]
    if size_in_xml(pixels) not in (None, shape):  # the pages were scaled or cut since
        return Frame()
    first = next(iter(pixels.findall("{*}Plane")), None)
    sizes = {axis: _said(pixels, f"PhysicalSize{axis}", "um") for axis in "ZYX"}
    # a position without a unit is in a frame of reference that nobody else knows
    places = {axis: Spacing() if first is None else _said(first, f"Position{axis}", None) for axis in "ZYX"}
    if sizes["Y"].unit is None or sizes["X"].unit is None:
        return Frame(z=sizes["Z"])
    return Frame(*(_moved(sizes[axis], places[axis]) for axis in "ZYX"))


def _said(element: ElementTree.Element, name: str, default: str | None) -> Spacing:
    """The length that an attribute gives, as the scale of a spacing; one without a unit if it gives none."""
    return _length(element.get(name), element.get(f"{name}Unit", default), signed=name.startswith("Position"))


def _length(text: object, unit: str | None, *, signed: bool = False) -> Spacing:
    """A spacing of the length `text` in `unit`; the default one, whose unit is None, if that is no length."""
    try:
        number = float(str(text))
    except ValueError:
        return Spacing()
    is_length = math.isfinite(number) and (signed or number > 0) and micrometres(unit) is not None
    return Spacing(number, unit=unit) if is_length else Spacing()


def _moved(size: Spacing, place: Spacing) -> Spacing:
    """`size` with its origin at `place`, both of which may be unknown."""
    if size.unit is None or place.unit is None:
        return size
    per, of = micrometres(size.unit), micrometres(place.unit)
    assert per is not None and of is not None
    return Spacing(size.scale, place.scale * of / per, size.unit)
