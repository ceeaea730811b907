"""Slides of Ventana and Sakura, and those that are plain TIFFs, drawn as OpenSlide describes the formats."""

import io
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from image_files import Write, reorder
from PIL import Image

MACRO = np.random.default_rng(9).integers(0, 255, (40, 90, 3), np.uint8)


def jpeg_bytes(pixels: np.ndarray, **options: Any) -> bytes:
    """(H, W, 3) as a JPEG of full colours that hardly loses anything."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95, subsampling=0, **options)
    return file.getvalue()


# -- Ventana and Sakura ------------------------------------------------------------------------------------------------


def bif(*, overlaps: tuple[int, ...] = (0,), levels: int = 2, tile: int = 64, name: str = "slide.bif") -> Write:
    """Writes a BIF of one area whose tiles overlap, by the mean of `overlaps` pixels, on every level."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        whole, advance = reorder(pixels, "yxc"), tile - sum(overlaps) / len(overlaps)
        rows, columns = (int((side - tile) / advance) + 1 for side in whole.shape[:2])
        scan = '<iScan Magnification="40" ScanRes="0.25" Z-layers="1"/>'
        joints = [
            f'<TileJointInfo Direction="{side}" Tile1="1" Tile2="{other}" OverlapX="{n}" OverlapY="{n}" '
            'Confidence="9"/>'
            for n in overlaps
            for side, other in (("RIGHT", 2), ("UP", 2 * columns))
        ]
        encoded = (
            f'<EncodeInfo><SlideStitchInfo><ImageInfo AOIScanned="1" Pos-X="0" Pos-Y="0" Width="{tile}" '
            f'Height="{tile}" NumRows="{rows}" NumCols="{columns}">{"".join(joints)}</ImageInfo>'
            '</SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" '
            'OriginY="0"/></AoiOrigin></EncodeInfo>'
        )
        with tifffile.TiffWriter(folder / name, bigtiff=True) as writer:
            page = {"photometric": "rgb", "metadata": None, "software": "ScanOutputManager 1.1.0"}
            writer.write(MACRO, description="Label Image", extratags=[_xml(scan)], **page)
            for n in range(levels):
                # each tile of a level holds whole tiles of level 0
                placed = np.zeros((rows * tile, columns * tile, 3), np.uint8)
                for row, column in np.ndindex(rows, columns):
                    y, x = round(row * advance), round(column * advance)
                    target = slice(row * tile, (row + 1) * tile), slice(column * tile, (column + 1) * tile)
                    placed[target] = whole[y : y + tile, x : x + tile]
                writer.write(
                    placed[:: 2**n, :: 2**n],
                    tile=(tile, tile),
                    compression="jpeg",
                    compressionargs={"level": 95},
                    description=f"level={n} mag={40 / 2**n:g} quality=95",
                    extratags=[_xml(encoded)] if n == 0 else [],
                    **page,
                )
        return folder / name

    return write


def _xml(text: str) -> tuple[int, str, int, bytes, bool]:
    return 700, "B", len(text), text.encode(), True


def svslide(folder: Path, pixels: np.ndarray) -> Path:
    """Writes a SVSLIDE of two levels: a database of a JPEG for each colour of each tile."""
    whole, tile = reorder(pixels, "yxc"), 64
    with closing(sqlite3.connect(folder / "slide.svslide")) as database:
        database.executescript(
            "CREATE TABLE DataManagerSQLiteConfigXPO (TableName TEXT); CREATE TABLE pieces (id TEXT, data BLOB);"
            "CREATE TABLE SVSlideDataXPO (OID, SlideId, Date, Description, Creator, DiagnosisCode, Keywords);"
            "CREATE TABLE SVHRScanDataXPO (OID, ParentSlide, ScanId, ResolutionMmPerPix, NominalLensMagnification,"
            " FocussingMethod, ThumbnailImage, Date, Name, Description);"
            "INSERT INTO DataManagerSQLiteConfigXPO VALUES ('pieces');"
            "INSERT INTO pieces VALUES ('++MagicBytes', 'SVGigaPixelImage'), ('++VersionBytes', '1');"
            "INSERT INTO SVSlideDataXPO VALUES (1, 'a', 'b', 'c', 'd', 'e', 'f');"
        )
        height, width = whole.shape[:2]
        database.execute(
            "INSERT INTO pieces VALUES ('Header', ?)", [struct.pack("<16I", tile, width, height, *[1] * 13)]
        )
        scan = (1, 1, "a", 0.0005, 20.0, "b", jpeg_bytes(MACRO), "c", "d", "e")
        database.execute(f"INSERT INTO SVHRScanDataXPO VALUES ({','.join('?' * len(scan))})", scan)
        for factor in (1, 2):
            level = whole[::factor, ::factor]
            for y, x, colour in product(range(0, len(level), tile), range(0, level.shape[1], tile), range(3)):
                piece = np.zeros((tile, tile), np.uint8)
                shown = level[y : y + tile, x : x + tile, colour]
                piece[: shown.shape[0], : shown.shape[1]] = shown
                key = f"T;{x * factor}|{y * factor};{factor};{colour};0"
                database.execute("INSERT INTO pieces VALUES (?, ?)", [key, grey_jpeg(piece)])
        database.commit()
    return folder / "slide.svslide"


