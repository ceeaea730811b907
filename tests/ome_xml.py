"""What the OME-XML of a TIFF says."""

from pathlib import Path
from xml.etree import ElementTree

import tifffile


def pixels_of(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What the OME-XML of a mask says of its pixels, and of each plane."""
    with tifffile.TiffFile(path) as tiff:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    (pixels,) = root.iterfind(".//{*}Pixels")
    return pixels.attrib, [plane.attrib for plane in pixels.iterfind("{*}Plane")]
