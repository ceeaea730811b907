"""Labels drawn as outlines: GeoJSON, labelme, COCO; where they are found, what they mean, what is refused."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import (
    BOXES,
    NAMES,
    SIDE,
    annotation,
    coco,
    corners,
    geojson,
    ids_of,
    labelme,
    shape,
    write_images,
    write_json,
)
from data_sets import write_files
from PIL import Image

from tilesegment import DataError
from tilesegment.labels.coco import run_lengths
from tilesegment.training.data import IGNORE, Dataset, open_dataset

CLASSES = ["background", "stroma", "tumour"]
CLASS_IDS = np.array([0, 1, 2, 1], np.uint8)  # of BOXES
FLAT = [one for point in corners(BOXES[2]) for one in point]


def write_geojson(folder: Path) -> None:
    write_images(folder / "images", "a.png", "b.png")
    for name in ("a", "b"):
        write_json(folder / "labels" / f"{name}.geojson", geojson())


def write_geojson_beside(folder: Path) -> None:
    write_images(folder, "a.png", "b.png")
    for name in ("a", "b.png"):  # QuPath keeps the whole name
        write_json(folder / f"{name}.geojson", geojson())


def write_labelme(folder: Path) -> None:
    write_images(folder, "a.png", "b.png")
    for name in ("a", "b"):
        write_json(folder / f"{name}.json", labelme())
    write_json(folder / "notes.json", {"author": "x"})


def write_labelme_folders(folder: Path) -> None:
    write_images(folder / "images", "a.png", "b.png")
    for name in ("a", "b"):
        write_json(folder / "annotations" / f"{name}.json", labelme())


def write_coco(folder: Path) -> None:
    write_images(folder / "images", "a.png", "b.png")
    write_json(folder / "annotations" / "instances_default.json", coco(["a.png", "b.png"]))
    write_json(folder / "annotations" / "captions_default.json", {"images": [], "annotations": []})


def write_coco_beside(folder: Path) -> None:
    write_images(folder, "a.png", "b.png")
    write_json(folder / "annotations.json", coco(["x/a.png", "b.png"]))


FOUND = [
    write_geojson,
    write_geojson_beside,
    write_labelme,
    write_labelme_folders,
    write_coco,
    write_coco_beside,
]


def check(data: Dataset) -> None:
    assert data.instances and [one.name for one in data.classes] == CLASSES
    assert [section.name for section in data.sections] == ["a", "b"]
    for section in data.sections:
        np.testing.assert_array_equal(section.objects, ids_of())
        np.testing.assert_array_equal(section.label, CLASS_IDS[ids_of()])
    assert data.warnings == ()
    assert len(data.notes) == 1 and "--no-instances" in data.notes[0]


@pytest.mark.parametrize("write", FOUND)
def test_outlines_are_found_and_read(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    check(open_dataset(tmp_path))
    classes = open_dataset(tmp_path, instances=False)
    assert not classes.instances and classes.sections[0].objects is None and classes.notes == ()
    np.testing.assert_array_equal(classes.sections[0].label, CLASS_IDS[ids_of()])


def test_names_select_the_order_or_rename(tmp_path: Path) -> None:
    write_labelme(tmp_path)
    ordered = open_dataset(tmp_path, ["none", "tumour", "stroma"])
    np.testing.assert_array_equal(ordered.sections[0].label, np.array([0, 2, 1, 2])[ids_of()])
    renamed = open_dataset(tmp_path, ["none", "x", "y"])
    assert [one.name for one in renamed.classes] == ["none", "x", "y"]
    np.testing.assert_array_equal(renamed.sections[0].label, CLASS_IDS[ids_of()])
    with pytest.raises(DataError, match=r"a, b: expected 3 different names, as for background, stroma, tumour"):
        open_dataset(tmp_path, ["a", "b"])


@pytest.mark.parametrize(("names", "expected"), [(("nucleus",) * 3, "nucleus"), ((None,) * 3, "object")])
def test_one_class_of_outlines(names: tuple[str | None, ...], expected: str, tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    write_json(tmp_path / "a.geojson", geojson(names=names))
    assert [one.name for one in open_dataset(tmp_path).classes] == ["background", expected]


def test_outlines_have_no_ignored_value(tmp_path: Path) -> None:
    write_labelme(tmp_path)
    with pytest.raises(DataError, match=r"--ignore 3 is a value of label images.*Ignore\*"):
        open_dataset(tmp_path, ignore=3)


def test_files_of_several_parts(tmp_path: Path) -> None:
    write_images(tmp_path / "roboflow/train", "a.jpg", "b.jpg")
    write_images(tmp_path / "roboflow/valid", "c.jpg")
    write_json(tmp_path / "roboflow/train/_annotations.coco.json", coco(["a.jpg", "b.jpg"]))
    write_json(tmp_path / "roboflow/valid/_annotations.coco.json", coco(["c.jpg"]))
    write_images(tmp_path / "coco/train2017", "a.jpg", "b.jpg")
    write_images(tmp_path / "coco/val2017", "c.jpg")
    write_json(tmp_path / "coco/annotations/instances_train2017.json", coco(["a.jpg", "b.jpg"]))
    write_json(tmp_path / "coco/annotations/instances_val2017.json", coco(["c.jpg"]))
    for name, held in (("roboflow", "valid/c"), ("coco", "val/c")):
        data = open_dataset(tmp_path / name)
        trained, held_out = data.split(0.2)
        assert [one.name for one in trained] == ["a", "b"] and [one.name for one in held_out] == [held]
        np.testing.assert_array_equal(held_out[0].objects, ids_of())


def test_planes_of_stacks_have_outlines_of_their_own(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.tif": np.random.default_rng(0).integers(0, 255, (2, SIDE, SIDE), np.uint8)})
    document = geojson()
    document["features"][2]["geometry"]["plane"] = {"z": 1}
    write_json(tmp_path / "a.geojson", document)
    first, second = open_dataset(tmp_path).sections
    np.testing.assert_array_equal(first.objects, ids_of(BOXES[:2]))
    np.testing.assert_array_equal(second.objects, ids_of(BOXES[2:]))


def region(box: tuple[int, int, int, int], name: str | None = None) -> dict[str, Any]:
    (found,) = geojson((box,), (name,))["features"]
    found["properties"]["objectType"] = "annotation"
    return found


def test_nothing_is_labelled_outside_annotations_that_hold_the_objects(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    document = geojson(names=("x",) * 3)
    detections = document["features"]
    inside = np.zeros((SIDE, SIDE), bool)
    inside[0:20, 0:30] = inside[28:55, 36:60] = inside[30:50, 40:60] = True
    document["features"] = [region((0, 0, 20, 30)), *detections, region((28, 36, 55, 56), "Tumor")]
    inside[28:55, 56:60] = False
    inside[30:50, 56:60] = True  # of an object that crosses the border
    write_json(tmp_path / "a.geojson", document)
    data = open_dataset(tmp_path)
    np.testing.assert_array_equal(data.sections[0].label != IGNORE, inside)
    np.testing.assert_array_equal(data.sections[0].objects, ids_of())
    assert [one.name for one in data.classes] == ["background", "x"]
    assert "nothing is labelled outside the 2 annotations" in data.notes[1]
    # drawn by hand, objects are annotations too
    hand = [region(box, "x") for box in BOXES]
    for features, labelled in (
        ([region((0, 0, 60, 60), "Region*"), *hand], 60 * 60),
        (hand, SIDE**2),
        ([region((0, 0, 5, 5)), *detections], SIDE**2),  # it holds none of them
    ):
        write_json(tmp_path / "a.geojson", document | {"features": features})
        data = open_dataset(tmp_path)
        assert np.count_nonzero(data.sections[0].label != IGNORE) == labelled
        np.testing.assert_array_equal(data.sections[0].objects, ids_of())
    write_json(tmp_path / "a.geojson", document | {"features": [*detections, region((55, 0, 64, 9), "Ignore*")]})
    label = open_dataset(tmp_path).sections[0].label
    assert (label[55:, :9] == IGNORE).all() and np.count_nonzero(label == IGNORE) == 81


def test_only_labelled_parts_of_a_slide_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.training.data.reading.WHOLE", 100 * 100)
    monkeypatch.setattr("tilesegment.training.data.reading.LARGEST_DRAWN", 100 * 100)
    monkeypatch.setattr("tilesegment.training.data.reading.GRID", 64)
    write_images(tmp_path, "a.png", side=640)
    boxes = ((300, 300, 310, 310), (305, 310, 310, 320))
    document = geojson(boxes, ("x", "y"))
    write_json(tmp_path / "a.geojson", document)
    with pytest.raises(DataError, match=r"640 x 640 .*Region\*"):
        open_dataset(tmp_path)
    document["features"].append(region((290, 290, 318, 318)))
    write_json(tmp_path / "a.geojson", document)
    (section,) = open_dataset(tmp_path).sections
    assert (section.name, section.label.shape) == ("a@192,192", (192, 192))
    expected = ids_of(boxes, 640)[192:384, 192:384]
    np.testing.assert_array_equal(section.objects, expected)
    assert np.count_nonzero(section.label != IGNORE) == 28 * 28 + 5 * 2


# --- the shapes of labelme


def png(inside: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def only(tmp_path: Path, *shapes: dict[str, Any]) -> Dataset:
    write_images(tmp_path, "a.png")
    write_json(tmp_path / "a.json", labelme(*shapes))
    return open_dataset(tmp_path)


def test_shapes_of_labelme(tmp_path: Path) -> None:
    yy, xx = np.mgrid[:SIDE, :SIDE] + 0.5
    disc = np.hypot(yy - 40, xx - 20) < 9
    mask = np.random.default_rng(1).random((6, 9)) < 0.7
    data = only(
        tmp_path,
        shape([[22, 3], [5, 9]], "rect", "rectangle"),  # the lower left corner last
        shape([[20, 40], [20, 49]], "disc", "circle"),
        shape([[50, 8], [58, 13]], "mask", "mask") | {"mask": png(mask)},
        shape([[1, 1], [2, 9]], "line", "line"),
    )
    assert [one.name for one in data.classes] == ["background", "disc", "mask", "rect"]
    (section,) = data.sections
    rect = np.zeros((SIDE, SIDE), bool)
    rect[3:9, 5:22] = True
    np.testing.assert_array_equal(section.label == 3, rect)
    np.testing.assert_array_equal((section.label == 2)[8:14, 50:59], mask)
    assert np.count_nonzero((section.label == 1) != disc) <= 8
    assert any("as line is no area" in note for note in data.notes)


def test_a_group_is_one_object_and_ignored_regions_are_not_labelled(tmp_path: Path) -> None:
    far = corners((50, 2, 60, 12))
    data = only(
        tmp_path,
        shape(corners(BOXES[0]), "cell", None, 4),
        shape(far, "cell", None, 4),
        shape(corners(BOXES[1]), "cell", None, 5),
        shape(corners((28, 38, 52, 62)), "__ignore__"),
        shape(corners(BOXES[2]), "cell"),
        shape(corners((35, 45, 40, 50)), "_background_"),
    )
    (section,) = data.sections
    assert section.objects is not None and section.objects.max() == 3
    assert section.objects[3, 3] == section.objects[55, 5] != section.objects[3, 15]
    expected = ids_of((*BOXES, (50, 2, 60, 12))) > 0
    expected[35:40, 45:50] = False
    np.testing.assert_array_equal(section.objects > 0, expected)
    ring = np.zeros((SIDE, SIDE), bool)
    ring[28:52, 38:62] = True
    np.testing.assert_array_equal(section.label == IGNORE, ring & (ids_of() == 0))


# --- the masks of COCO

# written by pycocotools 2.0.11
DISC = "_23c04M2N2O0O2O0001N101N2N3L[:"  # (y - 8)^2 + (x - 9)^2 < 40 of 24 x 30 pixels
RIGHT = "P?`7"  # the columns from 20 on


def test_masks_of_coco(tmp_path: Path) -> None:
    yy, xx = np.mgrid[:24, :30]
    disc = (yy - 8) ** 2 + (xx - 9) ** 2 < 40
    write_images(tmp_path, "a.png", side=24)
    Image.fromarray(np.arange(24 * 30, dtype=np.uint8).reshape(24, 30)).save(tmp_path / "a.png")
    size = [24, 30]
    document = coco(
        ["a.png"],
        annotation(1, {"size": size, "counts": RIGHT}, iscrowd=1),
        annotation(1, {"size": size, "counts": run_lengths(DISC)}),
        annotation(1, [[24, 2, 28, 2, 28, 9, 24, 9, 24, 2], [24, 15, 28, 15, 28, 20, 24, 20]]),
    )
    document["images"][0] |= {"height": 24, "width": 30}
    write_json(tmp_path / "annotations.json", document)
    (section,) = open_dataset(tmp_path).sections
    assert section.objects is not None and section.objects.max() == 2
    np.testing.assert_array_equal(section.objects == 1, disc)
    parts = np.zeros((24, 30), bool)
    parts[2:9, 24:28] = parts[15:20, 24:28] = True
    np.testing.assert_array_equal(section.objects == 2, parts)
    np.testing.assert_array_equal(section.label == IGNORE, (xx >= 20) & ~parts)
    document["annotations"][1]["segmentation"]["counts"] = DISC
    write_json(tmp_path / "annotations.json", document)
    np.testing.assert_array_equal(open_dataset(tmp_path).sections[0].objects, section.objects)


# --- what is told


def test_images_without_outlines_are_images_without_objects(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a.png", "b.png", "c.png", "d.png")
    document = coco(["a.png", "b.png", "gone.png"], annotation(1, [FLAT]), annotation(3, [FLAT]))
    write_json(tmp_path / "annotations" / "instances_all.json", document)
    data = open_dataset(tmp_path)
    assert [section.name for section in data.sections] == ["a", "b"]
    assert data.sections[1].objects is not None and not data.sections[1].objects.any()
    missing, unlisted = data.warnings
    assert "lists 1 images that are missing and left out: gone.png" in missing
    assert "c.png, d.png: not listed" in unlisted
    write_json(tmp_path / "annotations" / "instances_all.json", coco(["x.png", "y.png"]))
    with pytest.raises(DataError, match=r"lists 2 images, such as x.png and 1 more, and none is in"):
        open_dataset(tmp_path)


TOLD = {
    "overlap": (geojson((BOXES[0], (2, 4, 12, 14)), ("a", "a")), r"overlap in 80 pixels, most in a \(80\)"),
    "covered": (geojson((BOXES[0], BOXES[0]), ("a", "a")), "1 of 2 outlines hold no pixel"),
    "cut off": (geojson((*BOXES, (50, 50, 80, 80)), (*NAMES, "stroma")), "1 of 4 outlines reach beyond the image"),
    "a line": (labelme(shape(corners(BOXES[0]), "a"), shape([[1, 1], [20, 30]], "a")), "1 outlines have fewer than 3"),
    "crossing": (
        labelme(shape(corners(BOXES[0]), "a"), shape([[20, 20], [30, 30], [30, 20], [20, 30]], "a")),
        "1 outlines cross themselves",
    ),
    "a box": (
        coco(["a.png"], annotation(1, [FLAT]), annotation(1, [])),
        "1 features left out, as box without a segmentation is no area",
    ),
}


@pytest.mark.parametrize("case", TOLD)
def test_what_is_told(case: str, tmp_path: Path) -> None:
    document, match = TOLD[case]
    write_images(tmp_path, "a.png")
    suffix = "geojson" if "features" in document else "json"
    write_json(tmp_path / ("annotations.json" if "annotations" in document else f"a.{suffix}"), document)
    data = open_dataset(tmp_path)
    assert sum(bool(re.search(match, note)) for note in data.notes) == 1, data.notes


REFUSED = {
    "outside": (
        geojson(((70, 70, 80, 80), (90, 90, 99, 99), BOXES[0]), NAMES),
        "2 of 3 outlines lie outside .*64 x 64",
    ),
    "another size": (labelme(side=128), r"a\.json was drawn on an image of 128 x 128 .*image a is 64 x 64"),
    "another size of COCO": (coco(["a.png"], side=128), "a.png in annotations.json was drawn on .* 128 x 128"),
    "empty": ("", r"a\.json is empty; expected GeoJSON"),
    "cut off": ('{"shapes": [', r"a\.json is no valid JSON"),
    "neither": ({"boxes": []}, r"a\.json holds an object with 'boxes'; expected GeoJSON .*labelme .*COCO"),
    "a list": ([], r"a\.json holds no objects; expected"),
    "no label": ({"shapes": [{"points": [[0, 0]]}]}, r"a\.json is damaged \(KeyError\('label'\)|a\.json is damaged"),
    "text as points": (labelme(shape("x", "a")), r"a\.json is damaged"),
    "NaN": (labelme(shape([[0, 0], [9, float("nan")], [5, 5]], "a")), r"a\.json is damaged .*NaN"),
    "an unknown image": (coco(["a.png"], annotation(5, [FLAT])), r"annotation 1 is of the image 5"),
    "a short mask": (coco(["a.png"], annotation(1, {"size": [64, 64], "counts": [5, 9]})), "14 pixels for 64 x 64"),
    "a damaged mask": (coco(["a.png"], annotation(1, {"size": [64, 64], "counts": "a\n"})), "the character"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    document, match = REFUSED[case]
    write_images(tmp_path / "images", "a.png")
    is_coco = isinstance(document, dict) and "annotations" in document
    write_json(tmp_path / "labels" / ("annotations.json" if is_coco else "a.json"), document)
    with pytest.raises(DataError, match=match) as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_labels_without_images_and_two_labels_of_one(tmp_path: Path) -> None:
    write_labelme(tmp_path)
    write_json(tmp_path / "a.geojson", geojson())
    with pytest.raises(DataError, match=r"a\.geojson and a\.json of one image"):
        open_dataset(tmp_path)
    (tmp_path / "a.geojson").unlink()
    write_json(tmp_path / "c.json", labelme())
    with pytest.raises(DataError, match=r"c\.json has no image"):
        open_dataset(tmp_path)


def test_images_of_ids_among_outlines(tmp_path: Path) -> None:
    """They are of one class, if outlines have no other."""
    write_images(tmp_path / "train", "images/a.png", "images/b.png")
    write_files(tmp_path / "train", {f"labels/{name}.tif": ids_of().astype(np.uint16) for name in "ab"})
    write_images(tmp_path / "val", "c.png")
    write_json(tmp_path / "val" / "c.geojson", geojson(names=("x",) * 3))
    data = open_dataset(tmp_path)
    assert [one.name for one in data.classes] == ["background", "x"]
    for section in data.sections:
        np.testing.assert_array_equal(section.objects, ids_of())
    with pytest.raises(DataError, match="some labels are outlines and some are images"):
        open_dataset(tmp_path, instances=False)
    write_json(tmp_path / "val" / "c.geojson", geojson())
    with pytest.raises(DataError, match=r"label a is an image of ids, .* stroma, tumour"):
        open_dataset(tmp_path)