def grey_jpeg(pixels: np.ndarray) -> bytes:
    """(H, W) as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95)
    return file.getvalue()


# -- slides that are plain TIFFs ---------------------------------------------------------------------------------------


def philips(folder: Path, pixels: np.ndarray) -> Path:
    """Writes a Philips TIFF of three levels, each filled up to whole tiles, and a label."""
    whole, tile = reorder(pixels, "yxc"), 32
    spacings = [f'"{0.0005 * 2**n:g}" "{0.00025 * 2**n:g}"' for n in range(3)]
    levels = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" '
        f'Element="0x0030" PMSVR="IDoubleArray">{one}</Attribute></DataObject>'
        for one in (text.replace('"', "&quot;") for text in spacings)
    )
    array = f"<Attribute><Array>{levels}</Array></Attribute>"
    text = f'<?xml version="1.0"?><DataObject ObjectType="DPUfsImport">{array}</DataObject>'
    with tifffile.TiffWriter(folder / "slide.tiff") as writer:
        for n in range(3):
            level = whole[:: 2**n, :: 2**n]
            padding = [(0, -side % tile) for side in level.shape[:2]]
            filled = level if n == 0 else np.pad(level, [*padding, (0, 0)])
            described = {"software": "Philips DP v1.0", "description": text if n == 0 else f"level={n}"}
            writer.write(filled, tile=(tile, tile), photometric="rgb", compression="zlib", metadata=None, **described)
        writer.write(MACRO, photometric="rgb", metadata=None, description="Label")
    return folder / "slide.tiff"


def scn(folder: Path, pixels: np.ndarray) -> Path:
    """Writes a SCN: a macro of the glass, and the tissue in three levels."""
    whole = reorder(pixels, "yxc")
    levels = [whole[:: 2**n, :: 2**n] for n in range(3)]

    def image(name: str, first: int, pages: Sequence[np.ndarray], power: float) -> str:
        dimensions = "".join(
            f'<dimension sizeX="{page.shape[1]}" sizeY="{page.shape[0]}" r="{n}" ifd="{first + n}"/>'
            for n, page in enumerate(pages)
        )
        settings = f"<scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings></scanSettings>"
        return f'<image name="{name}"><pixels sizeX="1" sizeY="1">{dimensions}</pixels>{settings}</image>'

    images = image("macro", 0, [MACRO], 0.6) + image("tissue", 1, levels, 20)
    text = f'<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection>{images}</collection></scn>'
    with tifffile.TiffWriter(folder / "slide.scn", bigtiff=True) as writer:
        for n, page in enumerate([MACRO, *levels]):
            writer.write(
                page,
                tile=(32, 32),
                photometric="rgb",
                compression="zlib",
                metadata=None,
                resolution=(20_000, 20_000) if n else (600, 600),
                resolutionunit="CENTIMETER",
                description=text if n == 0 else None,
            )
    return folder / "slide.scn"


def svs(folder: Path, pixels: np.ndarray) -> Path:
    """Writes a SVS of three levels, a thumbnail, a label and a macro."""
    whole = reorder(pixels, "yxc")
    told = "Aperio Image Library v11\n{}x{} JPEG/RGB Q=30|AppMag = 40|MPP = 0.2500"
    with tifffile.TiffWriter(folder / "slide.svs") as writer:
        for n in range(3):
            level = whole[:: 2**n, :: 2**n]
            common = {"photometric": "rgb", "metadata": None, "description": told.format(*level.shape[:2])}
            writer.write(level, tile=(32, 32), compression="zlib", **common)
            if n == 0:
                writer.write(whole[::4, ::4], rowsperstrip=16, compression="zlib", **common)
        for kind in (1, 9):  # label, macro
            common = {"photometric": "rgb", "metadata": None, "description": "Aperio Image Library v11"}
            writer.write(MACRO, subfiletype=kind, rowsperstrip=16, compression="zlib", **common)
    return folder / "slide.svs"
