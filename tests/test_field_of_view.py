"""The field of view of any network, found by running it: measured halos, random networks, and refusals."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Function, SameUNet, ValidUNet, around, narrower, off_grid, positive
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.networks import build_network
from tilesegment.networks.field_of_view import ADVICE, chosen, derive, prober_of

EXACT = 1e-12  # rounding in double precision


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "divisor", "halo"),
    [
        *((lambda d=d: SameUNet(d), 2**d, halo) for d, halo in enumerate((8, 24, 48, 96, 192), 1)),
        (lambda: SameUNet(3, up="bilinear"), 8, 56),
        (lambda: SameUNet(4, down="strided", up="nearest", norm=True), 16, 112),
        (lambda: SameUNet(2, factor=3), 9, 36),
    ],
)
def test_halos_are_those_that_were_measured(build: Callable[[], nn.Module], divisor: int, halo: int) -> None:
    assert derive(build()) == FieldOfView(divisor, halo, halo, crops=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("unet", {"depth": depth, "reduction": reduction}) for depth, reduction in ((1, 1), (4, 1), (2, 3))),
        *(("unet-same", {"depth": depth}) for depth in (1, 3)),
        *(("unet-same", {"depth": 2, "up": up}) for up in ("nearest", "bilinear", "pixel-shuffle")),
        ("unet-same", {"depth": 2, "down": "stride-2", "up": "bilinear"}),
        ("unet-same", {"depth": 2, "reduction": 2}),
        ("unet-strided", {"depth": 3}),
        ("unetpp", {"level": 2}),
        ("unetpp", {"level": 3, "reduction": 3}),
        ("fcn32", {"hidden": 2}),
        ("fcn8", {"hidden": 2, "reduction": 2}),
    ],
)
def test_our_networks_state_what_running_them_shows(name: str, options: dict[str, object]) -> None:
    """Interpolation by 3 has weights of 0, and 0 times NaN is NaN: running may show one coarse pixel more."""
    network = build_network(name, {"base": 1, **options}).eval()
    stated, found = derive(network), prober_of(network).view()
    assert network.field_of_view == stated
    assert found == stated or (options.get("reduction") == 3 and stated.before <= found.before)


@pytest.mark.slow
@settings(max_examples=12)
@given(
    depth=st.integers(1, 2),
    up=st.sampled_from(["transposed", "overlapping", "shuffle", "nearest", "nearest-exact", "bilinear", "bicubic"]),
    down=st.sampled_from(["max", "average", "strided", "unshuffle"]),
    kernel=st.integers(1, 5),
    dilation=st.integers(1, 2),
    factor=st.integers(2, 3),
    seed=st.integers(0, 99),
)
def test_tiled_equals_untiled(
    depth: int, up: str, down: str, kernel: int, dilation: int, factor: int, seed: int
) -> None:
    """With the view that is found; not with a halo one divisor smaller, nor off the grid."""
    up = "transposed" if up == "overlapping" and factor == 3 else up
    network = positive(SameUNet(depth, up=up, down=down, kernel=kernel, dilation=dilation, factor=factor), seed)
    prober = prober_of(network)
    view = prober.view()
    assert view.divisor == factor**depth and not view.crops
    assert prober.check(view) <= EXACT
    # 0 times NaN is NaN: where interpolation has weights of 0, one neighbour too many is seen
    if view.before and not (up in ("bilinear", "bicubic") and factor == 3):
        assert prober.check(narrower(view)) > 100 * EXACT
    assert off_grid(network, view) > 100 * EXACT


@pytest.mark.slow
@settings(max_examples=8)
@given(
    kernel=st.integers(2, 5),
    factor=st.integers(2, 3),
    up=st.sampled_from(["transposed", "nearest", "bilinear"]),
    seed=st.integers(0, 99),
)
def test_tiled_equals_untiled_where_the_network_crops(kernel: int, factor: int, up: str, seed: int) -> None:
    network = positive(ValidUNet(kernel=kernel, factor=factor, up=up), seed)
    prober = prober_of(network)
    view = prober.view()
    assert view.divisor == factor and view.crops
    assert prober.check(view) <= EXACT
    # no tile is larger than it must be: one pixel less, and the output is too small for the step
    smaller = torch.zeros(1, 1, *[view.tile_of(4 * factor) - 1] * 2, dtype=torch.float64)
    assert network(smaller).shape[-1] < 4 * factor
    assert off_grid(network, view) > 100 * EXACT


class ChannelsLast(nn.Module):
    """A block of ConvNeXt: normalisation and linear layers over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(F.gelu(self.wide(self.norm(x.permute(0, 2, 3, 1)))))
        return x + y.permute(0, 3, 1, 2)


