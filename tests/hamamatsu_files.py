"""Slides of Hamamatsu, drawn: NDPI and VMS."""

import struct
from pathlib import Path

import numpy as np
import tifffile
from image_files import Write, reorder
from slide_files import MACRO, jpeg_bytes


def ndpi(*, is_64_bit: bool, levels: int = 3, mcu: bool = False) -> Write:
    """Writes an NDPI of `levels` pages, each a JPEG of every second pixel of the one before, and a macro.

    With `mcu` the JPEGs can be entered at the places that a tag lists, as those of a scanner can.
    """

    def write(folder: Path, pixels: np.ndarray) -> Path:
        path = folder / "slide.ndpi"
        whole = reorder(pixels, "yxc")
        with tifffile.TiffWriter(folder / "classic.tif") as writer:
            for n in range(levels):
                _write_page(writer, whole[:: 2**n, :: 2**n], 20.0 / 2**n, mcu=mcu)
            _write_page(writer, MACRO, -1.0, mcu=False)
        (folder / "classic.tif").rename(path)
        if is_64_bit:
            path.write_bytes(_as_64_bit(path))
        return path

    return write


def _write_page(writer: tifffile.TiffWriter, pixels: np.ndarray, power: float, *, mcu: bool) -> None:
    blocks = -(-pixels.shape[1] // 8)
    interval = next(n for n in (5, 4, 3, 2, 1) if blocks % n == 0)  # rows begin with one
    content = jpeg_bytes(np.ascontiguousarray(pixels), **({"restart_marker_blocks": interval} if mcu else {}))
    tags = [(271, "s", 0, "Hamamatsu", True), (65420, "I", 1, 1, True), (65421, "f", 1, power, True)]
    tags += [(code, "i", 1, 0, True) for code in (65422, 65423, 65424)]
    if mcu:
        starts = _intervals(content)
        tags.append((65426, "I", len(starts), starts, True))
    writer.write(
        iter([content]),
        shape=pixels.shape,
        dtype=np.uint8,
        photometric="rgb",
        compression="jpeg",
        rowsperstrip=len(pixels),
        resolution=(40_000 * power / 20, 20_000 * power / 20) if power > 0 else None,  # 0.25 x 0.5 um
        resolutionunit="CENTIMETER" if power > 0 else None,
        metadata=None,
        extratags=tags,
    )


def _intervals(content: bytes) -> list[int]:
    """Where the intervals between restart markers of a JPEG begin."""
    scan = content.index(b"\xff\xda")
    first = scan + 2 + int.from_bytes(content[scan + 2 : scan + 4], "big")
    markers = (n for n in range(first, len(content) - 1) if content[n] == 0xFF and 0xD0 <= content[n + 1] <= 0xD7)
    return [first, *(n + 2 for n in markers)]


def _as_64_bit(path: Path) -> bytes:
    """The file with pages in Hamamatsu's layout: offsets of pages have 8 bytes, each value 4 more behind the page."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path, is_ndpi=False) as file:
        offsets = [page.offset for page in file.pages]
    place = len(content)
    content[4:12] = struct.pack("<Q", place)  # the count of the first page, where nothing is read any more
    original = path.read_bytes()
    for n, offset in enumerate(offsets):
        (count,) = struct.unpack_from("<H", original, offset)
        entries = original[offset : offset + 2 + 12 * count]
        place += len(entries) + 8 + 4 * count
        following = struct.pack("<Q", place if n + 1 < len(offsets) else 0)
        content += entries + following + bytes(4 * count)
    return bytes(content)


def vms(folder: Path, pixels: np.ndarray) -> Path:
    """Writes a VMS slide of one JPEG, with a map at an eighth, and a macro."""
    whole = reorder(pixels, "yxc")
    pictures = {"image": whole, "map": np.ascontiguousarray(whole[::8, ::8]), "macro": MACRO}
    for name, picture in pictures.items():
        (folder / f"slide-{name}.jpg").write_bytes(jpeg_bytes(picture, restart_marker_blocks=1))
    height, width = whole.shape[:2]
    (folder / "slide.vms").write_text(
        f"""[Virtual Microscope Specimen]
NoLayers=1
NoJpegColumns=1
NoJpegRows=1
ImageFile=slide-image.jpg
MapFile=slide-map.jpg
MacroImage=slide-macro.jpg
SourceLens=20
PhysicalWidth={width * 250}
PhysicalHeight={height * 500}
LayerSpacing=0
AuthCode=0
"""
    )
    return folder / "slide.vms"
