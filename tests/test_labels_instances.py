"""Labels that are ids of single objects: recognised, refused as classes, read as background and object."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import Run
from conftest import data_folder
from data_sets import write_files, write_ome_zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mask_files import CLASSES, fill, finished, spec_of
from PIL import Image
from scipy import ndimage

from tilesegment import DataError, evaluate
from tilesegment.geometry import Region
from tilesegment.labels.coding import IGNORE
from tilesegment.labels.label import Label, inside_objects, part_objects
from tilesegment.masks import create_mask
from tilesegment.training.data import Section, open_dataset, summary
from tilesegment.training.data.sizes import touching_objects
from tilesegment.training.examples import reduce_section

SIDE = 64
TRAIN = "train d --steps 1 --base 2 --depth 1 --tile 32 --device cpu"


def objects(count: int, seed: int = 0) -> np.ndarray:
    """Ids 1 to `count` in touching squares of 10 x 10 pixels, (64, 64) uint16."""
    places = np.random.default_rng(seed).permutation(36)[:count]
    ids = np.zeros((SIDE, SIDE), np.uint16)
    for number, place in enumerate(places, 1):
        y, x = 2 + place // 6 * 10, 2 + place % 6 * 10
        ids[y : y + 10, x : x + 10] = number
    return ids


def write(folder: Path, *labels: np.ndarray, suffix: str = "tif") -> Path:
    images = [np.clip(80 + 90 * (label.reshape(SIDE, SIDE, -1)[..., 0] > 0), 0, 255) for label in labels]
    files = {f"images/{n}.png": image.astype(np.uint8) for n, image in enumerate(images)}
    return write_files(folder, files | {f"labels/{n}.{suffix}": label for n, label in enumerate(labels)})


@given(arrays(np.uint16, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)))
def test_no_piece_of_an_object_touches_another(ids: np.ndarray) -> None:
    inside = inside_objects(ids)
    assert not inside[ids == 0].any()
    pieces, count = ndimage.label(inside, np.ones((3, 3)))
    for piece in range(1, count + 1):
        assert len(np.unique(ids[pieces == piece])) == 1
    alone = ndimage.grey_erosion(np.where(ids, ids, 9), 3, mode="nearest")
    most = ndimage.grey_dilation(ids, 3, mode="nearest")
    # what has no other object beside it stays
    np.testing.assert_array_equal(inside, (ids > 0) & (np.minimum(alone, ids) == ids) & (most == ids))


def test_the_parts_of_a_label_are_those_of_the_whole() -> None:
    ids = objects(30)
    label = part_objects(Label(ids.shape, 1, "grey", lambda region, z: ids[region.slices]), "label a", None)
    whole = label.read(Region.of_shape(ids.shape), 0)
    np.testing.assert_array_equal(whole, inside_objects(ids))
    for region in Region.of_shape(ids.shape).squares(13):
        np.testing.assert_array_equal(label.read(region, 0), whole[region.slices])


MANY = {
    "ids beyond 32": [objects(34), objects(35, 1)],
    "few ids": [objects(5), objects(7, 1), objects(3, 2)],
    "few ids in one file": [objects(9)],
    "few ids far apart": [objects(9) * np.uint16(17), objects(7, 1) * np.uint16(17)],
    "few ids beyond 16 bits": [objects(4).astype(np.uint32) * 70_001],
    "cut out of a larger image": [np.where(objects(4) > 0, objects(4) * 37, 0).astype(np.uint16), objects(3, 1) * 100],
}


def check(section: Section, ids: np.ndarray) -> None:
    """The objects of a section are those of `ids`, numbered from 1, and the class is all of them."""
    assert section.objects is not None and section.objects.dtype == np.int32
    np.testing.assert_array_equal(section.label, (ids != 0).astype(np.uint8))
    expected = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)  # the first is 0
    np.testing.assert_array_equal(section.objects, expected)


@pytest.mark.parametrize("kind", MANY)
def test_ids_of_objects_are_no_classes(kind: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = MANY[kind]
    write(tmp_path / "d", *labels)
    write_files(tmp_path / "p", {f"{n}.png": (label > 0).astype(np.uint8) for n, label in enumerate(labels)})
    done = run("evaluate p d/labels")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "--instances" in done.err
    for wanted in (None, True):
        data = open_dataset(tmp_path / "d", instances=wanted)
        assert data.instances
        assert [(one.name, one.value) for one in data.classes] == [("background", 0), ("object", 1)]
        for section, ids in zip(data.sections, labels, strict=True):
            check(section, ids)
        assert "--no-instances" in data.notes[0]
        few = len({*np.concatenate(labels).ravel().tolist()}) <= 32 and wanted is None
        assert [("taken for ids" in one) for one in data.warnings] == [True] * few
    with pytest.raises(DataError, match=r"a, b, c: expected 2 different names.*--no-instances"):
        open_dataset(tmp_path / "d", ["a", "b", "c"])


def test_ids_are_classes_if_the_user_says_so(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path / "few", objects(5), objects(7, 1)), instances=False)
    assert not data.instances and [one.value for one in data.classes] == [*range(8)]
    assert all(section.objects is None for section in data.sections)
    np.testing.assert_array_equal(data.sections[1].label, objects(7, 1))
    named = open_dataset(tmp_path / "few", [f"c{n}" for n in range(8)])
    assert not named.instances and named.classes[7].name == "c7"
    with pytest.raises(DataError, match=r"35 values.*at most 32.*leave out --no-instances"):
        open_dataset(write(tmp_path / "many", objects(34)), instances=False)


def test_every_way_of_reading_keeps_the_objects(tmp_path: Path) -> None:
    """Planes of stacks, labelled parts of a large image, a folder of validation, a lower resolution."""
    ids = [objects(12 - n, n) for n in range(3)]
    write_files(tmp_path / "stack", {"images/s.tif": np.stack(ids).astype(np.uint8), "labels/s.tif": np.stack(ids)})
    for section, plane in zip(open_dataset(tmp_path / "stack").sections, ids, strict=True):
        check(section, plane)
    for part in ("train", "val"):
        write(tmp_path / "split" / part, *ids[:2])
    trained, held_out = open_dataset(tmp_path / "split").split(0.2)
    for sections in (trained, held_out):
        for section, plane in zip(sections, ids, strict=False):
            check(section, plane)
    assert held_out[0].name == "val/0"
    small = reduce_section(trained[0], 2)
    assert small.objects is not None and small.objects.max() == 12
    np.testing.assert_array_equal(small.objects > 0, small.label == 1)
    np.testing.assert_array_equal(small.objects, ids[0][1::2, 1::2])  # squares with even sides


def test_labelled_parts_of_a_large_image_have_objects_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilesegment.training.data.reading.WHOLE", 100 * 100)
    monkeypatch.setattr("tilesegment.training.data.reading.GRID", 64)
    ids = np.full((640, 640), 65_535, np.uint16)
    ids[:64, 64:128], ids[512:576, 448:512] = objects(9), np.where(objects(7, 1), objects(7, 1) + 20, 0)
    write_files(tmp_path, {"images/a.png": (ids % 251).astype(np.uint8), "labels/a.png": ids})
    data = open_dataset(tmp_path, ignore=65_535)
    assert [section.name for section in data.sections] == ["a@0,0", "a@448,384"]
    for section, part in zip(data.sections, (objects(9), objects(7, 1)), strict=True):
        assert section.objects is not None
        labelled = section.label != IGNORE
        np.testing.assert_array_equal(section.objects[labelled].reshape(SIDE, SIDE), part)
        assert not section.objects[~labelled].any() and labelled.sum() == SIDE**2


@pytest.mark.slow
def test_a_model_is_trained_on_objects(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d", *[objects(12, n) for n in range(3)])
    done = run(f"{TRAIN} --instances --classes background,nucleus --out r --json")
    assert done.code == 0, done.err
    assert "nucleus" in done.err and "ids of single objects" in done.err
    assert json.loads((tmp_path / "r" / "config.json").read_text())["labels"]["instances"] is True
    assert run(f"{TRAIN} --config r/config.json --out again -q").code == 0
    done = run(f"{TRAIN} --no-instances --out classes")
    assert done.code == 0 and "value 12" in done.err
    assert json.loads((tmp_path / "classes" / "config.json").read_text())["labels"]["instances"] is False


def test_objects_are_scored(tmp_path: Path) -> None:
    labels = [objects(12, n) for n in range(3)]
    for n, ids in enumerate(labels):
        whole, parted = (ids > 0).astype(np.uint8), inside_objects(ids).astype(np.uint8)
        write_files(
            tmp_path, {f"t/{n}.tif": ids, f"p/{n}.png": parted, f"q/{n}.tif": ids + (ids > 0), f"m/{n}.png": whole}
        )
    for prediction in ("p", "q", "m"):
        found = evaluate(tmp_path / prediction, tmp_path / "t", instances=True)
        assert found.cells is not None and [one.name for one in found.classes] == ["background", "object"]
        assert (found.accuracy == 1, found.cells.v_rand == 1) == (prediction != "m",) * 2


def test_ids_in_colours_stacks_and_palettes(tmp_path: Path) -> None:
    ids = objects(9)
    colours = np.random.default_rng(0).integers(30, 256, (10, 3), np.uint8)
    colours[0] = 0
    write(tmp_path / "rgb", colours[ids], suffix="png")
    write_files(
        tmp_path / "stack", {"images/0.tif": np.zeros((2, SIDE, SIDE), np.uint8) + np.arange(SIDE, dtype=np.uint8)}
    )
    write_files(tmp_path / "stack", {"labels/0.tif": np.stack([ids, objects(8, 1)])})
    for name in ("rgb", "stack"):
        data = open_dataset(tmp_path / name, instances=True)
        found = data.sections[0].objects
        assert found is not None
        pairs = np.unique(np.stack([found.ravel(), ids.ravel()]), axis=1)
        np.testing.assert_array_equal(pairs[0], np.arange(10))  # numbered in the order of the colours
        np.testing.assert_array_equal(np.sort(pairs[1]), np.arange(10))
    many = np.random.default_rng(0).integers(30, 256, (37, 3), np.uint8)
    write(tmp_path / "many", np.where(objects(36)[..., None] > 0, many[objects(36)], 0).astype(np.uint8), suffix="png")
    for name, count in (("many", 36), ("rgb", 9)):
        (section,) = open_dataset(tmp_path / name).sections
        assert section.objects is not None and section.objects.max() == count


@pytest.mark.parametrize(("dtype", "value"), [("int32", -1), ("uint16", 65_535), ("uint32", 7)])
def test_an_id_may_mean_not_labelled(dtype: str, value: int, tmp_path: Path) -> None:
    ids = objects(12).astype(dtype)
    ids[:9] = value
    write(tmp_path, ids)
    data = open_dataset(tmp_path, ignore=value, instances=True)
    np.testing.assert_array_equal(data.sections[0].label == IGNORE, ids == value)
    assert data.sections[0].objects is not None and not data.sections[0].objects[ids == value].any()
    assert data.ignore == value
    prediction = tmp_path / "p.tif"
    tifffile.imwrite(prediction, ids.clip(0))
    label = tmp_path / "labels" / "0.tif"
    found = evaluate(prediction, label, ignore=value, instances=True)
    assert found.ignored == np.count_nonzero(ids == value)
    if value == -1:
        with pytest.raises(DataError, match="--ignore -1"):
            open_dataset(tmp_path, instances=True)


def test_classes_are_no_objects(tmp_path: Path) -> None:
    classes = np.random.default_rng(0).integers(0, 4, (SIDE, SIDE)).astype(np.uint8)
    write(tmp_path / "d", classes)
    with pytest.raises(DataError, match="leave out --instances"):
        open_dataset(tmp_path / "d", instances=True)
    write(tmp_path / "two", (objects(9) > 0).astype(np.uint8), suffix="png")
    data = open_dataset(tmp_path / "two", instances=True)
    assert any("taken for one" in warning for warning in data.warnings)


def test_names_in_a_file_make_values_classes(tmp_path: Path) -> None:
    write(tmp_path, objects(9), objects(8, 1))
    assert open_dataset(tmp_path).instances
    names = {"background": 0, **{f"organ {n}": n for n in range(1, 10)}}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names}))
    data = open_dataset(tmp_path)
    assert not data.instances and data.classes[9].name == "organ 9"
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "nucleus": 1}}))
    data = open_dataset(tmp_path)
    assert data.instances and [one.name for one in data.classes] == ["background", "nucleus"]


def test_ids_in_ome_zarr(tmp_path: Path) -> None:
    image = (objects(20) > 0).astype(np.uint8) * 90
    for n in range(2):
        write_ome_zarr(tmp_path / f"{n}.zarr", image, {"cells": objects(20 + n, n).astype(np.uint32)})
    data = open_dataset(tmp_path)
    for n, section in enumerate(data.sections):
        check(section, objects(20 + n, n))


def test_real_nuclei_drawn_as_outlines(run: Run, tmp_path: Path) -> None:
    """What `tileseg objects` writes is read as what it was."""
    folder = data_folder("nuclei-he")
    (tmp_path / "images").mkdir()
    for path in sorted((folder / "images").iterdir())[:2]:
        (tmp_path / "images" / path.name).symlink_to(path)
        label = folder / "labels" / path.with_suffix(".png").name
        (tmp_path / "labels").mkdir(exist_ok=True)
        assert run(f"objects {label} --out {tmp_path}/labels/{path.stem}.geojson -q").code == 0
    for section in open_dataset(tmp_path).sections:
        assert section.objects is not None
        ids = np.array(Image.open(folder / "labels" / f"{section.name}.png"))
        pairs = np.unique(np.stack([section.objects.ravel(), ids.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(ids)) == section.objects.max() + 1


# --- ids that are not as they should be


def discs(places: list[tuple[int, int, int]], dtype: str = "uint16") -> np.ndarray:
    """Discs 9 px wide of the ids in (y, x, id), (SIDE, SIDE)."""
    yy, xx = np.mgrid[:SIDE, :SIDE]
    ids = np.zeros((SIDE, SIDE), dtype)
    for y, x, number in places:
        ids[(yy - y) ** 2 + (xx - x) ** 2 < 20] = number
    return ids


def test_an_id_in_several_places_is_several_objects(tmp_path: Path) -> None:
    once, several = discs([(9, 9, 1), (9, 30, 2), (40, 40, 3)]), discs([(9, 9, 4), (9, 50, 4), (50, 9, 4), (50, 50, 7)])
    write(tmp_path, once, several, objects(12))
    data = open_dataset(tmp_path)
    found = data.sections[1].objects
    assert found is not None and [found[y, x] for y, x in ((50, 50), (0, 0))] == [2, 0]
    assert sorted(found[y, x] for y, x in ((9, 9), (9, 50), (50, 9))) == [1, 3, 4]
    (note,) = data.notes[1:]
    assert note == "1: id 4 lies in 3 separate places; each is read as an object of its own"


def test_ids_of_many_tiles_repeat(tmp_path: Path) -> None:
    """Numbered anew in each of four tiles: too many pieces for ids to be recognised, and told once."""
    tile = np.kron(np.arange(64).reshape(8, 8), np.ones((4, 4))).astype(np.uint8)  # 63 ids in 32 x 32 pixels
    tile[:, ::4] = 0
    write(tmp_path, *[np.tile(tile, (2, 2))] * 3)
    data = open_dataset(tmp_path, instances=True)
    assert [section.objects.max() for section in data.sections if section.objects is not None] == [4 * 63] * 3
    (note,) = data.notes[1:]
    assert note.startswith("0: id 1 lies in 4 separate places, and 188 more such ids")
    with pytest.raises(
        DataError, match=r"label 0 holds 64 values.*if they are ids of single objects, give --instances"
    ):
        open_dataset(tmp_path)


def test_an_object_that_is_cut_is_one(tmp_path: Path) -> None:
    ids = discs([(9, 9, 1), (9, 30, 2), (40, 40, 3), (50, 9, 4)])
    cut = ids.copy()
    cut[9], cut[:, 40] = 0, 0  # a line of a pixel through three objects
    cut[9, 60] = 3  # a pixel far away
    write(tmp_path, cut)
    data = open_dataset(tmp_path, instances=True)
    check(data.sections[0], cut)
    assert len(data.notes) == 1 and data.warnings == ()


@pytest.mark.parametrize(("dtype", "factor"), [("uint32", 70_000), ("uint64", 2**60), ("float32", 5), ("int64", 9)])
def test_ids_of_any_size_and_type(dtype: str, factor: int, tmp_path: Path) -> None:
    ids = objects(12).astype(dtype) * np.dtype(dtype).type(factor)
    write(tmp_path, ids)
    check(open_dataset(tmp_path).sections[0], ids)
    if dtype == "float32":
        write_files(tmp_path, {"labels/0.tif": ids + np.float32(0.5) * (ids == 5)})
        with pytest.raises(DataError, match=r"label 0 holds values that are not whole, such as 5.5"):
            open_dataset(tmp_path, instances=True)


def test_images_without_objects_are_fine(tmp_path: Path) -> None:
    write(tmp_path, objects(12), np.zeros((SIDE, SIDE), np.uint16), objects(9, 1))
    data = open_dataset(tmp_path)
    assert data.instances and len(data.warnings) == 1 and "13 values" in data.warnings[0]
    assert data.sections[1].objects is not None and not data.sections[1].objects.any()
    text = summary(data, ())
    assert "1 image has none: 1" in text and "wholly one class" not in text


@pytest.mark.parametrize("value", [1, 255])
def test_masks_among_ids_are_read_by_their_pieces(value: int, tmp_path: Path) -> None:
    mask = discs([(9, 9, value), (9, 24, value), (40, 40, value)], "uint8")
    write(tmp_path, objects(12), mask, objects(9, 1), (mask > 0).astype(np.uint8) * 255)
    data = open_dataset(tmp_path)
    for n in (1, 3):
        found = data.sections[n].objects
        assert found is not None
        np.testing.assert_array_equal(found, ndimage.label(mask, np.ones((3, 3)))[0])
    assert data.notes[1:] == ("1, 3: a mask without ids, whose connected pieces are read as objects",)
    alone = open_dataset(write(tmp_path / "alone", mask, mask.T), instances=True)
    assert "taken for one" in alone.warnings[0] and alone.sections[0].objects is not None


def test_masks_of_classes_are_no_ids(tmp_path: Path) -> None:
    write(tmp_path, objects(12), objects(9, 1))
    (tmp_path / "labels" / "1.tif").unlink()
    finished(tmp_path / "labels" / "1.zarr", spec_of((SIDE, SIDE)))
    two = (discs([(9, 9, 1), (9, 22, 1)]) > 0).astype(np.uint8)  # close to each other
    write(tmp_path / "two", objects(12))
    writer = create_mask(tmp_path / "two" / "labels" / "1.zarr", replace(spec_of((SIDE, SIDE)), classes=CLASSES[:2]))
    fill(writer, two[None])
    writer.finish()
    write_files(tmp_path / "two", {"images/1.png": two})
    data = open_dataset(tmp_path / "two", instances=True)
    np.testing.assert_array_equal(data.sections[1].objects, ndimage.label(two, np.ones((3, 3)))[0])
    assert data.notes[1].startswith("1: a mask without ids")
    with pytest.raises(DataError, match=r"label 1 is a mask of the classes class 0, class 1.*tileseg objects"):
        open_dataset(tmp_path, instances=True)


# --- what the table says


def test_the_table_counts_the_objects(tmp_path: Path) -> None:
    write(tmp_path, objects(36), discs([(9, 9, 1), (40, 40, 2), (9, 40, 3), (40, 9, 4)]))
    data = open_dataset(tmp_path)
    area = np.count_nonzero(discs([(9, 9, 1)]))
    assert data.object_diameter() == pytest.approx(2 * np.sqrt(100 / np.pi))
    classes = write(tmp_path / "classes", (objects(4) > 0).astype(np.uint8))
    assert open_dataset(classes).object_diameter() is None
    (line,) = [line for line in summary(data, ()).splitlines() if line.startswith("objects")]
    low = 2 * np.sqrt(area / np.pi)
    assert line == f"objects       40 in 2 images, 90 % touch another, median diameter 11 px ({low:.0f} to 11)"


@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)))
def test_objects_touch_if_one_of_8_neighbours_is_another(objects: np.ndarray) -> None:
    inside = inside_objects(objects)
    expected = [bool(((objects == n) & ~inside).any()) for n in range(1, 5)]
    assert touching_objects(objects, 4).tolist() == [False, *expected]


@pytest.mark.parametrize("values", [[0, 1, 2, 3, 4, 5], [0, 63, 126, 189, 252]])
def test_names_or_recurrence_tell_classes_from_objects(values: list[int], tmp_path: Path) -> None:
    """Layers of a retina, organs of a body: each class is one piece in each image, and in all of them."""
    layers = np.array(values, np.uint8)[np.arange(SIDE) * len(values) // SIDE][:, None].repeat(SIDE, axis=1)
    write(tmp_path / "d", layers, np.roll(layers, 3, axis=0), suffix="png")
    assert [one.value for one in open_dataset(tmp_path / "d").classes] == values
    write(tmp_path / "one", layers, suffix="png")
    assert len(open_dataset(tmp_path / "one", [str(value) for value in values]).classes) == len(values)


def test_real_nuclei(tmp_path: Path) -> None:
    folder = data_folder("nuclei-fluo")
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for path in sorted((folder / part).iterdir())[:6]:
            (tmp_path / part / path.name).symlink_to(path)
    data = open_dataset(tmp_path)
    assert data.instances
    for section in data.sections:
        with Image.open(folder / "labels" / f"{section.name}.png") as picture:
            check(section, np.array(picture))