class Flattened(nn.Module):
    """Mixes channels of flattened positions, or compares the positions with one another."""

    def __init__(self, attend: bool) -> None:
        super().__init__()
        self.attend, self.first, self.mix, self.last = attend, nn.Conv2d(1, 4, 3), nn.Linear(4, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.pad(x, (1, 1, 1, 1)))
        tokens = self.mix(x.flatten(2).transpose(1, 2))
        if self.attend:
            tokens = torch.softmax(tokens @ tokens.transpose(1, 2), -1) @ tokens
        return self.last(tokens.transpose(1, 2).reshape(x.shape))


class Judged(Function):
    """Branches on the value of a weight."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.first.weight.sum().item() > 99 else -x)


class Pruned(nn.Module):
    """A network with layers that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.pool = around(nn.BatchNorm2d(4)), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def unpooled(x: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(pooled, places, 2)


def written_in_part(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[..., 1:, :] = x[..., :-1, :]
    return y


def any_size(x: Tensor) -> Tensor:
    """Reduced by 3 twice and enlarged to the size before: takes any size, and is exact on a grid of 9."""
    small = F.max_pool2d(F.max_pool2d(x, 3, ceil_mode=True), 3, ceil_mode=True)
    return x + F.interpolate(small, size=x.shape[-2:])


def far(dilation: int) -> nn.Module:
    conv = nn.Conv2d(1, 1, 3, padding=dilation, dilation=dilation)
    return nn.Sequential(conv, nn.MaxPool2d(2), nn.Upsample(scale_factor=2))


EXACT_ALL_THE_SAME = {
    "reflect": (around(nn.Conv2d(4, 4, 5, padding=2, padding_mode="reflect")), 1, 4),
    "circular": (around(nn.Conv2d(4, 4, 5, padding=2, padding_mode="circular")), 1, 4),
    "dilated": (around(nn.Conv2d(4, 4, 3, padding=6, dilation=6)), 1, 8),
    "batch norm, dropout": (around(nn.BatchNorm2d(4), nn.Dropout2d(), nn.PReLU(), nn.Hardswish()), 1, 2),
    "running instance norm": (around(nn.InstanceNorm2d(4, track_running_stats=True)), 1, 2),
    "over the channels": (around(ChannelsLast()), 1, 2),
    "softmax of channels": (around(nn.Softmax(1)), 1, 2),
    "spatial gate": (Function(lambda x: x * torch.stack([x.mean(1), x.amax(1)], 1).sum(1, keepdim=True)), 1, 2),
    "unpooling": (Function(unpooled), 2, 4),
    "rounding up": (Function(lambda x: F.interpolate(F.max_pool2d(x, 2, ceil_mode=True), size=x.shape[-2:])), 2, 4),
    "any size, divisor 9": (Function(any_size), 9, 18),
    "two divisors": (
        Function(lambda x: unpooled(x) + F.interpolate(F.avg_pool2d(x, 3, ceil_mode=True), size=x.shape[-2:])), 6, 6
    ),
    "in place": (Function(lambda x: x.relu_().mul_(2).add_(x)), 1, 2),
    "pointwise only": (nn.Sequential(nn.Conv2d(1, 2, 1)), 1, 0),
    "upsampled first": (
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2)), 1, 1
    ),
    "to one side": (Function(lambda x: x + F.pad(x[..., 9:], (0, 9))), 1, 11),
    "flattened": (Flattened(attend=False), 1, 1),
    "branch on values": (Judged(), 1, 2),
    "written in part": (Function(written_in_part), 1, 3),
    "an adaptive pool that is not used": (Pruned(), 1, 2),
    "dead": (Function(lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2).clamp(0, 0)), 2, 4),
    "sparse and far": (far(400), 2, 400),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT_ALL_THE_SAME)
def test_what_looks_doubtful_is_exact(name: str) -> None:
    """Padding of any kind, and statistics of the channels or of the training."""
    network, divisor, halo = EXACT_ALL_THE_SAME[name]
    assert derive(network) == FieldOfView(divisor, halo, halo, crops=False)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x.mean((2, 3))).sigmoid()[..., None, None]


