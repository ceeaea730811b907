"""What a run takes over from the model that it starts from, and what it says of that."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from command_line import Run
from conftest import toy_model
from data_sets import cells, write_files, write_pairs

from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.training.network import match_classes

# the rate is so low that the weights stay what they began as
TRAIN = "train data --out run --init start.safetensors --steps 1 --lr 1e-9 --ema 0 --validation 0 --tile 72"


def start(names: Sequence[str], dtype: str = "uint8", **header: object) -> Model:
    """Writes start.safetensors, a model of these classes."""
    model = toy_model(classes=len(names), dtype=dtype, seed=1)
    classes = tuple(LabelClass(name, colour.colour) for name, colour in zip(names, model.header.classes, strict=True))
    return Model(replace(model.header, classes=classes, **header), model.network).save("start.safetensors")  # type: ignore[arg-type]


def trained() -> Model:
    return Model.load("run/model.safetensors")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(*names: str) -> list[LabelClass]:
    return [LabelClass(name, "#000000") for name in names]


@pytest.mark.parametrize(
    ("new", "old", "matches"),
    [
        (("membrane", "cell"), ("membrane", "cell"), (0, 1)),
        (("Cell", "membrane "), ("membrane", "cell"), (1, 0)),
        (("other", "cell"), ("other", "nucleus", "cell"), (0, 2)),
        (("other", "cell", "spot"), ("other", "nucleus", "cell"), (0, 2, None)),
        (("other", "cell", "spot"), ("other", "cell"), (0, 1, None)),
        (("value 0", "value 255"), ("value 0", "value 1"), (0, 1)),
        (("value 0", "value 255"), ("membrane", "cell"), (0, 1)),
        (("value 0", "value 2"), ("value 0", "value 1", "value 2"), (0, 2)),
        (("value 0", "value 1", "value 2"), ("value 0", "value 255"), (None, None, None)),
        (("Membran", "Zelle"), ("membrane", "cell"), (0, 1)),
        (("a", "b", "c"), ("membrane", "cell"), (None, None, None)),
    ],
)
def test_the_same_classes(new: tuple[str, ...], old: tuple[str, ...], matches: tuple[int | None, ...]) -> None:
    assert match_classes(named(*new), named(*old)) == matches


def test_the_head_goes_with_the_names_of_the_classes(here: Path, run: Run) -> None:
    """The same two classes, their values in the labels the other way round."""
    before = start(("membrane", "cell"))
    write_pairs(here / "data", 2)
    found = run(f"{TRAIN} --classes cell,membrane")
    assert found.code == 0
    assert "random" not in found.err
    head = trained().network.head
    torch.testing.assert_close(head.weight, before.network.head.weight.flip(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(head.bias, before.network.head.bias.flip(0), atol=1e-3, rtol=0)


def test_of_fewer_classes_the_head_is_kept_and_that_is_said(here: Path, run: Run) -> None:
    before = start(("other", "nucleus", "cell"))
    write_pairs(here / "data", 2)
    found = run(f"{TRAIN} --classes other,cell")
    assert found.code == 0
    assert "random" not in found.err
    assert "Note: start.safetensors tells other, nucleus, cell apart" in found.err
    torch.testing.assert_close(trained().network.head.weight, before.network.head.weight[[0, 2]], atol=1e-3, rtol=0)


def test_only_a_new_class_begins_at_random(here: Path, run: Run) -> None:
    before = start(("other", "nucleus"))
    write_pairs(here / "data", 2)
    found = run(f"{TRAIN} --classes other,cell")
    assert found.code == 0
    assert "begun at random: head for cell; kept for other" in found.err
    head = trained().network.head.weight
    torch.testing.assert_close(head[0], before.network.head.weight[0], atol=1e-3, rtol=0)
    assert (head[1] - before.network.head.weight[1]).abs().max() > 0.01


def test_the_same_classes_are_not_worth_a_word(here: Path, run: Run) -> None:
    start(("membrane", "cell"))
    write_pairs(here / "data", 2)
    assert "Note" not in run(f"{TRAIN} --classes membrane,cell").err


def uint16_pairs(folder: Path, factor: int) -> None:
    for n in range(2):
        image, inside = cells(80, 80, n)
        write_files(
            folder, {f"images/{n}.tif": image.astype(np.uint16) * factor, f"labels/{n}.tif": inside * np.uint8(1)}
        )


def test_images_of_another_dtype_have_their_own_grey_values(here: Path, run: Run) -> None:
    """The network gets values around 0, and the model is one for the images that it was trained on."""
    start(("membrane", "cell"))
    uint16_pairs(here / "data", 200)
    found = run(f"{TRAIN} --classes membrane,cell")
    assert found.code == 0
    note = next(line for line in found.err.splitlines() if line.startswith("Note"))
    assert "uint8 of mean 128 and spread 70" in note and "uint16" in note
    pixels = np.stack([tifffile.imread(here / f"data/images/{n}.tif") for n in range(2)])
    scale = trained().header.normalisation
    assert scale == Normalisation((pytest.approx(pixels.mean()),), (pytest.approx(pixels.std()),), "uint16")
    assert run("predict data/images/0.tif --model run/model.safetensors --tile 72 --out mask.tif").code == 0


@pytest.mark.parametrize(("mean", "std", "kept"), [(128, 70, True), (100, 50, True), (20, 5, False), (120, 2, False)])
def test_images_far_from_what_it_has_learnt(mean: float, std: float, kept: bool, here: Path, run: Run) -> None:
    """Of the same dtype, too: a dim and a bright camera both write uint8."""
    scale = Normalisation((float(mean),), (float(std),), "uint8")
    start(("membrane", "cell"), normalisation=scale)
    write_pairs(here / "data", 2)
    found = run(f"{TRAIN} --classes membrane,cell")
    assert found.code == 0
    assert (trained().header.normalisation == scale) == kept
    assert ("Note" not in found.err) == kept


def test_pixels_of_another_size_are_said(here: Path, run: Run) -> None:
    start(("membrane", "cell"), pixel_size=PixelSize(0.5, 0.5))
    image, inside = cells(80, 80, 0)
    (here / "data" / "images").mkdir(parents=True)
    (here / "data" / "labels").mkdir()
    how = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}  # 0.25 micrometres
    tifffile.imwrite(here / "data/images/a.tif", image, **how)
    tifffile.imwrite(here / "data/labels/a.tif", inside.astype(np.uint8))
    found = run(f"{TRAIN} --classes membrane,cell")
    assert found.code == 0
    assert "0.5 x 0.5 micrometres" in found.err and "0.25 x 0.25" in found.err
