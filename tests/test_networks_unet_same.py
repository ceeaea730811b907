"""U-Nets of same padding: parameters as measured of them elsewhere, and what each option is."""

import pytest
import torch
from torch import nn

from tilesegment.networks import UNetSame, UNetStrided
from tilesegment.networks.layers import UPSAMPLINGS, upsampling


@pytest.mark.parametrize(
    ("classes", "norm", "parameters"),
    [(1, "none", 31_031_745), (1, "batch", 31_037_633), (2, "batch", 31_037_698)],
)
def test_its_parameters(classes: int, norm: str, parameters: int) -> None:
    with torch.device("meta"):
        network = UNetSame(3, classes, norm=norm)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("classes", "parameters"), [(3, 32_090_627), (1, 32_089_473)])
def test_the_parameters_of_the_strided_one(classes: int, parameters: int) -> None:
    with torch.device("meta"):
        network = UNetStrided(3, classes)
    assert sum(p.numel() for p in network.parameters()) == parameters


def kinds(network: nn.Module, *types: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, types)]


def test_norm_takes_the_place_of_the_biases_of_the_stages() -> None:
    network = UNetSame(depth=2, base=2, norm="batch")
    stages = [*network.down, *network.merge]
    convs = [conv for stage in stages for conv in kinds(stage, nn.Conv2d)]
    assert len(convs) == len(kinds(network, nn.BatchNorm2d)) == 10
    assert all(conv.bias is None for conv in convs)
    plain = UNetSame(depth=2, base=2, norm="none")
    assert not kinds(plain, nn.BatchNorm2d)
    assert all(conv.bias is not None for conv in kinds(plain, nn.Conv2d))


def test_the_activation_is_the_one_that_was_chosen() -> None:
    network = UNetSame(depth=2, base=2, activation="leaky-relu", down="stride-2")
    assert not kinds(network, nn.ReLU)
    assert [act.negative_slope for act in kinds(network, nn.LeakyReLU)] == [0.01] * (10 + 2)
    assert len(kinds(UNetSame(depth=2, base=2), nn.ReLU)) == 10


def test_halving_is_done_by_what_was_chosen() -> None:
    pooled, strided = UNetSame(depth=3, base=2), UNetSame(depth=3, base=2, down="stride-2")
    assert len(kinds(pooled, nn.MaxPool2d)) == 3
    assert not kinds(strided, nn.MaxPool2d)
    assert [conv.stride for conv in kinds(strided.halve, nn.Conv2d)] == [(2, 2)] * 3


def test_dropout_comes_after_the_last_two_stages_of_the_contracting_path() -> None:
    widths: list[int] = []
    network = UNetSame(depth=3, base=2, dropout=0.3)
    network.dropout.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1]))
    x = torch.rand(2, 1, 16, 16)
    assert not torch.equal(network(x), network(x))
    assert network.dropout.p == 0.3
    assert widths == [8, 16] * 2
    assert torch.equal(network.eval()(x), network(x))


def test_the_strided_one_drops_out_in_every_stage() -> None:
    network = UNetStrided(depth=2, base=2)
    assert [drop.p for drop in kinds(network, nn.Dropout)] == [0.3, 0.4] * 5
    assert not kinds(network, nn.MaxPool2d, nn.ConvTranspose2d, nn.ReLU)
    assert network.head.kernel_size == (3, 3)


@pytest.mark.parametrize("kind", UPSAMPLINGS)
def test_upsampling_doubles_the_size_and_gives_the_channels(kind: str) -> None:
    layer = upsampling(kind, 6, 3)
    assert layer(torch.rand(2, 6, 4, 5)).shape == (2, 3, 8, 10)


@pytest.mark.parametrize(("kind", "align"), [("nearest", None), ("bilinear", False)])
def test_the_channels_may_as_well_be_halved_before_the_size_is_doubled(kind: str, align: bool | None) -> None:
    """It is the same as what the architectures say, first larger, then a 1x1 convolution."""
    torch.manual_seed(0)
    layer, x = upsampling(kind, 6, 3).double(), torch.rand(2, 6, 4, 5, dtype=torch.float64)
    (conv,) = kinds(layer, nn.Conv2d)
    large = nn.functional.interpolate(x, scale_factor=2, mode=kind, align_corners=align)
    torch.testing.assert_close(layer(x), conv(large), rtol=0, atol=1e-14)
    assert conv.bias is not None


def test_weights_are_drawn_for_their_activation() -> None:
    """He et al. 2015, equation 15: the variance is that of ReLU, less by 1 + slope^2."""
    for kind in (UNetSame, UNetStrided):
        torch.manual_seed(0)
        network = kind(depth=2, base=32)
        slope = 0.01 if kind is UNetStrided else 0
        measured = 0
        for conv in kinds(network, nn.Conv2d):
            weight = conv.weight.detach()
            if weight.numel() > 8000:
                measured += 1
                expected = torch.tensor((2 / ((1 + slope**2) * weight[0].numel())) ** 0.5)
                torch.testing.assert_close(weight.std(), expected, rtol=0.04, atol=0)
            assert conv.bias is None or not conv.bias.any()
        assert measured >= 8
