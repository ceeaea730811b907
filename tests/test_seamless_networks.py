"""Every network, tiled by its field of view: exact, and not with any less."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import noise, toy_network
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_networks import narrower, positive

import tilesegment
from tilesegment import FieldOfView, ModelError
from tilesegment.models.model import Model
from tilesegment.networks.field_of_view import prober_of
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

CPU = torch.device("cpu")

EXACT: list[tuple[str, dict[str, Any]]] = [
    ("unet", {"base": 3, "depth": 3, "reduction": 2}),
    ("unet-same", {"base": 3, "depth": 2, "norm": "none"}),
    ("unet-same", {"base": 3, "depth": 3, "up": "nearest", "activation": "leaky-relu"}),
    ("unet-same", {"base": 3, "depth": 3, "up": "bilinear"}),
    ("unet-same", {"base": 3, "depth": 2, "up": "pixel-shuffle", "down": "stride-2"}),
    ("unet-same", {"base": 3, "depth": 2, "reduction": 2}),
    ("unet-strided", {"base": 2}),
    ("unetpp", {"base": 2, "level": 3}),
    ("fcn32", {"base": 2, "hidden": 4}),
    ("fcn8", {"base": 2, "hidden": 4}),
]


def of(choice: int, seed: int) -> Model:
    name, options = EXACT[choice]
    model = toy_network(name, seed=seed, **options)
    # running statistics of noise, as of a training: with those of the start nothing would come through
    side = model.field_of_view.tile_of(model.field_of_view.divisor)
    model.network.train()
    for _ in range(20):
        model.network(torch.randn(1, 1, side, side))
    model.network.eval()
    return model


@pytest.mark.slow
@settings(max_examples=20)
@given(
    choice=st.sampled_from(range(len(EXACT))),
    height=st.integers(1, 100),
    width=st.integers(1, 100),
    steps=st.integers(1, 3),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_tiled_equals_untiled_in_float64(
    choice: int, height: int, width: int, steps: int, batch: int, seed: int
) -> None:
    """One tile that is larger than the image against many small ones."""
    model, image = of(choice, seed), noise((1, height, width), seed)
    view = model.field_of_view
    predictor = TorchPredictor(model, CPU, "fp64", batch=batch)
    whole = -(-max(height, width) // view.divisor) * view.divisor
    ids, once = predict_array(predictor, image, whole)
    again, tiled = predict_array(predictor, image, steps * view.divisor)
    np.testing.assert_allclose(tiled, once, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(again, ids)


@pytest.mark.slow
@pytest.mark.parametrize("choice", range(len(EXACT)), ids=[f"{name}-{n}" for n, (name, _) in enumerate(EXACT)])
def test_with_less_it_is_not_equal(choice: int) -> None:
    """A halo one divisor smaller, of one divisor, or tiles half a divisor off the grid: the test above can fail."""
    model = of(choice, 1)
    view = model.field_of_view
    size = 4 * view.divisor + view.divisor // 2
    image = noise((1, size, size), 1)
    once = predict_array(TorchPredictor(model, CPU, "fp64"), image, 5 * view.divisor)[1]
    if not view.crops:  # a network that crops has no other halo
        prober = prober_of(positive(toy_network(EXACT[choice][0], **EXACT[choice][1]).network))
        assert prober.check(view) < 1e-12
        assert prober.check(narrower(view)) > 1e-6
        predictor = TorchPredictor(model, CPU, "fp64")
        predictor.view = FieldOfView(view.divisor, view.divisor, view.divisor, crops=False)
        assert np.abs(predict_array(predictor, image, view.divisor)[1] - once).max() > 1e-6
    half = view.divisor // 2
    found = predict_array(TorchPredictor(model, CPU, "fp64"), image[:, half:, half:], 5 * view.divisor)[1]
    inner = slice(view.divisor, -view.divisor)
    assert np.abs(found[:, inner, inner] - once[:, half:, half:][:, inner, inner]).max() > 1e-6


def test_a_chosen_halo_is_measured_and_kept_in_the_file(tmp_path: Path) -> None:
    """Exact is 24 px, without a mismatch; with 8 it runs, and the run says how far it is off."""
    model = of(1, 2)
    assert model.field_of_view == FieldOfView(4, 24, 24, crops=False)
    path, image = tmp_path / "same.safetensors", tmp_path / "image.png"
    model.save(path)
    Image.fromarray(noise((150, 120), 3)).save(image)
    exact = tilesegment.predict(image, tmp_path / "exact.png", path, precision="fp32")
    assert (exact.halo, exact.mismatch) == (24, None)
    assert tilesegment.verify(image, path).seamless
    done = tilesegment.predict(image, tmp_path / "mask.png", path, halo=5, tile=32, precision="fp32")
    assert (done.halo, done.decided.step) == (8, 16)
    assert done.mismatch is not None and 0 < done.mismatch < 0.5
    assert not tilesegment.verify(image, path, tile=32, halo=5).seamless
    model.with_halo(5).save(path)
    again = tilesegment.predict(image, tmp_path / "again.png", path, tile=32, precision="fp32")
    assert (again.halo, again.mismatch) == (done.halo, done.mismatch)
    np.testing.assert_array_equal(Image.open(tmp_path / "mask.png"), Image.open(tmp_path / "again.png"))


def test_a_pruned_network_has_a_smaller_halo(tmp_path: Path) -> None:
    path, image = tmp_path / "unetpp.safetensors", tmp_path / "image.png"
    toy_network("unetpp", base=3, seed=1).save(path)
    Image.fromarray(noise((70, 60), 3)).save(image)
    done = tilesegment.predict(image, tmp_path / "mask.png", path, prune=2, precision="fp32")
    small = Model.load(path).pruned(2)
    assert done.halo == 24 and small.header.weights_sha256 != Model.load(path).header.weights_sha256
    ids, _ = predict_array(TorchPredictor(small, CPU), noise((70, 60), 3)[None], 64)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), ids)
    assert small.save(tmp_path / "small.safetensors").field_of_view == FieldOfView(4, 24, 24, crops=False)
    with pytest.raises(ModelError, match="level 7"):
        tilesegment.predict(image, tmp_path / "mask.png", path, prune=7)
    with pytest.raises(ModelError, match="unetpp"):
        toy_network("unet", base=3, depth=2).pruned(2)


def test_a_halo_that_cannot_be(tmp_path: Path) -> None:
    valid = toy_network("unet", base=3, depth=2)
    with pytest.raises(ModelError, match="20 px"):
        valid.with_halo(8)
    assert valid.with_halo(20).field_of_view == valid.field_of_view
    assert toy_network("u2net-small").with_halo(50).field_of_view == FieldOfView(32, 64, 64, crops=False)
    with pytest.raises(ModelError, match=r"-3.*0 to 65536"):
        replace(valid.header, halo=-3).check()
