"""The U-Net of the paper: sizes, parameters and field of view are the paper's, or measured. Networks by name."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.networks import NETWORKS, build_network, options_of
from tilesegment.networks.field_of_view import derive
from tilesegment.networks.network import Choice
from tilesegment.networks.unet import UNet


@contextmanager
def shapes_only() -> Iterator[None]:
    """Networks built and run in here compute their shapes and nothing else."""
    with torch.device("meta"), torch.inference_mode():
        yield


def test_the_default_is_the_network_of_the_paper() -> None:
    """31,030,658 parameters, and the sides that figure 1 of the paper gives for a tile of 572."""
    sides: list[int] = []
    with shapes_only():
        network = UNet()
        for part in (*network.down, *network.merge, network.head):
            part.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
        logits = network(torch.empty(1, 1, 572, 572))
    assert sum(p.numel() for p in network.parameters()) == 31_030_658
    assert sides == [568, 280, 136, 64, 28, 52, 100, 196, 388, 388]
    assert logits.shape == (1, 2, 388, 388)


@pytest.mark.parametrize("depth", range(1, 6))
def test_any_size_that_the_field_of_view_names_is_taken(depth: int) -> None:
    with shapes_only():
        network = UNet(3, 5, depth=depth, base=1)
        view = derive(network)
        for rows, columns in ((1, 1), (1, 4), (5, 2)):
            height, width = (view.tile_of(n * view.divisor) for n in (rows, columns))
            assert (height - 4 * (view.divisor - 1)) % view.divisor == 0, "input = 2^L k + 4 (2^L - 1)"
            out = network(torch.empty(2, 3, height, width))
            assert out.shape == (2, 5, height - 2 * view.before, width - 2 * view.before)
    assert view.divisor == 2**depth
    assert view.before == {1: 8, 2: 20, 3: 44, 4: 92, 5: 188}[depth]
    assert 0 <= view.after - view.before < view.divisor, "no more context than the sizes ask for"


@pytest.mark.parametrize("depth", range(1, 6))
@pytest.mark.parametrize("axis", [2, 3], ids=["y", "x"])
def test_the_field_of_view_is_what_the_network_sees(depth: int, axis: int) -> None:
    """The middle one of three steps is decided by `before` and `after` pixels around it: none fewer, none more."""
    network, count = UNet(depth=depth, base=1).double().eval(), 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # positive weights: whatever is seen counts, and no ReLU hides it
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            count += 1
    assert count == 5 * depth + 3
    view = derive(network)
    sides = [view.tile_of(view.divisor)] * 2
    sides[axis - 2] = view.tile_of(3 * view.divisor)
    first, last = view.divisor, view.before + 2 * view.divisor + view.after - 1

    @torch.inference_mode()
    def middle(changed: slice) -> Tensor:
        x = torch.ones(1, 1, *sides, dtype=torch.float64)
        x.narrow(axis, changed.start, changed.stop - changed.start).fill_(100)
        return network(x).narrow(axis, view.divisor, view.divisor)

    unchanged = middle(slice(0, 0))
    assert torch.equal(middle(slice(0, first)), unchanged)
    assert torch.equal(middle(slice(last + 1, sides[axis - 2])), unchanged)
    assert not torch.equal(middle(slice(first, first + 1)), unchanged)
    assert not torch.equal(middle(slice(last, last + 1)), unchanged)


def test_weights_are_drawn_as_the_paper_says() -> None:
    """Gaussian of std sqrt(2 / N), N the incoming nodes of one output pixel; biases 0."""
    torch.manual_seed(0)
    measured = 0
    for module in UNet(depth=3, base=24).modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is not None and not module.bias.any()
            weight = module.weight.detach()
            incoming = weight.shape[0] if isinstance(module, nn.ConvTranspose2d) else weight[0].numel()
            if weight.numel() < 4000:
                continue
            measured += 1
            scaled = weight / (2 / incoming) ** 0.5
            torch.testing.assert_close(scaled.std(), torch.tensor(1.0), rtol=0.05, atol=0)
            assert scaled.mean().abs() < 0.06
            # a uniform distribution would have 1.8
            torch.testing.assert_close((scaled**4).mean() / scaled.var() ** 2, torch.tensor(3.0), rtol=0.12, atol=0)
    assert measured >= 12


def test_activations_neither_grow_nor_vanish() -> None:
    """What the initialisation is for."""
    torch.manual_seed(0)
    network = UNet(depth=3, base=16).eval()
    view = derive(network)
    with torch.inference_mode():
        spread = network(torch.randn(1, 1, view.tile_of(8), view.tile_of(8))).std()
    assert 0.05 < spread < 20


def test_dropout_is_for_training_only() -> None:
    network = UNet(depth=2, base=8, dropout=0.5)
    x = torch.rand(1, 1, 44, 44, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))


def test_dropout_comes_after_the_last_two_stages_of_the_contracting_path() -> None:
    widths: list[int] = []
    with shapes_only():
        network = UNet(depth=4, base=2, dropout=0.3)
        network.dropout.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1]))
        network(torch.empty(1, 1, 204, 204))
    assert network.dropout.p == 0.3
    assert widths == [2 * 8, 2 * 16]


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    network = UNet(depth=2, base=4, dropout=0.0)
    network(torch.randn(1, 1, 60, 60)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_networks_are_built_by_name() -> None:
    network = build_network("unet", {"in_channels": 3, "classes": 4, "depth": 2, "base": 5, "dropout": 0})
    assert isinstance(network, UNet)
    assert network(torch.rand(1, 3, 44, 44)).shape == (1, 4, 4, 4)


THERE_ARE = "unet, unet-same, unet-strided, unetpp, u2net, u2net-small, fcn32, fcn16, fcn8"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vnet", {}, f"no network is called 'vnet'; there are: {THERE_ARE}"),
        (
            "unet",
            {"width": 3},
            "network unet takes no 'width'; it takes: in_channels, classes, depth, base, dropout, reduction",
        ),
        (
            "unet",
            {"norm": "batch"},
            "network unet takes no 'norm'; it takes: in_channels, classes, depth, base, dropout",
        ),
        ("unet", {"base": 0}, "network unet: base is 0; allowed: 1 to 512"),
        ("unet", {"classes": 1}, "network unet: classes is 1; allowed: 2 to 256"),
        ("unet", {"depth": 2.0}, "network unet: depth is 2.0; allowed: 1 to 7"),
        ("unet", {"dropout": -0.1}, "network unet: dropout is -0.1; allowed: 0 to 0.95"),
        ("unet", {"reduction": 17}, "network unet: reduction is 17; allowed: 1 to 16"),
        ("unet-same", {"norm": "instance"}, "network unet-same: norm is 'instance'; allowed: none, batch"),
        ("unet-same", {"activation": None}, "network unet-same: activation is None; allowed: relu, leaky-relu"),
        ("unet-same", {"up": "cubic"}, "up is 'cubic'; allowed: transposed, nearest, bilinear, pixel-shuffle"),
        ("unet-same", {"down": ["max-pool"]}, "down is ['max-pool']; allowed: max-pool, stride-2"),
        (
            "unet-strided",
            {"dropout": 0.1},
            "takes no 'dropout'; it takes: in_channels, classes, depth, base, reduction",
        ),
        ("unetpp", {"level": 5}, "network unetpp: level is 5; allowed: 1 to 4"),
        ("unetpp", {"supervision": True}, "network unetpp: supervision is True; allowed: deep, last"),
        ("u2net-small", {"small": False}, "u2net-small takes no 'small'; it takes: in_channels, classes, reduction"),
        ("fcn16", {"finest": 8}, "takes no 'finest'; it takes: in_channels, classes, base, hidden, dropout, reduction"),
        ("fcn8", {"hidden": 10**6}, "network fcn8: hidden is 1000000; allowed: 1 to 4096"),
    ],
)
def test_networks_that_cannot_be_are_refused(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        build_network(name, arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_can_be_chosen_of_a_network_is_told_and_taken(name: str) -> None:
    """Each option with its default, which is allowed, as is each of its names, and makes a network."""
    kind, fixed = NETWORKS[name]
    defaults = inspect.signature(kind).parameters
    told = options_of(name)
    assert set(told) == set(defaults) - {"in_channels", "classes", *fixed}
    for option, choice in kind.options.items():
        default = defaults[option].default
        assert choice.allows(default)
        assert told[option] == f"{choice.text}: {choice.allowed} (default {default})"
        for value in choice.names if isinstance(choice, Choice) else (choice.low,):
            with torch.device("meta"):
                assert isinstance(build_network(name, {option: value}), kind)


def test_options_of_a_network_that_is_not_there() -> None:
    with pytest.raises(ModelError, match=f"no network is called 'vnet'; there are: {THERE_ARE}"):
        options_of("vnet")
