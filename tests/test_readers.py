"""One contract for all readers: a region depends on its place alone, never on what else is read, when or by whom.

OpenSlide, for one, breaks it above level 0 of some slides; a reader that does cannot be used for tiles.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from reader_cases import DRAWN, REAL, WSI, Case
from s3_server import upload

from tilesegment.geometry import Region
from tilesegment.images import ImageSource, Level, open_image
from tilesegment.stores import Location

Job = tuple[Region, int, int]  # what is read: region, level, plane

ON_A_SERVER = ("tiff tiles", "tiff raw pages", "ome-tiff pyramid", "zarr shards", "zarr v2", "ome-zarr 0.5", "png rgb")
_WINDOW = 700  # pixels of a side: of larger levels a part stands for the whole


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


def keep_the_contract(opened: Callable[[], ImageSource]) -> None:
    """Read an image in many ways, which have to agree; `opened` opens it anew."""
    with opened() as source:
        check_what_it_says(source)
        wholes = {(n, z): source.read(part_of(source, n), n, z) for n, z in planes_of(source)}

        def crop(job: Job) -> np.ndarray:
            region, n, z = job
            return wholes[n, z][:, *region.within(part_of(source, n)).slices]

        jobs = [job for n, z in wholes for job in jobs_of(part_of(source, n), n, z)]
        for job in jobs:
            np.testing.assert_array_equal(source.read(*job), crop(job), str(job))
    with opened() as source:  # nothing is kept of the reads above
        for job in reversed(jobs):
            np.testing.assert_array_equal(source.read(*job), crop(job), f"{job}, in another order")
    with opened() as source, ThreadPoolExecutor(8) as pool:
        for job, pixels in zip(jobs, pool.map(lambda job: source.read(*job), jobs), strict=True):
            np.testing.assert_array_equal(pixels, crop(job), f"{job}, in threads")


def check_what_it_says(source: ImageSource) -> None:
    assert source.dtype.isnative and source.stored_dtype.isnative
    assert source.levels[0].scale == (1.0, 1.0)
    assert all(max(a.scale) < max(b.scale) for a, b in zip(source.levels, source.levels[1:], strict=False))
    assert source.depth is None or source.depth > 1
    for n, z in planes_of(source):
        region = part_of(source, n)
        pixels, stored = source.read(region, n, z), source.read_stored(region, n, z)
        assert pixels.shape == stored.shape == (source.channels, *region.shape)
        assert (pixels.dtype, stored.dtype) == (source.dtype, source.stored_dtype)
        np.testing.assert_array_equal(pixels, stored.astype(source.dtype))
    assert source.read(Region(0, 0, 0, 0)).shape == (source.channels, 0, 0)


def planes_of(source: ImageSource) -> list[tuple[int, int]]:
    """Level and plane of all that there is."""
    return [(n, z) for n in range(len(source.levels)) for z in range(source.depth or 1)]


def part_of(source: ImageSource, n: int) -> Region:
    """A level, or its middle if it is large: its origin is odd, as that of a tile may be."""
    height, width = source.levels[n].shape
    y, x = (max((side - _WINDOW) // 2 | 1, 0) if side > _WINDOW else 0 for side in (height, width))
    return Region(y, x, min(y + _WINDOW, height), min(x + _WINDOW, width))


def jobs_of(whole: Region, n: int, z: int) -> list[Job]:
    """Regions of all sizes of a plane, its last pixel, and neighbours that together are the whole."""
    rng = np.random.default_rng(n)
    ends = [[sorted(int(v) for v in rng.integers(0, side + 1, 2)) for side in whole.shape] for _ in range(4)]
    regions = [Region(y0, x0, y1, x1) for (y0, y1), (x0, x1) in ends]
    height, width = whole.shape
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    regions += [Region(height - 1, width - 1, height, width)]
    regions += [Region(0, 0, y, x), Region(0, x, y, width), Region(y, 0, height, x), Region(y, x, height, width)]
    return [(one.shift(whole.y0, whole.x0), n, z) for one in regions]


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
