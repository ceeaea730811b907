"""The files that make a slide beside the one that is named: a folder of data, the tiles of an index, a series."""

import os
import re
from pathlib import Path

from tilesegment.errors import ImageError
from tilesegment.images.dicom_files import is_dicom, series_of
from tilesegment.ome_zarr.node import is_zarr

_INDEX = 1 << 16  # bytes of an index file that are looked at
_NAMED = re.compile(r"^\s*(?:ImageFile|MapFile|OptimisationFile|MacroImage)\b[^=]*=\s*(.+?)\s*$", re.MULTILINE)


def companions(path: str) -> list[str]:
    """Return the other files, or the folder, of the slide in the file `path`, sorted; those that exist.

    Of a folder of DICOM files, all the files of its slide.
    """
    found = [*_asked_for(path), *_series(path)]
    return sorted(one for one in found if os.path.exists(one) and os.path.realpath(one) != os.path.realpath(path))


def check_companions(path: str) -> None:
    """Refuse a slide without what belongs to it.

    Raises:
        ImageError: its folder or a file is missing.
    """
    missing = [one for one in _asked_for(path) if not os.path.exists(one)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ImageError(
            f"{path} lacks {os.path.basename(missing[0])}{more} beside it, which holds its pixels: copy the whole slide"
        )


def _asked_for(path: str) -> list[str]:
    """Return what a MRXS, VSI, VMS or VMU slide needs beside it."""
    stem, suffix = os.path.splitext(path)
    match suffix.lower():
        case ".mrxs":
            return [stem]
        case ".vsi":
            return [os.path.join(os.path.dirname(path), f"_{os.path.basename(stem)}_")]
        case ".vms" | ".vmu":
            return [os.path.join(os.path.dirname(path), name) for name in _named(path)]
    return []


def _series(path: str) -> list[str]:
    """Return the files of a DICOM slide, none for other images and for those that cannot be opened."""
    is_folder = os.path.isdir(path) and Path(path).suffix != ".zarr" and not is_zarr(Path(path))
    if not is_folder and not is_dicom(path):
        return []
    try:
        return [one.path for one in series_of(path)]
    except (ImageError, ModuleNotFoundError):
        return []


def _named(path: str) -> list[str]:
    """Return the names in the index of a VMS or VMU slide; only files beside it."""
    try:
        text = Path(path).read_bytes()[:_INDEX].decode(errors="replace")
    except OSError:
        return []
    return [name for name in _NAMED.findall(text) if name == os.path.basename(name)]


def slide_file(path: str) -> str:
    """Return the file that stands for the slide in the file `path`: of a DICOM series that of level 0, else itself."""
    if os.path.isdir(path) or not is_dicom(path):
        return path
    try:
        return series_of(path)[0].path
    except (ImageError, ModuleNotFoundError):  # what is wrong is said where it is opened
        return path
