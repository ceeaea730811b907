"""What `describe` says of images, masks and models."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import toy_model
from image_files import make_pixels, ome_zarr, png, tiff

import tilesegment
from tilesegment import ImageError, MaskError, ModelError
from tilesegment.model import Model


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
