"""FCN: parameters of the published networks, enlargement that is centred and bilinear, and the order of the skips."""

import pytest
import torch
from torch import nn

from tilesegment.networks import FCN


@pytest.mark.parametrize(("finest", "parameters"), [(32, 136_152_917), (16, 134_815_994), (8, 134_489_759)])
def test_its_parameters_and_shapes(finest: int, parameters: int) -> None:
    with torch.device("meta"), torch.inference_mode():
        network = FCN(3, 21, finest=finest)
        assert network(torch.empty(1, 3, 64, 96)).shape == (1, 21, 64, 96)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("finest", [32, 16, 8])
def test_scores_are_enlarged_bilinearly_class_by_class(finest: int) -> None:
    """As `interpolate` does, but where it repeats what lies at the border."""
    network = FCN(1, 3, base=1, hidden=2, finest=finest).double()
    scores = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    for layer, factor in ((network.enlarge, finest), *((layer, 2) for layer in network.up)):
        large = nn.functional.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)
        rim = factor // 2
        inner = (..., slice(rim, -rim), slice(rim, -rim))
        torch.testing.assert_close(layer(scores)[inner], large[inner], rtol=0, atol=1e-14)
        assert layer(scores).shape == large.shape
        assert layer.bias is None


@pytest.mark.parametrize(("finest", "widths"), [(32, []), (16, [16]), (8, [16, 8])])
def test_what_is_learnt_and_what_is_joined(finest: int, widths: list[int]) -> None:
    """Scores of pool4 (8 times the base) first, then of pool3 (4 times); doubling is learnt, the last step is not."""
    network = FCN(base=2, hidden=4, finest=finest)
    assert [skip.in_channels for skip in network.skip] == widths
    assert [up.weight.requires_grad for up in network.up] == [True] * len(widths)
    assert not network.enlarge.weight.requires_grad


@pytest.mark.parametrize("finest", [32, 16, 8])
def test_scores_are_centred_on_what_they_are_of(finest: int) -> None:
    """With kernels that are symmetric themselves, the network of the mirrored image is its mirrored output."""
    torch.manual_seed(0)
    network = FCN(base=2, hidden=4, finest=finest).double().eval()
    x = torch.randn(1, 1, 96, 64, dtype=torch.float64)
    with torch.inference_mode():
        for conv in network.modules():
            if isinstance(conv, nn.Conv2d):
                conv.weight.copy_(conv.weight.mean((-2, -1), keepdim=True).abs().expand_as(conv.weight))
        for axis in (2, 3):
            torch.testing.assert_close(network(x.flip(axis)), network(x).flip(axis), rtol=1e-9, atol=1e-9)


def test_dropout_is_for_training_only() -> None:
    torch.manual_seed(0)
    network, x = FCN(base=2, hidden=32, dropout=0.5), torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert not torch.equal(network(x), network(x))
        assert torch.equal(network.eval()(x), network(x))
