"""The description of a TIFF (OME-XML, ImageJ, Aperio, tags), compared with its pages."""

import math
import re
from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import TypeAlias
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPageSeries

from tilesegment.errors import ImageError, one_line
from tilesegment.images.tiff_planes import planes_of
from tilesegment.metadata import UNKNOWN_FRAME, Frame, Spacing, frame_of_size, micrometres, size_of

Element: TypeAlias = ElementTree.Element

# micrometres per pixel for which resolution tags are believed: 72 to 2400 dots per inch are for printers
_PLAUSIBLE = (1e-3, 10.0)
_MAX_PLANES = 1 << 20  # of an OME-TIFF


def read_ome(path: str, tiff: TiffFile) -> Element | None:
    """Parse a file's OME-XML before tifffile interprets it; None if there is none, or it cannot be parsed."""
    description = tiff.pages.first.description
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise ImageError(f"{path} has XML with a document type in its description, which is not accepted: remove it")
    try:
        root = ElementTree.fromstring(description) if tiff.is_ome else None
    except ElementTree.ParseError:  # tifffile does not read it either
        return None
    planes = 0.0  # that tifffile would list one by one; NaN where a number is none
    for element in () if root is None else root.iter():
        if element.tag.endswith("Pixels"):  # as tifffile recognises them
            planes += math.prod(abs(float(element.get(f"Size{axis}", 1))) for axis in "ZCT")
        elif element.tag.endswith("TiffData"):
            planes += abs(float(element.get("PlaneCount", element.get("NumPlanes", 0))))
        elif element.tag[:-1].endswith("Along") and "Start" in element.attrib:
            start, end, step = (float(element.get(name, 1)) for name in ("Start", "End", "Step"))
            planes += abs((end - start) / step)
    if not planes <= _MAX_PLANES:
        raise ImageError(
            f"{path} has OME-XML that claims {planes:.3g} planes; at most {_MAX_PLANES} are supported: it is damaged"
        )
    return root


def check_claims(path: str, tiff: TiffFile, ome: Element | None, series: Sequence[TiffPageSeries]) -> list[str]:
    """Compare the description with the pages; return notes on other files and on what is not believed."""
    claimed, held, notes = 0, len(tiff.pages), []
    if tiff.is_ome:
        if ome is None:
            return [f"{path} has OME-XML that cannot be read: its pages are taken as they lie in the file"]
        planes = sum(map(_claimed_by_ome, _pixels(ome)))
        if others := _other_files(ome, tiff):
            return [
                f"{path} is one of several files of an image of {planes} planes: only its {held} pages are read, as "
                f"they lie in the file; the rest is in {', '.join(others[:2])}{', ...' if len(others) > 2 else ''}: "
                "export them as one file to have all"
            ]
        # an OME series of tifffile holds all its planes, or None for missing ones
        claimed = 0 if any(one.kind == "ome" and None not in [*one] for one in series) else planes
        for pixels, one in zip(_pixels(ome), series, strict=False):
            size, shape = _size(pixels), (one.keyframe.imagelength, one.keyframe.imagewidth)
            if size not in (None, shape):
                notes = [f"{path} has OME-XML of {size} pixels, but pages of {shape}: its pixel size is not believed"]
    elif tiff.is_imagej:
        claimed = _claimed_by_imagej(tiff, series[0])
        held = max(held, planes_of(series[0]) if series[0].kind == "imagej" and series[0].dataoffset else 0)
    if claimed > held:
        raise ImageError(
            f"{path} claims {claimed} planes in its description, but holds {held}: it is truncated, or was changed "
            "without its description: copy or export it again"
        )
    used = sum(planes_of(level) for one in series for level in one.levels)
    if used < held and series[0].kind in ("imagej", "ome", "shaped"):
        notes.append(f"{path} holds {held - used} more pages than its description names: these are not read")
    return notes


def _claimed_by_imagej(tiff: TiffFile, series: TiffPageSeries) -> int:
    said, page = tiff.imagej_metadata or {}, series.keyframe
    numbers = [said.get(name, 1) for name in ("images", "channels", "slices", "frames")]
    images, channels, slices, frames = (number if isinstance(number, int) else 1 for number in numbers)
    samples = page.shaped[0] * page.shaped[4]
    # samples of a pixel may be declared as channels
    return max(images, channels * slices * frames) // (samples if channels == samples else 1)


def _pixels(ome: Element) -> list[Element]:
    """Return the element of each image."""
    return ome.findall("{*}Image/{*}Pixels")


