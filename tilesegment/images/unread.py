"""Formats of images that are known but not read: their names, and what to do instead."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_BIOFORMATS = "convert it to OME-Zarr with bioformats2raw, or to OME-TIFF with bfconvert of Bio-Formats"
_EM = "save it as MRC or TIFF, with Fiji or with the program of the microscope"
_PICTURE = "save it as PNG or TIFF"


@dataclass(frozen=True)
class Unread:
    """A known format that is not read.

    Attributes:
        name: for people.
        suffixes: of its files.
        advice: what to do, in the imperative.
        looks_like_another: its files begin as those of a format that is read, which would show something else.
        start: matches their first bytes, where these tell them under any name.
    """

    name: str
    suffixes: tuple[str, ...]
    advice: str
    looks_like_another: bool = False
    start: bytes = b""

    def begins(self, first: bytes) -> bool:
        """Return whether `first`, the first bytes of a file, tell that it is of this format."""
        return bool(self.start) and re.match(self.start, first, re.DOTALL) is not None


PACKED = Unread(
    "packed with gzip, bzip2, xz or zstd",
    tuple(
        f".{kind}.{end}" for kind in ("mrc", "st", "rec", "map", "tif", "tiff") for end in ("gz", "bz2", "xz", "zst")
    ),
    "unpack it first, as with gunzip or bunzip2; TIFF and OME-Zarr are compressed piece by piece",
    start=rb"\x1f\x8b|BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd",
)
UNREAD = (
    # slides
    Unread("Philips iSyntax", (".isyntax", ".i2syntax"), "export it as TIFF or DICOM with the Philips image server"),
    Unread("Leica LIF", (".lif", ".lof", ".xlef", ".xllf"), _BIOFORMATS),
    Unread("Nikon ND2", (".nd2",), _BIOFORMATS),
    Unread("Olympus OIB or OIF", (".oib", ".oif", ".oir", ".poir"), _BIOFORMATS),
    Unread("Zeiss ZVI", (".zvi",), _BIOFORMATS),
    Unread("SlideBook", (".sld", ".sldy"), _BIOFORMATS),
    Unread("Volocity", (".mvd2", ".acff"), _BIOFORMATS),
    Unread("Aperio AFI", (".afi",), "name the .svs files that it lists"),
    Unread("Deep Zoom", (".dzi", ".szi"), "name the slide that it was made of"),
    Unread("3DHISTECH SIS or KFBio KFB", (".sis", ".kfb", ".sdpc", ".tmap", ".mds"), "export it as TIFF or DICOM"),
    Unread("ECW or MrSID", (".ecw", ".sid"), "convert it to TIFF with gdal_translate"),
    # electron microscopy
    Unread(
        "EER, events of an electron counter",
        (".eer",),
        "sum its frames to an MRC or TIFF, as with relion_convert_to_tiff or alignframes of IMOD",
        looks_like_another=True,
    ),
    Unread("Gatan DM3 or DM4", (".dm2", ".dm3", ".dm4"), f"{_EM}, or with dm2mrc of IMOD"),
    Unread("FEI SER", (".ser", ".emi"), _EM),
    Unread("SPIDER or EM", (".spi", ".spider", ".em"), "convert it to MRC with newstack of IMOD or e2proc2d.py"),
    # volumes
    Unread("N5", (".n5",), "convert it to OME-Zarr"),
    Unread("Amira", (".am",), "save it as TIFF or MRC"),
    Unread("NRRD, MetaImage", (".nrrd", ".nhdr", ".mha", ".mhd"), "save it as TIFF or MRC, as with Fiji"),
    Unread("NIfTI", (".nii", ".nii.gz"), "save it as TIFF, as with Fiji"),
    Unread("NumPy", (".npy", ".npz"), "save it as TIFF with tifffile.imwrite, or as Zarr with zarr.save"),
    Unread("MATLAB", (".mat",), "save its array as TIFF or as HDF5 with h5create and h5write"),
    PACKED,
    # pictures
    Unread("GIF", (".gif",), _PICTURE),
    Unread("HEIF or AVIF", (".heic", ".heif", ".avif"), _PICTURE),
    Unread("JPEG XL", (".jxl",), _PICTURE),
    Unread("JPEG XR", (".jxr", ".wdp", ".hdp"), _PICTURE),
    Unread("PAM or PFM", (".pam", ".pfm"), "convert it to TIFF"),
    Unread("OpenEXR", (".exr",), "save it as TIFF of 32-bit floats"),
    Unread("Photoshop", (".psd", ".psb"), _PICTURE),
    Unread("camera raw", (".cr2", ".cr3", ".nef", ".arw", ".orf", ".dng"), _PICTURE, looks_like_another=True),
)


def unread_format(path: str | Path) -> Unread | None:
    """Return the known format that `path` has by its suffix, if it is one that is not read."""
    name = Path(path).name.lower()
    return next((one for one in UNREAD if name.endswith(one.suffixes)), None)


def unread_among(names: Iterable[str]) -> list[str]:
    """Return one sentence for each format that is not read and occurs among the names of files."""
    found: dict[Unread, list[str]] = {}
    for name in names:
        if (one := unread_format(name)) is not None:
            found.setdefault(one, []).append(name)
    return [
        f"{', '.join(files[:3])}{f' and {len(files) - 3} more' if len(files) > 3 else ''}: "
        f"{one.name} is not read: {one.advice}"
        for one, files in found.items()
    ]
