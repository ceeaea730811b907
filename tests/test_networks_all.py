"""What every network promises, at toy size: shapes, learning, heads, files, exact tiles, memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tilesegment.metadata import LabelClass
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.models.model import Model
from tilesegment.networks import NETWORKS, Rescaled, build_network, describe_network, options_of
from tilesegment.networks.counting import peak_values
from tilesegment.networks.field_of_view import derive
from tilesegment.networks.network import Network

# network, its arguments, the divisor and the halo in which a tile is exact (None: beyond what a test can hold),
# and how many tensors it gives in training
SAME = [
    ("unet-same", {"base": 4, "depth": 2}, 4, 24, 1),
    ("unet-same", {"base": 4, "depth": 3, "norm": "none", "up": "nearest"}, 8, 48, 1),
    ("unet-same", {"base": 4, "depth": 3, "up": "bilinear", "activation": "leaky-relu"}, 8, 56, 1),
    ("unet-same", {"base": 4, "depth": 2, "up": "pixel-shuffle"}, 4, 24, 1),
    ("unet-strided", {"base": 4}, 16, 112, 1),
    ("unetpp", {"base": 4}, 16, 96, 4),
    ("unetpp", {"base": 4, "level": 2, "supervision": "last"}, 4, 24, 1),
    ("u2net-small", {}, 32, None, 7),
    ("fcn32", {"base": 4, "hidden": 16}, 32, 224, 1),
    ("fcn16", {"base": 4, "hidden": 16}, 32, 224, 1),
    ("fcn8", {"base": 4, "hidden": 16}, 32, 224, 1),
]
NAMES = ["-".join([name, *(str(value) for value in arguments.values())]) for name, arguments, *_ in SAME]
every_network = pytest.mark.parametrize(("name", "arguments", "divisor", "halo", "outputs"), SAME, ids=NAMES)


def build(name: str, arguments: dict[str, Any], seed: int = 0, **more: int) -> Network:
    """A network with random weights and, where it has BatchNorm, as after some training."""
    torch.manual_seed(seed)
    network = build_network(name, {**arguments, **more})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return network


@every_network
def test_the_output_is_as_large_as_the_input(
    name: str, arguments: dict[str, Any], divisor: int, halo: int | None, outputs: int
) -> None:
    for channels, classes, height, width in ((1, 2, divisor, divisor), (3, 5, 2 * divisor, divisor)):
        network = build(name, arguments, in_channels=channels, classes=classes)
        x = torch.rand(2, channels, height, width)
        with torch.inference_mode():
            trained, predicted = network(x), network.eval()(x)
        assert predicted.shape == (2, classes, height, width)
        assert isinstance(trained, tuple) == (outputs > 1 or name == "unetpp")
        trained = trained if isinstance(trained, tuple) else (trained,)
        assert [one.shape for one in trained] == [predicted.shape] * outputs
        assert not network.crops


@every_network
def test_every_weight_learns(
    name: str, arguments: dict[str, Any], divisor: int, halo: int | None, outputs: int
) -> None:
    """From the mean of all outputs; only the last enlargement of an FCN is fixed."""
    network = build(name, arguments)
    side = max(64, 2 * divisor)
    given = network(torch.randn(2, 1, side, side))
    sum(one.square().mean() for one in (given if isinstance(given, tuple) else (given,))).backward()
    fixed = [key for key, parameter in network.named_parameters() if not parameter.requires_grad]
    assert fixed == (["enlarge.weight"] if name.startswith("fcn") else [])
    for key, parameter in network.named_parameters():
        if key not in fixed:
            # a bias before BatchNorm has no effect, and no gradient but rounding
            assert parameter.grad is not None and (parameter.dim() == 1 or parameter.grad.any()), key


@every_network
def test_activations_neither_grow_nor_vanish(
    name: str, arguments: dict[str, Any], divisor: int, halo: int | None, outputs: int
) -> None:
    torch.manual_seed(1)
    network = build_network(name, arguments).eval()
    with torch.inference_mode():
        spread = network(torch.randn(1, 1, 3 * divisor, 3 * divisor)).std()
    assert 0.02 < spread < 50


@every_network
def test_what_is_added_to_the_heads_is_added_to_the_logits(
    name: str, arguments: dict[str, Any], divisor: int, halo: int | None, outputs: int
) -> None:
    network = build(name, arguments, classes=3).double().eval()
    assert network.heads and all(isinstance(head, nn.Conv2d) for head in network.heads)
    x = torch.rand(1, 1, 96, 96, dtype=torch.float64)
    with torch.inference_mode():
        before = network(x)
        for head in network.heads:
            assert head.bias is not None
            head.bias[1] += 2.5
        shift = (network(x) - before)[..., 16:-16, 16:-16]
    expected = torch.tensor([0, 2.5, 0], dtype=torch.float64)[:, None, None].expand_as(shift)
    torch.testing.assert_close(shift, expected, rtol=0, atol=1e-10)


@every_network
def test_a_file_keeps_the_network(
    name: str, arguments: dict[str, Any], divisor: int, halo: int | None, outputs: int, tmp_path: Path
) -> None:
    network = build(name, arguments, in_channels=2, classes=3).eval()
    classes = tuple(LabelClass(f"class {n}", "#102030", n) for n in range(3))
    header = ModelHeader(
        name, {**arguments, "in_channels": 2, "classes": 3}, classes, Normalisation((0, 0), (1, 1), "uint8")
    )
    Model(header, network).save(tmp_path / "m.safetensors")
    loaded = Model.load(tmp_path / "m.safetensors")
    x = torch.rand(1, 2, divisor, 2 * divisor)
    with torch.inference_mode():
        assert torch.equal(loaded.network(x), network(x))
    assert not loaded.network.training
    Model(header, network).save(tmp_path / "half.safetensors", half=True)
    assert Model.load(tmp_path / "half.safetensors").network(x).shape == (1, 3, divisor, 2 * divisor)


def kept(network: nn.Module, x: Tensor, start: int, step: int, halo: int) -> Tensor:
    """The logits of `step` pixels a side from `start` of `x`, from a tile with `halo` around them."""
    crop = slice(start - halo, start + step + halo)
    return network(x[..., crop, crop])[..., halo : halo + step, halo : halo + step]


@every_network
def test_a_tile_with_its_halo_is_exact(
    name: str, arguments: dict[str, Any], divisor: int, halo: int | None, outputs: int
) -> None:
    """The halos that were measured of these architectures: ours see no more than they do, and need most of it."""
    network = build(name, arguments).double().eval()
    # beyond the halo the image goes on for a step
    around = (halo or divisor) + divisor
    x = torch.randn(1, 1, 2 * around + divisor, 2 * around + divisor, dtype=torch.float64)
    with torch.inference_mode():
        whole = network(x)[..., around : around + divisor, around : around + divisor]
        if halo is not None:
            assert (kept(network, x, around, divisor, halo) - whole).abs().max() < 1e-12 * whole.std()
        assert (kept(network, x, around, divisor, divisor) - whole).abs().max() > 1e-6 * whole.std()


@pytest.mark.parametrize("factor", [2, 3])
def test_a_reduced_image_is_seen_by_networks_of_same_padding(factor: int) -> None:
    """Exact with the network's halo, enlarged, and one divisor more; not with what the network alone needs."""
    network = build("unet-same", {"base": 4, "depth": 1, "up": "nearest"}, reduction=factor).double().eval()
    assert isinstance(network, Rescaled) and not network.crops
    view = derive(network)
    assert (view.divisor, view.crops) == (2 * factor, False)
    assert 8 * factor <= view.before <= 10 * factor
    around = view.before + view.divisor
    x = torch.randn(1, 1, 2 * around + view.divisor, 2 * around + view.divisor, dtype=torch.float64)
    with torch.inference_mode():
        whole = network(x)[..., around : around + view.divisor, around : around + view.divisor]
        assert network(x).shape == (1, 2, *x.shape[2:])
        assert (kept(network, x, around, view.divisor, view.before) - whole).abs().max() < 1e-12
        assert (kept(network, x, around, view.divisor, 2 * factor) - whole).abs().max() > 1e-6


