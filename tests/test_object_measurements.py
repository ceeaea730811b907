"""Measurements equal scikit-image's of the whole label image, and bit for bit whatever the cut into blocks."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops_table

from tilesegment.geometry import Region
from tilesegment.metadata import PixelSize
from tilesegment.objects.batches import Placement
from tilesegment.objects.measuring import MARGIN, measure_block
from tilesegment.objects.sums import Sums, merge
from tilesegment.objects.table import measurement_table

VOLUME = (
    *("label", "area", "centroid", "bbox"),
    *("equivalent_diameter_area", "axis_major_length", "axis_minor_length"),
)
FLAT = (*VOLUME, "eccentricity", "orientation", "perimeter", "solidity")
GREY = ("intensity_mean", "intensity_std", "intensity_min", "intensity_max")
Table = dict[str, np.ndarray]


def label_image(seed: int, kind: int | None = None) -> np.ndarray:
    """Random objects of one kind: blobs, worms that touch, single pixels, ids in several pieces, a full image."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 20, 2))
    kind = rng.integers(5) if kind is None else kind
    if kind == 0:
        labels = ndimage.label(ndimage.gaussian_filter(rng.random(shape), rng.uniform(0.5, 2)) > 0.5)[0]
    elif kind == 1:
        labels = np.zeros(shape, int)
        for worm in range(1, rng.integers(2, 8)):
            steps = rng.integers(-1, 2, (rng.integers(1, 60), 2)).cumsum(axis=0) + rng.integers(0, shape)
            labels[tuple(np.clip(steps, 0, np.array(shape) - 1).T)] = worm
    elif kind == 2:
        labels = rng.integers(0, rng.integers(2, 8), shape)
    elif kind == 3:
        labels = (rng.random(shape) < 0.1) * rng.integers(1, 4, shape)
    else:
        labels = np.full(shape, 1)
    # ids with gaps, in any order
    names = np.concatenate([[0], rng.permutation(1000)[: labels.max()] + 1])
    return names[labels].astype(np.uint32)


