"""Images that are read lazily: TIFF and OME-TIFF, Zarr and OME-Zarr, PNG and JPEG."""

import os
from collections.abc import Mapping
from pathlib import Path

from tilesegment.errors import ImageError, one_line
from tilesegment.images.source import ImageSource, Level, read_mirrored

__all__ = ["IMAGE_SUFFIXES", "ImageSource", "Level", "begins_as_image", "is_zarr", "open_image", "read_mirrored"]

_FORMATS = "TIFF, OME-TIFF, SVS and other tiled TIFFs, Zarr, OME-Zarr, PNG and JPEG"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FLAT = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
# of files that are meant as images, even if they turn out to be damaged
IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".svs")
_ZARR = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


def begins_as_image(path: str | Path) -> bool:
    """Whether the file `path` begins as one of a format that is read; not if it cannot be read."""
    if not os.path.isfile(path):  # a pipe would be waited at
        return False
    try:
        with open(path, "rb") as file:
            return file.read(8).startswith(_TIFF + _FLAT)
    except OSError:
        return False


def is_zarr(folder: Path) -> bool:
    """Whether a folder has the metadata of a Zarr array or group, or a part of it."""
    return any(os.path.isfile(folder / name) for name in _ZARR)


def open_image(
    path: str | Path,
    *,
    axes: str | None = None,
    select: Mapping[str, int] | None = None,
    series: int | None = None,
    invert: bool = False,
) -> ImageSource:
    """Open an image of any supported format, told by its content and not by its name. No pixel is read yet.

    Pixels are turned as the file's orientation tag says. What is decided for the user is in `notes` of the source.

    Args:
        path: a file, or the folder of a Zarr array or OME-Zarr image (`image.zarr`, `image.zarr/0`, ...).
        axes: what the dimensions of a Zarr array or TIFF are, a letter of t, z, c, y, x each, say "zyx". Not counted
            are dimensions of length 1 in a TIFF. By default what the file says, else what is likely.
        select: the position to use of an axis that is not y or x, say {"t": 3}.
        series: number of the image in a file that holds several, counted from 0, see `contents` of the source. By
            default the largest, the first of equals.
        invert: where a file says that 0 is white (MINISWHITE), turn its values so that 0 is black.

    Raises:
        ImageError: there is no such image or series, its format or pixel type is not supported, it is damaged or holds
            less than it claims, or an axis other than y, x, z and the channels is longer than 1 and not selected.
    """
    name, chosen = str(path), dict(select or {})
    try:
        if Path(path).is_dir():
            from tilesegment.images.zarr_arrays import open_zarr

            return open_zarr(name, axes, chosen, series, invert)
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited at
            raise ImageError(f"{name} is not a file or folder but a device or a pipe: save the image to a file")
        with open(path, "rb") as file:
            magic = file.read(8)
        if magic.startswith(_TIFF):
            from tilesegment.images.tiff import open_tiff

            return open_tiff(name, axes, chosen, series, invert)
        if magic.startswith(_FLAT):
            from tilesegment.images.flat import open_flat

            return open_flat(name, axes, chosen, series, invert)
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist: check the path") from None
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # a damaged header fails anywhere in a library: this is the one place where it is told
        raise ImageError(f"{name} cannot be opened ({one_line(error, 200)}): it is damaged or not readable") from error
    if not magic:
        raise ImageError(f"{name} is an empty file: copy or export the image again")
    raise ImageError(f"{name} is not an image that can be read; supported are {_FORMATS}")
