"""What `describe` says of images, masks and models."""

import json
import pickle
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
from tilesegment.models.model import Model


def describe(path: Path) -> dict[str, Any]:
    facts = tilesegment.describe(path)
    assert json.loads(json.dumps(facts)) == facts, "plain JSON values"
    return facts


def test_an_image(tmp_path: Path) -> None:
    facts = describe(ome_zarr("0.4", "cyx", 0.5)(tmp_path, make_pixels(3, 100, 140)))
    assert facts == {
        "kind": "image",
        "path": str(tmp_path / "image.zarr"),
        "format": "OME-Zarr 0.4",
        "shape_yx": [100, 140],
        "planes": None,
        "channels": 3,
        "dtype": "uint8",
        "pixel_size_um": pytest.approx([0.5, 0.5]),
        "levels": [[100, 140], [50, 70], [25, 35]],
    }


def test_a_stack(tmp_path: Path) -> None:
    facts = describe(tiff("zyx", photometric="minisblack")(tmp_path, make_pixels(4, 1, 50, 60, dtype="uint16")))
    assert (facts["planes"], facts["shape_yx"], facts["dtype"]) == (4, [50, 60], "uint16")
    assert facts["pixel_size_um"] is None


@pytest.fixture
def predicted(toy: Path) -> Path:
    """Folder of an image, its mask, its probabilities."""
    image = png(toy.parent, make_pixels(1, 50, 60))
    folder = toy.parent
    tilesegment.predict(image, folder / "mask.zarr", toy, tile=88, probabilities=folder / "p.zarr")
    return folder


def test_a_mask_and_what_made_it(predicted: Path) -> None:
    facts = describe(predicted / "mask.zarr")
    assert (facts["kind"], facts["shape_yx"], facts["planes"]) == ("mask", [50, 60], None)
    assert facts["classes"] == {"0": "class 0", "1": "class 1"}
    assert facts["fingerprint"]["tile"] == 88
    assert facts["provenance"]["model"]["name"] == "toy-2"
    assert facts["provenance"]["image"] == str(predicted / "image.png")


def test_the_share_and_the_area_of_each_class(toy: Path) -> None:
    for name, depth in (("flat", 1), ("stack", 3)):
        image = tiff("zyx", photometric="minisblack")(toy.parent, make_pixels(depth, 1, 700, 60))
        tilesegment.predict(image, toy.parent / f"{name}.zarr", toy)
    for name in ("flat", "stack"):
        mask = toy.parent / f"{name}.zarr"
        ids = np.asarray(zarr.open_group(mask, mode="r")["0"])
        facts = describe(mask)
        assert facts["counted_at_level"] == 0
        assert facts["shares"] == {str(n): pytest.approx(np.mean(ids == n)) for n in (0, 1)}
        assert facts["areas_um2"] is None


@pytest.mark.parametrize("classes", [3, 40])
def test_areas_are_in_square_micrometres(classes: int, tmp_path: Path) -> None:
    spec = small_spec(classes)
    ids = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) % classes
    writer = create_mask(tmp_path / "mask.zarr", spec)
    for region, z in writer.base.blocks():
        writer.write(region, ids[region.slices].astype(np.uint8), z)
    writer.finish()
    facts = describe(tmp_path / "mask.zarr")
    for n in range(classes):
        assert facts["areas_um2"][str(n)] == pytest.approx(np.count_nonzero(ids == n) * 0.5 * 0.25)


@pytest.mark.parametrize("recorded", [None, [5, 5], [1, 2, 3], ["a", "b", "c"], {"0": 1}, [-1, 48 * 64 + 1, 0]])
def test_a_mask_without_a_count_that_fits_is_counted(recorded: Any, tmp_path: Path) -> None:
    spec = small_spec(3)
    writer = create_mask(tmp_path / "mask.zarr", spec)
    for region, z in writer.base.blocks():
        writer.write(region, np.full(region.shape, 2, np.uint8), z)
    writer.finish()
    group = zarr.open_group(tmp_path / "mask.zarr")
    record: Any = group.attrs["tilesegment"]
    assert record.pop("class_pixels") == [0, 0, 48 * 64]
    group.attrs["tilesegment"] = record if recorded is None else record | {"class_pixels": recorded}
    assert list(describe(tmp_path / "mask.zarr")["shares"].values()) == [0, 0, 1]


def small_spec(classes: int) -> MaskSpec:
    names = tuple(LabelClass(f"class {n}", "#123456") for n in range(classes))
    return MaskSpec((48, 64), None, 32, 32, names, PixelSize(0.5, 0.25))


def test_probabilities_are_an_image(predicted: Path) -> None:
    facts = describe(predicted / "p.zarr")
    assert (facts["kind"], facts["channels"], facts["dtype"]) == ("image", 2, "float32")


def test_an_unfinished_mask_says_so(predicted: Path) -> None:
    mask = predicted / "mask.zarr"
    text = (mask / "zarr.json").read_text()
    (mask / "zarr.json").write_text(text.replace('"state": "complete"', '"state": "partial"'))
    with pytest.raises(MaskError, match=r"mask\.zarr is not finished"):
        describe(mask)


def test_a_mask_with_a_damaged_record_says_so(predicted: Path) -> None:
    document = json.loads((predicted / "mask.zarr" / "zarr.json").read_text())
    document["attributes"]["tilesegment"] = 7
    (predicted / "mask.zarr" / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(MaskError, match="no mask written by tilesegment"):
        describe(predicted / "mask.zarr")


def test_a_model_without_reading_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    stored = toy_model(depth=3, channels=3, classes=4).save(path)
    monkeypatch.setattr(Model, "load", None)
    facts = describe(path)
    assert (facts["kind"], facts["name"], facts["channels"], facts["dtype"]) == ("model", "toy-3", 3, "uint8")
    assert facts["classes"] == {str(n): f"class {n}" for n in range(4)}
    assert facts["arguments"]["depth"] == 3
    assert facts["weights_sha256"] == stored.header.weights_sha256


def test_bundled_models_are_known_by_name() -> None:
    from tilesegment.models import bundled_models

    for name in bundled_models():
        assert describe(Path(name))["kind"] == "model"


def test_what_is_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(ImageError, match="is not an image"):
        describe(tmp_path / "text.tif")
    with pytest.raises(ImageError, match="does not exist"):
        describe(tmp_path / "missing.tif")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "model.pt")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(np.zeros(3)))
    for name in ("model.pt", "model.pkl"):
        with pytest.raises(ModelError, match="could run code and is not opened"):
            describe(tmp_path / name)