def grey_image(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Two channels: all values of the type, and large ones that differ little."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        wide = rng.normal(size=shape) * 10.0 ** rng.integers(-12, 12, shape)
        return np.stack([wide, 1e6 + rng.random(shape)]).astype(np.float32)
    top = int(np.iinfo(dtype).max)
    return np.stack([rng.integers(0, top + 1, shape), rng.integers(top - 2, top + 1, shape)]).astype(dtype)


def cut(
    labels: np.ndarray,
    side: int,
    image: np.ndarray | None = None,
    *,
    seed: int = 0,
    volume: bool = False,
    corner: tuple[int, int] = (0, 0),
) -> list[Sums]:
    """Measure the blocks of a stack (z, y, x), or of one plane, whose first pixel is `corner`, in a random order."""
    stack = labels if labels.ndim == 3 else labels[None]
    # (c, z, y, x)
    grey = image if image is None or image.ndim == 4 else image[:, None]
    padded = np.pad(stack, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    total = np.bincount(stack.ravel(), minlength=1)
    pieces = []
    for z in range(len(stack)):
        for block in Region.of_shape(stack.shape[1:]).squares(side):
            wide = Region(block.y0, block.x0, block.y1 + 2 * MARGIN, block.x1 + 2 * MARGIN)
            whole = np.bincount(stack[z][block.slices].ravel(), minlength=len(total)) == total
            ids = padded[z][wide.slices]
            part = None if grey is None else grey[:, z][(slice(None), *block.slices)]
            pieces.append(measure_block(ids, block.shift(*corner), z, whole, part, volume=volume))
    np.random.default_rng(seed).shuffle(pieces)
    return pieces


def assert_identical(one: Table, other: Table) -> None:
    """The same columns, bit for bit."""
    assert list(one) == list(other)
    for name, values in one.items():
        assert values.dtype == other[name].dtype, name
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def plain(table: Table) -> Table:
    """The columns named as scikit-image names them."""
    return {name.removesuffix("_px").removesuffix("_vx").removesuffix("_rad"): values for name, values in table.items()}


def assert_as_scikit_image(table: Table, labels: np.ndarray, image: np.ndarray | None = None) -> None:
    """All columns equal those of `regionprops_table`, within 1e-9."""
    names = (*(FLAT if labels.ndim == 2 else VOLUME), *(() if image is None else GREY))
    # in float64: scikit-image adds float32 as such
    grey = None if image is None else np.moveaxis(image, 0, -1).astype(np.float64)
    expected = regionprops_table(labels, grey, properties=names)
    table = plain(table)
    assert set(table) == set(expected)
    major, minor = expected["axis_major_length"], expected["axis_minor_length"]
    # an error of 1e-16 of the second moments is one of 1e-8 of a small root
    squared = {"axis_major_length": major, "axis_minor_length": major, "eccentricity": 1}
    for name, values in expected.items():
        if name in squared:
            assert (np.abs(table[name] ** 2 - values**2) <= 1e-9 * np.square(squared[name])).all(), name
        elif name == "orientation":
            # undefined where no direction is longer; -90 and 90 degrees are one
            defined = major**2 - minor**2 > 1e-4 * major**2
            turn = np.exp(2j * table[name]) - np.exp(2j * values)
            assert (np.abs(turn[defined]) < 1e-9).all()
        else:
            np.testing.assert_allclose(table[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_flat_objects(seed: int, side: int) -> None:
    labels = label_image(seed)
    table = measurement_table(merge(cut(labels, side, seed=seed)))
    assert_identical(table, measurement_table(merge(cut(labels, 100))))
    if labels.any():
        assert_as_scikit_image(table, labels)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.sampled_from(["uint8", "uint16", "float32"]))
def test_grey_values(seed: int, side: int, dtype: str) -> None:
    labels = label_image(seed)
    image = grey_image(labels.shape, dtype, seed)
    table = measurement_table(merge(cut(labels, side, image, seed=seed)))
    assert_identical(table, measurement_table(merge(cut(labels, 100, image))))
    if labels.any():
        assert_as_scikit_image(table, labels, image)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_volumes(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random(tuple(rng.integers(1, 10, 3))), rng.uniform(0, 1))
    labels = ndimage.label(noise > 0.5)[0].astype(np.uint32)
    image = rng.integers(0, 65536, (2, *labels.shape)).astype(np.uint16)
    table = measurement_table(merge(cut(labels, side, image, seed=seed, volume=True)), volume=True)
    assert_identical(table, measurement_table(merge(cut(labels, 100, image, volume=True)), volume=True))
    if labels.any():
        assert_as_scikit_image(table, labels, image)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_first_pixels_in_raster_order(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.integers(0, 6, rng.integers(1, 9, 3)) * (rng.random() < 0.9)).astype(np.uint32)
    pieces = merge(cut(labels, side, seed=seed, volume=True))
    ids, first = np.unique(labels, return_index=True)
    expected = np.stack(np.unravel_index(first[ids > 0], labels.shape), axis=1)
    np.testing.assert_array_equal(pieces.ids, ids[ids > 0])
    np.testing.assert_array_equal(pieces.first, expected)


def test_planes_are_measured_each_alone() -> None:
    planes = [ndimage.label(grey_image((30, 30), "uint8", seed)[0] > 90)[0] for seed in range(3)]
    offsets = np.cumsum([0] + [plane.max() for plane in planes])
    stack = np.stack([np.where(p, p + offset, 0) for p, offset in zip(planes, offsets, strict=False)]).astype(np.uint32)
    table = measurement_table(merge(cut(stack, 7)), planes=True)
    assert np.bincount(table["plane"]).tolist() == [plane.max() for plane in planes]
    for z, plane in enumerate(planes):
        here = {name: values[table["plane"] == z] for name, values in table.items() if name != "plane"}
        assert_as_scikit_image(here | {"label": here["label"] - offsets[z]}, plane)


def test_shapes_without_an_inside() -> None:
    labels = np.zeros((30, 30), np.uint32)
    labels[0, 0] = 1  # one pixel, in a corner
    labels[2, 3:9] = 2
    labels[5:12, 1] = 3
    labels[range(5, 12), range(5, 12)] = 4
    labels[20, [0, 29]] = 5  # two pixels far apart
    labels[22:24, 2:4] = 6
    table = measurement_table(merge(cut(labels, 4)))
    assert_as_scikit_image(table, labels)
    # exact, where scikit-image has rounding errors
    assert table["axis_minor_length_px"][:5].tolist() == [0] * 5
    assert table["eccentricity"].tolist() == [0, 1, 1, 1, 1, 0]
    assert table["solidity"][:4].tolist() == [1] * 4 and table["solidity"][4] == 2 / 30
    degrees = np.degrees(table["orientation_rad"])
    np.testing.assert_allclose(degrees, [-45, 90, 0, 45, 90, -45])


@pytest.mark.parametrize("offset", [100_000, 2**29])
def test_a_shape_is_the_same_far_from_the_origin(offset: int) -> None:
    labels = label_image(7, kind=1)
    here, there = (measurement_table(merge(cut(labels, 8, corner=(at, at)))) for at in (0, offset))
    moved = {name for name in here if name.startswith(("centroid", "bbox"))}
    assert len(moved) == 6 and labels.any()
    assert_identical(*({name: one[name] for name in one if name not in moved} for one in (here, there)))
    for name in moved:
        np.testing.assert_allclose(there[name], here[name] + offset, rtol=1e-15)


def test_a_sum_that_may_not_fit_gives_nan() -> None:
    pieces = merge(cut(np.ones((3, 3), np.uint32), 3, np.full((1, 3, 3), 7, np.uint16)))
    side = 77_937
    huge = replace(pieces, area=np.array([side**2]), box=np.array([[0, 0, 0, 1, side, side]], np.int32))
    table = measurement_table(huge)
    lost = {name for name, values in table.items() if np.isnan(values).any()}
    assert lost == {"axis_major_length_px", "axis_minor_length_px", "eccentricity", "orientation_rad"}
    fits = replace(huge, area=huge.area - 3 * side, box=huge.box - np.array([0, 0, 0, 0, 2, 2], np.int32))
    assert not any(np.isnan(values).any() for values in measurement_table(fits).values())


def test_the_largest_values_of_integers_and_floats() -> None:
    labels = np.ones((50, 50), np.uint32)
    for dtype, top in (("uint8", 255), ("uint16", 65535), ("float32", np.finfo(np.float32).max)):
        image = np.full((1, 50, 50), top, dtype)
        table = measurement_table(merge(cut(labels, 13, image)))
        assert table["intensity_mean-0"] == table["intensity_max-0"] == float(top)
        assert table["intensity_std-0"] == 0
        image[0, ::2] = 0
        assert measurement_table(merge(cut(labels, 13, image)))["intensity_std-0"] == float(top) / 2


def test_floats_that_are_no_numbers() -> None:
    labels = np.repeat(np.arange(1, 6, dtype=np.uint32), 4).reshape(5, 4)
    image = np.arange(20, dtype=np.float32).reshape(1, 5, 4)
    image[0, 1, 1], image[0, 2, 2], image[0, 4, 3] = np.nan, -np.inf, np.inf
    table = measurement_table(merge(cut(labels, 3, image)))
    np.testing.assert_array_equal(table["intensity_mean-0"], [1.5, np.nan, np.nan, 13.5, np.nan])
    np.testing.assert_array_equal(table["intensity_min-0"], [0, np.nan, -np.inf, 12, 16])
    np.testing.assert_array_equal(table["intensity_max-0"], [3, np.nan, 11, 15, np.inf])
    np.testing.assert_array_equal(np.isnan(table["intensity_std-0"]), [False, True, True, False, True])


def test_tiny_floats() -> None:
    image = np.float32(1e-45) * np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    table = measurement_table(merge(cut(np.ones((2, 2), np.uint32), 1, image)))
    assert table["intensity_mean-0"] == image.astype(np.float64).mean()
    np.testing.assert_allclose(table["intensity_std-0"], image.astype(np.float64).std(), rtol=1e-15)


@pytest.mark.parametrize("image", [None, "uint16", "float32"])
def test_pieces_are_saved_merged_again_and_taken_in_parts(image: str | None) -> None:
    labels = label_image(7, kind=2)
    pieces = cut(labels, 5, None if image is None else grey_image(labels.shape, image, 1))
    whole = measurement_table(merge(pieces))
    file = io.BytesIO()
    np.savez(file, **merge(pieces[3:]).to_arrays())
    file.seek(0)
    merged = merge([*pieces[:3], Sums.from_arrays(np.load(file))])
    assert_identical(measurement_table(merged), whole)
    assert len(merged) > 4
    parts = [measurement_table(merged.take(slice(a, b))) for a, b in ((0, 0), (0, 3), (3, 4), (4, len(merged)))]
    assert_identical({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)


def test_rows_are_kept_where_objects_are_not_known_to_be_whole() -> None:
    labels = np.pad(label_image(7, kind=2), MARGIN)
    inner = Region.of_shape(labels.shape).shape
    region = Region(0, 0, inner[0] - 2 * MARGIN, inner[1] - 2 * MARGIN)
    kept = measure_block(labels, region, 0)
    known = measure_block(labels, region, 0, np.ones(labels.max() + 1, bool))
    assert len(kept.rows) and not len(known.rows)
    assert_identical(measurement_table(kept), measurement_table(known))


def test_ids_up_to_the_largest() -> None:
    labels = np.zeros((6, 6), np.uint32)
    labels[1:3, 1:3], labels[3:5, 3:5] = 1, 2**32 - 1
    table = measurement_table(measure_block(np.pad(labels, MARGIN), Region.of_shape(labels.shape), 0))
    assert table["label"].tolist() == [1, 2**32 - 1]
    assert table["perimeter_px"].tolist() == [4, 4]


def test_no_objects() -> None:
    empty = measure_block(np.zeros((7, 7), np.uint32), Region(0, 0, 3, 3), 0, None, np.zeros((2, 3, 3), np.float32))
    table = measurement_table(merge([empty, empty]), size=PixelSize(1, 1))
    some = measurement_table(merge(cut(np.ones((3, 3), np.uint32), 2, np.zeros((2, 3, 3), np.float32))))
    assert set(some) < set(table)
    assert {len(values) for values in table.values()} == {0}
    assert all(len(values) == 0 for values in measurement_table(merge([])).values())
    assert all(len(values) == 0 for values in measurement_table(merge([]), volume=True).values())


def test_units_classes_and_names_of_channels() -> None:
    labels = np.pad(np.ones((4, 6), np.uint32), 1)
    pieces = merge(cut(labels, 3, np.full((2, *labels.shape), 9, np.uint8)))
    table = measurement_table(pieces, classes=np.array(["cell"]), size=PixelSize(0.5, 0.5), channels=["DAPI", "GFP"])
    assert list(table)[:4] == ["label", "class", "area_px", "area_um2"]
    assert table["class"].tolist() == ["cell"] and table["area_um2"].tolist() == [6]
    lengths = {name.removesuffix("_um") for name in table if name.endswith("_um")}
    assert lengths == {"equivalent_diameter_area", "axis_major_length", "axis_minor_length", "perimeter"}
    for name in lengths:
        np.testing.assert_allclose(table[f"{name}_um"], table[f"{name}_px"] / 2)
    assert table["intensity_mean-DAPI"].tolist() == table["intensity_max-GFP"].tolist() == [9]
    oblong = measurement_table(pieces, size=PixelSize(0.5, 1))
    assert oblong["area_um2"].tolist() == [12] and not any(name.endswith("_um") for name in oblong)


def test_units_of_volumes() -> None:
    pieces = merge(cut(np.ones((2, 3, 4), np.uint32), 3, volume=True))
    table = measurement_table(pieces, size=PixelSize(2, 2), depth=2, volume=True)
    assert table["area_vx"].tolist() == [24] and table["area_um3"].tolist() == [192]
    assert table["axis_major_length_um"] == 2 * table["axis_major_length_px"]
    flat = measurement_table(pieces, size=PixelSize(2, 2), depth=5, volume=True)
    assert flat["area_um3"].tolist() == [480] and "axis_major_length_um" not in flat
    assert "area_um3" not in measurement_table(pieces, size=PixelSize(2, 2), volume=True)


def test_positions_in_an_image_of_another_scale() -> None:
    labels = np.zeros((5, 5), np.uint32)
    labels[1, 2] = 1
    place = Placement(offset=(100, 200), scale=(4, 2))
    table = measurement_table(merge(cut(labels, 2)), place=place)
    assert [table[f"bbox-{k}_px"].item() for k in range(4)] == [104, 204, 108, 206]
    # the centre of the pixels 104 .. 107, as scikit-image counts from the first pixel's centre
    assert [table[f"centroid-{k}_px"].item() for k in range(2)] == [105.5, 204.5]
    assert table["area_px"].tolist() == [1]
    volume = measurement_table(merge(cut(labels[None], 2, volume=True)), place=place, volume=True)
    assert [volume[f"bbox-{k}_px"].item() for k in range(6)] == [0, 104, 204, 1, 108, 206]
    assert math.isclose(volume["centroid-0_px"].item(), 0)
