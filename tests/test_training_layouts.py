"""Which image goes with which label, whatever people call them and whatever lies beside them."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from data_sets import cells, write_files, write_ome_zarr, write_palette
from PIL import Image

from tilesegment import DataError, ImageError, evaluate
from tilesegment.labels.files import core_of, match_stems
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


LAYOUTS = [
    ("images/{n}.png", "labels/{n}.tif", "images/ and labels/, paired by name"),
    ("imgs/{n}.png", "masks/{n}.png", "imgs/ and masks/, paired by name"),
    ("image/{n}.png", "label/{n}.png", "image/ and label/, paired by name"),
    ("IMAGES/{n}.png", "Labels/{n}.png", "IMAGES/ and Labels/, paired by name"),
    ("imagesTr/case{n}_0000.png", "labelsTr/case{n}.png", "imagesTr/ and labelsTr/, paired by name"),  # nnU-Net
    ("train/{n}.png", "train_masks/{n}_mask.gif", "train/ and train_masks/, paired by name"),  # Carvana
    ("images/{n}.png", "labels/{n}_label.png", "images/ and labels/, paired by name"),
    ("images/{n}_img.png", "masks/{n}_seg.png", "images/ and masks/, paired by name"),
    ("images/image_0{n}.png", "masks/mask_0{n}.png", "images/ and masks/, paired by name"),
    ("images/image0{n}.png", "masks/mask0{n}.png", "images/ and masks/, paired by name"),
    ("images/img_{n}.png", "labels/label_{n}.png", "images/ and labels/, paired by name"),
    ("images/{n}.png", "labels/{n}.ome.tif", "images/ and labels/, paired by name"),
    ("images/a_mask_{n}.png", "labels/a_mask_{n}.png", "images/ and labels/, paired by name"),
    ("data/imgs/{n}.png", "data/masks/{n}_mask.png", "data/ with imgs/ and masks/, paired by name"),
    ("train/images/{n}.png", "train/labels/{n}.png", "train/ with images/ and labels/, paired by name"),
    ("{n}-volume.tif", "{n}-labels.tif", "0-volume.tif and 0-labels.tif, 1-volume.tif and 1-labels.tif"),  # ISBI
    ("{n}.tif", "{n}_masks.tif", "0.tif and 0_masks.tif, 1.tif and 1_masks.tif"),  # Cellpose
    ("{n}.png", "{n}_cp_masks.png", "0.png and 0_cp_masks.png, 1.png and 1_cp_masks.png"),
    ("image_0{n}.png", "mask_0{n}.png", "image_00.png and mask_00.png, image_01.png and mask_01.png"),
    ("{n}_img.tif", "{n}-labels.png", "0_img.tif and 0-labels.png, 1_img.tif and 1-labels.png"),
]


@pytest.mark.parametrize(("image", "label", "words"), LAYOUTS, ids=[f"{image} {label}" for image, label, _ in LAYOUTS])
def test_images_and_labels_are_paired(image: str, label: str, words: str, tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path / "d", image, label))
    assert (data.layout, data.warnings) == (words, ())
    assert [section.name for section in data.sections] == [Path(image.format(n=n)).stem for n in range(2)]
    for n, section in enumerate(data.sections):
        pixels, mask = pair(n)
        np.testing.assert_array_equal(section.image, pixels[None])
        np.testing.assert_array_equal(section.label, mask > 0)
    # a predicted mask is named as its image is
    for n in range(2):
        name, truth = (Path(one.format(n=n)).name for one in (image, label))
        write_files(tmp_path, {f"p/{name}": pair(n)[1], f"t/{truth}": pair(n)[1]})
    assert evaluate(tmp_path / "p", tmp_path / "t").accuracy == 1


def test_names_in_either_unicode_form(tmp_path: Path) -> None:
    """MacOS stores `é` as two characters."""
    composed, decomposed = (unicodedata.normalize(form, "é{n}.png") for form in ("NFC", "NFD"))
    assert composed != decomposed
    data = open_dataset(write(tmp_path, f"images/{decomposed}", f"labels/{composed}"))
    assert [section.name for section in data.sections] == ["é0", "é1"]
    assert data.split([unicodedata.normalize("NFD", "é1")])[1] == data.sections[1:]
    write(tmp_path, f"x/{composed}", f"p/{decomposed}")
    assert evaluate(tmp_path / "p", tmp_path / "labels").accuracy == 1


def test_cores_of_names() -> None:
    for stem in ("image_cell_1", "cell_1_mask", "cell_1_0000", "Mask_cell_1", "cell_1_cp_masks", "IMG_cell_1"):
        assert core_of(stem) == "cell_1"
    assert [core_of(stem) for stem in ("mask", "_mask", "image_", "a")] == ["mask", "_mask", "image_", "a"]
    found = match_stems(["mask_1", "2", "mask_3"], ["image_1", "1", "2", "a", "3_img", "img_3"])
    assert found == {"mask_1": "1", "2": "2", "mask_3": None}
    # what is nearest goes first: a_0000 is another image than a
    assert match_stems(["a_0000_mask", "a_mask"], ["a", "a_0000"]) == {"a_0000_mask": "a_0000", "a_mask": "a"}
    assert match_stems(["a", "a_0000"], ["a_0000_mask", "a_mask"]) == {"a": "a_mask", "a_0000": "a_0000_mask"}


def test_what_is_no_image_is_left_out(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What systems and programs leave in a folder is not worth a word, a file that may be meant as an image is."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "images/{n}.png", "labels/{n}.png")
    write(tmp_path, "x/{n}.png", "p/{n}.png")
    for folder in ("images", "labels", "p"):
        for name in ("summary.csv", "Thumbs.db", "README.md", "readme", "Icon\r", ".DS_Store", "._0.png", "notes.TXT"):
            (tmp_path / folder / name).write_text("x")
        (tmp_path / folder / "logs").mkdir()
        (tmp_path / folder / "logs" / "run.jsonl").write_text("{}")
        write_files(tmp_path / folder / ".hidden", {"0.png": np.zeros((3, 3), np.uint8)})
    data = open_dataset(tmp_path)
    assert (len(data.sections), data.warnings) == (2, ())
    (tmp_path / "labels" / "other.npy").write_bytes(b"x")
    (tmp_path / "labels" / "0_seg.npy").write_bytes(b"x")
    write_files(tmp_path / "labels" / "old", {"3.png": pair(3)[1]})
    known, unknown = open_dataset(tmp_path).warnings
    assert "other.npy: NumPy is not read: save it" in known and "old/" in unknown and "0_seg" not in known + unknown
    done = run("evaluate p labels --json")
    assert (done.code, json.loads(done.out)["accuracy"]) == (0, 1)
    assert "other.npy" in done.err and "summary.csv" not in done.err and "logs" not in done.err


@pytest.mark.slow
def test_masks_that_predict_wrote_are_scored(run: Run, folder: Path) -> None:
    for n in range(2):
        image = np.random.default_rng(n).integers(0, 256, (60, 70), np.uint8)
        write_files(folder, {f"img/{n}.png": image, f"truth/{n}.png": cells(60, 70, n)[1].astype(np.uint8)})
    assert run("predict img/0.png img/1.png --model toy.safetensors --tile 60 --out-dir masks -q").code == 0
    assert {path.name for path in (folder / "masks").iterdir()} > {"summary.csv", "logs"}
    done = run("evaluate masks truth --json")
    assert done.code == 0, done.err
    assert [one["name"] for one in json.loads(done.out)["images"]] == ["0", "1"]
    assert "Note" not in done.err


def test_truths_beside_their_images(tmp_path: Path) -> None:
    """A folder of Cellpose holds both: the truth is what is called a label."""
    write(tmp_path / "t", "{n}.tif", "{n}_masks.tif")
    write(tmp_path, "x/{n}.png", "p/{n}.png")
    assert evaluate(tmp_path / "p", tmp_path / "t").accuracy == 1


def test_cases_with_a_file_for_each_channel(tmp_path: Path) -> None:
    images = [np.full((SIDE, SIDE), 10 * n, np.uint8) + np.arange(SIDE, dtype=np.uint8) for n in range(3)]
    for case in ("a_1", "b"):
        write_files(tmp_path, {f"imagesTr/{case}_{n:04}.png": image for n, image in enumerate(images)})
        write_files(tmp_path, {f"labelsTr/{case}.png": cells(SIDE, SIDE, 0)[1].astype(np.uint8)})
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tumour": 1}}))
    data = open_dataset(tmp_path)
    assert [section.name for section in data.sections] == ["a_1", "b"]
    assert [one.name for one in data.classes] == ["background", "tumour"]
    np.testing.assert_array_equal(data.sections[1].image, np.stack(images))
    assert "3 channels" in data.layout
    (tmp_path / "imagesTr" / "b_0001.png").unlink()
    with pytest.raises(DataError, match="b_0001"):
        open_dataset(tmp_path)
    Image.new("L", (3, 3)).save(tmp_path / "imagesTr" / "b_0001.png")
    with pytest.raises(ImageError, match="b_0001"):
        open_dataset(tmp_path)
    # a series of images is no case of channels
    data = open_dataset(write(tmp_path / "d", "images/movie_000{n}.png", "labels/movie_000{n}.png"))
    assert [section.image.shape[0] for section in data.sections] == [1, 1]


SPLITS = {
    "train/, val/": ("train/images/{n}.png", "train/labels/{n}.png", "val/images/{n}.png", "val/labels/{n}.png"),
    "beside": ("images/{n}.png", "labels/{n}.png", "valid/images/{n}.png", "valid/labels/{n}.png"),
    "images/train": ("images/train/{n}.png", "labels/train/{n}.png", "images/val/{n}.png", "labels/val/{n}.png"),
    "train_masks": ("train/{n}.png", "train_masks/{n}.png", "val/{n}.png", "val_masks/{n}.png"),
    "one folder": ("Train/{n}.tif", "Train/{n}_masks.tif", "Val/{n}.tif", "Val/{n}_masks.tif"),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_a_folder_of_validation_is_held_out(kind: str, tmp_path: Path) -> None:
    train, train_label, val, val_label = SPLITS[kind]
    write(tmp_path, train, train_label, 3)
    write(tmp_path, val, val_label, 1)
    data = open_dataset(tmp_path)
    assert "held out: " in data.layout
    for share in (0.2, 0.5):
        trained, held_out = data.split(share)
        assert [section.name for section in trained] == ["0", "1", "2"]
        assert [section.name for section in held_out] == ["valid/0" if kind == "beside" else "val/0"]
    np.testing.assert_array_equal(held_out[0].label, pair(0)[1] > 0)
    assert len(data.split(0)[0]) == 4
    assert [section.name for section in data.split(["1"])[1]] == ["1"]


def test_validation_that_is_not_used_is_told(tmp_path: Path) -> None:
    write(tmp_path, "train/images/{n}.png", "train/labels/{n}.png")
    (tmp_path / "val").mkdir()
    for folder in (tmp_path, tmp_path / "train"):
        (warning,) = open_dataset(folder).warnings
        assert "val" in warning
    write(tmp_path, "test/images/{n}.png", "test/labels/{n}.png")
    assert "test/ is not used" in open_dataset(tmp_path).layout


def test_the_stacks_of_isbi(tmp_path: Path) -> None:
    images, masks = (np.stack(part) for part in zip(*map(pair, range(3)), strict=True))
    files = {"train-volume.tif": images, "train-labels.tif": masks, "test-volume.tif": images}
    data = open_dataset(write_files(tmp_path, files))
    assert [section.name for section in data.sections] == [f"train-volume[{z}]" for z in range(3)]
    np.testing.assert_array_equal(data.sections[2].image[0], images[2])
    np.testing.assert_array_equal(data.sections[2].label, masks[2] > 0)
    (warning,) = data.warnings
    assert "test-volume.tif" in warning


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
    told = [(c.name, c.value, c.colour) for c in data.classes]
    assert told == [("_background_", 0, "#000000"), ("dog", 2, "#008000")]
    assert data.ignore == 255
    np.testing.assert_array_equal(data.sections[0].label, np.select([indices == 2, indices == 255], [1, 255], 0))
    assert data.sections[0].image.shape == (3, SIDE, SIDE)
    (warning,) = data.warnings
    assert "c.jpg has no label" in warning


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
    write_ome_zarr(tmp_path / "b.zarr", image, {"a": mask}, {"properties": [{"label-value": 255, "name": "nucleus"}]})
    with pytest.raises(DataError, match=r"255 .*(cell|nucleus).*(cell|nucleus)"):
        open_dataset(tmp_path)


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


def pairs(*names: tuple[str, str]) -> Callable[[Path], object]:
    return lambda folder: [write(folder, image, label) for image, label in names]


def stores(labels: str) -> Callable[[Path], object]:
    return lambda folder: write_ome_zarr(folder / "a.zarr", pair(1)[0], {name: pair(1)[1] for name in labels.split()})


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no layout": (
        pairs(("a/{n}.png", "b/{n}.png")),
        r"no folder images/; expected images/ and labels/ .*found a/, b/$",
    ),
    "an empty folder": (lambda folder: None, r"no folder images/; expected .*; found nothing$"),
    "images only": (pairs(("images/{n}.png", "x/{n}.png")), "no folder labels/; expected images/ and labels/"),
    "labels only": (pairs(("x/{n}.png", "labels/{n}.png")), "no folder images/; expected images/ and labels/"),
    "three folders": (pairs(("images/{n}.png", "labels/{n}.png"), ("x/{n}.png", "masks/{n}.png")), "labels/, masks/"),
    "two cases": (pairs(("images/{n}.png", "labels/{n}.png"), ("x/{n}.png", "Labels/{n}.png")), "Labels/ and labels/"),
    "two labels of an image": (
        pairs(("images/{n}.png", "labels/{n}.png"), ("images/{n}.png", "labels/{n}_mask.png")),
        r"images/0.png has two labels, 0.png and 0_mask.png",
    ),
    "folders in folders": (pairs(("images/a/{n}.png", "labels/a/{n}.png")), "images/a is a folder"),
    "two labels in a Zarr": (stores("cells nuclei"), r"cells, nuclei.*a.zarr/labels/cells$"),
    "a Zarr without labels": (stores(""), r"a.zarr has no label; expected one in .*a.zarr/labels/"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_layout(case: str, tmp_path: Path) -> None:
    spoil, match = BAD[case]
    spoil(tmp_path)
    with pytest.raises(DataError, match=match) as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_folder(tmp_path: Path) -> None:
    Image.fromarray(pair(0)[0]).save(tmp_path / "a.png")
    for name, match in (("a.png", r"a\.png is a file"), ("missing", "no folder .*missing"), ("x" * 5000, "xxx")):
        with pytest.raises(DataError, match=match):
            open_dataset(tmp_path / name)
    store = write_ome_zarr(tmp_path / "a.zarr", pair(1)[0], {"cells": pair(1)[1]})
    (store / "zarr.json").write_text("[")
    with pytest.raises(ImageError, match=r"zarr\.json"):
        open_dataset(store)
