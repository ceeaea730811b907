"""Objects of a mask equal those of the whole mask labelled at once, however it is cut."""

import csv
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from masks_of_objects import CLASSES, labelled, masks, numbered, read_labels, sides, write_mask
from scipy import ndimage
from skimage.measure import regionprops_table

from tilesegment.errors import MaskError, PlanError
from tilesegment.geometry import Region
from tilesegment.metadata import LabelClass
from tilesegment.objects.block_pieces import BlockPieces
from tilesegment.objects.cut import Cut
from tilesegment.objects.find import find_objects
from tilesegment.objects.growing import grow
from tilesegment.objects.labelling import Labelling
from tilesegment.scoring import evaluate

PROPERTIES = ("label", "area", "centroid", "bbox", "axis_major_length", "perimeter", "solidity")


@given(st.data())
@settings(max_examples=12)
def test_ids_measurements_and_outlines_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    mask, connectivity = data.draw(masks(30)), data.draw(st.sampled_from([4, 8]))
    block, folder = data.draw(sides(mask)), tmp_path_factory.mktemp("objects")
    path = write_mask(folder / "mask.zarr", mask)
    outputs = [folder / name for name in ("labels.zarr", "table.csv", "cells.geojson")]
    found = find_objects(path, *outputs, block=block, connectivity=connectivity)
    whole = labelled(mask, connectivity)
    assert (read_labels(outputs[0]) == whole).all()
    assert found.count == whole.max()
    with outputs[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == [*range(1, found.count + 1)]
    expected = regionprops_table(whole, properties=PROPERTIES) if found.count else {}
    for name, values in expected.items():
        column = next(one for one in rows[0] if one == name or one.rpartition("_")[0] == name)
        assert [float(row[column]) for row in rows] == pytest.approx(list(values), rel=1e-9, abs=1e-9), name
    features = json.loads(outputs[2].read_text())["features"]
    assert len(features) == found.count
    for label, feature in enumerate(features, 1):
        outline = shapely.geometry.shape(feature["geometry"])
        assert outline.is_valid
        assert outline.area == (whole == label).sum()
        y, x = np.nonzero(whole == label)
        assert shapely.contains_xy(outline, x + 0.5, y + 0.5).all()
    assert sorted(one.name for one in folder.iterdir()) == sorted(["mask.zarr", *(one.name for one in outputs)])


@given(st.data())
@settings(max_examples=25)
def test_growing_is_decided_by_distance_then_by_id(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    rng, radius = np.random.default_rng(data.draw(st.integers(0, 999))), data.draw(st.sampled_from([1, 1.5, 2, 3, 4.3]))
    ids = np.where(rng.random(shape) < 0.1, rng.permutation(shape[0] * shape[1]).reshape(shape), 0).astype(np.uint32)
    allowed = rng.random(shape) < 0.8
    assert (grow(np.pad(ids, int(radius)), allowed, radius) == grown(ids, allowed, radius)).all()


def grown(ids: np.ndarray, allowed: np.ndarray, radius: float) -> np.ndarray:
    """Grow pixel by pixel."""
    found, (ys, xs) = ids.copy(), np.nonzero(ids)
    for y, x in zip(*np.nonzero(allowed & (ids == 0)), strict=True):
        squares = (ys - y) ** 2 + (xs - x) ** 2
        if len(squares) and squares.min() <= radius**2:
            found[y, x] = ids[ys, xs][squares == squares.min()].min()
    return found


def filled(ids: np.ndarray, connectivity: int) -> np.ndarray:
    """Give what one object encloses to it, gap by gap."""
    gaps, count = ndimage.label(ids == 0, None if connectivity == 8 else np.ones((3, 3)))
    found = ids.copy()
    for gap in range(1, count + 1):
        inside = gaps == gap
        around = ndimage.binary_dilation(inside) & ~inside
        edge = np.pad(np.zeros(np.subtract(ids.shape, 2).clip(0), bool), 1, constant_values=True)
        edge = edge[: ids.shape[0], : ids.shape[1]] if min(ids.shape) < 2 else edge
        touched = np.unique(ids[around])
        if len(touched) == 1 and not (inside & edge).any():
            found[inside] = touched[0]
    return found


@given(st.data())
@settings(max_examples=12)
def test_grown_filled_and_chosen_objects_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    mask, connectivity = data.draw(masks(24)), data.draw(st.sampled_from([4, 8]))
    radius, with_border, fills = (
        data.draw(st.sampled_from([0, 1, 2.5])),
        data.draw(st.booleans()),
        data.draw(st.booleans()),
    )
    least, touching = data.draw(st.sampled_from([0, 4])), data.draw(st.sampled_from(["keep", "drop"]))
    block, folder = data.draw(sides(mask, 3)), tmp_path_factory.mktemp("objects")
    border = {"border": "rim"} if with_border else {}
    find_objects(
        write_mask(folder / "mask.zarr", mask),
        folder / "labels.zarr",
        block=block,
        connectivity=connectivity,
        classes=["cell"],
        grow=radius,
        fill_holes=fills,
        min_area=least,
        touching_border=touching,
        **border,
    )
    whole = labelled(np.where(mask == 1, 1, 0), connectivity).astype(np.uint32)
    whole = grown(whole, mask == 2 if with_border else np.ones(mask.shape, bool), radius) if radius else whole
    whole = filled(whole, connectivity) if fills else whole
    areas = np.bincount(whole.ravel())
    kept = areas >= least
    if touching == "drop":
        kept[np.unique(np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]]))] = False
    numbers = np.where(kept & (np.arange(len(kept)) > 0) & (areas > 0), 1, 0)
    assert (read_labels(folder / "labels.zarr") == (np.cumsum(numbers) * numbers)[whole]).all()


