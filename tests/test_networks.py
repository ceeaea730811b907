"""The networks: parameters and sizes are those published or measured, and what every network promises."""

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.metadata import LabelClass
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.models.model import Model
from tilesegment.networks import (
    NETWORKS,
    Rescaled,
    build_network,
    describe_network,
    options_of,
    with_padding,
)
from tilesegment.networks.counting import peak_values
from tilesegment.networks.layers import UPSAMPLINGS, upsampling
from tilesegment.networks.network import Choice, Network
from tilesegment.networks.u2net import Dilated, ResidualU
from tilesegment.networks.unetpp import UNetPlusPlus

# network, its arguments, a side that it takes, and how many tensors it gives in training
EVERY = [
    ("unet", {"base": 4, "depth": 2}, 44, 1),
    ("unet-same", {"base": 4, "depth": 2}, 4, 1),
    ("unet-same", {"base": 4, "depth": 3, "norm": "none", "up": "nearest"}, 8, 1),
    ("unet-same", {"base": 4, "depth": 3, "up": "bilinear", "activation": "leaky-relu"}, 8, 1),
    ("unet-same", {"base": 4, "depth": 2, "up": "pixel-shuffle", "down": "stride-2"}, 4, 1),
    ("unet-same", {"base": 4, "depth": 2, "up": "align-corners-narrow"}, 4, 1),
    ("unet-strided", {"base": 4}, 16, 1),
    ("unetpp", {"base": 4, "reduction": 2}, 32, 4),
    ("unetpp", {"base": 4, "level": 2, "supervision": "last"}, 4, 1),
    ("u2net-small", {}, 32, 7),
    ("fcn32", {"base": 4, "hidden": 16}, 32, 1),
    ("fcn16", {"base": 4, "hidden": 16}, 32, 1),
    ("fcn8", {"base": 4, "hidden": 16}, 32, 1),
]
NAMES = ["-".join([name, *map(str, arguments.values())]) for name, arguments, *_ in EVERY]
every_network = pytest.mark.parametrize(("name", "arguments", "side", "outputs"), EVERY, ids=NAMES)


def build(name: str, arguments: dict[str, Any], **more: int) -> Network:
    """A network with random weights and, where it has BatchNorm, as after some training."""
    torch.manual_seed(0)
    network = build_network(name, {**arguments, **more})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return network


def kinds(network: nn.Module, *types: type[nn.Module]) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, types)]


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("unet", {"in_channels": 1, "classes": 2}, 31_030_658),
        ("unet-same", {"classes": 2}, 31_037_698),
        ("unet-strided", {"classes": 3}, 32_090_627),
        ("fcn32", {"classes": 21}, 136_152_917),
        ("fcn16", {"classes": 21}, 134_815_994),
        ("fcn8", {"classes": 21}, 134_489_759),
    ],
)
def test_parameters_are_those_published(name: str, arguments: dict[str, int], parameters: int) -> None:
    with torch.device("meta"):
        network = build_network(name, {"in_channels": 3, **arguments})
    assert sum(value.numel() for value in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("kind", "arguments", "parameters"),
    [
        ("unet-same", {"norm": "none"}, 31_031_745),
        ("unet-same", {}, 31_037_633),
        ("unet-strided", {}, 32_089_473),
        ("u2net", {}, 44_009_869),
        ("u2net", {"small": True}, 1_131_181),
        *(
            ("unetpp", {"level": level, "supervision": "last"}, parameters)
            for level, parameters in enumerate((101_537, 511_681, 2_205_537, 9_042_177), 1)
        ),
        ("unetpp", {}, 9_042_177 + 3 * 33),
    ],
)
def test_parameters_with_one_class_are_those_published(kind: str, arguments: dict[str, Any], parameters: int) -> None:
    """Masks have two classes at least, so these are built directly."""
    with torch.device("meta"):
        network = NETWORKS[kind][0](3, 1, **arguments)  # type: ignore[call-arg]
    assert sum(value.numel() for value in network.parameters()) == parameters


