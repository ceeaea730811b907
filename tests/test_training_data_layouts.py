"""The ways in which people keep labelled images: which are found, and what is said of the others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_sets import cells, write_files, write_ome_zarr, write_pairs, write_palette
from PIL import Image

from tilesegment import DataError
from tilesegment.training.data import open_dataset

SIDE = 40
PALETTE = [(0, 0, 0), (128, 0, 0), (0, 128, 0), *[(n, n, 0) for n in range(3, 255)], (224, 224, 192)]


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and a label of 0 and 255, (H, W) uint8."""
    image, inside = cells(SIDE, SIDE, seed)
    return image, np.where(inside, 255, 0).astype(np.uint8)


def write(folder: Path, image: str, label: str, count: int = 2) -> Path:
    """`count` pairs under the names that `image` and `label` give for a number n."""
    for n in range(count):
        pixels, mask = pair(n)
        write_files(folder, {image.format(n=n): pixels, label.format(n=n): mask})
    return folder


LAYOUTS = {
    "images, labels": ("images/{n}.png", "labels/{n}.tif", "images/ and labels/, paired by name"),
    "imgs, masks": ("imgs/{n}.png", "masks/{n}.png", "imgs/ and masks/, paired by name"),
    "image, label": ("image/{n}.png", "label/{n}.png", "image/ and label/, paired by name"),
    "images, masks": ("images/{n}.png", "masks/{n}.png", "images/ and masks/, paired by name"),
    "nnU-Net": ("imagesTr/{n}_0000.png", "labelsTr/{n}.png", "imagesTr/ and labelsTr/, paired by name"),
    "Carvana": ("train/{n}.png", "train_masks/{n}_mask.gif", "train/ and train_masks/, paired by name"),
    "a suffix": ("images/{n}.png", "labels/{n}_label.png", "images/ and labels/, paired by name"),
    "another suffix": ("images/{n}.png", "masks/{n}_seg.png", "images/ and masks/, paired by name"),
    "suffixes on both": ("images/{n}_img.png", "labels/{n}_mask.png", "images/ and labels/, paired by name"),
    "in data": ("data/imgs/{n}.png", "data/masks/{n}_mask.png", "data/ with imgs/ and masks/, paired by name"),
    "in train": ("train/images/{n}.png", "train/labels/{n}.png", "train/ with images/ and labels/, paired by name"),
    "ISBI": (
        "{n}-volume.tif",
        "{n}-labels.tif",
        "0-volume.tif and 0-labels.tif, 1-volume.tif and 1-labels.tif",
    ),
}


