"""Slides of 3DHISTECH, drawn: MRXS, as OpenSlide describes them."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from image_files import Write, reorder
from slide_files import MACRO, jpeg_bytes


def mrxs(
    *,
    levels: int = 2,
    tile: int = 64,
    at: tuple[int, int] = (2, 3),
    around: int = 2,
    overlap: float = 0.0,
    holes: Sequence[tuple[int, int]] = (),
) -> Write:
    """Writes a MRXS slide whose pixels are a part of a larger, empty slide.

    Args:
        levels: each of every second pixel of the one before; the sides are multiples of `tile` on all of them.
        tile: side of a tile.
        at: row and column of the tile where the pixels begin; there is none before, and none in `around` behind.
        overlap: pixels that neighbours share, of one level.
        holes: rows and columns of tiles that are not there.
    """

    def write(folder: Path, pixels: np.ndarray) -> Path:
        data = folder / "slide"
        data.mkdir(parents=True)
        whole = reorder(pixels, "yxc")
        down, across = (side // tile for side in whole.shape[:2])
        (rows, columns), step = (at[0] + down + around, at[1] + across + around), 2 ** (levels - 1)
        rows, columns = -(-rows // step) * step, -(-columns // step) * step
        place = np.full((rows * tile, columns * tile, 3), 255, np.uint8)
        y, x = (round(n * (tile - overlap)) for n in at)
        place[y : y + whole.shape[0], x : x + whole.shape[1]] = whole
        (data / "Slidedat.ini").write_text(_slidedat(rows, columns, tile, levels, overlap), encoding="utf-8-sig")
        tiles, content = [], b""
        for n in range(levels):
            known = []
            for row, column in _touched(at, (down, across), 2**n):
                if (row, column) in holes:
                    continue
                y, x = (round(i * (tile - overlap)) for i in (row, column))
                piece = place[:: 2**n, :: 2**n][y : y + tile, x : x + tile]
                stored = jpeg_bytes(np.ascontiguousarray(piece))
                # a tile goes by the place of the first of level 0 that it covers
                known.append((row * 2**n * columns + column * 2**n, len(content), len(stored), 0))
                content += stored
            tiles.append(known)
        (data / "Data0000.dat").write_bytes(content)
        (data / "Index.dat").write_bytes(_index(tiles))
        (folder / "slide.mrxs").write_bytes(jpeg_bytes(MACRO))  # as scanners do: it shows the slide
        return folder / "slide.mrxs"

    return write


_SLIDE_ID = "0123456789ABCDEF0123456789ABCDEF"


def _touched(at: tuple[int, int], count: tuple[int, int], factor: int) -> list[tuple[int, int]]:
    """Rows and columns of the tiles of a level that cover some of level 0."""
    rows, columns = (range(start // factor, -(-(start + n) // factor)) for start, n in zip(at, count, strict=True))
    return [(row, column) for row in rows for column in columns]


def _slidedat(rows: int, columns: int, tile: int, levels: int, overlap: float) -> str:
    sections = [f"LAYER_0_LEVEL_{n}_SECTION" for n in range(levels)]
    text = f"""[GENERAL]
SLIDE_VERSION = 01.02
SLIDE_ID = {_SLIDE_ID}
IMAGENUMBER_X = {columns}
IMAGENUMBER_Y = {rows}
OBJECTIVE_MAGNIFICATION = 20
CameraImageDivisionsPerSide = 1
[HIERARCHICAL]
HIER_COUNT = 1
NONHIER_COUNT = 0
INDEXFILE = Index.dat
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = {levels}
"""
    text += "".join(
        f"HIER_0_VAL_{n} = ZoomLevel_{n}\nHIER_0_VAL_{n}_SECTION = {one}\n" for n, one in enumerate(sections)
    )
    text += "[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = Data0000.dat\n"
    for n, one in enumerate(sections):
        text += f"""[{one}]
OVERLAP_X = {overlap}
OVERLAP_Y = {overlap}
MICROMETER_PER_PIXEL_X = {0.25 * 2**n}
MICROMETER_PER_PIXEL_Y = {0.25 * 2**n}
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = {tile}
DIGITIZER_HEIGHT = {tile}
IMAGE_CONCAT_FACTOR = {min(n, 1)}
IMAGE_FORMAT = JPEG
"""
    return text


def _index(tiles: Sequence[Sequence[tuple[int, int, int, int]]]) -> bytes:
    """For each level a list of one page: number, offset, length and file of each tile."""
    head = b"01.02" + _SLIDE_ID.encode()
    table = len(head) + 8
    content = b""
    pointers = []
    start = table + 4 * len(tiles)
    for known in tiles:
        pointers.append(start + len(content))
        page = start + len(content) + 8
        content += struct.pack("<ii", 0, page) + struct.pack("<ii", len(known), 0)
        content += b"".join(struct.pack("<iiii", *one) for one in known)
    return head + struct.pack("<ii", table, 0) + struct.pack(f"<{len(tiles)}i", *pointers) + content