def test_the_sizes_are_those_of_the_paper() -> None:
    """Those that figure 1 gives for a tile of 572."""
    sides: list[int] = []
    with torch.device("meta"), torch.inference_mode():
        network = build_network("unet", {})
        for part in (*network.down, *network.merge, network.head):
            part.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
        network(torch.empty(1, 1, 572, 572))
    assert sides == [568, 280, 136, 64, 28, 52, 100, 196, 388, 388]


@pytest.mark.parametrize("depth", range(1, 6))
def test_the_valid_network_takes_the_tiles_of_its_field_of_view(depth: int) -> None:
    with torch.device("meta"), torch.inference_mode():
        network = build_network("unet", {"depth": depth, "base": 1})
        view = network.field_of_view
        for steps in (1, 4):
            side = view.tile_of(steps * view.divisor)
            assert network(torch.empty(1, 1, side, side)).shape[-1] == side - 2 * view.before
    assert (view.divisor, view.before) == (2**depth, {1: 8, 2: 20, 3: 44, 4: 92, 5: 188}[depth])
    assert 0 <= view.after - view.before < view.divisor, "no more context than the sizes ask for"


@every_network
def test_shapes(name: str, arguments: dict[str, Any], side: int, outputs: int) -> None:
    for channels, classes, height, width in ((1, 2, side, side), (3, 5, side + 32, side)):
        network = build(name, arguments, in_channels=channels, classes=classes)
        lost = 2 * network.field_of_view.before if network.crops else 0
        with torch.inference_mode():
            x = torch.rand(2, channels, height, width)
            trained, predicted = network(x), network.eval()(x)
        assert predicted.shape == (2, classes, height - lost, width - lost)
        trained = trained if isinstance(trained, tuple) else (trained,)
        assert [one.shape for one in trained] == [predicted.shape] * outputs


@every_network
def test_every_weight_learns(name: str, arguments: dict[str, Any], side: int, outputs: int) -> None:
    """From the mean of all outputs; only the last enlargement of an FCN is fixed."""
    network = build(name, arguments)
    given = network(torch.randn(2, 1, side + 32, side + 32))
    sum(one.square().mean() for one in (given if isinstance(given, tuple) else (given,))).backward()
    fixed = [key for key, parameter in network.named_parameters() if not parameter.requires_grad]
    assert fixed == (["enlarge.weight"] if name.startswith("fcn") else [])
    for key, parameter in network.named_parameters():
        if key not in fixed:
            # a bias before BatchNorm has no effect, and no gradient but rounding
            assert parameter.grad is not None and (parameter.dim() == 1 or parameter.grad.any()), key


@every_network
def test_the_heads_shift_the_logits(name: str, arguments: dict[str, Any], side: int, outputs: int) -> None:
    network = build(name, arguments, classes=3).double().eval()
    x = torch.rand(1, 1, side + 64, side + 64, dtype=torch.float64)
    with torch.inference_mode():
        before = network(x)
        for head in network.heads:
            head.bias[1] += 2.5
        shift = (network(x) - before)[..., 16:-16, 16:-16]
    expected = torch.tensor([0, 2.5, 0], dtype=torch.float64)[:, None, None].expand_as(shift)
    torch.testing.assert_close(shift, expected, rtol=0, atol=1e-10)
    assert 0.02 < before.std() < 50, "activations neither grow nor vanish"


