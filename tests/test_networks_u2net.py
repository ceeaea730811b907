"""U^2-Net: parameters, what is fused of what, and the stages within."""

import pytest
import torch
from torch import nn

from tilesegment.networks import U2Net
from tilesegment.networks.u2net import Dilated, ResidualU


@pytest.mark.parametrize(("small", "parameters"), [(False, 44_009_869), (True, 1_131_181)])
def test_its_parameters_and_shapes(small: bool, parameters: int) -> None:
    with torch.device("meta"), torch.inference_mode():
        network = U2Net(3, 1, small=small)
        trained = network(torch.empty(2, 3, 64, 96))
        predicted = network.eval()(torch.empty(2, 3, 64, 96))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert [one.shape for one in (*trained, predicted)] == [(2, 1, 64, 96)] * 8


def test_the_fused_logits_are_made_of_the_sides_and_come_first() -> None:
    torch.manual_seed(0)
    network = U2Net(1, 3, small=True)
    with torch.inference_mode():
        fused, *sides = network(torch.rand(2, 1, 64, 64))
        assert torch.equal(fused, network.fuse(torch.cat(sides, dim=1)))


def test_the_sides_go_from_fine_to_coarse() -> None:
    """Side n is interpolated from pixels 2 ** (n - 1) apart: within four, it is a polynomial of low degree."""
    torch.manual_seed(0)
    with torch.inference_mode():
        _, *sides = U2Net(small=True)(torch.rand(2, 1, 64, 64))
    for n, side in enumerate(sides):
        # between the centres of two coarse pixels, away from the border, the interpolation is linear
        factor = 2**n
        line = side[..., factor // 2 : factor // 2 + factor].double()
        bend = line.diff(n=2, dim=-1).abs().max() if factor > 2 else torch.zeros(())
        assert bend < 1e-5
        if factor > 1:
            # from one of these stretches to the next it is not: the side is no coarser than this
            assert side[..., factor // 2 :].double().diff(n=2, dim=-1).abs().max() > 1e-3


@pytest.mark.parametrize(("height", "poolings", "convolutions"), [(7, 5, 14), (6, 4, 12), (5, 3, 10), (4, 2, 8)])
def test_a_stage_is_a_u_net_with_its_input_added(height: int, poolings: int, convolutions: int) -> None:
    torch.manual_seed(0)
    stage = ResidualU(3, height, 4, 5).eval()
    convs = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
    sides: list[int] = []
    stage.bottom.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    with torch.inference_mode():
        x = torch.rand(1, 3, 64, 64)
        out, entered = stage(x), stage.enter(x)
        # without what the U-Net within says, the input is left
        last = stage.up[0][1]
        assert isinstance(last, nn.BatchNorm2d)
        last.weight.zero_()
        assert torch.equal(stage(x), entered)
    assert out.shape == (1, 5, 64, 64)
    assert sides == [64 // 2**poolings] * 2
    assert len(convs) == convolutions
    assert [conv.dilation[0] for conv in convs].count(2) == 1


def test_the_deepest_stages_are_dilated_and_pool_nothing() -> None:
    stage = Dilated(3, 4, 5).eval()
    convs = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.dilation[0] for conv in convs] == [1, 1, 2, 4, 8, 1, 2, 4]
    assert stage(torch.rand(1, 3, 3, 2)).shape == (1, 5, 3, 2)
