"""The same network, run by OpenVINO: equal classes and no seams."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from conftest import noise, toy_model
from image_files import png
from mask_files import mask_of
from toy_plans import of_every_network, plan_of, samples_of

import tilesegment
from tilesegment.errors import DeviceError
from tilesegment.geometry import Region, TileGrid
from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.openvino import OpenVinoPredictor
from tilesegment.prediction.predictor import TorchPredictor, make_predictor

if find_spec("openvino") is None:
    pytest.skip("needs OpenVINO: pip install 'tilesegment[cpu]'", allow_module_level=True)


CPU = torch.device("cpu")


def both(model: Model, step: int = 32, **options: Any) -> tuple[OpenVinoPredictor, TorchPredictor]:
    """The network by OpenVINO and, in fp32, by PyTorch."""
    tile = model.field_of_view.tile_of(step)
    return OpenVinoPredictor(model, tile, **options), TorchPredictor(model, CPU, **options)


@of_every_network
def test_in_fp32_it_gives_what_pytorch_gives(model: Model) -> None:
    image, step = noise((model.header.channels, 70, 90)), 4 * model.field_of_view.divisor
    (ids, found), (expected_ids, expected) = (predict_array(each, image, step) for each in both(model, step))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    # rounding may move a pixel only across a tie
    ordered = np.sort(expected, 0)
    assert not np.any((ids != expected_ids) & (ordered[-1] - ordered[-2] > 1e-5))


def test_bf16_rounds_as_pytorch_does() -> None:
    """It is about as far from fp32 as PyTorch is in bf16: neither equal nor worse."""
    model, image = toy_model(depth=2, base=16), noise((1, 90, 70))
    tile = model.field_of_view.tile_of(32)
    half = OpenVinoPredictor(model, tile, "bf16")
    if half.compiled((1, 1, tile, tile)).get_property("INFERENCE_PRECISION_HINT").to_string() != "bf16":
        pytest.skip("this CPU has no bf16, and OpenVINO does not emulate it here")
    predictors = (TorchPredictor(model, CPU), half, TorchPredictor(model, CPU, "bf16"))
    known, ours, theirs = (predict_array(each, image, 32)[1] for each in predictors)
    error, expected = (float(np.sqrt(np.mean((found - known) ** 2))) for found in (ours, theirs))
    assert 0.3 * expected < error < 3 * expected
    assert expected > 1e-5


def test_equal_tile_shapes_give_equal_pixels() -> None:
    """Bit for bit, whatever the blocks and the batch; tiles of another shape up to rounding."""
    model, image = toy_model(depth=3, base=8), noise((1, 200, 170))
    view = model.field_of_view
    predictor = OpenVinoPredictor(model, view.tile_of(48), batch=3)
    _, expected = predict_array(predictor, image, 48)
    padded = np.pad(image, ((0, 0), (view.before, 400), (view.before, 400)), mode="reflect")
    for block in TileGrid(Region(0, 0, 200, 170), 48, 96, view):
        read = block.read.shift(view.before, view.before)
        _, found = predictor.predict_probabilities(padded[:, *read.slices], block)
        np.testing.assert_array_equal(found, expected[:, *block.write.slices])
    np.testing.assert_allclose(predict_array(predictor, image, 200)[1], expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_threads() -> None:
    model, image, found = toy_model(base=16), noise((1, 90, 90)), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(predict_array(both(model, 96)[0], image, 96)[1])
    finally:
        torch.set_num_threads(1)
    np.testing.assert_array_equal(*found)


def test_a_network_is_converted_once_until_its_weights_change() -> None:
    """And stays as it is, in training mode too."""
    model, untouched, image = toy_model(depth=1), toy_model(depth=1).network.state_dict(), noise((1, 32, 32))
    model.network.train()
    first, again = (both(model)[0] for _ in range(2))
    assert first.compiled((1, 1, 48, 48)) is again.compiled((1, 1, 48, 48))
    before = predict_array(first, image, 32)[1]
    assert model.network.training
    assert all(torch.equal(value, untouched[name]) for name, value in model.network.state_dict().items())
    for parameter in model.network.parameters():
        parameter.mul_(0.5)
    np.testing.assert_array_equal(predict_array(first, image, 32)[1], before)
    changed, expected = (predict_array(each, image, 32)[1] for each in both(model))
    np.testing.assert_allclose(changed, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("runtime", "kind"), [("pytorch", TorchPredictor), ("openvino", OpenVinoPredictor)])
def test_the_plan_says_who_predicts(runtime: str, kind: type, tmp_path: Path) -> None:
    model = toy_model()
    plan = replace(plan_of(model, (90, 70)), precision="fp32", runtime=runtime)
    assert isinstance(make_predictor(model, CPU, plan, lambda: samples_of(model), tmp_path), kind)
    assert not list(tmp_path.iterdir())
    # a cluster's worker may lack what the plan was made for
    with pytest.raises(DeviceError, match=r"fp16.*tilesegment\[cpu\]"):
        make_predictor(model, CPU, replace(plan, precision="fp16", runtime="openvino"), list, tmp_path)


@pytest.mark.slow
def test_of_many_tiles_it_is_the_default_and_the_mask_says_so(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_model(classes=3).save(tmp_path / "toy.safetensors")
    image = png(tmp_path, noise((1, 200, 290)))
    for name, missing, more in (("openvino", 0, {}), ("pytorch", 1, {}), ("chosen", 0, {"runtime": "pytorch"})):
        monkeypatch.setattr("tilesegment.prediction.tiling.WORTH_CONVERTING", 35 * 88**2 + missing)
        out, settings = tmp_path / f"{name}.zarr", {"tile": 88, "precision": "fp32", **more}
        done = tilesegment.predict(image, out, tmp_path / "toy.safetensors", **settings)
        record = zarr.open_group(out, mode="r").attrs["tilesegment"]
        assert record["fingerprint"]["runtime"] == name.replace("chosen", "pytorch")
        assert done.blocks == 12
    masks = [mask_of(tmp_path / f"{name}.zarr") for name in ("openvino", "pytorch", "chosen")]
    np.testing.assert_array_equal(masks[1], masks[2])
    assert np.mean(masks[0] != masks[1]) < 1e-4
