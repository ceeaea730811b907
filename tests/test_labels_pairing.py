"""Which files go together, whatever people call them and whatever else lies beside; in `train` as in `evaluate`."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from data_sets import cells, write_files
from PIL import Image

from tilesegment import DataError, ImageError, evaluate
from tilesegment.labels import core_of, match_stems
from tilesegment.training.data import open_dataset

SIDE = 40
SUNDRY = (
    "summary.csv",
    "Thumbs.db",
    "desktop.ini",
    "README.md",
    "readme",
    "Icon\r",
    ".DS_Store",
    "._0.png",
    "notes.TXT",
)


def write(folder: Path, image: str, label: str, count: int = 2) -> Path:
    """`count` pairs under the names that `image` and `label` give for a number n."""
    for n in range(count):
        pixels, inside = cells(SIDE, SIDE, n)
        write_files(folder, {image.format(n=n): pixels, label.format(n=n): inside.astype(np.uint8)})
    return folder


def litter(folder: Path) -> None:
    """What systems and programs leave in a folder."""
    for name in SUNDRY:
        (folder / name).write_text("x")
    (folder / "logs").mkdir()
    (folder / "logs" / "run.jsonl").write_text("{}")
    (folder / ".hidden").mkdir()
    Image.new("L", (3, 3)).save(folder / ".hidden" / "0.png")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/image_0{n}.png", "masks/mask_0{n}.png"),
        ("image_0{n}.png", "mask_0{n}.png"),
        ("images/image0{n}.png", "masks/mask0{n}.png"),
        ("images/img_{n}.png", "labels/label_{n}.png"),
        ("{n}.tif", "{n}_masks.tif"),
        ("{n}_img.tif", "{n}_masks.tif"),
        ("{n}.png", "{n}_cp_masks.png"),
        ("{n}.tif", "{n}_seg.png"),
        ("{n}.png", "{n}-labels.png"),
        ("Images/{n}.png", "Masks/{n}.png"),
        ("IMAGES/{n}.png", "Labels/{n}.png"),
        ("imagesTr/case{n}_0000.png", "labelsTr/case{n}.png"),
        ("images/{n}.png", "labels/{n}.ome.tif"),
        ("images/a_mask_{n}.png", "labels/a_mask_{n}.png"),
    ],
)
def test_names_that_go_together(image: str, label: str, tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path / "d", image, label))
    assert (len(data.sections), data.warnings) == (2, ())
    for n, section in enumerate(data.sections):
        pixels, inside = cells(SIDE, SIDE, n)
        np.testing.assert_array_equal(section.image[0], pixels)
        np.testing.assert_array_equal(section.label, inside)
    # a mask that was predicted is named as its image is
    write(tmp_path, "p/" + Path(image).name, "t/" + Path(label).name)
    for n in range(2):
        path = tmp_path / "p" / Path(image.format(n=n)).name
        write_files(path.parent, {path.name: cells(SIDE, SIDE, n)[1].astype(np.uint8)})
    assert evaluate(tmp_path / "p", tmp_path / "t").accuracy == 1


def test_names_in_either_unicode_form(tmp_path: Path) -> None:
    """MacOS stores `é` as two characters."""
    composed, decomposed = (unicodedata.normalize(form, "é{n}.png") for form in ("NFC", "NFD"))
    assert composed != decomposed
    data = open_dataset(write(tmp_path, f"images/{decomposed}", f"labels/{composed}"))
    assert [section.name for section in data.sections] == ["é0", "é1"]
    assert data.split([unicodedata.normalize("NFD", "é1")])[1] == data.sections[1:]
    write(tmp_path, f"p/{composed}", f"q/{decomposed}")
    write(tmp_path, f"x/{composed}", f"p/{composed}")
    assert evaluate(tmp_path / "p", tmp_path / "q").accuracy == 1


def test_what_is_no_image_is_left_out(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "images/{n}.png", "labels/{n}.png")
    for folder in ("images", "labels"):
        litter(tmp_path / folder)
    data = open_dataset(tmp_path)
    assert (len(data.sections), data.warnings) == (2, ())
    (tmp_path / "labels" / "other.npy").write_bytes(b"x")
    (tmp_path / "labels" / "0_seg.npy").write_bytes(b"x")
    write_files(tmp_path / "labels" / "old", {"3.png": cells(SIDE, SIDE, 3)[1].astype(np.uint8)})
    (warning,) = open_dataset(tmp_path).warnings
    assert "old/" in warning and "other.npy" in warning and "0_seg" not in warning
    write(tmp_path, "x/{n}.png", "p/{n}.png")
    litter(tmp_path / "p")
    done = run("evaluate p labels --json")
    assert (done.code, json.loads(done.out)["accuracy"]) == (0, 1)
    assert "other.npy" in done.err and "summary.csv" not in done.err and "logs" not in done.err


def test_masks_that_predict_wrote_are_scored(run: Run, folder: Path) -> None:
    for n in range(2):
        write_files(folder, {f"img/{n}.png": np.random.default_rng(n).integers(0, 256, (60, 70), np.uint8)})
    assert run("predict img/0.png img/1.png --model toy.safetensors --tile 60 --out-dir masks -q").code == 0
    assert {path.name for path in (folder / "masks").iterdir()} > {"summary.csv", "logs"}
    write(folder, "x/{n}.png", "truth/{n}.png")
    for n in range(2):
        write_files(folder, {f"truth/{n}.png": cells(60, 70, n)[1].astype(np.uint8)})
    done = run("evaluate masks truth --json")
    assert done.code == 0, done.err
    assert [one["name"] for one in json.loads(done.out)["images"]] == ["0", "1"]
    assert "Note" not in done.err


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


def test_a_series_of_images_is_no_case_of_channels(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, "images/movie_000{n}.png", "labels/movie_000{n}.png"))
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
    name = "valid/0" if kind == "beside" else "val/0"
    for share in (0.2, 0.5):
        trained, held_out = data.split(share)
        assert [section.name for section in trained] == ["0", "1", "2"]
        assert [section.name for section in held_out] == [name]
    np.testing.assert_array_equal(held_out[0].label, cells(SIDE, SIDE, 0)[1])
    assert len(data.split(0)[0]) == 4
    assert [section.name for section in data.split(["1"])[1]] == ["1"]


def test_validation_that_is_not_used_is_told(tmp_path: Path) -> None:
    write(tmp_path, "train/images/{n}.png", "train/labels/{n}.png")
    (tmp_path / "val").mkdir()
    (warning,) = open_dataset(tmp_path).warnings
    assert "val" in warning and "left out" in warning
    (warning,) = open_dataset(tmp_path / "train").warnings
    assert "val/" in warning and "name the folder of both" in warning
    write(tmp_path, "test/images/{n}.png", "test/labels/{n}.png")
    assert "test/ is not used" in open_dataset(tmp_path).layout


def test_cores_of_names() -> None:
    for stem in ("image_cell_1", "cell_1_mask", "cell_1_0000", "Mask_cell_1", "cell_1_cp_masks", "IMG_cell_1"):
        assert core_of(stem) == "cell_1"
    assert [core_of(stem) for stem in ("mask", "_mask", "image_", "a")] == ["mask", "_mask", "image_", "a"]
    assert match_stems(["mask_1", "2", "mask_3"], ["image_1", "1", "2", "a", "3_img", "img_3"]) == {
        "mask_1": "1",
        "2": "2",
        "mask_3": None,
    }
    # what is nearest goes first: a_0000 is another image than a
    assert match_stems(["a_0000_mask", "a_mask"], ["a", "a_0000"]) == {"a_0000_mask": "a_0000", "a_mask": "a"}
    assert match_stems(["a", "a_0000"], ["a_0000_mask", "a_mask"]) == {"a": "a_mask", "a_0000": "a_0000_mask"}


def test_truths_beside_their_images(tmp_path: Path) -> None:
    """A folder of Cellpose holds both: the truth is what is called a label."""
    write(tmp_path / "t", "{n}.tif", "{n}_masks.tif")
    write(tmp_path, "x/{n}.png", "p/{n}.png")
    assert evaluate(tmp_path / "p", tmp_path / "t").accuracy == 1