def _claimed_by_ome(pixels: Element) -> int:
    channel = pixels.find("{*}Channel")
    try:
        samples = int("1" if channel is None else channel.get("SamplesPerPixel", "1"))
        return math.prod(int(pixels.get(f"Size{axis}", "1")) for axis in "ZCT") // max(samples, 1)
    except ValueError:
        return 0


def _size(pixels: Element) -> tuple[int, int] | None:
    """Return the (height, width) that a Pixels element claims; None if it claims none."""
    try:
        return int(pixels.attrib["SizeY"]), int(pixels.attrib["SizeX"])
    except (KeyError, ValueError):
        return None


def _other_files(ome: Element, tiff: TiffFile) -> list[str]:
    """Return the names of the other files that hold planes or the description of what OME-XML describes."""
    names = [one.get("MetadataFile", "") for one in ome.iterfind("{*}BinaryOnly")]
    for uuid in ome.iterfind("{*}Image/{*}Pixels/{*}TiffData/{*}UUID"):
        name = uuid.get("FileName", "")
        if uuid.text not in (ome.get("UUID"), None) and name.lower() != tiff.filename.lower():
            names.append(name)
    return list(dict.fromkeys(one_line(PureWindowsPath(name).name or "an unnamed file", 100) for name in names))


def tiff_frame(tiff: TiffFile, ome: Element | None, series: TiffPageSeries) -> Frame:
    """Return where pixels and planes of level 0 of `series` lie, if the file says so.

    From OME-XML, else Aperio's MPP, else ImageJ's unit and spacing, else the resolution tags: these only in centimetres
    or inches, and only if they give 0.001 to 10 micrometres per pixel. Coarser ones are the meaningless 72 or 300 dots
    per inch that programs write.
    """
    page = series.keyframe
    if tiff.is_ome:
        number = next((i for i, other in enumerate(tiff.series) if other is series), 0)
        images = [] if ome is None else _pixels(ome)[number if series.kind == "ome" else 0 :]
        # pages of another size were scaled or cut since
        fits = bool(images) and _size(images[0]) in (None, (page.imagelength, page.imagewidth))
        return _ome_frame(images[0]) if fits else UNKNOWN_FRAME
    if tiff.is_svs:
        found = re.search(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)", page.description)
        mpp = _length(found.group(1) if found else None, "um")
        return Frame(y=mpp, x=mpp)
    about = (tiff.imagej_metadata or {}) if tiff.is_imagej else {}
    unit = str(about["unit"]) if about.get("unit") else None
    named = unit or {2: "inch", 3: "cm"}.get(int(page.resolutionunit))
    across, down = page.resolution
    size = None
    if named and across > 0 and down > 0:
        size = size_of(Frame(y=Spacing(1 / down, unit=named), x=Spacing(1 / across, unit=named)))
    if size and not unit and not all(_PLAUSIBLE[0] <= side <= _PLAUSIBLE[1] for side in (size.y, size.x)):
        size = None
    frame = frame_of_size(size)
    return Frame(_length(about.get("spacing"), unit), frame.y, frame.x)


def _ome_frame(pixels: Element) -> Frame:
    plane = pixels.find("{*}Plane")
    spacings = {}
    for axis in "zyx":
        name = f"PhysicalSize{axis.upper()}"
        size = _length(pixels.get(name), pixels.get(f"{name}Unit", "um"))
        if plane is not None and size.unit is not None:
            # a position without a unit is in an unknown frame of reference
            name = f"Position{axis.upper()}"
            place = _length(plane.get(name), plane.get(f"{name}Unit"), signed=True)
            if place.unit is not None:
                per = (micrometres(place.unit) or math.nan) / (micrometres(size.unit) or math.nan)
                size = Spacing(size.scale, place.scale * per, size.unit)
        spacings[axis] = size
    if spacings["y"].unit is None or spacings["x"].unit is None:
        return Frame(z=Spacing(spacings["z"].scale, unit=spacings["z"].unit))
    return Frame(**spacings)


def _length(text: object, unit: str | None, *, signed: bool = False) -> Spacing:
    """Return `text` in `unit` as the scale of a spacing; one without a unit if that is no length."""
    try:
        number = float(str(text))
    except ValueError:
        return Spacing()
    is_length = math.isfinite(number) and (signed or number > 0) and micrometres(unit) is not None
    return Spacing(number, unit=unit) if is_length else Spacing()
