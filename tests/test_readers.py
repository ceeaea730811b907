"""One contract for all readers: a region depends on its place alone, never on what else is read, when or by whom.

OpenSlide, for one, breaks it above level 0 of some slides; a reader that does cannot be used for tiles.
"""

from pathlib import Path

import numpy as np
import pytest
from reader_cases import DRAWN, REAL, WSI, Case
from reader_contract import keep_the_contract
from s3_server import upload

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, Level, open_image
from tilesegment.stores import Location

ON_A_SERVER = (
    "tiff tiles",
    "tiff raw pages",
    "ome-tiff pyramid",
    "zarr shards",
    "zarr v2",
    "ome-zarr 0.5",
    "png rgb",
    "ndpi",
)


@pytest.mark.parametrize("case", DRAWN.values(), ids=DRAWN)
def test_every_format_gives_back_what_was_written(case: Case, tmp_path: Path) -> None:
    planes = case.pixels if case.pixels.ndim == 4 else case.pixels[None]
    path = case.write(tmp_path, case.pixels)
    with open_image(path) as source:
        assert (source.format, source.shape, source.channels) == (case.format, planes.shape[2:], planes.shape[1])
        assert source.stored_dtype == case.pixels.dtype
        assert source.depth == (len(planes) if case.pixels.ndim == 4 else None)
        assert source.levels[0] == Level(source.shape, (1.0, 1.0))
        assert [level.scale for level in source.levels] == [(2.0**n, 2.0**n) for n in range(case.levels)]
        if case.pixel_size is None:
            assert source.pixel_size is None
        else:
            assert (source.pixel_size.y, source.pixel_size.x) == pytest.approx((case.pixel_size.y, case.pixel_size.x))
        for n, level in enumerate(source.levels):
            for z, plane in enumerate(planes):
                pixels, expected = source.read_stored(Region.of_shape(level.shape), n, z), plane[:, :: 2**n, :: 2**n]
                if case.is_lossy:
                    assert np.abs(pixels - expected.astype(float)).mean() < 3
                else:
                    np.testing.assert_array_equal(pixels, expected)
    keep_the_contract(lambda: open_image(path))


@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str) -> None:
    if not WSI.is_dir():
        pytest.skip(f"no slides in {WSI}")
    keep_the_contract(lambda: open_image(WSI / name))


@pytest.mark.parametrize("name", ON_A_SERVER)
def test_images_on_a_server(name: str, tmp_path: Path, s3: Location) -> None:
    place = upload(DRAWN[name].write(tmp_path, DRAWN[name].pixels), s3)
    keep_the_contract(lambda: open_image(place))


def test_slides_that_are_not_read_from_a_server(tmp_path: Path, s3: Location) -> None:
    """A MRXS begins as the JPEG that shows it."""
    for name in ("mrxs", "bif", "bif by the name of a tiff"):
        (folder := tmp_path / name).mkdir()
        place = upload(DRAWN[name].write(folder, DRAWN[name].pixels), s3)
        with pytest.raises(ImageError, match=r"from a server.*download it"):
            open_image(place)


class ShiftingSource(ImageSource):
    """Rounds the origin of a read to whole pixels of a coarser grid, as a reader of scaled levels may."""

    def __init__(self) -> None:
        super().__init__("a", "array", [Level((50, 60), (1.0, 1.0))], None, 1, np.dtype(np.uint8))
        self.pixels = np.random.default_rng(0).integers(0, 255, (1, 50, 60), np.uint8)

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        moved = Region(region.y0 // 4 * 4, region.x0, region.y0 // 4 * 4 + region.height, region.x1)
        return self.pixels[:, *moved.slices]

    def close(self) -> None:
        return None


def test_a_reader_that_depends_on_the_origin_is_found_out() -> None:
    with pytest.raises(AssertionError):
        keep_the_contract(ShiftingSource)
