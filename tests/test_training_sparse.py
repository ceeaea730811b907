"""Training on what was drawn on images of any size: only that counts, whole annotations are held out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zarr
from annotation_files import labelme, shape, write_images, write_json
from command_line import Run
from conftest import noise
from data_sets import write_files
from drawn_strokes import CLASSES, SHAPE, STROKES, Box, area, feature, geojson, laid_out, painted, values, write_slide
from hdf5_files import axis_tags
from toy_training import same, toy_run, weights

from tilesegment import DataError, train
from tilesegment.geometry import Region
from tilesegment.images.source import ImageSource
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.training.augmentation import Augmentation
from tilesegment.training.data import IGNORE, SparseDataset, open_dataset
from tilesegment.training.losses import Loss
from tilesegment.training.sparse_examples import SparseExamples

# --- formats: each a slide and its labels


def write_geojson(folder: Path) -> dict[str, Any]:
    return {"labels": write_json(folder / "any.geojson", geojson())}


def write_labelme(folder: Path) -> dict[str, Any]:
    corners = [(shape([[b[1], b[0]], [b[3], b[2]]], name, "rectangle")) for b, name in STROKES]
    document = {**labelme(*corners), "imageHeight": SHAPE[0], "imageWidth": SHAPE[1]}
    return {"labels": write_json(folder / "any.json", document)}


def write_label_image(folder: Path) -> dict[str, Any]:
    write_files(folder, {"labels.tif": values()})
    return {"labels": folder / "labels.tif", "classes": CLASSES}


def write_ilastik(folder: Path) -> dict[str, Any]:
    with h5py.File(folder / "labels.h5", "w") as file:
        file.create_dataset("exported_data", data=values()[..., None]).attrs["axistags"] = axis_tags("yxc")
    return {"labels": Path(f"{folder}/labels.h5:/exported_data"), "classes": CLASSES}


def write_crops(folder: Path) -> dict[str, Any]:
    """Parts as napari saves them, named by where they lie."""
    for box in (Region(0, 0, 700, 900), Region(700, 200, 1300, 900)):
        write_files(folder / "crops", {f"slide@{box.y0},{box.x0}.tif": values()[box.slices]})
    return {"labels": folder / "crops", "classes": CLASSES}


@pytest.mark.parametrize("write", [write_geojson, write_labelme, write_label_image, write_ilastik, write_crops])
def test_formats_say_the_same(write: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    slide = write_slide(tmp_path)
    data = open_dataset(slide, **write(tmp_path))
    assert isinstance(data, SparseDataset)
    assert [one.name for one in data.classes] == [*CLASSES]
    np.testing.assert_array_equal(laid_out(data.sections), painted())
    # what is read equals the crop of the slide, and is less than all of it
    pixels = noise(SHAPE)
    for section in data.sections:
        y, x = map(int, section.name.removeprefix("slide@").split(","))
        height, width = section.label.shape
        np.testing.assert_array_equal(section.image[0], pixels[y : y + height, x : x + width])
    assert len(data.groups) == 5
    assert data.warnings == ()


def test_a_part_lies_where_its_metadata_say(tmp_path: Path) -> None:
    """An OME-Zarr label with a translation, in the image's unit."""

    def write(path: Path, pixels: np.ndarray, origin: tuple[float, float]) -> None:
        axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
        placed = [{"type": "scale", "scale": [0.5, 0.5]}, {"type": "translation", "translation": [*origin]}]
        multiscales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": placed}]}]
        group = zarr.create_group(path, attributes={"ome": {"version": "0.5", "multiscales": multiscales}})
        group.create_array("0", data=pixels, chunks=(256, 256))

    write(tmp_path / "slide.zarr", noise(SHAPE), (10, 20))
    box = Region(390, 480, 1300, 900)
    write(tmp_path / "part.zarr", values()[box.slices], (10 + box.y0 / 2, 20 + box.x0 / 2))
    data = open_dataset(tmp_path / "slide.zarr", classes=CLASSES, labels=tmp_path / "part.zarr")
    expected = np.full(SHAPE, IGNORE, np.uint8)
    expected[box.slices] = painted()[box.slices]
    np.testing.assert_array_equal(laid_out(data.sections), expected)


