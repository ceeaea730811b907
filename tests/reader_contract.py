"""The contract of all readers: a region depends on its place alone, never on what else is read, when or by whom."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tilesegment.geometry import Region
from tilesegment.images import ImageSource

Job = tuple[Region, int, int]  # what is read: region, level, plane

_WINDOW = 700  # pixels of a side: of larger levels a part stands for the whole


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
