"""Every network, tiled by the field of view that is found from itself: exact, and not with any less."""

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
    ("unetpp", {"base": 2}),
    ("unetpp", {"base": 2, "level": 2}),
    ("fcn32", {"base": 2, "hidden": 4}),
    ("fcn16", {"base": 2, "hidden": 4}),
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


@settings(max_examples=25)
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


@pytest.mark.parametrize("choice", range(len(EXACT)), ids=[f"{name}-{n}" for n, (name, _) in enumerate(EXACT)])
def test_with_less_it_is_not_equal(choice: int) -> None:
    """A halo one divisor smaller, of one divisor, or tiles half a divisor off the grid: the tests above can fail."""
    model = of(choice, 1)
    view = model.field_of_view
    size = 4 * view.divisor + view.divisor // 2
    image = noise((1, size, size), 1)
    once = predict_array(TorchPredictor(model, CPU, "fp64"), image, 5 * view.divisor)[1]
    if not view.crops:  # a network that crops has no other halo, see `test_field_of_view.py`
        network = positive(toy_network(EXACT[choice][0], **EXACT[choice][1]).network)
        assert prober_of(network).check(view) < 1e-12
        assert prober_of(network).check(narrower(view)) > 1e-6
        predictor = TorchPredictor(model, CPU, "fp64")
        predictor.view = FieldOfView(view.divisor, view.divisor, view.divisor, crops=False)
        assert np.abs(predict_array(predictor, image, view.divisor)[1] - once).max() > 1e-6
    # the whole image from another phase: half a divisor further
    half = view.divisor // 2
    shifted = image[:, half:, half:]
    found = predict_array(TorchPredictor(model, CPU, "fp64"), shifted, 5 * view.divisor)[1]
    inner = slice(view.divisor, -view.divisor)
    assert np.abs(found[:, inner, inner] - once[:, half:, half:][:, inner, inner]).max() > 1e-6


def test_a_chosen_halo_leaves_what_it_leaves_and_says_so(tmp_path: Path) -> None:
    """Exact would be 48 px; with 8 it runs, and the run says how far it is off."""
    model = of(2, 2)
    assert model.field_of_view == FieldOfView(8, 48, 48, crops=False)
    path = tmp_path / "same.safetensors"
    model.save(path)
    Image.fromarray(noise((150, 120), 3)).save(tmp_path / "image.png")
    settings = {"halo": 5, "tile": 32, "precision": "fp32"}
    done = tilesegment.predict(tmp_path / "image.png", tmp_path / "mask.png", path, **settings)
    assert (done.halo, done.step) == (8, 16)
    assert done.mismatch is not None
    assert 0 < done.mismatch < 0.5
    found = tilesegment.verify(tmp_path / "image.png", path, tile=32, halo=5)
    assert not found.seamless
    # kept in the file, it need not be given
    model.with_halo(5).save(path)
    again = tilesegment.predict(tmp_path / "image.png", tmp_path / "again.png", path, tile=32, precision="fp32")
    assert (again.halo, again.mismatch) == (done.halo, done.mismatch)
    np.testing.assert_array_equal(Image.open(tmp_path / "mask.png"), Image.open(tmp_path / "again.png"))


def test_where_exact_is_hardly_practical_a_halo_is_chosen(tmp_path: Path) -> None:
    """U^2-Net sees 3296 px."""
    model = toy_network("u2net-small")
    assert model.field_of_view == FieldOfView(32, 3296, 3296, crops=False)
    assert model.with_halo(50).field_of_view == FieldOfView(32, 64, 64, crops=False)


def test_an_exact_halo_has_no_mismatch(tmp_path: Path) -> None:
    path = tmp_path / "same.safetensors"
    toy_network("unet-same", base=3, depth=2).save(path)
    Image.fromarray(noise((90, 80), 3)).save(tmp_path / "image.png")
    done = tilesegment.predict(tmp_path / "image.png", tmp_path / "mask.png", path, precision="fp32")
    assert (done.halo, done.mismatch) == (24, None)
    assert tilesegment.verify(tmp_path / "image.png", path).seamless


class TestPruned:
    """A U-Net++ cut down to one of its heads."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        toy_network("unetpp", base=3, seed=1).save(tmp_path / "unetpp.safetensors")
        Image.fromarray(noise((70, 60), 3)).save(tmp_path / "image.png")
        return tmp_path / "unetpp.safetensors"

    def test_it_says_what_that_head_says_with_a_smaller_halo(self, path: Path, tmp_path: Path) -> None:
        done = tilesegment.predict(tmp_path / "image.png", tmp_path / "mask.png", path, prune=2, precision="fp32")
        assert done.halo == 24
        model = Model.load(path)
        small = model.pruned(2)
        ids, _ = predict_array(TorchPredictor(small, CPU), noise((1, 70, 60), 3)[:, :70], 64)
        assert np.asarray(Image.open(tmp_path / "mask.png")).shape == ids.shape
        network = model.network.train()
        image = torch.zeros(1, 1, 32, 32)
        assert torch.equal(network(image)[4 - 2], small.network.eval()(image))

    def test_it_is_another_model(self, path: Path, tmp_path: Path) -> None:
        model = Model.load(path)
        small = model.pruned(2)
        assert small.header.weights_sha256 != model.header.weights_sha256
        small.save(tmp_path / "small.safetensors")
        assert Model.load(tmp_path / "small.safetensors").field_of_view == FieldOfView(4, 24, 24, crops=False)

    def test_what_cannot_be_pruned(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="level 7 cannot be cut out"):
            tilesegment.predict(tmp_path / "image.png", tmp_path / "mask.png", path, prune=7)
        other = tmp_path / "unet.safetensors"
        toy_network("unet", base=3, depth=2).save(other)
        with pytest.raises(ModelError, match="a unet cannot be pruned; only unetpp can"):
            tilesegment.predict(tmp_path / "image.png", tmp_path / "mask.png", other, prune=2)


def test_a_halo_that_cannot_be(tmp_path: Path) -> None:
    valid = toy_network("unet", base=3, depth=2)
    with pytest.raises(ModelError, match="crops 20 px a side itself, no other is possible"):
        valid.with_halo(8)
    assert valid.with_halo(20).field_of_view == valid.field_of_view
    with pytest.raises(ModelError, match="its halo is -3; allowed: 0 to 65536"):
        replace(valid.header, halo=-3).check()
