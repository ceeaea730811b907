"""Percentiles of a whole image: exact, whatever is predicted of it, and the mask that follows from them."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from conftest import noise, toy_model
from hypothesis import given
from hypothesis import strategies as st
from image_files import make_pixels, ome_zarr, tiff, write_tiff
from mask_files import mask_of, saved
from one_pass import EXACT, one_pass

import tilesegment
from tilesegment import ImageError, Region
from tilesegment.images import open_image
from tilesegment.images.limits import ENOUGH, limits, measure_limits
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model

if TYPE_CHECKING:
    from tilesegment.cluster import Cluster

ENDS = (1.0, 99.8)


def percentile_model(channels: int = 1, mean: float = 0.5, std: float = 0.27) -> Model:
    """A toy model that scales by percentiles."""
    toy = toy_model(channels=channels, classes=3)
    scale = Normalisation((mean,) * channels, (std,) * channels, "", ENDS)
    return Model(replace(toy.header, normalisation=scale), toy.network)


def fixed_for(model: Model, pixels: np.ndarray) -> Model:
    """The same model with constants for an image (C, H, W), by NumPy's percentiles."""
    low, high = np.percentile(pixels.reshape(len(pixels), -1).astype(np.float64), ENDS, axis=1)
    scale = model.header.normalisation
    mean, std = low + np.array(scale.mean) * (high - low), np.array(scale.std) * (high - low)
    fixed = Normalisation(tuple(mean.tolist()), tuple(std.tolist()), str(pixels.dtype))
    return Model(replace(model.header, normalisation=fixed), model.network)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["uint8", "uint16", "float32"]),
    st.integers(1, 3),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([ENDS, (0.0, 100.0), (50.0, 51.0), (0.1, 0.2)]),
)
def test_they_are_those_of_numpy(
    seed: int, dtype: str, channels: int, shape: tuple[int, int], ends: tuple[float, float]
) -> None:
    """Of any type and shape; negative floats and floats of any size too."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        size = 10.0 ** rng.integers(-20, 20, (channels, *shape))
        pixels = (rng.standard_normal((channels, *shape)) * size).astype(np.float32)
    else:
        pixels = rng.integers(0, rng.integers(1, np.iinfo(dtype).max), (channels, *shape), dtype, endpoint=True)
    found = limits(pixels, ends)
    low, high = np.percentile(pixels.reshape(channels, -1).astype(np.float64), ends, axis=1)
    for n, (start, end) in enumerate(found):
        assert start < end
        assert start == pytest.approx(low[n], rel=1e-12)
        if high[n] - low[n] > 1e-5 * max(abs(low[n]), abs(high[n])):
            assert end == pytest.approx(high[n], rel=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_read_piece_by_piece_they_are_those_of_the_array(dtype: str, tmp_path: Path) -> None:
    pixels = noise((3, 40, 2500), dtype=dtype)
    pixels[1] = pixels[1] / 7
    with open_image(tiff("yxc", tile=(48, 48), photometric="rgb")(tmp_path, pixels)) as source:
        found = measure_limits(source, ENDS, (2, 0, 1))
    assert found.limits == limits(pixels[[2, 0, 1]], ENDS)
    assert (found.constant, found.level, found.planes) == ((), 0, 1)


def test_a_few_bright_pixels_and_constants_leave_something_to_divide_by() -> None:
    image = np.zeros((4, 100, 100), np.uint8)
    image[0, 4, 4] = 90  # too few for the percentile
    image[1], image[2, :50] = 7, 1
    image[3] = 255
    assert limits(image, ENDS) == ((0, 90), (7, 14), (0, 1), (255, 510))
    assert limits(np.zeros((1, 9, 9), np.float32), ENDS) == ((0, 1),)
    assert limits(np.full((1, 9, 9), 1e30, np.float32), ENDS)[0][1] > 1.5e30
    assert limits(np.full((1, 9, 9), -1e30, np.float32), ENDS)[0][1] > -5e29


def test_what_is_not_finite_is_left_out() -> None:
    pixels = noise((1, 50, 50), dtype="float32") - 0.5
    holed = pixels.copy()
    holed[0, :25] = np.nan
    holed[0, 25, :3] = np.inf, -np.inf, np.nan
    finite = holed[np.isfinite(holed)]
    assert limits(holed, ENDS)[0] == pytest.approx(tuple(np.percentile(finite.astype(np.float64), ENDS)), rel=1e-12)
    with pytest.raises(ImageError, match="no finite value"):
        limits(np.full((1, 3, 3), np.nan, np.float32), ENDS)


def test_of_a_pyramid_the_coarsest_level_with_enough_pixels_is_read(tmp_path: Path) -> None:
    levels = [np.full((256 >> n, 256 >> n), 10 * n, np.uint8) for n in range(4)]
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels[0], subifds=3, tile=(64, 64))
        for one in levels[1:]:
            writer.write(one, subfiletype=1, tile=(64, 64))
    for enough, expected in ((ENOUGH, 0), (64**2, 2), (64**2 + 1, 1), (1, 3)):
        with open_image(path) as source:
            found = measure_limits(source, ENDS, (0,), enough)
        assert (found.level, found.limits[0][0]) == (expected, 10 * expected)
        assert found.constant == (0,)


def test_of_a_large_stack_planes_are_spread_evenly(tmp_path: Path) -> None:
    planes = np.stack([np.full((9, 9), n, np.uint8) for n in range(46)])
    with open_image(write_tiff(tmp_path / "stack.tif", planes[0], *planes[1:])) as source:
        found = measure_limits(source, (0.0, 100.0), (0,))
    assert (found.planes, found.limits) == (16, ((0, 45),))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("uint8", {}),
    ("uint16", {"roi": Region(30, 40, 120, 180)}),
    ("float32", {"channels": (2,)}),
    ("int32", {"roi": Region(1, 2, 80, 91), "channels": (1,)}),
    ("uint16", {"tile": 120, "block": 200}),
]


@pytest.mark.parametrize(("dtype", "chosen"), CASES)
def test_the_mask_is_one_pass_by_the_percentiles_of_the_whole(
    dtype: str, chosen: dict[str, Any], tmp_path: Path
) -> None:
    """Of any type and exposure; a part of the image has the same mask as in the whole."""
    pixels = (make_pixels(3 if "channels" in chosen else 1, 131, 205).astype("float64") ** 1.5 + 300).astype(dtype)
    if dtype == "uint8":
        pixels = make_pixels(1, 131, 205) // 9 + 3
    pixels[:, :20] //= 2  # so that a part has other percentiles
    write = tiff("yxc", photometric="rgb") if len(pixels) == 3 else tiff("yx")
    image, model = write(tmp_path, pixels), percentile_model()
    done = tilesegment.predict(image, tmp_path / "m.zarr", saved(model, tmp_path), **{**EXACT, **chosen})
    used = pixels[list(chosen.get("channels", (0,)))]
    used = used if dtype != "int32" else used.astype(np.float32)
    expected = one_pass(fixed_for(model, used), used)[0]
    region = chosen.get("roi", Region.of_shape(expected.shape))
    np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), expected[region.slices])
    assert np.bincount(expected.ravel()).max() < 0.9 * expected.size
    record = tilesegment.open_mask(tmp_path / "m.zarr").spec.provenance["grey_values"]
    assert (record["percentiles"], record["limits"]) == (list(ENDS), [list(one) for one in limits(used, ENDS)])
    assert dict(done.decided.lines())["grey values"].endswith("percentiles 1 and 99.8 of the whole image")


def test_planes_are_scaled_by_the_values_of_all(tmp_path: Path) -> None:
    pixels = np.stack([make_pixels(1, 90, 80) // (n + 1) for n in range(3)])
    image, model = tiff("zyx", photometric="minisblack")(tmp_path, pixels), saved(percentile_model(), tmp_path)
    whole = tilesegment.predict(image, tmp_path / "m.zarr", model, **EXACT)
    part = tilesegment.predict(image, tmp_path / "p.zarr", model, z=(1, 2), **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "p.zarr"), mask_of(tmp_path / "m.zarr")[1:2])
    assert whole.decided.scaling.limits == part.decided.scaling.limits
    expected = np.percentile(pixels, ENDS)
    assert whole.decided.scaling.limits[0] == pytest.approx(tuple(expected))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_is_scaled_by_those_of_the_finest(level: int, tmp_path: Path) -> None:
    """Here every second pixel of a level is the next: one pass over it, with the limits of level 0."""
    pixels, model = make_pixels(1, 260, 240), percentile_model()
    pixels[:, ::2, ::2] //= 3
    image = ome_zarr("0.5", "cyx", 0.5)(tmp_path, pixels)
    tilesegment.predict(image, tmp_path / "m.zarr", saved(model, tmp_path), level=level, **EXACT)
    seen = pixels[:, :: 2**level, :: 2**level]
    np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), one_pass(fixed_for(model, pixels), seen)[0])


def test_resampled_pixels_are_scaled_by_the_stored_ones(tmp_path: Path) -> None:
    """A part of them has the mask of the whole."""
    pixels, model = make_pixels(1, 260, 240), percentile_model()
    pixels[:, 150:] //= 2
    path = saved(Model(replace(model.header, diameter=20.0), model.network), tmp_path)
    image = tiff("yx")(tmp_path, pixels)
    whole = tilesegment.predict(image, tmp_path / "m.zarr", path, diameter=30, **EXACT)
    part = tilesegment.predict(image, tmp_path / "p.zarr", path, diameter=30, roi=Region(30, 60, 120, 180), **EXACT)
    assert whole.decided.scaling.limits == part.decided.scaling.limits == limits(pixels, ENDS)
    np.testing.assert_array_equal(mask_of(tmp_path / "p.zarr"), mask_of(tmp_path / "m.zarr")[20:80, 40:120])


def test_inverted_values_have_their_own(tmp_path: Path) -> None:
    pixels, model = make_pixels(1, 90, 80), saved(percentile_model(), tmp_path)
    image = write_tiff(tmp_path / "white.tif", pixels[0] // 2, photometric="miniswhite")
    for invert in (False, True):
        done = tilesegment.predict(image, tmp_path / f"{invert}.zarr", model, invert=invert, **EXACT)
        shown = 255 - pixels // 2 if invert else pixels // 2
        assert done.decided.scaling.limits == limits(shown, ENDS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_workers_have_them_from_the_plan(cluster: "Cluster", tmp_path: Path) -> None:
    pixels, model = make_pixels(1, 200, 290, dtype="uint16") * 7, percentile_model()
    image = tiff("yx", tile=(64, 64))(tmp_path, pixels)
    done = tilesegment.predict(image, tmp_path / "m.zarr", saved(model, tmp_path), workers=cluster, **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), one_pass(fixed_for(model, pixels), pixels)[0])
    assert pickle.loads(pickle.dumps(done.decided)) == done.decided


def test_exposure_and_type_make_no_difference(tmp_path: Path) -> None:
    grey = make_pixels(1, 90, 80)
    model = saved(percentile_model(), tmp_path)
    tilesegment.predict(tiff("yx")(tmp_path, grey), tmp_path / "a.zarr", model, **EXACT)
    others = (grey.astype("uint16") * 200 + 1000, grey.astype("uint16") * 16, grey / 255)
    for n, other in enumerate(others):
        tilesegment.predict(tiff("yx")(tmp_path, other), tmp_path / f"{n}.zarr", model, **EXACT)
        differing = (mask_of(tmp_path / f"{n}.zarr") != mask_of(tmp_path / "a.zarr")).mean()
        assert differing < (1e-3 if other.dtype.kind == "f" else 1e-9), "floats are rounded to float32"


def test_a_blank_image_is_predicted_with_a_note(tmp_path: Path) -> None:
    """Its value becomes 0, as that of the darkest background."""
    pixels, model = np.full((1, 90, 80), 9, np.uint16), percentile_model()
    done = tilesegment.predict(tiff("yx")(tmp_path, pixels), tmp_path / "m.zarr", saved(model, tmp_path), **EXACT)
    assert any("one grey value" in note for note in done.notes)
    black = Model(replace(model.header, normalisation=Normalisation((0.5,), (0.27,), "uint16")), model.network)
    np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), one_pass(black, pixels * 0)[0])


def test_scaling_by_the_image_is_still_a_choice(tmp_path: Path) -> None:
    """Its mean and spread, as ever; a run with the other choice does not go on with the mask."""
    image, model = tiff("yx")(tmp_path, make_pixels(1, 90, 80)), saved(percentile_model(), tmp_path)
    plain = saved(toy_model(classes=3), tmp_path)
    for n, one in enumerate((model, plain)):
        tilesegment.predict(image, tmp_path / f"{n}.zarr", one, normalise="image", **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "0.zarr"), mask_of(tmp_path / "1.zarr"))