@every_network
def test_a_file_keeps_the_network(
    name: str, arguments: dict[str, Any], side: int, outputs: int, tmp_path: Path
) -> None:
    given = {**arguments, "in_channels": 2, "classes": 3}
    network = build(name, given).eval()
    classes = tuple(LabelClass(f"class {n}", "#102030", n) for n in range(3))
    header = ModelHeader(name, given, classes, Normalisation((0, 0), (1, 1), "uint8"))
    Model(header, network).save(tmp_path / "m.safetensors")
    loaded = Model.load(tmp_path / "m.safetensors")
    x = torch.rand(1, 2, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(x), network(x))
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, {}) for name in NETWORKS]
    + [("unetpp", {"level": level}) for level in (1, 3)]
    + [("unet-same", {"up": up, "norm": "none"}) for up in ("nearest", "pixel-shuffle")]
    + [("unet-same", {"down": "stride-2"}), ("unet-same", {"depth": 1, "base": 8}), ("unetpp", {"reduction": 4})]
    + [(name, {"classes": 50}) for name in ("unet", "unetpp", "u2net", "fcn8")],
)
def test_the_stated_memory_is_what_it_takes(name: str, arguments: dict[str, int]) -> None:
    """No less than is held at once, and no more than twice as much."""
    side = 1024 - 4 if name == "unet" else 1024
    with torch.device("meta"):
        network, x = build_network(name, arguments).eval(), torch.empty(1, 1, side, side)
        measured = peak_values(network, x) / side**2
    assert measured <= network.values_per_pixel <= 2 * measured


@pytest.mark.parametrize(("name", "base"), [("unet", 24), ("unet-same", 32), ("unet-strided", 32)])
def test_weights_are_drawn_as_the_papers_say(name: str, base: int) -> None:
    """Gaussian of std sqrt(2 / N), N incoming nodes, less by 1 + slope^2 for a slope below 0; biases 0."""
    torch.manual_seed(0)
    network, slope, measured = build_network(name, {"depth": 2, "base": base}), 0.01 * (name == "unet-strided"), 0
    for module in kinds(network, nn.Conv2d, nn.ConvTranspose2d):
        assert module.bias is None or not module.bias.any()
        weight = module.weight.detach()
        if weight.numel() > 8000:
            measured += 1
            incoming = weight.shape[0] if isinstance(module, nn.ConvTranspose2d) else weight[0].numel()
            scaled = weight * ((1 + slope**2) * incoming / 2) ** 0.5
            torch.testing.assert_close(scaled.std(), torch.tensor(1.0), rtol=0.05, atol=0)
            # a uniform distribution would have 1.8
            torch.testing.assert_close((scaled**4).mean() / scaled.var() ** 2, torch.tensor(3.0), rtol=0.12, atol=0)
    assert measured >= 6


@pytest.mark.parametrize(("name", "side"), [("unet", 76), ("unet-same", 16)])
def test_dropout_follows_the_last_two_stages_in_training_only(name: str, side: int) -> None:
    widths: list[int] = []
    network = build(name, {"depth": 3, "base": 4, "dropout": 0.5})
    network.get_submodule("dropout").register_forward_hook(lambda module, x, output: widths.append(output.shape[1]))
    x = torch.rand(2, 1, side + 32, side + 32)
    assert not torch.equal(network(x), network(x))
    assert widths == [16, 32] * 2
    assert torch.equal(network.eval()(x), network(x))


