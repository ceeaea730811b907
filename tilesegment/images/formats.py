"""The image formats, and how the format of a file is recognised.

To add a format, write a module with a function that takes a path and `Choices` and returns an `ImageSource`, and add a
line to `FORMATS`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilesegment.errors import ImageError, StoreError, one_line
from tilesegment.images.byte_ranges import RemoteFile
from tilesegment.images.datasets import hint_at_datasets, split_dataset
from tilesegment.images.dicom_files import dicom_in, is_dicom, slides_among
from tilesegment.images.layout import Choices
from tilesegment.images.openers import opener_of
from tilesegment.images.source import ImageSource, JoinedSource
from tilesegment.images.unread import PACKED, Unread, unread_format
from tilesegment.ome_zarr.node import is_zarr
from tilesegment.stores import Location, Options, is_url, place_of


@dataclass(frozen=True)
class Format:
    """A kind of image files.

    Attributes:
        name: for people.
        opener: the function that opens one, as `module:function` of this package; imported when it is needed.
        suffixes: of files that are meant as such images, even if they turn out to be damaged.
        start: matches the first bytes of a file; empty for a format that is a folder, or known by its suffix.
        unmarked: whether files with these suffixes may be such images whatever they begin with.
        by_name: whether they are, although they begin as other formats do, or as text.
        is_container: whether such files hold other things, too: then the suffix alone makes one an image.
        extra: of this package, that the opener needs.
        is_remote: whether it is read from a server, too.
    """

    name: str
    opener: str
    suffixes: tuple[str, ...]
    start: bytes = b""
    unmarked: bool = False
    by_name: bool = False
    is_container: bool = False
    extra: str = ""
    is_remote: bool = False

    def open(self, given: Any, choices: Choices) -> ImageSource:
        """Open an image by its path, by the `RemoteFile` or, of a folder, by its location."""
        name = given.name if isinstance(given, RemoteFile) else str(given)
        return opener_of(name, self.opener, self.extra)(given, choices)

    def begins(self, first: bytes) -> bool:
        """Return whether `first`, the first bytes of a file, are those of this format."""
        return bool(self.start) and re.match(self.start, first, re.DOTALL) is not None


ZARR = Format("Zarr, OME-Zarr", "zarr:open_zarr", (".zarr",), is_remote=True)
HDF5 = Format("HDF5", "hdf5:open_hdf5", (".h5", ".hdf5", ".hdf", ".ims"), rb"\x89HDF\r\n\x1a\n", is_container=True)
DICOM = Format("DICOM slides", "dicom:open_dicom", (".dcm",), rb".{128}DICM", extra="wsi")
FORMATS = (
    Format(
        "TIFF, OME-TIFF, SVS and other tiled TIFFs",
        "tiff:open_tiff",
        (".tif", ".tiff", ".btf", ".svs", ".scn"),
        rb"II[*+]\0|MM\0[*+]",
        is_remote=True,
    ),
    ZARR,
    Format(
        "PNG, JPEG, WebP, BMP",
        "flat:open_flat",
        (".png", ".jpg", ".jpeg", ".webp", ".bmp"),
        rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF.{4}WEBP|BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
        is_remote=True,
    ),
    Format("PBM, PGM, PPM", "pnm:open_pnm", (".pbm", ".pgm", ".ppm", ".pnm"), rb"P[1-6][\s#]"),
    Format(
        "JPEG 2000",
        "jpeg2000:open_jpeg2000",
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpx"),
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
        is_remote=True,
    ),
    Format("CZI", "czi:open_czi", (".czi",), rb"ZISRAWFILE", extra="czi"),
    Format("VSI", "czi:open_czi", (".vsi",), by_name=True, extra="czi"),  # which begins as a TIFF
    # old ones have no mark
    Format("MRC", "mrc:open_mrc", (".mrc", ".mrcs", ".st", ".rec", ".ali"), rb".{208}MAP", unmarked=True),
    HDF5,
    Format(
        "MRXS, VMS, BIF, SVSLIDE",
        "openslide:open_openslide",
        (".mrxs", ".vms", ".vmu", ".bif", ".svslide"),
        by_name=True,
        extra="wsi",
    ),
    Format("NDPI", "ndpi:open_ndpi", (".ndpi",), by_name=True, is_remote=True),
    DICOM,
)
IMAGE_SUFFIXES = tuple(suffix for one in FORMATS if one is not ZARR for suffix in one.suffixes)  # of files
_START = 1024  # bytes of a file that tell its format


def begins_as_image(path: str | Path) -> bool:
    """Return whether the file `path` begins like a supported image; False if it cannot be read."""
    try:
        found = _format_of(path) if os.path.isfile(path) else None  # a pipe would block
    except OSError:
        return False
    return isinstance(found, Format) and not found.is_container


def _format_of(path: str | Path) -> Format | Unread | None:
    """Recognise a file, or a folder as Zarr; None if it is of no known format."""
    by_name = unread_format(path)
    if os.path.isdir(path):
        return by_name or _format_of_folder(str(path))
    with open(path, "rb") as file:
        first = file.read(_START)
    if PACKED.begins(first):
        return PACKED
    if by_name is not None and by_name.looks_like_another:
        return by_name
    found = _by_start(path, first) or by_name
    if found is None and first:
        suffix = os.path.splitext(path)[1].lower()
        found = next((one for one in FORMATS if one.unmarked and suffix in one.suffixes), None)
    return found


def _by_start(name: str | Path, first: bytes) -> Format | None:
    """Return the format of a file that begins with `first`, or that goes by its name if there is anything in it."""
    suffix = os.path.splitext(name)[1].lower()
    named = (one for one in FORMATS if one.by_name and first and suffix in one.suffixes)
    return next(named, None) or next((one for one in FORMATS if one.begins(first)), None)


def is_image_folder(folder: str | Path) -> bool:
    """Return whether a folder is an image: a Zarr store, or DICOM files of one slide and no other images."""
    if _is_store(folder):
        return True
    try:
        paths = sorted(entry.path for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError:
        return False
    files = []
    for path in paths:
        if is_dicom(path):
            files.append(path)
        elif os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES or begins_as_image(path):
            return False
    try:
        return bool(files) and len(slides_among(files)) < 2
    except (ImageError, ModuleNotFoundError):  # what is wrong is said where it is opened
        return True


def _is_store(folder: str | Path) -> bool:
    return Path(folder).suffix == ".zarr" or is_zarr(Path(folder))


def _format_of_folder(folder: str) -> Format:
    if _is_store(folder) or not dicom_in(folder):
        if os.path.isfile(os.path.join(folder, "Slidedat.ini")):
            raise ImageError(f"{folder} is the folder beside a slide: give the slide, {folder.rstrip('/')}.mrxs")
        return ZARR
    return DICOM


def open_image(
    path: str | Path | Location,
    *,
    axes: str | None = None,
    select: Mapping[str, int] | None = None,
    series: int | None = None,
    invert: bool = False,
    store_options: Options = (),
) -> ImageSource:
    """Open an image of any supported format, recognised by its content, and slides of several files by their name.

    No pixel is read yet. Pixels are turned as the file's orientation tag says. What was decided for the user is in
    `notes` of the source.

    Args:
        path: a file, a dataset in a file (`file.h5:/volume`), the folder of a Zarr array or OME-Zarr image
            (`image.zarr`, `image.zarr/0`, ...), or that of the files of a DICOM slide; or the URL (s3, gs, az, http,
            https) of a Zarr, TIFF, PNG or JPEG.
        axes: what the dimensions of a Zarr array or TIFF are, one letter of t, z, c, y, x each, say "zyx". Dimensions
            of length 1 in a TIFF do not count. By default what the file says, else what is likely.
        select: the position to use of an axis that is not y or x, say {"t": 3}.
        series: number of the image in a file that holds several, counted from 0, see `contents` of the source. By
            default the largest, the first of equals.
        invert: where a file says that 0 is white (MINISWHITE), invert its values so that 0 is black.
        store_options: how the server of a URL is reached, see `tilesegment.stores.OPTIONS`.

    Raises:
        StoreError: the URL is not one that can be read.
        ImageError: there is no such image or series, its format or pixel type is not supported, it is damaged or holds
            less than it claims, or an axis other than y, x, z and the channels is longer than 1 and not selected.
    """
    place, choices = place_of(path, store_options), Choices(axes, dict(select or {}), series, invert)
    name = str(place if is_url(path) else path)
    file, dataset = split_dataset(name)
    try:
        if isinstance(place, Location):
            source = _open_remote(place, choices)
            source.store_options = place.options
            return source
        if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):  # a pipe would block
            raise ImageError(f"{name} is not a file or folder but a device or a pipe: save the image to a file")
        found = _format_of(file)
        if dataset and found is not HDF5:
            raise ImageError(f"{name} does not exist: {file} is no HDF5 file, so leave out :{dataset}")
        if isinstance(found, Format):
            return found.open(name, choices)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{name} does not exist: check the path{hint_at_datasets(name)}") from None
    except StoreError as error:
        raise ImageError(error) from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # a damaged header fails anywhere in a library: this is the one place to explain it
        raise ImageError(f"{name} cannot be opened ({one_line(error, 200)}): it is damaged or not readable") from error
    if os.path.isfile(file) and not os.path.getsize(file):
        raise ImageError(f"{name} is an empty file: copy or export the image again")
    if found is not None:
        raise ImageError(f"{name} is of a format that is not read, {found.name}: {found.advice}")
    supported = ", ".join(one.name for one in FORMATS)
    raise ImageError(f"{name} is not an image that can be read; supported are {supported}")


def _open_remote(place: Location, choices: Choices) -> ImageSource:
    """Open an image on a server: a Zarr, or a file that is recognised by its first bytes."""
    is_zarr = not place.key or any(part.endswith(".zarr") for part in place.key.split("/"))
    file = None if is_zarr else _remote_file(place)
    if file is None:
        outer, _, dataset = place.key.partition(":/")
        if dataset and _remote_file(replace(place, key=outer)) is not None:
            raise ImageError(f"{place} is a dataset in a file, which is not read from a server: download the file")
        return ZARR.open(place, choices)
    if not file.size:
        raise ImageError(f"{place} is an empty file: copy or export the image again")
    first = file.read(_START)
    file.seek(0)
    found = _by_start(place.name, first)
    if found is None or not found.is_remote:
        kinds = ", ".join(one.name for one in FORMATS if one.is_remote)
        raise ImageError(f"{place} is not an image that can be read from a server, as {kinds} are: download it")
    return found.open(file, choices)


def _remote_file(place: Location) -> RemoteFile | None:
    """Open a file on a server; None if there is none of this name."""
    try:
        return RemoteFile(place)
    except FileNotFoundError:
        return None


def open_channels(paths: Sequence[Path], *, invert: bool = False) -> ImageSource:
    """Open an image, or one whose channels are the files `paths`, in this order; `invert` as in `open_image`.

    Raises:
        ImageError: one cannot be read, or they are of different sizes or types.
    """
    sources: list[ImageSource] = []
    try:
        sources += (open_image(path, invert=invert) for path in paths)
        return sources[0] if len(sources) == 1 else JoinedSource(sources)
    except BaseException:
        for one in sources:
            one.close()
        raise
