"""Every way to store an image that is read: `tests/test_readers.py` holds each to one contract.

A reader is added by a line of `DRAWN`, whose pixels are known, or of `REAL`, files of scanners and of other programs.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dicom_files import dicom
from hamamatsu_files import ndpi
from hdf5_files import hdf5
from image_files import (
    GREY,
    RGB,
    STACK,
    VOLUME,
    Write,
    jpeg,
    make_pixels,
    mrc,
    mrc_of_mode,
    ome_zarr,
    png,
    tiff,
    tiff_pyramid,
    zarr_array,
)
from mirax_files import mrxs
from picture_files import jpeg2000, picture, plain_pnm
from slide_files import bif, philips, scn, svs, svslide
from zarr.codecs import BytesCodec, ShardingCodec, ZstdCodec

from tilesegment.metadata import PixelSize

WSI = Path(__file__).parents[2] / "shared" / "data" / "wsi"


@dataclass(frozen=True)
class Case:
    """A way to store `pixels` (C, H, W) or (Z, C, H, W), and what has to come back besides them.

    Attributes:
        pixels: written; level n holds each 2 ** n-th of them along y and x.
        write: writes them.
        format: how the reader calls it.
        pixel_size: None if the file does not tell it.
        levels: of the pyramid.
        is_lossy: the pixels come back only about.
    """

    pixels: np.ndarray
    write: Write
    format: str
    pixel_size: PixelSize | None = None
    levels: int = 1
    is_lossy: bool = False


SHARDS = {"serializer": ShardingCodec(chunk_shape=(16, 16), codecs=[BytesCodec(), ZstdCodec()]), "compressors": None}
WORDS, FLOATS = make_pixels(1, 97, 130, dtype="uint16"), make_pixels(1, 97, 130, dtype="float32") / 7
SMOOTH = np.stack([np.add.outer(np.arange(150), np.arange(211)) // n for n in (2, 3, 4)]).astype(np.uint8)
BITS = GREY % 2 * np.uint8(255)
HALF = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}  # 0.5 micrometres a pixel
OME = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}

DRAWN = {
    "tiff strips": Case(GREY, tiff("yx", rowsperstrip=7, **HALF), "TIFF", PixelSize(0.5, 0.5)),
    "tiff one strip": Case(RGB, tiff(), "TIFF"),
    "tiff big endian": Case(WORDS, tiff("yx", byteorder=">"), "TIFF"),
    "tiff big endian tiles": Case(WORDS, tiff("yx", byteorder=">", tile=(32, 48)), "TIFF"),
    "tiff tiles": Case(RGB, tiff(tile=(64, 32)), "TIFF"),
    "tiff planar": Case(RGB, tiff("cyx", photometric="rgb", planarconfig="separate"), "TIFF"),
    "tiff planar tiles": Case(
        RGB, tiff("cyx", photometric="rgb", planarconfig="separate", tile=(32, 32), compression="lzw"), "TIFF"
    ),
    "tiff lzw strips": Case(RGB, tiff(compression="lzw", rowsperstrip=11), "TIFF"),
    "tiff deflate strips": Case(FLOATS, tiff("yx", compression="zlib", predictor=True, rowsperstrip=8), "TIFF"),
    "tiff zstd tiles": Case(WORDS, tiff("yx", compression="zstd", predictor=True, tile=(32, 32)), "TIFF"),
    "tiff jpeg tiles": Case(
        GREY, tiff("yx", compression="jpeg", compressionargs={"lossless": True, "level": 100}, tile=(64, 64)), "TIFF"
    ),
    "tiff bilevel": Case(BITS, lambda f, p: tiff("yx", photometric="minisblack")(f, p.astype(bool)), "TIFF"),
    "tiff bilevel packbits": Case(
        BITS, lambda f, p: tiff("yx", compression="packbits", tile=(32, 32))(f, p.astype(bool)), "TIFF"
    ),
    "tiff min is white": Case(GREY, tiff("yx", photometric="miniswhite"), "TIFF"),
    "bigtiff": Case(RGB, tiff(bigtiff=True, tile=(32, 32), compression="lzw"), "TIFF"),
    "tiff pages": Case(STACK, tiff("zyx", compression="zlib"), "TIFF"),
    "tiff raw pages": Case(STACK, tiff("zyx", metadata=None), "TIFF"),
    "tiff pages of rgb tiles": Case(
        VOLUME, tiff("zyxc", photometric="rgb", tile=(32, 32), metadata={"axes": "ZYXS"}), "TIFF"
    ),
    "imagej": Case(
        VOLUME,
        tiff("zcyx", imagej=True, resolution=(4, 4), metadata={"axes": "ZCYX", "unit": "um"}),
        "TIFF",
        PixelSize(0.25, 0.25),
    ),
    "ome-tiff": Case(
        VOLUME, tiff("zcyx", ome=True, metadata={"axes": "ZCYX"} | OME, tile=(32, 32)), "OME-TIFF", PixelSize(0.5, 0.25)
    ),
    "ome-tiff channels first": Case(VOLUME, tiff("czyx", ome=True, metadata={"axes": "CZYX"}), "OME-TIFF"),
    "tiff pyramid": Case(RGB, tiff_pyramid("yxc", tile=(32, 32), compression="zlib"), "TIFF", levels=3),
    "ome-tiff pyramid": Case(
        VOLUME,
        tiff_pyramid("zyxc", ome=True, metadata={"axes": "ZYXS"} | OME, tile=(32, 32), photometric="rgb"),
        "OME-TIFF",
        PixelSize(0.5, 0.25),
        levels=3,
    ),
    "tiff jpeg tiles lossy": Case(
        SMOOTH, tiff(compression="jpeg", photometric="rgb", tile=(32, 32)), "TIFF", is_lossy=True
    ),
    "tiff jpeg 2000": Case(
        RGB,
        tiff(compression="jpeg2000", photometric="rgb", tile=(64, 64), compressionargs={"reversible": True}),
        "TIFF",
    ),
    "zarr 2-d": Case(GREY, zarr_array("yx", (64, 32)), "Zarr"),
    "zarr v2": Case(RGB, zarr_array("yxc", (64, 32, 3), zarr_format=2, dimension_names=None), "Zarr"),
    "zarr v2 fortran": Case(WORDS, zarr_array("yx", (64, 32), zarr_format=2, order="F"), "Zarr"),
    "zarr channels first": Case(RGB, zarr_array("cyx", (1, 64, 64)), "Zarr"),
    "zarr stack": Case(STACK, zarr_array("zyx", (2, 32, 32)), "Zarr"),
    "zarr 4-d": Case(VOLUME, zarr_array("zcyx", (1, 3, 32, 32)), "Zarr"),
    "zarr 4-d channels last": Case(VOLUME, zarr_array("zyxc", (1, 32, 32, 3)), "Zarr"),
    "zarr named": Case(VOLUME, zarr_array("czyx", (1, 1, 32, 32), dimension_names=["c", "z", "y", "x"]), "Zarr"),
    "zarr shards": Case(FLOATS, zarr_array("yx", (64, 64), **SHARDS), "Zarr"),
    "zarr bool": Case(BITS, lambda f, p: zarr_array("yx", (64, 64))(f, p.astype(bool)), "Zarr"),
    "ome-zarr 0.4": Case(VOLUME, ome_zarr("0.4", "tczyx", 0.3), "OME-Zarr 0.4", PixelSize(0.3, 0.3), levels=3),
    "ome-zarr 0.5": Case(STACK, ome_zarr("0.5", "zyx", 0.3), "OME-Zarr 0.5", PixelSize(0.3, 0.3), levels=3),
    "png grey": Case(GREY, png, "PNG"),
    "png rgb": Case(RGB, png, "PNG"),
    "png rgba": Case(make_pixels(4, 33, 47), png, "PNG"),
    "png 16 bit": Case(WORDS, png, "PNG"),
    "jpeg grey": Case(SMOOTH[:1], jpeg, "JPEG", is_lossy=True),
    "jpeg rgb": Case(SMOOTH, jpeg, "JPEG", is_lossy=True),
    "ndpi": Case(SMOOTH, ndpi(is_64_bit=True, mcu=True), "NDPI", PixelSize(0.5, 0.25), levels=3, is_lossy=True),
    "ndpi classic": Case(
        SMOOTH[:, :72, :104], ndpi(is_64_bit=False), "NDPI", PixelSize(0.5, 0.25), levels=4, is_lossy=True
    ),
    "mrxs": Case(SMOOTH[:, :128, :192], mrxs(), "MRXS", PixelSize(0.25, 0.25), levels=2, is_lossy=True),
    "bif": Case(SMOOTH[:, :128, :192], bif(), "BIF", PixelSize(0.25, 0.25), levels=2, is_lossy=True),
    "bif by the name of a tiff": Case(
        SMOOTH[:, :128, :192], bif(name="a.tif"), "BIF", PixelSize(0.25, 0.25), levels=2, is_lossy=True
    ),
    "svslide": Case(SMOOTH[:, :150, :200], svslide, "SVSLIDE", PixelSize(0.5, 0.5), levels=2, is_lossy=True),
    "svs": Case(RGB, svs, "SVS", PixelSize(0.25, 0.25), levels=3),
    "scn": Case(RGB, scn, "SCN", PixelSize(0.5, 0.5), levels=3),
    "philips tiff": Case(RGB[:, :148, :200], philips, "Philips TIFF", PixelSize(0.5, 0.25), levels=3),
    "dicom": Case(RGB, dicom(levels=3), "DICOM", PixelSize(0.25, 0.25), levels=3),
    "dicom of another size in y": Case(RGB, dicom(spacing=(0.0005, 0.00025)), "DICOM", PixelSize(0.5, 0.25)),
    "dicom concatenation": Case(RGB, dicom(levels=2, files_each=3, tile=32), "DICOM", PixelSize(0.25, 0.25), levels=2),
    "dicom jpeg": Case(SMOOTH, dicom(jpeg=True), "DICOM", PixelSize(0.25, 0.25), is_lossy=True),
    "dicom 16 bit": Case(WORDS, dicom(), "DICOM", PixelSize(0.25, 0.25)),
    "mrc of signed words": Case(make_pixels(6, 1, 50, 61, dtype="int16"), mrc(4.0), "MRC", PixelSize(4e-4, 4e-4)),
    "mrc of words": Case(WORDS, mrc(12.5), "MRC", PixelSize(12.5e-4, 12.5e-4)),
    "mrc of floats": Case(FLOATS, mrc(0.0), "MRC"),
    "mrc of half floats": Case((STACK / 8).astype("float16"), mrc(2.0, volume=True), "MRC", PixelSize(2e-4, 2e-4)),
    "mrc of signed bytes": Case(make_pixels(6, 1, 50, 61, dtype="int8"), mrc(4.0), "MRC", PixelSize(4e-4, 4e-4)),
    "mrc big endian": Case(WORDS, mrc(2.0, order=">"), "MRC", PixelSize(2e-4, 2e-4)),
    "mrc of half bytes": Case(STACK % 16, mrc_of_mode(101), "MRC"),
    "mrc of half bytes, odd": Case(make_pixels(1, 40, 61) % 16, mrc_of_mode(101), "MRC"),
    "mrc rgb": Case(RGB, mrc_of_mode(16), "MRC"),
    "mrc of bytes": Case(GREY, mrc_of_mode(0), "MRC"),
    "hdf5": Case(GREY, hdf5("yx"), "HDF5"),
    "hdf5 chunks": Case(VOLUME, hdf5("zcyx", chunks=(1, 2, 32, 16), compression="gzip", shuffle=True), "HDF5"),
    "hdf5 chunks of planes": Case(STACK, hdf5("zyx", chunks=(3, 16, 16), compression="lzf"), "HDF5"),
    "hdf5 of ilastik": Case(VOLUME, hdf5("tzyxc", tagged=True, chunks=(1, 2, 32, 32, 1)), "HDF5"),
    "hdf5 of fiji": Case(
        STACK, hdf5("zyx", attributes={"element_size_um": [0.05, 0.25, 0.5]}), "HDF5", PixelSize(0.25, 0.5)
    ),
    "hdf5 of big endian": Case(WORDS, lambda f, p: hdf5("yx")(f, p.astype(">u2")), "HDF5"),
    "hdf5 of bits": Case(BITS, lambda f, p: hdf5("yx", chunks=(20, 30))(f, p.astype(bool)), "HDF5"),
    "webp": Case(RGB, picture("webp", lossless=True), "WebP"),
    "webp lossy": Case(SMOOTH, picture("webp", quality=95), "WebP", is_lossy=True),
    "webp with alpha": Case(make_pixels(4, 33, 47), picture("webp", lossless=True, exact=True), "WebP"),
    "bmp": Case(RGB, picture("bmp"), "BMP"),
    "bmp grey": Case(GREY, picture("bmp"), "BMP"),
    "ppm": Case(RGB, picture("ppm"), "PNM"),
    "pgm": Case(GREY, picture("pgm"), "PNM"),
    "pgm 16 bit": Case(WORDS, picture("pgm"), "PNM"),
    "pbm": Case(BITS, lambda f, p: picture("pbm")(f, p.astype(bool)), "PNM"),
    "pgm as text": Case(WORDS, plain_pnm("P2"), "PNM"),
    "ppm as text": Case(RGB, plain_pnm("P3"), "PNM"),
    "ppm 16 bit": Case(make_pixels(3, 33, 47, dtype="uint16") * 300, plain_pnm("P6"), "PNM"),
    "jp2": Case(RGB, jpeg2000(), "JPEG 2000"),
    "jp2 grey": Case(GREY, jpeg2000(), "JPEG 2000"),
    "jp2 16 bit rgb": Case(make_pixels(3, 97, 130, dtype="uint16") * 300, jpeg2000(), "JPEG 2000"),
    "jp2 signed": Case(make_pixels(1, 97, 130, dtype="int16") - 100, jpeg2000(), "JPEG 2000"),
    "jp2 lossy": Case(SMOOTH, jpeg2000(reversible=False, level=60), "JPEG 2000", is_lossy=True),
    "j2k": Case(RGB, jpeg2000("j2k"), "JPEG 2000"),
    "jp2 of pillow": Case(RGB, picture("jp2"), "JPEG 2000"),
    "one pixel tiff": Case(make_pixels(1, 1, 1), tiff("yx"), "TIFF"),
    "one column tiff": Case(make_pixels(1, 40, 1), tiff("yx", compression="zlib"), "TIFF"),
    "one row zarr": Case(make_pixels(1, 1, 40), zarr_array("yx", (1, 7)), "Zarr"),
}

# slides of scanners and files of other programs, and images of cameras
REAL = (
    *("small.svs", "cmu_small_region.svs", "tcga-cr-7395-01a-01-ts1.svs"),
    *("boxes_0.dcm", "boxes_1.dcm", "sm_image.dcm", "sm_image_dots.dcm", "sm_image_jpegls.dcm"),
    *("boxes.tiff", "boxes.png", *(f"o{n}.tif" for n in range(9))),
)
