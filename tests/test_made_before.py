"""What was made before the house was rebuilt (commit b848b54) still opens, goes on and predicts the same pixels.

`made_before.tar.gz` holds an image of 16,000 x 210, toy models, the classes that they gave of it in fp64, masks that
were finished and masks that were stopped after three blocks, and a training run that was stopped after 5 of 12 steps.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tilesegment
from tilesegment import Region

WHOLE, ROI = Region(0, 0, 16_000, 210), Region(1990, 0, 2100, 210)
EXACT = {"precision": "fp64", "runtime": "pytorch"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(Path(__file__).with_name("made_before.tar.gz")) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def ids(unpacked: Path) -> dict[str, np.ndarray]:
    """Class ids (H, W), by the name of the model, of `ROI`; and `whole`, of all of the image by `unet`."""
    with np.load(unpacked / "ids.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize("model", ["unet", "unet-same", "unetpp"])
def test_a_model_file_predicts_the_same_pixels(model: str, unpacked: Path, ids: dict, tmp_path: Path) -> None:
    path = unpacked / f"{model}.safetensors"
    tilesegment.predict(unpacked / "image.tif", tmp_path / "mask.zarr", path, roi=ROI, **EXACT)
    found = tilesegment.open_mask(tmp_path / "mask.zarr").read(Region(0, 0, *ROI.shape))
    np.testing.assert_array_equal(found, ids[model])


@pytest.mark.parametrize("name", ["finished.zarr", "finished.tif"])
def test_a_finished_mask_opens_and_is_not_made_again(name: str, unpacked: Path, ids: dict) -> None:
    mask = unpacked / name
    found = tilesegment.open_mask(mask).read(Region(0, 0, *ROI.shape))
    np.testing.assert_array_equal(found, ids["unet"])
    written = {path: path.stat().st_mtime_ns for path in [mask, *mask.rglob("*")]}
    done = tilesegment.predict(unpacked / "image.tif", mask, unpacked / "unet.safetensors", roi=ROI, **EXACT)
    assert done.blocks == 0
    assert written == {path: path.stat().st_mtime_ns for path in [mask, *mask.rglob("*")]}


@pytest.mark.parametrize("name", ["begun.zarr", "begun.tif"])
def test_a_mask_that_was_begun_goes_on(name: str, unpacked: Path, ids: dict) -> None:
    done = tilesegment.predict(unpacked / "image.tif", unpacked / name, unpacked / "unet.safetensors", **EXACT)
    assert done.blocks_resumed == 3
    np.testing.assert_array_equal(tilesegment.open_mask(unpacked / name).read(WHOLE), ids["whole"])
    assert not (unpacked / f"{name}.partial").exists()


def test_a_training_run_goes_on(unpacked: Path) -> None:
    """As if it had not been stopped; up to rounding, which other processors do otherwise."""
    done = tilesegment.train(unpacked / "data", unpacked / "run", resume=True)
    weights, expected = load_file(done.model), load_file(unpacked / "trained.safetensors")
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(weights[name], values, rtol=1e-2, atol=1e-3, msg=name)