def test_a_reduced_image_is_seen_by_networks_of_several_outputs() -> None:
    network = build("unetpp", {"base": 4, "level": 3}, reduction=2)
    x = torch.rand(1, 1, 32, 48)
    trained = network(x)
    assert isinstance(network, Rescaled) and isinstance(trained, tuple)
    assert [one.shape for one in trained] == [(1, 2, 32, 48)] * 3
    torch.testing.assert_close(network.eval()(x), trained[0])
    assert network.heads == network.network.heads


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, {}) for name in NETWORKS]
    + [("unetpp", {"level": level}) for level in (1, 2, 3)]
    + [("unet-same", {"up": up, "norm": "none"}) for up in ("nearest", "bilinear", "pixel-shuffle")]
    + [("unet-same", {"down": "stride-2"}), ("unet-same", {"depth": 1, "base": 8}), ("unetpp", {"reduction": 4})]
    + [(name, {"classes": 50}) for name in NETWORKS],
)
def test_the_memory_that_a_network_says_is_what_it_takes(name: str, arguments: dict[str, int]) -> None:
    """No less than is held at once, and no more than twice as much."""
    side = 1024 - 4 if name == "unet" else 1024
    with torch.device("meta"), torch.no_grad():
        network, x = build_network(name, arguments).eval(), torch.empty(1, 1, side, side)
        measured = peak_values(network, x) / side**2
    # of a valid network's output a part of the input's size is missing
    assert measured <= network.values_per_pixel <= 2 * measured


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_described(name: str) -> None:
    found = describe_network(name, channels=3, classes=2)
    assert found["words"].endswith(".")
    assert found["parameters"] > 1_000_000
    assert found["options"] == options_of(name)
    assert (found["divisor"], found["halo"]) == (
        (16, 92 if name == "unet" else 112 if name == "unet-strided" else 96)
        if name.startswith("unet")
        else (32, 3296 if name.startswith("u2net") else 224)
    )
