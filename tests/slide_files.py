"""Slides of scanners, drawn: by tifffile, Pillow and pydicom, as OpenSlide and DICOM describe the formats."""

import io
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import tifffile
from image_files import Write, reorder
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

MACRO = np.random.default_rng(9).integers(0, 255, (40, 90, 3), np.uint8)


def jpeg_bytes(pixels: np.ndarray, **options: Any) -> bytes:
    """(H, W, 3) as a JPEG of full colours that hardly loses anything."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95, subsampling=0, **options)
    return file.getvalue()


# -- Hamamatsu ---------------------------------------------------------------------------------------------------------


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


# -- DICOM -------------------------------------------------------------------------------------------------------------


def dicom(
    *,
    levels: int = 1,
    files_each: int = 1,
    jpeg: bool = False,
    tile: int = 64,
    spacing: tuple[float, float] = (0.00025, 0.00025),
    series: str | None = None,
    **more: Any,
) -> Write:
    """Writes a DICOM slide as a folder: each level, of every second pixel, in `files_each` files; `more` attributes.

    `spacing` is (y, x) in millimetres.
    """

    def write(folder: Path, pixels: np.ndarray) -> Path:
        place = folder / "slide"
        place.mkdir(exist_ok=True)
        common = {name: generate_uid() for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PyramidUID")}
        common |= {"SeriesInstanceUID": series or generate_uid()} | more
        for n in range(levels):
            level = reorder(pixels, "yxc")[:: 2**n, :: 2**n]
            frames = _frames(level, tile, jpeg=jpeg)
            parts = np.array_split(np.arange(len(frames)), files_each)
            whole, entire = generate_uid(), generate_uid()
            for k, part in enumerate(parts):
                data = _level(level, tile, (spacing[0] * 2**n, spacing[1] * 2**n), n)
                if files_each > 1:
                    data.ConcatenationUID, data.InConcatenationNumber = whole, k + 1
                    data.InConcatenationTotalNumber, data.ConcatenationFrameOffsetNumber = files_each, int(part[0])
                    data.SOPInstanceUIDOfConcatenationSource = entire
                data.update(
                    {
                        pydicom.datadict.tag_for_keyword(name): pydicom.DataElement(
                            pydicom.datadict.tag_for_keyword(name), pydicom.datadict.dictionary_VR(name), value
                        )
                        for name, value in common.items()
                    }
                )
                _save(data, [frames[i] for i in part], place / f"level{n}_{k}.dcm", jpeg=jpeg)
        return place

    return write


def _frames(pixels: np.ndarray, tile: int, *, jpeg: bool) -> list[bytes]:
    height, width = (-(-side // tile) * tile for side in pixels.shape[:2])
    padded = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    tiles = [padded[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]
    return [jpeg_bytes(np.ascontiguousarray(one)) if jpeg else one.tobytes() for one in tiles]


def _level(pixels: np.ndarray, tile: int, spacing: tuple[float, float], number: int) -> Dataset:
    data, measures, optics = Dataset(), Dataset(), Dataset()
    bits = pixels.itemsize * 8
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.6", generate_uid()
    data.Modality, data.Manufacturer = "SM", "Drawn"
    data.ImageType = ["DERIVED" if number else "ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED" if number else "NONE"]
    data.SamplesPerPixel = pixels.shape[2]
    data.PhotometricInterpretation = "RGB" if pixels.shape[2] == 3 else "MONOCHROME2"
    data.PlanarConfiguration = 0
    data.Rows = data.Columns = tile
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, 0
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = pixels.shape[:2]
    data.DimensionOrganizationType = "TILED_FULL"
    data.TotalPixelMatrixFocalPlanes = data.NumberOfOpticalPaths = 1
    data.ImagedVolumeHeight, data.ImagedVolumeWidth, data.ImagedVolumeDepth = 10.0, 10.0, 0.001
    data.VolumetricProperties, data.SpecimenLabelInImage, data.FocusMethod = "VOLUME", "NO", "AUTO"
    data.ExtendedDepthOfField = "NO"
    data.BurnedInAnnotation, data.LossyImageCompression = "NO", "00"
    data.ImageOrientationSlide, data.InstanceNumber = [0, -1, 0, -1, 0, 0], number + 1
    measures.PixelSpacing, measures.SliceThickness = [f"{side:.8f}" for side in spacing], "0.001"
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    optics.OpticalPathIdentifier, optics.ObjectiveLensPower = "1", "40"
    data.OpticalPathSequence = [optics]
    return data


def _save(data: Dataset, frames: Sequence[bytes], path: Path, *, jpeg: bool) -> None:
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    data.NumberOfFrames = len(frames)
    if jpeg:
        data.PhotometricInterpretation = "RGB" if data.SamplesPerPixel == 1 else "YBR_FULL_422"
    data.PixelData = encapsulate(list(frames)) if jpeg else b"".join(frames)
    data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"
    data.save_as(path, enforce_file_format=True)


# -- 3DHISTECH ---------------------------------------------------------------------------------------------------------


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
