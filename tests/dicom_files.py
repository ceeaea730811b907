"""DICOM slides, drawn by pydicom as the standard describes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from image_files import Write, reorder
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid
from slide_files import jpeg_bytes


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
