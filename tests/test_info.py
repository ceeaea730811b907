"""What `describe` says of images, masks and models."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from conftest import toy_model
from image_files import make_pixels, ome_zarr, png, tiff

import tilesegment
from tilesegment import ImageError, MaskError, ModelError
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.models import bundled_models


def describe(path: Path) -> dict[str, Any]:
    facts = tilesegment.describe(path)
    assert json.loads(json.dumps(facts)) == facts, "plain JSON values"
    return facts


def test_an_image(tmp_path: Path) -> None:
    assert describe(ome_zarr("0.4", "cyx", 0.5)(tmp_path, make_pixels(3, 100, 140))) == {
        "kind": "image",
        "path": str(tmp_path / "image.zarr"),
        "format": "OME-Zarr 0.4",
        "shape_yx": [100, 140],
        "planes": None,
        "channels": 3,
        "dtype": "uint8",
        "pixel_size_um": pytest.approx([0.5, 0.5]),
        "levels": [
            {"shape_yx": [100 // n, 140 // n], "pixel_size_um": pytest.approx([0.5 * n, 0.5 * n])} for n in (1, 2, 4)
        ],
    }


def test_a_stack(tmp_path: Path) -> None:
    facts = describe(tiff("zyx", photometric="minisblack")(tmp_path, make_pixels(4, 1, 50, 60, dtype="uint16")))
    assert (facts["planes"], facts["shape_yx"], facts["dtype"]) == (4, [50, 60], "uint16")
    assert facts["pixel_size_um"] is None


@pytest.fixture
def predicted(toy: Path) -> Path:
    """Folder of an image, its mask, its probabilities."""
    image, folder = png(toy.parent, make_pixels(1, 50, 60)), toy.parent
    tilesegment.predict(image, folder / "mask.zarr", toy, tile=88, probabilities=folder / "p.zarr")
    return folder


def test_a_mask_and_what_made_it(predicted: Path) -> None:
    facts = describe(predicted / "mask.zarr")
    assert (facts["kind"], facts["shape_yx"], facts["planes"]) == ("mask", [50, 60], None)
    assert facts["classes"] == {"0": "class 0", "1": "class 1"}
    assert facts["fingerprint"]["tile"] == 88
    assert facts["provenance"]["model"]["name"] == "toy-2"
    assert facts["provenance"]["image"] == str(predicted / "image.png")
    ids = np.asarray(zarr.open_group(predicted / "mask.zarr", mode="r")["0"])
    assert facts["shares"] == {str(n): pytest.approx(np.mean(ids == n)) for n in (0, 1)}
    assert (facts["counted_at_level"], facts["areas_um2"]) == (0, None)
    likely = describe(predicted / "p.zarr")
    assert (likely["kind"], likely["channels"], likely["dtype"]) == ("image", 2, "float32")


def make_mask(path: Path, ids: np.ndarray, classes: int) -> Path:
    """A mask of `ids` (48, 64) with pixels of 0.5 x 0.25 um."""
    names = tuple(LabelClass(f"class {n}", "#123456") for n in range(classes))
    writer = create_mask(path, MaskSpec((48, 64), None, 32, 32, names, PixelSize(0.5, 0.25)))
    for region, z in writer.base.blocks():
        writer.write(region, ids[region.slices].astype(np.uint8), z)
    writer.finish()
    return path


@pytest.mark.parametrize("classes", [3, 40])
def test_areas_are_in_square_micrometres(classes: int, tmp_path: Path) -> None:
    ids = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) % classes
    areas = describe(make_mask(tmp_path / "mask.zarr", ids, classes))["areas_um2"]
    assert areas == {str(n): pytest.approx(np.count_nonzero(ids == n) * 0.5 * 0.25) for n in range(classes)}


@pytest.mark.parametrize("recorded", [None, [5, 5], [1, 2, 3], ["a", "b", "c"], {"0": 1}, [-1, 48 * 64 + 1, 0]])
def test_a_mask_without_a_count_that_fits_is_counted(recorded: Any, tmp_path: Path) -> None:
    group = zarr.open_group(make_mask(tmp_path / "mask.zarr", np.full((48, 64), 2), 3))
    record: Any = group.attrs["tilesegment"]
    assert record.pop("class_pixels") == [0, 0, 48 * 64]
    group.attrs["tilesegment"] = record if recorded is None else record | {"class_pixels": recorded}
    assert list(describe(tmp_path / "mask.zarr")["shares"].values()) == [0, 0, 1]


def test_masks_that_are_unfinished_or_damaged_say_so(predicted: Path) -> None:
    document = predicted / "mask.zarr" / "zarr.json"
    text = document.read_text()
    document.write_text(text.replace('"state": "complete"', '"state": "partial"'))
    with pytest.raises(MaskError, match=r"mask\.zarr is not finished"):
        describe(predicted / "mask.zarr")
    damaged = json.loads(text)
    damaged["attributes"]["tilesegment"] = 7
    document.write_text(json.dumps(damaged))
    with pytest.raises(MaskError, match="no mask written by tilesegment"):
        describe(predicted / "mask.zarr")


def test_models_by_file_and_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    made = toy_model(depth=3, channels=3, classes=4)
    stored = replace(made, header=replace(made.header, diameter=27.5)).save(path)
    facts = describe(path)
    assert (facts["kind"], facts["name"], facts["channels"], facts["dtype"]) == ("model", "toy-3", 3, "uint8")
    assert facts["classes"] == {str(n): f"class {n}" for n in range(4)}
    assert facts["arguments"]["depth"] == 3
    assert facts["weights_sha256"] == stored.header.weights_sha256
    assert (facts["diameter_px"], facts["ground"]) == (27.5, "")
    assert "training images" in facts["grey_values"]
    scale = replace(made.header.normalisation, percentiles=(1.0, 99.8))
    replace(made, header=replace(made.header, normalisation=scale, ground="dark")).save(path)
    facts = describe(path)
    assert (facts["dtype"], facts["ground"]) == ("any type", "dark")
    assert "percentiles 1 and 99.8 of the whole image" in facts["grey_values"]
    assert {describe(Path(name))["kind"] for name in bundled_models()} == {"model"}


@pytest.mark.parametrize(
    ("name", "error", "named"),
    [
        ("text.tif", ImageError, "is not an image"),
        ("missing.tif", ImageError, "does not exist"),
        ("model.pt", ModelError, "could run code"),
        ("model.pkl", ModelError, "could run code"),
    ],
)
def test_what_is_none_of_them(name: str, error: type[Exception], named: str, tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no image")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "model.pt")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(np.zeros(3)))
    with pytest.raises(error, match=named):
        describe(tmp_path / name)
