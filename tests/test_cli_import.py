"""`tileseg import`: from a file of weights to a mask, what is printed, one line for what cannot be imported."""

import json
from pathlib import Path

import pytest
import torch
from command_line import Run
from foreign_networks import PublicUNet, Tutorial, shaken

import tilesegment
from tilesegment.metadata import PixelSize
from tilesegment.models.model import Model


@pytest.fixture
def weights(folder: Path) -> Path:
    """public.pth and tutorial.pth beside the images of the command line."""
    torch.manual_seed(0)
    torch.save(shaken(PublicUNet(base=3, depth=2)).state_dict() | {"mask_values": [0, 255]}, folder / "public.pth")
    torch.save(shaken(Tutorial()).state_dict(), folder / "tutorial.pth")
    return folder


def test_the_model_is_used_by_the_command_that_is_printed(weights: Path, run: Run) -> None:
    done = run("import public.pth --network unet-same")
    assert (done.code, done.out) == (0, "")
    lines = done.err.splitlines()
    sizes = "base=3, classes=2, depth=2, down=max-pool, in_channels=3, norm=batch, up=transposed"
    assert lines[0] == f"unet-same ({sizes}), by the names of the public U-Net"
    assert lines[1] == "images: uint8, mean [0.0, 0.0, 0.0], std [255.0, 255.0, 255.0]"
    assert lines[2] == "classes: value 0, value 255. Use the model:"
    assert lines[3] == "  tileseg predict IMAGE --model public.safetensors --out mask.zarr"
    command = lines[3].strip().removeprefix("tileseg ").replace("IMAGE", "rgb.png")
    assert run(f"{command} --tile 64").code == 0
    assert tilesegment.open_mask("mask.zarr").spec.shape == (40, 50)


def test_every_option_reaches_the_library(weights: Path, run: Run) -> None:
    line = "import tutorial.pth --network unet-same --by-order --out m.safetensors --option reduction=2 "
    line += "--option norm=batch --option up=transposed --option down=max-pool "
    line += (
        "--option activation=leaky-relu --classes no,yes --mean 1,2,3 --std 50 --dtype uint16 --pixel-size 0.5,0.25 "
    )
    done = run(line + "--name tutorial-net --licence MIT --json")
    assert done.code == 0
    assert done.err.splitlines()[0].endswith("by the order of the tensors")
    assert done.err.splitlines()[1] == "Whether it computes alike the order does not say: look at a prediction."
    facts = json.loads(done.out)
    assert (facts["kind"], facts["path"], facts["licence"]) == ("model", "m.safetensors", "MIT")
    header = Model.load("m.safetensors").header
    assert [one.name for one in header.classes] == ["no", "yes"]
    assert (header.normalisation.mean, header.normalisation.std) == ((1, 2, 3), (50, 50, 50))
    assert (header.normalisation.dtype, header.pixel_size) == ("uint16", PixelSize(0.5, 0.25))
    assert (header.arguments["reduction"], header.arguments["activation"]) == (2, "leaky-relu")
    assert (header.name, header.licence) == ("tutorial-net", "MIT")
    assert run(line).code == 1
    again = run(line + "--pixel-size 0.5 --overwrite -q")
    assert (again.code, again.out, again.err) == (0, "", "")
    assert Model.load("m.safetensors").header.pixel_size == PixelSize(0.5, 0.5)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("public.pth", 2, "Missing option '--network'"),
        ("public.pth --network unet", 1, "import them as network unet-same"),
        ("public.pth --network unet-same --option up", 2, "'up' is not an option"),
        ("public.pth --network unet-same --pixel-size 1,2,3", 2, "--pixel-size has 3 numbers"),
        ("tutorial.pth --network unet-same", 1, "take them by order: --by-order"),
        ("rgb.safetensors --network unet", 1, "rgb.safetensors would replace the weights that it is made of"),
        ("slide.tif --network unet", 1, "not what torch.save writes of a state dict"),
        ("nowhere.pth --network unet", 1, "nowhere.pth cannot be read (No such file or directory)"),
    ],
)
def test_what_cannot_be_imported_is_one_line(line: str, code: int, message: str, weights: Path, run: Run) -> None:
    before = sorted(weights.iterdir())
    done = run(f"import {line}")
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert message in done.err
    assert sorted(weights.iterdir()) == before
