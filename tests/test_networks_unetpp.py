"""U-Net++: its wiring against the recursion of the paper, and pruning, which changes nothing of what is left."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.networks import Rescaled, UNetPlusPlus, build_network


def toy(**arguments: object) -> UNetPlusPlus:
    torch.manual_seed(0)
    network = build_network("unetpp", {"base": 3, "in_channels": 2, "classes": 3, **arguments})
    assert isinstance(network, UNetPlusPlus)
    return network.double()


@pytest.mark.parametrize(("level", "parameters"), [(1, 101_537), (2, 511_681), (3, 2_205_537), (4, 9_042_177)])
def test_its_parameters(level: int, parameters: int) -> None:
    with torch.device("meta"):
        whole = UNetPlusPlus(3, 1)
        alone = UNetPlusPlus(3, 1, level=level, supervision="last")
    for network in (whole.pruned(level), alone):
        assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(p.numel() for p in whole.parameters()) == 9_042_177 + 3 * 33


@torch.inference_mode()
def test_every_node_is_made_of_what_the_paper_says() -> None:
    """X[i, j] = H(cat(X[i, 0], ..., X[i, j - 1], up(X[i + 1, j - 1]))), figure 1 and equation 1 of arXiv:1807.10165."""
    network, x = toy(), torch.rand(1, 2, 32, 48, dtype=torch.float64)

    @cache
    def node(i: int, j: int) -> Tensor:
        if j == 0:
            before = x if i == 0 else nn.functional.max_pool2d(node(i - 1, 0), 2)
        else:
            before = torch.cat([*(node(i, k) for k in range(j)), network.up[f"{i}{j}"](node(i + 1, j - 1))], dim=1)
        return network.node[f"{i}{j}"](before)

    expected = tuple(network.head[str(level)](node(0, level)) for level in (4, 3, 2, 1))
    assert len(network.node) == 15 and len(network.up) == 10
    trained = network(x)
    assert all(torch.equal(one, other) for one, other in zip(trained, expected, strict=True))
    assert torch.equal(network.eval()(x), expected[0])


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@torch.inference_mode()
def test_pruned_to_a_level_it_says_what_that_head_said(level: int) -> None:
    network, x = toy(), torch.rand(2, 2, 32, 16, dtype=torch.float64)
    heads = network(x)
    small = network.pruned(level)
    assert small.training
    (trained,) = small(x)
    predicted = small.eval()(x)
    assert torch.equal(trained, heads[4 - level])
    assert torch.equal(predicted, heads[4 - level])
    assert all(not torch.equal(heads[4 - level], other) for n, other in enumerate(heads) if n != 4 - level)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_what_is_pruned_is_built_by_name_and_takes_the_weights_of_the_whole(level: int) -> None:
    network = toy()
    small, whole = network.pruned(level).state_dict(), network.state_dict()
    assert small.keys() < whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in small.items())
    built = toy(level=level, supervision="last")
    assert {name: value.shape for name, value in built.state_dict().items()} == {
        name: value.shape for name, value in small.items()
    }
    assert len(built.heads) == 1


def test_a_smaller_one_can_be_trained_with_all_its_heads_and_pruned() -> None:
    network, x = toy(level=3), torch.rand(1, 2, 8, 16, dtype=torch.float64)
    heads = network(x)
    assert len(heads) == len(network.heads) == 3
    assert torch.equal(network.pruned(2).eval()(x), heads[1])


@pytest.mark.parametrize(
    ("arguments", "level", "heads"),
    [({}, 0, "1, 2, 3, 4"), ({}, 5, "1, 2, 3, 4"), ({"level": 3}, 4, "1, 2, 3"), ({"supervision": "last"}, 2, "4")],
)
def test_a_level_that_is_not_there_is_refused(arguments: dict[str, object], level: int, heads: str) -> None:
    with pytest.raises(ModelError) as caught:
        toy(**arguments).pruned(level)
    assert str(caught.value) == f"level {level} cannot be cut out of this U-Net++; its heads are: {heads}"


def test_on_a_reduced_image_it_is_within() -> None:
    network = build_network("unetpp", {"base": 3, "reduction": 2})
    assert isinstance(network, Rescaled) and isinstance(network.network, UNetPlusPlus)
    assert network.network.pruned(1)(torch.rand(1, 1, 4, 6))[0].shape == (1, 2, 4, 6)