class TestUNetSame:
    def test_norm_takes_the_place_of_the_biases(self) -> None:
        network, plain = (build("unet-same", {"depth": 2, "base": 2, "norm": norm}) for norm in ("batch", "none"))
        convs = [conv for stage in (*network.down, *network.merge) for conv in kinds(stage, nn.Conv2d)]
        assert len(convs) == len(kinds(network, nn.BatchNorm2d)) == 10 and all(conv.bias is None for conv in convs)
        assert not kinds(plain, nn.BatchNorm2d) and all(conv.bias is not None for conv in kinds(plain, nn.Conv2d))

    def test_activation_and_halving_are_those_chosen(self) -> None:
        network = build("unet-same", {"depth": 2, "base": 2, "activation": "leaky-relu", "down": "stride-2"})
        assert not kinds(network, nn.ReLU, nn.MaxPool2d)
        assert [act.negative_slope for act in kinds(network, nn.LeakyReLU)] == [0.01] * (10 + 2)
        assert [conv.stride for conv in kinds(network.halve, nn.Conv2d)] == [(2, 2)] * 2

    def test_the_strided_one_drops_out_in_every_stage(self) -> None:
        network = build("unet-strided", {"depth": 2, "base": 2})
        assert [drop.p for drop in kinds(network, nn.Dropout)] == [0.3, 0.4] * 5
        assert not kinds(network, nn.MaxPool2d, nn.ConvTranspose2d, nn.ReLU)
        assert network.head.kernel_size == (3, 3)

    @pytest.mark.parametrize("kind", UPSAMPLINGS)
    def test_channels_change_before_the_size_is_doubled(self, kind: str) -> None:
        """For interpolation that is the same as what the architectures say: first larger, then a 1x1 convolution."""
        torch.manual_seed(0)
        layer, x = upsampling(kind, 6, 3).double(), torch.rand(2, 6, 4, 5, dtype=torch.float64)
        assert layer(x).shape == (2, 3, 8, 10)
        if kind in ("nearest", "bilinear"):
            large = nn.functional.interpolate(x, scale_factor=2, mode=kind)
            torch.testing.assert_close(layer(x), kinds(layer, nn.Conv2d)[0](large), rtol=0, atol=1e-14)


class TestUNetPlusPlus:
    @staticmethod
    def toy(**arguments: object) -> UNetPlusPlus:
        network = build("unetpp", {"base": 3, "in_channels": 2, "classes": 3, **arguments})
        assert isinstance(network, UNetPlusPlus)
        return network.double()

    @torch.inference_mode()
    def test_every_node_is_made_of_what_the_paper_says(self) -> None:
        """X[i, j] = H(cat(X[i, 0], ..., X[i, j - 1], up(X[i + 1, j - 1]))), equation 1 of arXiv:1807.10165."""
        network, x = self.toy(), torch.rand(1, 2, 32, 48, dtype=torch.float64)

        @cache
        def node(i: int, j: int) -> Tensor:
            if j == 0:
                before = x if i == 0 else nn.functional.max_pool2d(node(i - 1, 0), 2)
            else:
                before = torch.cat([*(node(i, k) for k in range(j)), network.up[f"{i}{j}"](node(i + 1, j - 1))], dim=1)
            return network.node[f"{i}{j}"](before)

        expected = tuple(network.head[str(level)](node(0, level)) for level in (4, 3, 2, 1))
        trained = network(x)
        assert all(torch.equal(one, other) for one, other in zip(trained, expected, strict=True))
        assert torch.equal(network.eval()(x), expected[0])

    @pytest.mark.parametrize("level", [1, 2, 3, 4])
    @torch.inference_mode()
    def test_pruned_it_gives_what_that_head_gave(self, level: int) -> None:
        network, x = self.toy(), torch.rand(2, 2, 32, 16, dtype=torch.float64)
        heads, small = network(x), network.pruned(level)
        (trained,) = small(x)
        assert torch.equal(trained, heads[4 - level]) and torch.equal(small.eval()(x), heads[4 - level])
        built = self.toy(level=level, supervision="last").state_dict()
        assert {key: value.shape for key, value in built.items()} == {
            key: value.shape for key, value in small.state_dict().items()
        }

    @pytest.mark.parametrize(
        ("arguments", "level", "heads"), [({}, 5, "1, 2, 3, 4"), ({"supervision": "last"}, 2, "4")]
    )
    def test_a_level_that_is_not_there_is_refused(self, arguments: dict[str, object], level: int, heads: str) -> None:
        with pytest.raises(ModelError, match=f"level {level} .* {heads}$"):
            self.toy(**arguments).pruned(level)