def test_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for n, name in enumerate(("a", "b", "c")):
        write_slide(tmp_path / "images", f"{name}.tif", n)
    for name in ("a", "b.tif"):  # QuPath keeps the whole name
        write_json(tmp_path / "annotations" / f"{name}.geojson", geojson())
    (tmp_path / "list.csv").write_text(
        "labels,image\nannotations/a.geojson,images/a.tif\n\nannotations/b.tif.geojson,images/b.tif\n"
    )
    for data in (
        open_dataset(tmp_path / "images", labels=tmp_path / "annotations"),
        open_dataset(tmp_path, sparse=True),
        open_dataset(tmp_path / "list.csv"),
    ):
        assert {section.stem for section in data.sections} == {"a", "b"}
        np.testing.assert_array_equal(laid_out([one for one in data.sections if one.stem == "b"]), painted())
        # an image is held out by its name, with all that was drawn on it
        train, held_out = data.split(["b"])
        assert {one.stem for one in train} == {"a"}
        np.testing.assert_array_equal(laid_out(held_out), painted())
    assert open_dataset(tmp_path, sparse=True).warnings == ("c.tif: no labels, left out",)
    # beside each other, and the same folder read as it always was: each outline is an object on background
    write_images(tmp_path / "d", "a.png")
    write_json(
        tmp_path / "d" / "a.geojson", geojson(*(feature(area((4, 4 + n, 9, 9 + n)), CLASSES[n // 30]) for n in (0, 30)))
    )
    assert len(open_dataset(tmp_path / "d", sparse=True).classes) == 2
    assert len(open_dataset(tmp_path / "d").classes) == 3


def test_two_files_for_one_image_that_overlap_are_held_out_together(tmp_path: Path) -> None:
    write_slide(tmp_path)
    boxes: tuple[Box, ...] = ((10, 10, 50, 50), (30, 30, 90, 90), (400, 400, 440, 440))
    files = []
    for n, box in enumerate(boxes):
        files.append(tmp_path / f"{n}.geojson")
        write_json(files[-1], geojson(feature(area(box), CLASSES[n % 2])))
    rows = "".join(f"{tmp_path}/slide.tif,{path}\n" for path in files)
    (tmp_path / "list.csv").write_text("image,labels\n" + rows)
    data = open_dataset(tmp_path / "list.csv")
    assert isinstance(data, SparseDataset) and len(data.groups) == 2
    expected = painted([(box, CLASSES[n % 2]) for n, box in enumerate(boxes)])  # the later on top
    np.testing.assert_array_equal(laid_out(data.sections), expected)


def test_lines_points_ignored_and_nameless(tmp_path: Path) -> None:
    write_slide(tmp_path)
    line = {"type": "LineString", "coordinates": [[100, 50], [300, 50]]}
    points = {"type": "MultiPoint", "coordinates": [[500, 600], [520, 600]]}
    hole = feature(area((46, 200, 54, 220)), "Ignore*")
    document = geojson(hole, feature(line, "stroma"), feature(points, "tumour"), feature(area((9, 9, 20, 20)), None))
    labels = write_json(tmp_path / "l.geojson", document)
    data = open_dataset(tmp_path / "slide.tif", labels=labels, brush=6)
    label = laid_out(data.sections)
    assert (label[47:53, 101:199] == 0).all() and (label[47:53, 221:299] == 0).all()
    assert (label[:, 201:219] == IGNORE).all() and (label[:46] == IGNORE).all() and (label[54:590] == IGNORE).all()
    assert label[600, 500] == label[600, 520] == label[597, 500] == 1 and label[600, 510] == label[604, 500] == IGNORE
    assert abs(int((label == 1).sum()) - 2 * np.pi * 3**2) < 8
    told = " ".join(data.notes)
    assert "1 annotations have no class and are left out" in told and "2 lines or points count as 6 px wide" in told
    wider = laid_out(open_dataset(tmp_path / "slide.tif", labels=labels).sections)
    assert wider[46, 150] == 0 and label[46, 150] == IGNORE  # 8 px unless said otherwise


def test_what_was_detected_or_stands_for_a_region_does_not_count(tmp_path: Path) -> None:
    write_slide(tmp_path)
    detected = feature(area((700, 700, 720, 720)), "tumour")
    detected["properties"]["objectType"] = "detection"
    whole = feature(area((0, 0, 1300, 900)), "Region*")
    drawn = geojson(whole, detected, *(feature(area(box), name) for box, name in STROKES))
    data = open_dataset(tmp_path / "slide.tif", labels=write_json(tmp_path / "l.geojson", drawn))
    np.testing.assert_array_equal(laid_out(data.sections), painted())
    told = " ".join(data.notes)
    assert "1 annotations are of the class Region* and are left out" in told
    assert "1 annotations were detected, not drawn, and are left out" in told
    assert "1 pairs of annotations of different classes overlap: the later one is on top" in told
    # detections alone are what there is
    for one in drawn["features"]:
        one["properties"]["objectType"] = "detection"
    data = open_dataset(
        tmp_path / "slide.tif", labels=write_json(tmp_path / "d.geojson", geojson(*drawn["features"][1:]))
    )
    assert (laid_out(data.sections)[700:720, 700:720] == 1).all()


def test_lines_of_labelme(tmp_path: Path) -> None:
    write_slide(tmp_path)
    shapes = shape([[100, 50], [200, 50], [200, 90]], "stroma", "linestrip"), shape([[500, 600]], "tumour", "point")
    labels = write_json(tmp_path / "l.json", {**labelme(*shapes), "imageHeight": SHAPE[0], "imageWidth": SHAPE[1]})
    label = laid_out(open_dataset(tmp_path / "slide.tif", labels=labels).sections)
    assert label[50, 150] == label[80, 200] == 0 and label[600, 500] == 1 and label[80, 150] == IGNORE


def test_planes_of_a_stack(tmp_path: Path) -> None:
    write_files(tmp_path, {"stack.tif": noise((3, 200, 200))})
    labels = np.zeros((3, 200, 200), np.uint8)
    labels[1, 20:30, 20:60], labels[2, 20:30, 20:60] = 1, 2
    write_files(tmp_path, {"labels.tif": labels})
    data = open_dataset(tmp_path / "stack.tif", labels=tmp_path / "labels.tif")
    assert isinstance(data, SparseDataset) and len(data.groups) == 2
    assert [one.name for one in data.sections] == ["stack[1]@0,0", "stack[2]@0,0"]
    np.testing.assert_array_equal(data.sections[1].image[0], noise((3, 200, 200))[2][:222, :252])


def test_at_another_pixel_size(tmp_path: Path) -> None:
    """Outlines are drawn anew, label images take the value at the centre of each pixel."""
    write_slide(tmp_path)
    write_files(tmp_path, {"labels.tif": values()})
    labels = write_json(tmp_path / "l.geojson", geojson())
    how: dict[str, Any] = {"mpp": 0.5, "source_mpp": 0.25, "classes": CLASSES}
    half = (SHAPE[0] // 2, SHAPE[1] // 2)
    drawn = laid_out(open_dataset(tmp_path / "slide.tif", labels=labels, **how).sections, half)
    stored = laid_out(open_dataset(tmp_path / "slide.tif", labels=tmp_path / "labels.tif", **how).sections, half)
    np.testing.assert_array_equal(drawn, painted()[1::2, 1::2])
    np.testing.assert_array_equal(stored, painted()[1::2, 1::2])


# --- only what was drawn counts


def test_pixels_that_are_not_drawn_are_not_in_the_loss(tmp_path: Path) -> None:
    write_slide(tmp_path)
    data = open_dataset(tmp_path / "slide.tif", labels=write_json(tmp_path / "l.geojson", geojson()))
    examples = SparseExamples(data.sections, Normalisation((128.0,), (70.0,), "uint8"), 96, 64, 3, Augmentation(), 0)
    for loss in (Loss("ce+dice"), Loss("focal+iou"), Loss("bce")):
        for step in range(3):
            _, truth, _ = examples[step]
            logits = torch.randn(3, 2, 64, 64, generator=torch.Generator().manual_seed(step), requires_grad=True)
            loss(logits, truth).backward()
            assert logits.grad is not None
            counted = logits.grad.abs().sum(1) > 0
            assert not counted[truth == IGNORE].any() and counted[truth != IGNORE].all()


def test_examples_hold_each_class_alike(tmp_path: Path) -> None:
    """One stroke of one class, thirty of the other."""
    write_slide(tmp_path)
    strokes = [feature(area((10 + 40 * n, 10, 20 + 40 * n, 800)), "stroma") for n in range(30)]
    labels = write_json(tmp_path / "l.geojson", geojson(*strokes, feature(area((1260, 10, 1270, 40)), "tumour")))
    data = open_dataset(tmp_path / "slide.tif", labels=labels)
    plain = Augmentation(elastic_sigma=0, rotation=False, zoom=1.0)
    drawn = SparseExamples(data.sections, Normalisation((128.0,), (70.0,), "uint8"), 64, 32, 1, plain, 0)
    truths = [drawn[n][1] for n in range(60)]
    assert all((one != IGNORE).any() for one in truths)
    assert 15 <= sum(bool((one == 1).any()) for one in truths) <= 45
    again = SparseExamples(data.sections, Normalisation((128.0,), (70.0,), "uint8"), 64, 32, 1, plain, 0)
    assert torch.equal(drawn[7][0], again[7][0])


@pytest.mark.usefixtures("without_curves")
def test_training_depends_on_what_is_drawn_alone(tmp_path: Path) -> None:
    """Outlines and a label image of the same train the same model; one more stroke does not."""
    write_slide(tmp_path)
    other = np.where(values() == 0, 9, values() - 1).astype(np.uint8)
    write_files(tmp_path, {"labels.tif": other})
    more = [*(feature(area(b), n) for b, n in STROKES), feature(area((800, 500, 830, 530)), "stroma")]
    how: dict[str, Any] = {"classes": CLASSES, "steps": 1, "validation": 0.0}
    found = [
        toy_run(tmp_path / "slide.tif", tmp_path / str(n), labels=labels, **how, **ignore).model
        for n, (labels, ignore) in enumerate(
            [
                (write_json(tmp_path / "a.geojson", geojson()), {}),
                (tmp_path / "labels.tif", {"ignore": 9}),
                (write_json(tmp_path / "b.geojson", geojson(*more)), {}),
            ]
        )
    ]
    first, second, third = map(weights, found)
    assert same(first, second) and not same(first, third)


@pytest.mark.usefixtures("without_curves")
def test_the_command_tells_trains_and_resumes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_slide(tmp_path)
    write_json(tmp_path / "l.geojson", geojson())
    toy = "--base 2 --depth 1 --tile 40 --steps 2 --precision fp32"
    done = run(f"train slide.tif --labels l.geojson {toy}")
    assert done.code == 0 and "5 annotations on 1 image" in done.err and "run folder: runs/slide" in done.err
    kept = json.loads((tmp_path / "runs/slide/config.json").read_text())["labels"]
    assert kept["labels"] == str(tmp_path / "l.geojson")
    (tmp_path / "runs/slide/model.safetensors").unlink()  # as if it had been stopped
    assert run("train slide.tif --resume").code == 0
    assert run("predict slide.tif --model runs/slide --out mask.zarr").code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("without_curves")
def test_begins_from_a_bundled_model_of_other_classes(tmp_path: Path) -> None:
    write_slide(tmp_path)
    labels = write_json(tmp_path / "l.geojson", geojson())
    run = train(tmp_path / "slide.tif", tmp_path / "run", labels=labels, init="nuclei-fluo", steps=1, validation=0.0)
    found = Model.load(run.model)
    assert [one.name for one in found.header.classes] == [*CLASSES]
    assert found.header.training["init"]["anew"] == ["head"]
    # all but the head is kept, as far as one step of a low rate leaves it
    before, after = weights("nuclei-fluo"), weights(run.model)
    kept = [name for name in before if before[name].shape == after[name].shape and before[name].ndim == 4]
    for name in kept:
        one, other = before[name].float().flatten(), after[name].float().flatten()
        assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.95
    assert len(kept) > 10


# --- memory follows what is drawn, not the image


def test_as_much_is_read_of_a_large_image_as_of_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = dict.fromkeys(("small", "large"), 0)
    plain = ImageSource.read_stored

    def counted(self: ImageSource, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        pixels = plain(self, region, level, z)
        read[Path(self.path).stem] += pixels.nbytes
        return pixels

    monkeypatch.setattr(ImageSource, "read_stored", counted)
    labels = write_json(tmp_path / "l.geojson", geojson())
    kept = []
    for name, side in (("small", 1500), ("large", 1 << 20)):
        zarr.create_array(
            tmp_path / f"{name}.zarr", shape=(side, side), chunks=(512, 512), dtype=np.uint8, fill_value=3
        )
        data = open_dataset(tmp_path / f"{name}.zarr", labels=labels)
        kept.append(sum(one.image.nbytes for one in data.sections))
    assert read["small"] == read["large"] == kept[0] == kept[1]


def test_of_a_huge_annotation_parts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.training.data.sparse.MOST", 20_000_000)
    zarr.create_array(tmp_path / "s.zarr", shape=(1 << 20, 1 << 20), chunks=(512, 512), dtype=np.uint8, fill_value=3)
    features = feature(area((9, 9, 900_000, 900_000)), "stroma"), feature(area((10, 10, 50, 50)), "tumour")
    alone = feature(area((950_000, 10, 950_050, 50)), "tumour")
    data = open_dataset(tmp_path / "s.zarr", labels=write_json(tmp_path / "l.geojson", geojson(*features, alone)))
    assert 18e6 < sum(one.image.size for one in data.sections) < 23e6
    assert any(one.name.startswith("s@949") for one in data.sections)  # small ones have their turn
    assert any("of large annotations parts alone are read" in note for note in data.notes)


# --- what is refused, in one line


def test_messages(tmp_path: Path) -> None:
    slide = write_slide(tmp_path)
    two = (feature(area((1, 1, 9, 9)), "a"), feature(area((30, 30, 40, 40)), "b"))

    def refused(match: str, labels: Any, data: Path = slide, **how: Any) -> None:
        path = labels if isinstance(labels, Path | None) else write_json(tmp_path / "bad.geojson", labels)
        with pytest.raises(DataError, match=match) as found:
            open_dataset(data, labels=path, **how)
        assert "\n" not in str(found.value)

    refused("are of the class a; at least two classes are needed", geojson(two[0]))
    refused("none of the 1 annotations in bad.geojson has a class", geojson(feature(area((1, 1, 9, 9)), None)))
    refused("at least two classes", {"type": "FeatureCollection", "features": []})
    refused("nothing that was drawn is left", geojson(*two, feature(area((0, 0, 99, 99)), "Ignore*")))
    refused("are of the classes a, b; name these", geojson(*two), classes=("a", "c"))
    refused("outlines lie outside the image", geojson(feature(area((9000, 1, 9009, 9)), "a")))
    refused("--brush is 0; allowed: 1 to 10000 pixels", geojson(*two), brush=0)
    refused("--instances is for labels that hold all objects", geojson(*two), instances=True)
    refused("there is no .*nothing.tif", tmp_path / "nothing.tif")
    refused("was drawn on an image of 64 x 64", write_json(tmp_path / "o.json", labelme()))
    refused("name the folder of their labels", geojson(*two), data=tmp_path)
    write_files(tmp_path, {"part.tif": values()[:50, :50], "slide@1290,0.tif": values()[:50, :50]})
    refused(r"part.tif is 1 x 50 x 50, .* call it slide@Y,X.tif", tmp_path / "part.tif")
    refused("reaches beyond the image: correct its place", tmp_path / "slide@1290,0.tif")
    write_files(tmp_path, {"ids.tif": np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE) % 999})
    refused("holds .* values", tmp_path / "ids.tif")
    write_files(tmp_path / "labels", {"other.tif": values()})
    refused("holds no labels of slide.tif", tmp_path / "labels")
    (tmp_path / "list.csv").write_text("image,mask\na,b\n")
    refused("has the columns image, mask; expected image,labels", None, data=tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("image,labels\na.tif,\n")
    refused("line 2 of .*list.csv has not one image and one file of labels", None, data=tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("image,labels\na.tif,b.tif\n")
    refused("names a.tif, which does not exist here", None, data=tmp_path / "list.csv")
    with pytest.raises(DataError, match="give --labels or --sparse"):
        open_dataset(tmp_path, brush=5)
    data = open_dataset(slide, labels=write_json(tmp_path / "l.geojson", geojson()))
    with pytest.raises(DataError, match="no image with annotations is called x; there are slide"):
        data.split(["x"])
    with pytest.raises(DataError, match="all 5 annotations are held out"):
        data.split(["slide"])
    write_files(tmp_path, {"l.tif": values()})
    (tmp_path / "list.csv").write_text(f"image,labels\n{slide},{tmp_path}/l.tif\n{slide},{tmp_path}/l.geojson\n")
    refused("draw all as outlines, or save all as images", None, data=tmp_path / "list.csv")