@pytest.mark.parametrize(("image", "label", "words"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_folders_of_files(image: str, label: str, words: str, tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, image, label))
    assert data.layout == words
    assert data.warnings == ()
    assert [section.name for section in data.sections] == [Path(image.format(n=n)).stem for n in range(2)]
    for n, section in enumerate(data.sections):
        pixels, mask = pair(n)
        np.testing.assert_array_equal(section.image, pixels[None])
        np.testing.assert_array_equal(section.label, mask > 0)


def test_the_stacks_of_isbi(tmp_path: Path) -> None:
    planes = [pair(n) for n in range(3)]
    files = {"train-volume.tif": np.stack([p[0] for p in planes]), "train-labels.tif": np.stack([p[1] for p in planes])}
    data = open_dataset(write_files(tmp_path, {**files, "test-volume.tif": files["train-volume.tif"]}))
    assert [section.name for section in data.sections] == [f"train-volume[{z}]" for z in range(3)]
    np.testing.assert_array_equal(data.sections[2].image[0], planes[2][0])
    np.testing.assert_array_equal(data.sections[2].label, planes[2][1] > 0)
    assert data.warnings == ("test-volume.tif: no label, left out",)
    assert [section.name for section in data.split(["train-volume[1]"])[1]] == ["train-volume[1]"]


@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationClassPNG"])
def test_pascal_voc(folder: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    indices = rng.choice(np.array([0, 2, 255], np.uint8), (SIDE, SIDE))
    for name in ("a", "b", "c"):
        write_files(tmp_path / "JPEGImages", {f"{name}.jpg": rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)})
    for name in ("a", "b"):
        write_palette(tmp_path / folder / f"{name}.png", indices, PALETTE)
    (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
    np.save(tmp_path / "SegmentationClass" / "a.npy", indices)
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\ncat\ndog\n")
    data = open_dataset(tmp_path)
    assert data.layout == f"JPEGImages/ and {folder}/, paired by name (Pascal VOC)"
    assert [(c.name, c.value) for c in data.classes] == [("_background_", 0), ("dog", 2)]
    assert [c.colour for c in data.classes] == ["#000000", "#008000"]
    assert data.ignore == 255
    np.testing.assert_array_equal(data.sections[0].label, np.select([indices == 2, indices == 255], [1, 255], 0))
    assert data.sections[0].image.shape == (3, SIDE, SIDE)
    assert data.warnings == (f"{tmp_path / 'JPEGImages' / 'c.jpg'} has no label and is left out (1 such)",)


def test_grey_labels_of_pascal_voc_are_indices_too(tmp_path: Path) -> None:
    indices = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 3
    write_files(tmp_path, {f"JPEGImages/{n}.png": pair(n)[0] for n in (1, 2)} | {"SegmentationClass/1.png": indices})
    write_palette(tmp_path / "SegmentationClass" / "2.png", indices, [(n, n, n) for n in (9, 5, 7)])
    data = open_dataset(tmp_path)
    assert [c.value for c in data.classes] == [0, 1, 2]
    np.testing.assert_array_equal(data.sections[1].label, indices)


LABEL = {
    "version": "0.5",
    "properties": [{"label-value": 0, "name": "out\nside"}, {"label-value": 255, "name": "cell"}, {"name": "none"}, 3],
    "colors": [{"label-value": 0, "rgba": [1, 2, 3, 0]}, {"label-value": 255, "rgba": [255, 0, 9, 255]}],
}


def test_ome_zarr_with_its_label(tmp_path: Path) -> None:
    image, mask = pair(1)
    store = write_ome_zarr(tmp_path / "slide.ome.zarr", image, {"cells": mask}, LABEL)
    for path in (store, tmp_path, store / "labels" / "cells"):
        data = open_dataset(path)
        assert [(s.name, s.image.shape) for s in data.sections] == [("slide", (1, SIDE, SIDE))]
        np.testing.assert_array_equal(data.sections[0].label, mask > 0)
        assert [(c.name, c.colour) for c in data.classes] == [("out side", "#010203"), ("cell", "#ff0009")]
        assert data.pixel_size is not None and data.pixel_size.y == 0.5
        assert "labels/" in data.layout


@pytest.mark.parametrize(
    "damage", [{"properties": 3, "colors": {}}, {"colors": [{"label-value": 0, "rgba": [300]}]}, 7]
)
def test_what_an_ome_zarr_label_says_need_not_make_sense(damage: object, tmp_path: Path) -> None:
    image, mask = pair(1)
    data = open_dataset(write_ome_zarr(tmp_path / "a.zarr", image, {"cells": mask}, damage))  # type: ignore[arg-type]
    assert [c.name for c in data.classes] == ["value 0", "value 255"]


def test_zarr_images_in_folders(tmp_path: Path) -> None:
    image, mask = pair(1)
    write_ome_zarr(tmp_path / "images" / "a.zarr", image, {})
    write_ome_zarr(tmp_path / "labels" / "a.ome.zarr", mask, {}, None)
    data = open_dataset(tmp_path)
    assert [s.name for s in data.sections] == ["a"]
    np.testing.assert_array_equal(data.sections[0].label, mask > 0)


def test_names_in_zarr_labels_must_agree(tmp_path: Path) -> None:
    image, mask = pair(1)
    write_ome_zarr(tmp_path / "a.zarr", image, {"cells": mask}, LABEL)
    other = {"properties": [{"label-value": 255, "name": "nucleus"}]}
    write_ome_zarr(tmp_path / "b.zarr", image, {"cells": mask}, other)
    with pytest.raises(DataError, match="label value 255 has the name cell in a and nucleus in b; give all"):
        open_dataset(tmp_path)


def two_labels(folder: Path) -> None:
    image, mask = pair(1)
    write_ome_zarr(folder / "a.zarr", image, {"cells": mask, "nuclei": mask})


def unlabelled_zarr(folder: Path) -> None:
    write_ome_zarr(folder / "a.zarr", pair(1)[0], {})


def damaged_zarr(folder: Path) -> None:
    unlabelled_zarr(folder)
    (folder / "a.zarr" / "zarr.json").write_text("[")


def three_folders(folder: Path) -> None:
    write(folder, "images/{n}.png", "labels/{n}.png")
    (folder / "masks").mkdir()


def two_masks(folder: Path) -> None:
    write(folder, "images/{n}.png", "labels/{n}.png")
    write(folder, "images/{n}.png", "labels/{n}_mask.png")


def nested_files(folder: Path) -> None:
    write(folder, "images/a/{n}.png", "labels/a/{n}.png")


def voc_without_pairs(folder: Path) -> None:
    write(folder, "JPEGImages/{n}.png", "SegmentationClass/{n}.npy.txt.png")
    for path in (folder / "SegmentationClass").iterdir():
        path.unlink()


def foreign(folder: Path) -> None:
    write(folder, "a/{n}.png", "b/{n}.png")


def only(part: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write_pairs(folder / "d", 2)
        (folder / "d" / part).rename(folder / part)

    return spoil


BAD = {
    "no layout": (foreign, DataError, r"has no folder images/; expected images/ and labels/ with .*; found a/, b/$"),
    "an empty folder": (lambda folder: None, DataError, r"has no folder images/; expected .*; found nothing$"),
    "images only": (only("images"), DataError, "has no folder labels/; expected images/ and labels/"),
    "labels only": (only("labels"), DataError, "has no folder images/; expected images/ and labels/"),
    "three folders": (three_folders, DataError, "holds labels/, masks/; keep one folder of images and one of labels"),
    "two labels of an image": (two_masks, DataError, r"images/0.png has two labels, 0.png and 0_mask.png; keep one"),
    "folders in folders": (nested_files, DataError, "images/a is a folder; expected the images themselves"),
    "VOC without labels": (voc_without_pairs, DataError, "SegmentationClass is empty"),
    "two labels in a Zarr": (two_labels, DataError, r"has the labels cells, nuclei; name one .*a.zarr/labels/cells$"),
    "a Zarr without labels": (unlabelled_zarr, DataError, r"a.zarr has no label; expected one in .*a.zarr/labels/"),
    "a damaged Zarr": (damaged_zarr, DataError, "a.zarr has no label"),
}


@pytest.mark.parametrize(("spoil", "error", "match"), BAD.values(), ids=BAD.keys())
def test_what_is_no_layout(spoil: Callable[[Path], None], error: type[Exception], match: str, tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(error, match=match) as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_folder(tmp_path: Path) -> None:
    Image.fromarray(pair(0)[0]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is a file; name the folder"):
        open_dataset(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"there is no folder .*missing; name the one that holds images"):
        open_dataset(tmp_path / "missing")
    with pytest.raises(DataError, match="cannot be read"):
        open_dataset(tmp_path / ("x" * 5000))


def test_notes_beside_the_images_do_not_matter(tmp_path: Path) -> None:
    folder = write(tmp_path, "images/{n}.png", "labels/{n}.png")
    for name in ("images/Thumbs.db", "labels/classes.txt", "images/.hidden", "dataset.json"):
        (folder / name).write_text("x")
    assert len(open_dataset(folder).sections) == 2