class TestU2Net:
    def test_the_sides_go_from_fine_to_coarse_and_are_fused(self) -> None:
        """Between the centres of two coarse pixels, interpolation is linear; from one such stretch to the next not."""
        network = build("u2net-small", {})
        with torch.inference_mode():
            fused, *sides = network(torch.rand(2, 1, 64, 64))
            assert torch.equal(fused, network.fuse(torch.cat(sides, dim=1)))
        for n, side in enumerate(sides[1:], 1):
            factor, bends = 2**n, side.double().diff(n=2, dim=-1).abs()
            assert factor == 2 or bends[..., factor // 2 : factor // 2 + factor - 2].max() < 1e-5
            assert bends[..., factor // 2 :].max() > 1e-3

    @pytest.mark.parametrize(("height", "poolings", "convolutions"), [(7, 5, 14), (4, 2, 8)])
    def test_a_stage_is_a_u_net_with_its_input_added(self, height: int, poolings: int, convolutions: int) -> None:
        stage, sides = ResidualU(3, height, 4, 5).eval(), list[int]()
        stage.bottom.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
        with torch.inference_mode():
            x = torch.rand(1, 3, 64, 64)
            stage(x)
            stage.up[0][1].weight.zero_()  # without what the U-Net within says, the input is left
            assert torch.equal(stage(x), stage.enter(x))
        assert sides == [64 // 2**poolings] * 2 and len(kinds(stage, nn.Conv2d)) == convolutions

    def test_the_deepest_stages_are_dilated_and_pool_nothing(self) -> None:
        stage = Dilated(3, 4, 5).eval()
        assert [conv.dilation[0] for conv in kinds(stage, nn.Conv2d)] == [1, 1, 2, 4, 8, 1, 2, 4]
        assert stage(torch.rand(1, 3, 3, 2)).shape == (1, 5, 3, 2)


@pytest.mark.parametrize(("name", "widths"), [("fcn32", []), ("fcn16", [16]), ("fcn8", [16, 8])])
class TestFCN:
    def test_scores_are_enlarged_bilinearly_class_by_class(self, name: str, widths: list[int]) -> None:
        """As `interpolate` does, but at the border, which it repeats; all but the last enlargement is learnt."""
        network = build(name, {"base": 2, "hidden": 4, "classes": 3}).double()
        scores = torch.rand(2, 3, 4, 5, dtype=torch.float64)
        for layer, factor in ((network.enlarge, int(name[3:])), *((layer, 2) for layer in network.up)):
            large = nn.functional.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)
            inner = (..., slice(factor // 2, -(factor // 2)), slice(factor // 2, -(factor // 2)))
            torch.testing.assert_close(layer(scores)[inner], large[inner], rtol=0, atol=1e-14)
            assert layer.bias is None and layer.weight.requires_grad == (layer is not network.enlarge)
        assert [skip.in_channels for skip in network.skip] == widths, "pool4 first, then pool3"

    def test_scores_are_centred_on_their_pixels(self, name: str, widths: list[int]) -> None:
        """With kernels that are symmetric themselves, the network of the mirrored image is its mirrored output."""
        network = build(name, {"base": 2, "hidden": 4}).double().eval()
        x = torch.randn(1, 1, 96, 64, dtype=torch.float64)
        with torch.inference_mode():
            for conv in kinds(network, nn.Conv2d):
                conv.weight.copy_(conv.weight.mean((-2, -1), keepdim=True).abs().expand_as(conv.weight))
            for axis in (2, 3):
                torch.testing.assert_close(network(x.flip(axis)), network(x).flip(axis), rtol=1e-9, atol=1e-9)


def test_on_a_reduced_image_the_network_is_within() -> None:
    network, x = build("unetpp", {"base": 3, "level": 3, "reduction": 2}), torch.rand(1, 1, 32, 48)
    assert isinstance(network, Rescaled) and network.heads == network.network.heads
    inner = network.network.eval()(nn.functional.avg_pool2d(x, 2))
    torch.testing.assert_close(network.eval()(x), nn.functional.interpolate(inner, scale_factor=2, mode="bilinear"))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("vnet", {}, ["vnet", ", ".join(NETWORKS)]),
        ("unet", {"width": 3}, ["'width'", "in_channels, classes, depth, base, dropout, reduction"]),
        ("unet", {"base": 0}, ["base is 0", "1 to 512"]),
        ("unet", {"classes": 1}, ["classes is 1", "2 to 256"]),
        ("unet", {"depth": 2.0}, ["depth is 2.0", "1 to 7"]),
        ("unet", {"dropout": -0.1}, ["dropout is -0.1", "0 to 0.95"]),
        ("unet", {"reduction": 17}, ["reduction is 17", "1 to 16"]),
        ("unet-same", {"norm": "instance"}, ["norm is 'instance'", "none, batch"]),
        ("unet-same", {"activation": None}, ["activation is None", "relu, leaky-relu"]),
        ("unet-same", {"down": ["max-pool"]}, ["down is", "max-pool, stride-2"]),
        ("unetpp", {"supervision": True}, ["supervision is True", "deep, last"]),
        ("u2net-small", {"small": False}, ["'small'", "in_channels, classes, reduction"]),
        ("fcn16", {"finest": 8}, ["'finest'", "base, hidden, dropout, reduction"]),
    ],
)
def test_networks_that_cannot_be_are_refused(name: str, arguments: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        build_network(name, arguments)
    assert all(word in str(caught.value) for word in (name, *words)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_and_its_options_are_described(name: str) -> None:
    """Each option with its default; each of its names makes a network."""
    found, (kind, fixed) = describe_network(name), NETWORKS[name]
    defaults = inspect.signature(kind).parameters
    assert found["words"].endswith(".") and found["parameters"] > 1_000_000
    assert set(found["options"]) == set(defaults) - {"in_channels", "classes", *fixed}
    for option, choice in kind.options.items():
        words = found["options"][option]
        assert choice.text in words and choice.allowed in words and str(defaults[option].default) in words
        for value in choice.names if isinstance(choice, Choice) else (choice.low,):
            with torch.device("meta"):
                assert isinstance(build_network(name, {option: value}), kind)
    halo = {"unet": 92, "unet-strided": 112, "u2net": 3296, "u2net-small": 3296}.get(name, 96)
    assert found["halo"] == (224 if name.startswith("fcn") else halo)
    with pytest.raises(ModelError, match="vnet"):
        options_of("vnet")


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_network_with_padding_computes_the_same_away_from_the_edges(depth: int) -> None:
    """But for the phase of its poolings: one of the shifts within a divisor gives equal values."""
    arguments = {"in_channels": 2, "classes": 3, "base": 4, "depth": depth, "dropout": 0.0}
    torch.manual_seed(depth)
    valid = build_network("unet", arguments).double().eval()
    twin = with_padding("unet", arguments)
    assert twin is not None and with_padding("unet-same", arguments) is None
    padded = build_network(*twin).double().eval()
    padded.load_state_dict(valid.state_dict())
    view = valid.field_of_view
    side = view.tile_of(4 * view.divisor)
    x = torch.randn(1, 2, side, side, dtype=torch.float64)
    with torch.inference_mode():
        expected = valid(x)
        differences = []
        for shift in range(view.divisor):
            # zeros around, so that padding does not reach what is compared; the grid of poolings begins at `shift`
            more = 2 * view.before + view.divisor
            around = nn.functional.pad(x, (more + shift, more, more + shift, more))
            whole = nn.functional.pad(
                around, (0, -around.shape[-1] % view.divisor, 0, -around.shape[-2] % view.divisor)
            )
            first = more + shift + view.before
            part = padded(whole)[..., first : first + expected.shape[-2], first : first + expected.shape[-1]]
            differences.append((part - expected).abs().max().item())
    assert min(differences) < 1e-12 and max(differences) > 1e-3
