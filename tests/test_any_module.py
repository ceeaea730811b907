"""Any torch.nn.Module predicts, is verified, saved with its header and loaded again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import noise
from PIL import Image
from small_networks import SameUNet, ValidUNet, around
from torch import nn

import tilesegment
from tilesegment import FieldOfView, Model, ModelError, PlanError, model_of
from tilesegment.models.header import Normalisation
from tilesegment.networks.any_network import activation_of, as_logits


@torch.no_grad()
def network(seed: int = 0, *more: nn.Module) -> nn.Module:
    """Gives both classes to about half of the pixels of noise."""
    torch.manual_seed(seed)
    body = SameUNet(1).eval()
    logits = body(torch.randn(1, 1, 64, 64))[0]
    body.head.bias[1] += (logits[0] - logits[1]).median()
    return nn.Sequential(body, *more)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("module") / "image.png"
    Image.fromarray(noise((90, 70))).save(path)
    return path


def test_a_module_predicts_without_seams(image: Path, tmp_path: Path) -> None:
    """The mask is that of one pass over the mirrored image, normalised by its own mean and spread."""
    module = network()
    done = tilesegment.predict(image, tmp_path / "mask.png", module, tile=32, precision="fp32", runtime="pytorch")
    assert (done.halo, done.decided.step) == (8, 16)
    pixels = np.asarray(Image.open(image)).astype(np.float32)
    whole = torch.from_numpy(np.pad((pixels - pixels.mean()) / pixels.std(), 16, mode="reflect"))
    expected = module.eval()(whole[None, None])[0].argmax(0)[16:-16, 16:-16]
    assert np.mean(np.asarray(Image.open(tmp_path / "mask.png")) != expected.numpy()) < 1e-3
    assert 0.2 < expected.float().mean() < 0.8
    assert tilesegment.verify(image, module, tile=32).seamless


def test_what_no_halo_makes_exact_takes_a_chosen_one(image: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = around(nn.InstanceNorm2d(4))
    with pytest.raises(ModelError, match="InstanceNorm2d"):
        tilesegment.predict(image, tmp_path / "mask.png", module)
    done = tilesegment.predict(image, tmp_path / "mask.png", module, halo=20, tile=96)
    assert done.halo == 32
    with pytest.raises(PlanError, match="float"):
        tilesegment.predict(image, tmp_path / "mask.png", 1.5)


def test_a_model_of_a_module_keeps_what_is_said_of_it(image: Path, tmp_path: Path) -> None:
    scale = Normalisation((128.0,), (70.0,), "uint8")
    model = model_of(network(1), classes=["ground", "cell"], normalisation=scale)
    assert [one.name for one in model.header.classes] == ["ground", "cell"]
    assert model.field_of_view == FieldOfView(2, 8, 8, crops=False)
    path = tmp_path / "mine.safetensors"
    assert model.save(path).header == model.header
    loaded = Model.load(path, network=network(2))
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(loaded.network(x), model.network(x)) and loaded.field_of_view == model.field_of_view
    masks = []
    for n, one in enumerate((model, loaded)):
        tilesegment.predict(image, tmp_path / f"{n}.png", one, tile=32)
        masks.append(np.asarray(Image.open(tmp_path / f"{n}.png")))
    assert np.array_equal(*masks) and len(np.unique(masks[0])) == 2
    with pytest.raises(ModelError, match=r"mine\.safetensors.*Sequential.*network="):
        tilesegment.predict(image, tmp_path / "other.png", path)
    with pytest.raises(ModelError, match="weights missing"):
        Model.load(path, network=network(0, nn.Conv2d(2, 2, 1)))
    with pytest.raises(ModelError, match="does not run on its images"):
        Model.load(path, network=nn.Conv2d(3, 2, 1))


@pytest.mark.parametrize(
    ("last", "classes"), [((nn.Conv2d(2, 1, 1), nn.Sigmoid()), 2), ((nn.Softmax(1),), 2), ((nn.Conv2d(2, 3, 1),), 3)]
)
def test_what_its_output_means_is_found(last: tuple[nn.Module, ...], classes: int) -> None:
    module, x = network(0, *last), torch.randn(1, 1, 32, 32)
    found = model_of(module).network(x).softmax(1)
    given = module.eval()(x)
    expected = given[:, 0] if given.shape[1] == 1 else (given if classes == 2 else given.softmax(1))[:, -1]
    torch.testing.assert_close(found[:, -1], expected)


def test_one_channel_is_class_1() -> None:
    x = torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(as_logits(x, "logits").softmax(1)[:, 1:], x.sigmoid())
    torch.testing.assert_close(as_logits(x.sigmoid(), "probabilities").softmax(1)[:, 1:], x.sigmoid())
    assert [activation_of([one]) for one in (x, x.sigmoid(), torch.rand(1, 3, 4, 4))] == [
        "logits", "probabilities", "logits"
    ]  # fmt: skip


def test_a_module_that_crops(image: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ValidUNet()
    assert model_of(module).field_of_view.crops
    assert tilesegment.verify(image, module).seamless


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"classes": ["one"]}, "1 class names"),
        ({"normalisation": Normalisation((0, 0), (1, 1), "uint8")}, "2 channels"),
        ({"threshold": 2}, "threshold"),
    ],
)
def test_what_does_not_fit_the_module_is_refused(more: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        model_of(nn.Conv2d(1, 2, 1), **more)
