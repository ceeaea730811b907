"""DICOM files: which slide each of them belongs to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tilesegment.errors import ImageError, one_line

_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
_PREAMBLE, _MAGIC = 128, b"DICM"
_TAGS = (
    "SOPClassUID",
    "Modality",
    "SeriesInstanceUID",
    "ImageType",
    "ConcatenationUID",
    "InConcatenationTotalNumber",
    "TotalPixelMatrixRows",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixFocalPlanes",
    "NumberOfOpticalPaths",
    "OpticalPathSequence",  # which tells of the objective
    "Manufacturer",
)


@dataclass(frozen=True)
class DicomFile:
    """What the header of a DICOM file says.

    Attributes:
        path: of the file.
        series: that it belongs to: all levels, label and macro of a slide.
        is_slide: whether it is an image of a slide.
        modality: as SM (slides), CT, MR, US.
        kind: of an image of a slide: VOLUME (a level), LABEL, OVERVIEW, THUMBNAIL.
        shape: (height, width).
        is_resampled: whether it was made from a finer level.
        concatenation: that the file is a part of, where a level is split into several files; else empty.
        parts: of the concatenation.
        planes, paths: focal planes, and optical paths (as channels), that it holds.
        maker: of the scanner.
        objective: its power, as text.
    """

    path: str
    series: str
    is_slide: bool
    modality: str
    kind: str
    shape: tuple[int, int]
    is_resampled: bool
    concatenation: str
    parts: int
    planes: int
    paths: int
    maker: str
    objective: str


def is_dicom(path: str) -> bool:
    """Return whether a file begins as DICOM; False if it cannot be read."""
    try:
        if not os.path.isfile(path):  # a pipe would block
            return False
        with open(path, "rb") as file:
            return file.read(_PREAMBLE + len(_MAGIC)).endswith(_MAGIC)
    except OSError:
        return False


def dicom_in(folder: str) -> list[str]:
    """Return the DICOM files of a folder, sorted, without hidden ones."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return [path for name in names if is_dicom(path := os.path.join(folder, name))]


def read_header(path: str) -> DicomFile:
    """Read the header of a DICOM file.

    Raises:
        ImageError: it cannot be read.
        ModuleNotFoundError: the extra `wsi` is not installed.
    """
    import pydicom

    try:
        with pydicom.config.disable_value_validation():
            said = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except Exception as error:  # a damaged header fails anywhere
        raise ImageError(f"{path} is DICOM that cannot be read ({one_line(error, 200)}): copy it again") from error

    def text(name: str) -> str:
        return str(said.get(name) or "")

    def count(name: str) -> int:
        value: Any = said.get(name) or 0
        return int(value)

    kinds: Any = said.get("ImageType")
    kinds = [*kinds, "", "", "", ""] if isinstance(kinds, Sequence) and not isinstance(kinds, str) else [""] * 4
    return DicomFile(
        path,
        text("SeriesInstanceUID"),
        text("SOPClassUID") == _SLIDE,
        text("Modality") or "unknown",
        str(kinds[2]),
        (count("TotalPixelMatrixRows"), count("TotalPixelMatrixColumns")),
        str(kinds[3]) == "RESAMPLED",
        text("ConcatenationUID"),
        count("InConcatenationTotalNumber"),
        count("TotalPixelMatrixFocalPlanes") or 1,
        count("NumberOfOpticalPaths") or 1,
        text("Manufacturer"),
        next(
            (
                str(one.ObjectiveLensPower)
                for one in said.get("OpticalPathSequence") or ()
                if "ObjectiveLensPower" in one
            ),
            "",
        ),
    )


def slides_among(paths: Sequence[str]) -> dict[str, list[DicomFile]]:
    """Return the files of slides by their series, each of them with the largest level first."""
    found: dict[str, list[DicomFile]] = {}
    for path in paths:
        one = read_header(path)
        if one.is_slide:
            found.setdefault(one.series, []).append(one)
    return {series: sorted(files, key=_rank) for series, files in found.items()}


def _rank(one: DicomFile) -> tuple[bool, int, str]:
    return one.kind != "VOLUME", -one.shape[0] * one.shape[1], one.path


def series_of(path: str) -> list[DicomFile]:
    """Return the files of the slide that a DICOM file belongs to, or that a folder holds, the largest level first.

    Raises:
        ImageError: it is no slide, or the folder holds several.
        ModuleNotFoundError: the extra `wsi` is not installed.
    """
    if os.path.isdir(path):
        files = dicom_in(path)
        slides = slides_among(files)
        if len(slides) > 1:
            first = ", ".join(os.path.basename(one[0].path) for one in list(slides.values())[:4])
            raise ImageError(
                f"{path} holds {len(slides)} slides (DICOM series): name a file of one of them, as {first}"
            )
        if not files:
            raise ImageError(f"{path} is a folder without DICOM files")
        if not slides:
            raise _no_slide(read_header(files[0]))
        return next(iter(slides.values()))
    own = read_header(path)
    if not own.is_slide:
        raise _no_slide(own)
    others = [one for one in dicom_in(os.path.dirname(path) or ".") if not _is_same(one, path)]
    return sorted([own, *(one for one in map(read_header, others) if one.series == own.series)], key=_rank)


def _is_same(path: str, other: str) -> bool:
    return os.path.basename(path) == os.path.basename(other)


def _no_slide(one: DicomFile) -> ImageError:
    return ImageError(
        f"{one.path} is DICOM of modality {one.modality}, not a slide (SM): convert it to TIFF or OME-Zarr"
    )