@pytest.mark.parametrize(("connectivity", "block"), [*product((4, 8), (7, 20))])
def test_objects_go_through_planes(tmp_path: Path, connectivity: int, block: int) -> None:
    smooth = ndimage.gaussian_filter(np.random.default_rng(block).random((4, 14, 17)), 0.8)
    mask = ((smooth > 0.5).astype(np.uint8) + (smooth > 0.56)).astype(np.uint8)
    path, whole = write_mask(tmp_path / "mask.zarr", mask), labelled(mask, connectivity)
    outputs = [tmp_path / "labels.zarr", tmp_path / "cells.geojson"]
    found = find_objects(path, *outputs, volume=True, connectivity=connectivity, block=block)
    assert (read_labels(outputs[0]) == whole).all()
    assert 1 < found.count == whole.max() < max(labelled(plane, connectivity).max() for plane in mask) * len(mask)
    table = find_objects(path, volume=True, connectivity=connectivity, block=block).table
    assert table is not None
    assert (table["area_vx"] == np.bincount(whole.ravel())[1:]).all()
    # an outline per object and plane, in the plane's order
    features = json.loads(outputs[1].read_text())["features"]
    planes = [feature["geometry"]["plane"]["z"] for feature in features]
    assert planes == sorted(planes)
    assert len(features) == sum(len(np.unique(plane[plane > 0])) for plane in whole)
    assert sum(shapely.geometry.shape(one["geometry"]).area for one in features) == np.count_nonzero(whole)
    assert len({feature["id"] for feature in features}) == len(features)


def test_planes_of_a_stack_have_objects_of_their_own(tmp_path: Path) -> None:
    mask = np.zeros((2, 9, 9), np.uint8)
    mask[:, 2:5, 2:5] = 1
    found = find_objects(write_mask(tmp_path / "mask.zarr", mask), block=4)
    assert found.table is not None
    assert [found.table[name].tolist() for name in ("label", "plane", "area_px")] == [[1, 2], [0, 1], [9, 9]]
    later = write_mask(tmp_path / "later.zarr", mask, CLASSES, first_plane=7)
    table = find_objects(later, block=4).table
    assert table is not None and table["plane"].tolist() == [7, 8]
    (volume,) = [one for one in [find_objects(later, block=4, volume=True).table] if one is not None]
    assert [volume[name].tolist() for name in ("centroid-0_px", "bbox-0_px", "bbox-3_px")] == [[7.5], [7], [9]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64])
