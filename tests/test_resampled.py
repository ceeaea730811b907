"""An image at another pixel size: every pixel is what its definition says, however the image is read."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from conftest import noise
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tilesegment.geometry import Region
from tilesegment.images import ImageSource, Level, ResampledSource, read_mirrored
from tilesegment.images.resampled import base_level
from tilesegment.metadata import UNKNOWN_FRAME, Frame, PixelSize, Spacing

DTYPES = st.sampled_from(["uint8", "uint16", "float32"])
STEPS = st.floats(1 / 16, 16)


class Stored(ImageSource):
    """Arrays (C, H, W) as the levels of an image; it counts the pixels that are read."""

    def __init__(self, *arrays: np.ndarray, frame: Frame = UNKNOWN_FRAME, stored: str | None = None) -> None:
        scales = [(arrays[0].shape[1] / one.shape[1], arrays[0].shape[2] / one.shape[2]) for one in arrays]
        levels = [Level((one.shape[1], one.shape[2]), scale) for one, scale in zip(arrays, scales, strict=True)]
        dtype = np.dtype(stored or arrays[0].dtype)
        super().__init__("stored", "Zarr", levels, None, len(arrays[0]), dtype, frame)
        self.arrays, self.was_read, self.is_open = arrays, 0, True
        self.most = 0

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        self.was_read += region.area
        self.most = max(self.most, region.area)
        return self.arrays[level][:, *region.slices]

    def close(self) -> None:
        self.is_open = False


def resampled(source: ImageSource, step: tuple[float, float]) -> np.ndarray:
    made = ResampledSource(source, step)
    return made.read(Region.of_shape(made.levels[made.own].shape), made.own)


def weights_by_definition(size: int, step: Fraction) -> np.ndarray:
    """(resampled pixels, size) float64, in exact arithmetic, pixel by pixel."""
    rows = []
    for i in range(ceil(size / step)):
        row = [Fraction(0)] * size
        if step >= 1:
            low, high = i * step, min((i + 1) * step, Fraction(size))
            for j in range(size):
                row[j] = max(min(high, Fraction(j + 1)) - max(low, Fraction(j)), Fraction(0)) / (high - low)
        else:
            centre = (i + Fraction(1, 2)) * step - Fraction(1, 2)
            for j in (floor(centre), floor(centre) + 1):
                row[min(max(j, 0), size - 1)] += 1 - abs(centre - j)
        rows.append([float(one) for one in row])
    return np.array(rows)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), DTYPES, st.fractions("1/15", 15, max_denominator=60), st.integers(0, 99))
@example(9, 8, "uint8", Fraction(2), 0)
@example(9, 8, "uint8", Fraction(137, 100), 1)
@example(9, 8, "uint8", Fraction(62, 100), 1)
def test_every_pixel_is_what_the_definition_says(
    height: int, width: int, dtype: str, step: Fraction, seed: int
) -> None:
    image = noise((2, height, width), seed, dtype)
    found = resampled(Stored(image), (float(step), float(step)))
    rows, columns = (weights_by_definition(size, step) for size in (height, width))
    exact = np.einsum("ih,chw,jw->cij", rows, image.astype(np.float64), columns)
    assert (found.dtype, found.shape) == (image.dtype, exact.shape)
    if dtype == "float32":
        np.testing.assert_allclose(found, exact, rtol=1e-6)
        return
    # of what lies almost halfway between two integers, float32 need not see the same half
    surely = np.abs(exact - np.floor(exact) - 0.5) > (0.01 if dtype == "uint16" else 1e-4)
    np.testing.assert_array_equal(found[surely], np.rint(exact)[surely])
    assert np.abs(found - exact).max() < 0.511


@settings(max_examples=150)
@given(st.data(), st.integers(1, 150), st.integers(1, 150), DTYPES, STEPS, STEPS)
def test_a_region_read_apart_is_the_crop_of_the_whole(
    data: st.DataObject, height: int, width: int, dtype: str, sy: float, sx: float
) -> None:
    source = ResampledSource(Stored(noise((2, height, width), height, dtype)), (sy, sx))
    whole = source.read(Region.of_shape(source.levels[1].shape), 1)
    for _ in range(4):
        y0, x0 = (data.draw(st.integers(0, side - 1)) for side in whole.shape[1:])
        y1, x1 = (data.draw(st.integers(low + 1, side)) for low, side in zip((y0, x0), whole.shape[1:], strict=True))
        region = Region(y0, x0, y1, x1)
        assert source.read(region, 1).tobytes() == whole[:, *region.slices].tobytes()


def test_parts_that_are_read_and_computed_one_by_one_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise((3, 300, 280), dtype="float32")
    once = resampled(Stored(image), (3.7, 0.8))
    monkeypatch.setattr("tilesegment.images.resampled.READ", 20_000)
    monkeypatch.setattr("tilesegment.images.resampled.AT_ONCE", 700)
    source = Stored(image)
    assert resampled(source, (3.7, 0.8)).tobytes() == once.tobytes()
    assert source.most <= 20_000
    assert source.was_read <= 1.3 * image[0].size


def test_only_what_is_needed_is_read() -> None:
    source = Stored(noise((1, 4000, 3000)))
    made = ResampledSource(source, (2.5, 2.5))
    made.read(Region(100, 200, 140, 300), 1)
    assert source.was_read == 100 * 250


@given(DTYPES, STEPS, st.integers(0, 255))
def test_one_value_stays_that_value(dtype: str, step: float, value: int) -> None:
    """Else blocks of one value were no longer found to be empty."""
    value_of = value / 256 + 0.1 if dtype == "float32" else value
    image = np.full((1, 57, 43), value_of, dtype)
    assert (resampled(Stored(image), (step, step)) == image[0, 0, 0]).all()


@pytest.mark.parametrize("step", [0.5, 1.0, 1.5, 2.0, 3.3])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_reaches_only_pixels_that_cover_it(step: float, bad: float) -> None:
    image = noise((1, 30, 30), dtype="float32")
    image[0, 12, 9] = bad
    spoilt = np.argwhere(~np.isfinite(resampled(Stored(image), (step, step))[0]))
    for (low, high), at in zip(zip(spoilt.min(0), spoilt.max(0), strict=True), (12, 9), strict=True):
        if step >= 1:
            assert low == floor(at / step)
            assert high == ceil((at + 1) / step) - 1
        else:  # within one pixel of its centre
            assert at - 1 < (low + 0.5) * step - 0.5
            assert (high + 0.5) * step - 0.5 < at + 1


def levels_of(image: np.ndarray, *factors: int) -> list[np.ndarray]:
    """Levels whose pixels are marked by their number, and not means: it shows which was read."""
    return [np.full((1, image.shape[1] // n, image.shape[2] // n), n, np.uint8) for n in factors]


@pytest.mark.parametrize(
    ("step", "read"), [(0.5, 1), (1, 1), (1.99, 1), (2, 2), (3.9, 2), (4, 4), (7, 4), (16, 16), (17.3, 16)]
)
def test_the_nearest_finer_level_is_read(step: float, read: int) -> None:
    source = Stored(*levels_of(np.empty((1, 320, 640)), 1, 2, 4, 16))
    assert (resampled(source, (step, step)) == read).all()
    assert base_level(source, (step, 0.7)) == 0, "fine along both axes"


def test_from_a_level_it_is_as_from_level_0() -> None:
    """Means of means of equally many pixels; of whole numbers, but for rounding to the nearest."""
    image = noise((1, 64, 96), dtype="float32")
    half = image.reshape(1, 32, 2, 48, 2).mean((2, 4), dtype=np.float64).astype(np.float32)
    np.testing.assert_allclose(resampled(Stored(image, half), (4, 4)), resampled(Stored(image), (4, 4)), rtol=1e-6)
    # a level as it is
    assert resampled(Stored(image, half), (2, 2)).tobytes() == half.tobytes()


def test_a_level_whose_sides_were_rounded_down() -> None:
    image = np.arange(25, dtype=np.uint8).repeat(25).reshape(1, 25, 25)
    source = Stored(image, image[:, :24:2, :24:2])
    source.levels = (source.levels[0], Level((12, 12), (2.0, 2.0)))
    found = resampled(source, (2.4, 2.4))
    assert found.shape == (1, 11, 11)
    # the last pixel covers 24 to 25 of level 0, of which level 1 has nothing: its last row, 22
    assert found[0, :, 0].tolist() == [0, 3, 5, 7, 10, 12, 15, 17, 19, 22, 22]


def test_what_it_says_of_itself() -> None:
    micrometres = Frame(y=Spacing(0.25, 3.0, "um"), x=Spacing(0.25, 4.0, "um"))
    source = Stored(noise((1, 100, 50), dtype="float32"), frame=micrometres, stored="int32")
    made = ResampledSource(source, (3.0, 0.7))
    assert made.levels == (*source.levels, Level((34, 72), (3.0, 0.7)))
    assert (made.shape, made.pixel_size, made.frame) == (source.shape, PixelSize(0.25, 0.25), source.frame)
    assert (made.dtype, made.stored_dtype, made.notes) == (source.dtype, source.stored_dtype, source.notes)
    assert made.stored_levels == source.levels == source.stored_levels
    region = Region(5, 6, 20, 30)
    assert made.read(region).tobytes() == source.read(region).tobytes()
    assert made.read_stored(region).dtype == np.int32
    assert made.read_stored(region, 1).tobytes() == made.read(region, 1).tobytes()
    with made:
        pass
    assert not source.is_open


@pytest.mark.parametrize("step", [0.4, 2.6])
def test_beyond_the_image_the_resampled_image_is_mirrored(step: float) -> None:
    source = ResampledSource(Stored(noise((1, 40, 30))), (step, step))
    height, width = source.levels[1].shape
    whole = source.read(Region(0, 0, height, width), 1)
    padded = np.pad(whole, ((0, 0), (9, 9), (9, 9)), mode="reflect")
    assert (read_mirrored(source, Region(-9, -9, height + 9, width + 9), 1) == padded).all()


def sides(step: float, sizes: Sequence[int]) -> list[int]:
    return [ResampledSource(Stored(np.empty((1, 1, size), np.uint8)), (1, step)).levels[1].shape[1] for size in sizes]


def test_sides_are_rounded_up() -> None:
    assert sides(2, [1, 2, 3, 4]) == [1, 1, 2, 2]
    assert sides(0.1, [1, 2, 3]) == [10, 20, 30], "but not for the rounding of floats"
    assert sides(1.4999999999, [3, 6, 9]) == [2, 4, 6]
