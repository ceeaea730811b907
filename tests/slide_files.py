"""Slides of scanners, drawn: by tifffile, Pillow and pydicom, as OpenSlide and DICOM describe the formats."""

import io
import struct
from collections.abc import Sequence
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
