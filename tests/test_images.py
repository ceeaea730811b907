"""One contract for all image sources, each format written by its own library."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from image_files import (
    GREY,
    RGB,
    STACK,
    VOLUME,
    Write,
    fails,
    make_pixels,
    ome_zarr,
    png,
    tiff,
    zarr_array,
)
from zarr.codecs import BytesCodec, ShardingCodec, ZstdCodec

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, Level, open_image, read_mirrored
from tilesegment.metadata import PixelSize

WSI = Path(__file__).parents[2] / "shared" / "data" / "wsi"


@dataclass(frozen=True)
class Case:
    """A way to store `pixels` (C, H, W) or (Z, C, H, W), and what has to come back besides them."""

    pixels: np.ndarray
    write: Write
    format: str
    pixel_size: PixelSize | None = None


SHARDS = {"serializer": ShardingCodec(chunk_shape=(16, 16), codecs=[BytesCodec(), ZstdCodec()]), "compressors": None}
WORDS, FLOATS = make_pixels(1, 97, 130, dtype="uint16"), make_pixels(1, 97, 130, dtype="float32") / 7
BITS = GREY % 2 * np.uint8(255)
HALF = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}  # 0.5 micrometres a pixel
OME = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}

CASES = {
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
    "ome-zarr 0.4": Case(VOLUME, ome_zarr("0.4", "tczyx", 0.3), "OME-Zarr 0.4", PixelSize(0.3, 0.3)),
    "ome-zarr 0.5": Case(STACK, ome_zarr("0.5", "zyx", 0.3), "OME-Zarr 0.5", PixelSize(0.3, 0.3)),
    "png grey": Case(GREY, png, "PNG"),
    "png rgb": Case(RGB, png, "PNG"),
    "png rgba": Case(make_pixels(4, 33, 47), png, "PNG"),
    "png 16 bit": Case(WORDS, png, "PNG"),
    "one pixel tiff": Case(make_pixels(1, 1, 1), tiff("yx"), "TIFF"),
    "one column tiff": Case(make_pixels(1, 40, 1), tiff("yx", compression="zlib"), "TIFF"),
    "one row zarr": Case(make_pixels(1, 1, 40), zarr_array("yx", (1, 7)), "Zarr"),
}


def random_regions(shape: tuple[int, int], count: int) -> list[Region]:
    """Regions of all sizes within `shape`, the whole among them."""
    rng = np.random.default_rng(count)
    ends = [[sorted(int(v) for v in rng.integers(0, side + 1, 2)) for side in shape] for _ in range(count)]
    return [Region.of_shape(shape), *(Region(y0, x0, y1, x1) for (y0, y1), (x0, x1) in ends)]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_format_gives_back_what_was_written(case: Case, tmp_path: Path) -> None:
    planes = case.pixels if case.pixels.ndim == 4 else case.pixels[None]
    with open_image(case.write(tmp_path, case.pixels)) as source:
        assert (source.format, source.shape, source.channels) == (case.format, planes.shape[2:], planes.shape[1])
        assert source.dtype == case.pixels.dtype
        assert source.dtype.isnative
        assert source.depth == (len(planes) if case.pixels.ndim == 4 else None)
        assert source.levels[0] == Level(source.shape, (1.0, 1.0))
        if case.pixel_size is None:
            assert source.pixel_size is None
        else:
            assert (source.pixel_size.y, source.pixel_size.x) == pytest.approx((case.pixel_size.y, case.pixel_size.x))
        for z, expected in enumerate(planes):
            for region in random_regions(source.shape, 6):
                pixels = source.read(region, z=z)
                assert pixels.dtype == source.dtype
                np.testing.assert_array_equal(pixels, expected[:, *region.slices])


@pytest.mark.parametrize(
    "name", ["tiff tiles", "tiff deflate strips", "tiff raw pages", "zarr shards", "ome-zarr 0.4", "png rgb"]
)
def test_threads_read_the_same_as_one(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    planes = case.pixels if case.pixels.ndim == 4 else case.pixels[None]
    with open_image(case.write(tmp_path, case.pixels)) as source, ThreadPoolExecutor(8) as pool:
        jobs = [(region, z) for region in random_regions(source.shape, 20) for z in range(len(planes))]
        for (region, z), pixels in zip(jobs, pool.map(lambda job: source.read(job[0], 0, job[1]), jobs), strict=True):
            np.testing.assert_array_equal(pixels, planes[z][:, *region.slices])


def test_lossy_jpeg_tiles_are_decoded_to_rgb(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(90), np.arange(120))[None].repeat(3, 0).astype(np.uint8) // [[[1]], [[2]], [[3]]]
    options = {"compression": "jpeg", "compressionargs": {"level": 95}, "photometric": "rgb", "tile": (32, 32)}
    path = tiff(**options)(tmp_path, smooth.astype(np.uint8))
    with open_image(path) as source:
        pixels = source.read(Region.of_shape(source.shape))
    np.testing.assert_array_equal(pixels, tifffile.imread(path).transpose(2, 0, 1))
    assert np.abs(pixels - smooth.astype(int)).mean() < 3


def test_what_is_no_image_or_no_part_of_one(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n")
    (tmp_path / "folder").mkdir()
    fails(tmp_path / "nothing.tif", "does not exist")
    fails(tmp_path / "empty.tif", "empty file")
    fails(tmp_path / "text.png", "supported are TIFF, .*Zarr.*PNG and JPEG")
    fails(tmp_path / "folder", "without a Zarr array")
    with open_image(png(tmp_path, GREY)) as source:
        for what in ({"level": 1}, {"z": 1}, {"level": -1}):
            with pytest.raises(ImageError, match="from 0 to 0"):
                source.read(Region(0, 0, 1, 1), **what)


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = png(tmp_path, GREY).rename(tmp_path / "image.tif")
    with open_image(path) as source:
        assert source.format == "PNG"


def test_only_the_strips_and_tiles_of_a_region_are_decoded(tmp_path: Path) -> None:
    with open_image(tiff(tile=(32, 32), compression="zlib")(tmp_path, RGB)) as source:
        source.read(Region(40, 70, 64, 97))  # one row of tiles, columns 2 and 3
        assert source.decoded_bytes == 2 * 32 * 32 * 3
    with open_image(tiff(compression="zlib", rowsperstrip=10)(tmp_path, RGB)) as source:
        for x in range(0, 211, 50):  # a row of blocks
            source.read(Region(12, x, 55, min(x + 50, 211)))
        assert source.decoded_bytes == 5 * 10 * 211 * 3


def test_a_huge_sparse_image_costs_what_is_read(tmp_path: Path) -> None:
    """400 gigapixels, no more stored than one chunk."""
    array = zarr.create_array(tmp_path / "a.zarr", shape=(400_000, 1_000_000), chunks=(512, 512), dtype="uint8")
    array[512:1024, 512:1024] = 7
    with open_image(tmp_path / "a.zarr") as source:
        assert source.read(Region(500, 500, 600, 700)).sum() == 7 * 88 * 188
        assert not read_mirrored(source, Region(399_900, 999_900, 400_100, 1_000_100)).any()


def open_array(pixels: np.ndarray) -> ImageSource:
    """A source that holds `pixels` (C, H, W) in memory, through the array format that needs no file of its own."""

    class ArraySource(ImageSource):
        def _read(self, region: Region, level: int, z: int) -> np.ndarray:
            return pixels[:, *region.slices]

        def close(self) -> None:
            return None

    return ArraySource("a", "array", (Level(pixels.shape[1:], (1, 1)),), None, len(pixels), pixels.dtype)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 30), st.integers(0, 30), st.data())
def test_read_mirrored_is_numpys_reflect(height: int, width: int, above: int, left: int, data: st.DataObject) -> None:
    pixels = make_pixels(2, height, width)
    padded = np.pad(pixels, ((0, 0), (above, 30), (left, 30)), mode="reflect")
    y0, x0 = data.draw(st.integers(-above, height + 29)), data.draw(st.integers(-left, width + 29))
    y1, x1 = data.draw(st.integers(y0 + 1, height + 30)), data.draw(st.integers(x0 + 1, width + 30))
    expected = padded[:, y0 + above : y1 + above, x0 + left : x1 + left]
    np.testing.assert_array_equal(read_mirrored(open_array(pixels), Region(y0, x0, y1, x1)), expected)


def test_read_mirrored_inside_the_image_copies_nothing() -> None:
    pixels = make_pixels(1, 50, 60)
    assert np.shares_memory(read_mirrored(open_array(pixels), Region(3, 4, 20, 60)), pixels)


@pytest.mark.parametrize("kind", ["zarr", "tiff"])
def test_axes_and_select(tmp_path: Path, kind: str) -> None:
    movie = make_pixels(12, 5, 20, 30)
    if kind == "zarr":
        path = zarr_array("zcyx", (1, 1, 20, 30), dimension_names=["t", "c", "y", "x"])(tmp_path, movie)
    else:
        path = tiff("zcyx", ome=True, metadata={"axes": "TCYX"})(tmp_path, movie)
    with pytest.raises(ImageError, match=r"has 12 time points \(axis t\): choose one with --select t=0\.\.11"):
        open_image(path)
    with open_image(path, select={"t": 3}) as source:
        assert (source.depth, source.channels) == (None, 5)
        np.testing.assert_array_equal(source.read(Region(2, 3, 20, 9)), movie[3, :, 2:20, 3:9])
    with open_image(path, select={"t": 3, "c": 4}) as source:
        np.testing.assert_array_equal(source.read(Region(2, 3, 20, 9)), movie[3, 4:, 2:20, 3:9])
    with open_image(path, axes="zcyx") as source:
        np.testing.assert_array_equal(source.read(Region(2, 3, 20, 9), z=7), movie[7, :, 2:20, 3:9])
    with open_image(path, axes="czyx", select={"z": 1}) as source:
        np.testing.assert_array_equal(source.read(Region(2, 3, 20, 9)), movie[:, 1, 2:20, 3:9])
    for wrong in ({"t": 12}, {"t": -1}, {"z": 0}, {"y": 0}):
        with pytest.raises(ImageError, match="has no"):
            open_image(path, select=wrong)
    for letters in ("cyx", "tcyy", "tcab"):
        with pytest.raises(ImageError, match="do not fit an array of 12 x 5 x 20 x 30"):
            open_image(path, axes=letters)


def test_one_sample_of_a_colour_tiff(tmp_path: Path) -> None:
    with open_image(tiff(tile=(32, 32))(tmp_path, RGB), select={"s": 1}) as source:
        assert source.channels == 1
        np.testing.assert_array_equal(source.read(Region(9, 9, 80, 90)), RGB[1:2, 9:80, 9:90])


def test_pages_of_a_tiff_as_channels(tmp_path: Path) -> None:
    with open_image(tiff("zyx", compression="zlib")(tmp_path, STACK), axes="cyx") as source:
        assert (source.depth, source.channels) == (None, 5)
        np.testing.assert_array_equal(source.read(Region(9, 9, 50, 60)), STACK[:, 0, 9:50, 9:60])


def test_real_slides() -> None:
    if not WSI.is_dir():
        pytest.skip(f"no slides in {WSI}")
    with open_image(WSI / "small.svs") as source:
        assert (source.format, source.shape, source.channels) == ("SVS", (16, 16), 3)
        assert source.pixel_size == PixelSize(0.499, 0.499)
        assert source.read(Region(0, 0, 16, 16)).shape == (3, 16, 16)
    with open_image(WSI / "boxes.tiff") as source, open_image(WSI / "boxes.png") as flat:
        assert [level.scale for level in source.levels] == [(2.0**n, 2.0**n) for n in range(4)]
        region = Region.of_shape(flat.shape)
        np.testing.assert_array_equal(source.read(region), flat.read(region))
    with pytest.raises(ImageError, match="compression 52479"):
        open_image(WSI / "unopenable.tiff")
    with open_image(WSI / "unreadable.svs") as source, pytest.raises(ImageError, match="tile 0"):
        source.read(Region(0, 0, 16, 16))