def test_ids_that_others_gave_stay(tmp_path: Path, dtype: type) -> None:
    ids = np.zeros((20, 30), dtype)
    ids[2:6, 3:9], ids[2:6, 9:12], ids[15:18, 1:4], ids[15:18, 20:24] = 200, 7, 90, 90  # 90 in two pieces
    tifffile.imwrite(tmp_path / "ids.tif", ids)
    outputs = [tmp_path / "labels.zarr", tmp_path / "cells.geojson"]
    assert find_objects(tmp_path / "ids.tif", *outputs, block=8).count == 3
    assert (read_labels(outputs[0]) == ids).all()
    table = find_objects(tmp_path / "ids.tif", block=8).table
    assert table is not None and "class" not in table
    assert dict(zip(table["label"].tolist(), table["area_px"].tolist(), strict=True)) == {200: 24, 7: 12, 90: 21}
    kinds = [feature["geometry"]["type"] for feature in json.loads(outputs[1].read_text())["features"]]
    assert sorted(kinds) == ["MultiPolygon", "Polygon", "Polygon"]


def test_an_image_of_one_value_is_read_as_one_object_with_a_word(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "binary.tif", np.pad(np.full((4, 4), 255, np.uint8), 3))
    (note,) = find_objects(tmp_path / "binary.tif").notes
    assert "--classes 255" in note
    assert find_objects(tmp_path / "binary.tif", classes=["255"]).notes == ()


def test_an_image_is_no_label_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "image.tif", rng.integers(0, 256, (200, 200), np.uint8))
    tifffile.imwrite(tmp_path / "binary.tif", np.kron(rng.integers(0, 2, (40, 40)), np.full((5, 5), 255)).astype("u1"))
    for name in ("image.tif", "binary.tif"):
        with pytest.raises(MaskError, match="with --classes the values whose regions are objects"):
            find_objects(tmp_path / name, tmp_path / "cells.csv", block=64)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["binary.tif", "image.tif"]
    assert find_objects(tmp_path / "binary.tif", classes=["255"], block=64).count > 20


def test_the_model_knows_what_its_classes_are(tmp_path: Path) -> None:
    """Cores touch nothing, their rims meet: without an option each nucleus gets its core and its half of the rim."""
    roles = (LabelClass("background", "#000000"), LabelClass("core", "#ff0000", role="object"))
    roles += (LabelClass("rim", "#00ff00", role="border"), LabelClass("debris", "#0000ff"))
    mask = np.zeros((9, 16), np.uint8)
    mask[1:8, 1:15], mask[3:6, 3:6], mask[3:6, 10:13], mask[0, 15] = 2, 1, 1, 3
    path = write_mask(tmp_path / "mask.zarr", mask, roles)
    found = find_objects(path, tmp_path / "labels.zarr", block=5)
    assert found.count == 2
    assert (read_labels(tmp_path / "labels.zarr") > 0).sum() == 7 * 14
    without = find_objects(path, classes=["core"], border="rim", grow=0).table
    assert without is not None and without["area_px"].tolist() == [9, 9]
    with pytest.raises(PlanError, match="has no class 'nucleus'; it has: 0 background, 1 core, 2 rim, 3 debris"):
        find_objects(path, classes=["nucleus"])


