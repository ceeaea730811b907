"""A model that went out as ONNX or as a bioimage.io package and came back predicts what it predicted."""

from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from conftest import noise, toy_network
from PIL import Image

import tilesegment

pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.mark.parametrize("to", ["onnx", "bioimageio"])
@pytest.mark.parametrize("name", ["unet", "unet-same"])
def test_out_and_back(to: str, name: str, tmp_path: Path, run: Run) -> None:
    """Through the command line, with every byte of the mask: no probability of noise lies within rounding of 1/2."""
    toy_network(name, base=3, depth=2, seed=4).save(tmp_path / "toy.safetensors")
    Image.fromarray(noise((90, 70), 5)).save(tmp_path / "image.png")
    out = tmp_path / ("toy.onnx" if to == "onnx" else "toy.zip")
    assert run(f"export {tmp_path}/toy.safetensors --to {to} --out {out}").code == 0
    masks = []
    for model in (tmp_path / "toy.safetensors", out):
        mask = tmp_path / f"{model.suffix}.png"
        done = tilesegment.predict(tmp_path / "image.png", mask, model, tile=64, precision="fp32", batch=1)
        masks.append(np.asarray(Image.open(mask)))
        assert done.halo in (20, 24)
    np.testing.assert_array_equal(*masks)
    assert tilesegment.describe(out)["classes"] == {"0": "class 0", "1": "class 1"}
    assert tilesegment.verify(tmp_path / "image.png", out, tile=64, precision="fp32").seamless


def test_double_precision_is_not_to_be_had(tmp_path: Path, run: Run) -> None:
    toy_network("unet", base=3, depth=1).save(tmp_path / "toy.safetensors")
    Image.fromarray(noise((40, 40), 5)).save(tmp_path / "image.png")
    assert run(f"export {tmp_path}/toy.safetensors --to onnx --out {tmp_path}/toy.onnx").code == 0
    found = run(f"verify {tmp_path}/image.png --model {tmp_path}/toy.onnx")
    assert found.code == 1
    assert "give --precision fp32" in found.err