WHOLE = "depends on the whole tile"
PLACE = "depends on the place in the tile"
NEVER = {
    "batch statistics": (around(nn.BatchNorm2d(4, track_running_stats=False)), WHOLE, "1 (BatchNorm2d)"),
    "instance norm": (around(nn.InstanceNorm2d(4)), WHOLE, "1 (InstanceNorm2d) normalises"),
    "group norm": (around(nn.GroupNorm(2, 4)), WHOLE, "1 (GroupNorm)"),
    "two of them": (around(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)), WHOLE, "(and 1 more such)"),
    "aligned corners": (
        around(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.MaxPool2d(2)), PLACE, "1 (Upsample)"
    ),
    "squeeze and excite": (around(SqueezeExcite()), WHOLE, ""),
    "adaptive pool": (
        Function(lambda x: x + F.interpolate(F.adaptive_avg_pool2d(x, 6), size=x.shape[-2:], mode="bilinear")), "", ""
    ),
    "attention": (Flattened(attend=True), "compares all positions", ""),
    "attention along rows": (Function(lambda x: F.scaled_dot_product_attention(x, x, x)), WHOLE, ""),
    "dropout": (Function(lambda x: F.dropout(x, 0.5)), "random", ""),
    "softmax of rows": (Function(lambda x: x.softmax(-1)), WHOLE, ""),
    "layer norm of the tile": (Function(lambda x: F.layer_norm(x, x.shape[-2:])), WHOLE, ""),
    "coordinates": (Function(lambda x: x + torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)), PLACE, ""),
    "a size of its own": (
        Function(lambda x: F.interpolate(F.interpolate(x, size=(48, 48)), size=x.shape[-2:])), "", ""
    ),
    "whether the tile is bright": (Function(lambda x: x * (x.mean() > 0)), WHOLE, ""),
    "Fourier": (Function(lambda x: torch.fft.fft2(x).abs()), WHOLE, ""),
    "mirrored": (Function(lambda x: x + x.flip(-1)), "", ""),
    "far in steps": (
        nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=n, dilation=n) for n in (50, 100, 200, 400, 500))), WHOLE, ""
    ),
    "far": (far(9000), "reaches over 18000 px", ""),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NEVER)
def test_what_is_never_exact_is_refused_with_what_was_seen(name: str) -> None:
    """One line that names a known class; a chosen halo accepts it."""
    network, seen, cause = NEVER[name]
    with pytest.raises(ModelError) as caught:
        derive(network)
    message = str(caught.value)
    assert seen in message and cause in message and message.endswith(ADVICE) and "\n" not in message


def test_a_chosen_halo_is_accepted() -> None:
    """In whole divisors where one is found, else of 32."""
    assert chosen(around(nn.InstanceNorm2d(4)), 40) == FieldOfView(32, 64, 64, crops=False)
    assert chosen(Function(unpooled), 7) == FieldOfView(2, 8, 8, crops=False)
    assert chosen(build_network("u2net-small", {}), 385) == FieldOfView(32, 416, 416, crops=False)
    valid = build_network("unet", {"depth": 2, "base": 1})
    assert chosen(valid, 20) == derive(valid)
    for network, halo, words in ((valid, 24, "24 px; this network crops 20 px"), (valid, -1, "halo of -1 px")):
        with pytest.raises(ModelError, match=words):
            chosen(network, halo)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.ReLU(), "give in_channels"),
        (nn.Conv2d(1, 2, 3, stride=2, padding=1), "gives 96 px for 192 px a side, 128 for 256"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, (5, 3))), "crops y by 6 px but x by 4 px"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, padding=1)), "crops 1 px a side, but .* 2 px around"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(2)), r"gives a tensor of shape \(1, 2, "),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.LSTM(9, 2)), "fails on 192 x 192 px: "),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, return_indices=True)), "gives tuple"),
        (Function(torch.log), "gives NaN"),
    ],
    ids=["channels", "half", "unequal", "both", "flat", "fails", "several", "nan"],
)  # fmt: skip
def test_what_is_no_such_network_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        derive(network)
    assert "\n" not in str(caught.value)


def test_the_network_is_left_as_it_is() -> None:
    """Training mode, weights, hooks; and training mode does not matter."""
    network = SameUNet(1, norm=True).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert derive(network).before == 8 and network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_channels_can_be_given() -> None:
    assert derive(nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 1), nn.PixelShuffle(2)), 3).divisor == 2