def test_grey_values_are_those_under_the_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    image, mask = rng.integers(0, 65536, (2, 30, 40), np.uint16), np.zeros((30, 40), np.uint8)
    mask[3:9, 5:30], mask[20:29, 30:40] = 1, 1
    tifffile.imwrite(
        tmp_path / "image.tif", image, photometric="minisblack", planarconfig="separate", metadata={"axes": "CYX"}
    )
    table = find_objects(write_mask(tmp_path / "mask.zarr", mask), image=tmp_path / "image.tif", block=7).table
    assert table is not None
    expected = regionprops_table(
        labelled(mask), np.moveaxis(image, 0, -1), properties=("intensity_mean", "intensity_std", "intensity_max")
    )
    for name, values in expected.items():
        assert table[name] == pytest.approx(values, rel=1e-12), name


def test_coordinates_are_those_of_the_whole_image(tmp_path: Path) -> None:
    """The mask of a region at level 1: pixel corners of the mask lie on even corners of the image."""
    mask = np.zeros((10, 12), np.uint8)
    mask[2:5, 3:9] = 1
    place = {"offset": (20 + 0.25, 30 + 0.25), "scale": (2.0, 2.0)}
    path = write_mask(tmp_path / "mask.zarr", mask, CLASSES, **place)
    find_objects(path, tmp_path / "cells.geojson", block=4)
    (feature,) = json.loads((tmp_path / "cells.geojson").read_text())["features"]
    assert shapely.geometry.shape(feature["geometry"]).bounds == (66, 44, 78, 50)  # x, y, x, y
    table = find_objects(path).table
    assert table is not None
    assert [table[f"bbox-{n}_px"][0] for n in range(4)] == [44, 66, 50, 78]
    assert [table["centroid-0_px"][0], table["centroid-1_px"][0]] == [46.5, 71.5]
    assert table["area_px"][0] == 18


def test_features_keep_their_ids_when_the_mask_is_made_again(tmp_path: Path) -> None:
    mask, found = np.pad(np.ones((3, 3), np.uint8), 2), []
    for name in ("first", "second"):
        path = write_mask(tmp_path / f"{name}.zarr", mask, provenance={"started": name})
        find_objects(path, tmp_path / f"{name}.geojson")
        found.append(json.loads((tmp_path / f"{name}.geojson").read_text())["features"][0]["id"])
    assert found[0] == found[1]


def test_outlines_and_ids_of_a_part_of_an_image_are_the_same_objects(tmp_path: Path) -> None:
    mask = np.zeros((2, 10, 12), np.uint8)
    mask[:, 2:5, 3:9], mask[1, 7:9, 1:3] = 1, 1
    place = {"offset": (20 + 0.25, 30 + 0.25), "scale": (2.0, 2.0), "first_plane": 5}
    path = write_mask(tmp_path / "mask.zarr", mask, CLASSES, **place)
    outputs = [tmp_path / "cells.geojson", tmp_path / "labels.zarr"]
    find_objects(path, *outputs)
    for truth in (outputs[1], path):
        found = evaluate(outputs[0], truth, objects=True).objects
        assert found is not None
        assert (found.truth, found.prediction, found.aji, found.dice) == (3, 3, 1, 1)


def test_ids_count_by_first_pixel() -> None:
    assert numbered(np.array([[0, 7, 7], [3, 0, 7], [3, 3, 9]])).tolist() == [[0, 1, 1], [2, 0, 1], [2, 2, 3]]


@given(st.data())
@settings(max_examples=20)
def test_smaller_levels_hold_every_second_pixel(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    mask, folder = data.draw(masks(30)), tmp_path_factory.mktemp("levels")
    labelling = Labelling(folder / "labelled", Cut(1, mask.shape, data.draw(sides(mask, 3))))
    for place in labelling.cut:
        BlockPieces.of(mask[labelling.cut.region(place).slices]).save(labelling.path(place))
    labelling.join()
    whole, table = labelled(mask), labelling.joined.object_of
    halvings = data.draw(st.integers(1, 4))
    small = whole[:: 1 << halvings, :: 1 << halvings]
    for region in Region.of_shape(small.shape).squares(data.draw(st.integers(1, 20))):
        assert (labelling.paint_reduced(0, region, halvings, table) == small[region.slices]).all()
