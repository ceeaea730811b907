"""Weights of others: recognised, and the same function afterwards."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from command_line import Run
from foreign_networks import PublicBilinear, PublicUNet, Tutorial, difference, refused, saved, shaken
from mask_files import mask_of
from PIL import Image
from torch import Tensor, nn

import tilesegment
from tilesegment.metadata import PixelSize
from tilesegment.models.importing import import_weights
from tilesegment.models.model import Model
from tilesegment.networks import build_network


@pytest.fixture
def public() -> nn.Module:
    torch.manual_seed(0)
    return shaken(PublicUNet(base=3, depth=2))


def test_the_public_unet_has_the_parameters_that_are_known_of_it() -> None:
    with torch.device("meta"):
        network = PublicUNet()
    assert sum(p.numel() for p in network.parameters()) == 31_037_698
    names = set(network.state_dict())
    assert {"inc.double_conv.0.weight", "down4.maxpool_conv.1.double_conv.4.running_var"} < names
    assert {"up1.up.bias", "up4.conv.double_conv.3.weight", "outc.conv.bias"} < names


@pytest.mark.parametrize(("base", "depth", "channels", "classes"), [(8, 4, 3, 2), (3, 2, 1, 5), (5, 1, 4, 2)])
def test_the_public_unet_gives_the_same_logits(
    base: int, depth: int, channels: int, classes: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = shaken(PublicUNet(channels, classes, base, depth))
    path = saved(tmp_path, network.state_dict() | {"mask_values": list(range(classes))})
    model = import_weights(path, tmp_path / "m.safetensors", network="unet-same")
    assert difference(model.network, network, channels) < 1e-10
    arguments = model.header.arguments
    sizes = {"base": base, "depth": depth, "in_channels": channels, "classes": classes}
    assert arguments == {**sizes, "norm": "batch", "up": "transposed", "down": "max-pool"}
    assert model.field_of_view.divisor == 2**depth


def test_the_bilinear_variant_has_the_parameters_that_are_known_of_it() -> None:
    with torch.device("meta"):
        network = PublicBilinear(classes=1)
    assert sum(p.numel() for p in network.parameters()) == 17_262_977


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("base", "depth", "channels", "classes"), [(8, 4, 3, 2), (4, 2, 1, 5)])
def test_the_bilinear_variant_gives_the_same_logits(
    base: int, depth: int, channels: int, classes: int, first: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = shaken(PublicBilinear(channels, classes, base, depth, first))
    path = saved(tmp_path, network.state_dict())
    model = import_weights(path, tmp_path / "m.safetensors", network="unet-same")
    loaded = Model.load(tmp_path / "m.safetensors")
    assert difference(loaded.network, network, channels) < 1e-10
    assert model.header.arguments["up"] == ("align-corners-narrow" if first else "align-corners")
    assert model.header.arguments["depth"] == depth


def test_the_bilinear_variant_is_inexact_and_needs_a_halo(run: Run, folder: Path) -> None:
    torch.manual_seed(0)
    saved(folder, shaken(PublicBilinear(1, 2, 4, 2)).state_dict())
    done = run("import weights.pth --network unet-same --out m.safetensors")
    assert done.code == 0
    assert "align_corners=True" in done.err and "--halo" in done.err
    refused = run("predict slide.tif --model m.safetensors --out m.zarr")
    assert refused.code == 1 and "halo" in refused.err and "align_corners=True" in refused.err
    assert run("predict slide.tif --model m.safetensors --halo 32 --out m.zarr -q").code == 0
    # a halo may be part of the model
    assert run("import weights.pth --network unet-same --out h.safetensors --halo 30").code == 0
    # options that are not those of the weights
    other = run("import weights.pth --network unet-same --option up=bilinear --out o.safetensors")
    assert other.code == 1 and "--option up=align-corners" in other.err
    assert Model.load("h.safetensors").field_of_view == Model.load("m.safetensors").with_halo(32).field_of_view
    assert run("predict slide.tif --model h.safetensors --out h.zarr -q").code == 0
    assert np.array_equal(mask_of("h.zarr"), mask_of("m.zarr"))


def test_an_exact_network_is_not_called_inexact(run: Run, folder: Path, public: nn.Module) -> None:
    saved(folder, public.state_dict())
    assert "xact" not in run("import weights.pth --network unet-same --out m.safetensors").err


def test_what_the_file_does_not_say_is_as_the_public_unet_is_used(tmp_path: Path, public: nn.Module) -> None:
    path = saved(tmp_path, public.state_dict() | {"mask_values": [0, 255]})
    header = import_weights(path, tmp_path / "m.safetensors", network="unet-same").header
    scale = header.normalisation
    assert (scale.mean, scale.std, scale.dtype) == ((0.0,) * 3, (255.0,) * 3, "uint8")
    assert [(one.name, one.value) for one in header.classes] == [("value 0", 0), ("value 255", 255)]
    assert (header.name, header.licence, header.pixel_size) == ("weights", "", None)
    assert header.training["imported"] == "weights.pth"
    assert header.training["recognised_by"] == "names of the public U-Net"
    assert Model.load(tmp_path / "m.safetensors").header == header


def test_what_is_given_is_recorded(tmp_path: Path, public: nn.Module) -> None:
    path = saved(tmp_path, public.state_dict())
    header = import_weights(
        path,
        tmp_path / "m.safetensors",
        network="unet-same",
        options={"reduction": 2, "activation": "leaky-relu"},
        classes=["background", "car"],
        mean=[1, 2, 3],
        std=[4],
        dtype="uint16",
        pixel_size=PixelSize(0.5, 0.25),
        name="cars",
        licence="MIT",
    ).header
    assert [(one.name, one.value) for one in header.classes] == [("background", None), ("car", None)]
    assert (header.normalisation.mean, header.normalisation.std) == ((1.0, 2.0, 3.0), (4.0, 4.0, 4.0))
    assert (header.normalisation.dtype, header.pixel_size) == ("uint16", PixelSize(0.5, 0.25))
    assert (header.name, header.licence) == ("cars", "MIT")
    assert (header.arguments["reduction"], header.arguments["activation"]) == (2, "leaky-relu")


@pytest.mark.parametrize(("dtype", "largest"), [("uint8", 255.0), ("uint16", 65535.0), ("float32", 1.0)])
def test_the_spread_is_the_range_of_the_dtype(dtype: str, largest: float, tmp_path: Path, public: nn.Module) -> None:
    path = saved(tmp_path, public.state_dict())
    model = import_weights(path, tmp_path / "m.safetensors", network="unet-same", dtype=dtype)
    assert model.header.normalisation.std == (largest,) * 3


def test_values_that_are_colours_become_the_colours(tmp_path: Path, public: nn.Module) -> None:
    path = saved(tmp_path, public.state_dict() | {"mask_values": [[0, 0, 0], [255, 128, 0]]})
    classes = import_weights(path, tmp_path / "m.safetensors", network="unet-same").header.classes
    assert [(one.name, one.colour, one.value) for one in classes] == [
        ("#000000", "#000000", 0),
        ("#ff8000", "#ff8000", 0xFF8000),
    ]


@pytest.mark.parametrize("values", [[0, 1, 2], "text", [], [[1, 2]], [True, False], [[0, 0, 0], [0, 0, 256]]])
def test_values_that_are_not_one_a_class_are_left(values: object, tmp_path: Path, public: nn.Module) -> None:
    path = saved(tmp_path, public.state_dict() | {"mask_values": values})
    classes = import_weights(path, tmp_path / "m.safetensors", network="unet-same").header.classes
    assert [(one.name, one.value) for one in classes] == [("class 0", None), ("class 1", None)]


WRAPPINGS: dict[str, Callable[[Mapping[str, Tensor]], Any]] = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "mask_values": [0, 7]},
    "model_state_dict": lambda state: {"model_state_dict": {**state, "mask_values": [0, 7]}, "loss": 0.1},
    "model": lambda state: {"model": state, "mask_values": [0, 7]},
    "DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()} | {"mask_values": [0, 7]},
    "Lightning": lambda state: {
        "state_dict": {f"model.net.{name}": value for name, value in state.items()},
        "mask_values": [0, 7],
    },
    "no counts": lambda state: {
        **{name: value for name, value in state.items() if "num_batches" not in name},
        "mask_values": [0, 7],
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_checkpoints_as_people_have_them(wrapping: str, tmp_path: Path, public: nn.Module) -> None:
    path = saved(tmp_path, WRAPPINGS[wrapping](public.state_dict()))
    model = import_weights(path, tmp_path / "m.safetensors", network="unet-same")
    assert difference(model.network, public) < 1e-10
    assert [one.value for one in model.header.classes] == [0, 7]


def test_other_files_with_the_same_weights(tmp_path: Path, public: nn.Module) -> None:
    """safetensors, the format of old releases, channels last, double and half precision."""
    state = public.state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    kept = {
        name: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value for name, value in state.items()
    }
    torch.save(kept, tmp_path / "last.pth")
    for name in ("w.safetensors", "old.pt", "last.pth"):
        model = import_weights(tmp_path / name, tmp_path / "m.safetensors", network="unet-same", overwrite=True)
        assert difference(model.network, public) < 1e-10
        public.float()
    for dtype, close in ((torch.float64, 1e-10), (torch.float16, 0.05)):
        path = saved(tmp_path, {name: value.to(dtype) for name, value in state.items()})
        model = import_weights(path, tmp_path / "m.safetensors", network="unet-same", overwrite=True)
        assert next(model.network.parameters()).dtype == torch.float32
        assert difference(model.network, public) < close
        public.float()


def test_biases_before_batch_norm_are_taken_into_it(tmp_path: Path) -> None:
    """As earlier releases had them; the sum is rounded to single precision once."""
    torch.manual_seed(0)
    network = shaken(PublicUNet(base=3, depth=2, bias=True))
    for name, value in network.state_dict().items():
        if re.search(r"double_conv\.[03]\.bias", name):
            value.normal_()
    model = import_weights(saved(tmp_path, network.state_dict()), tmp_path / "m.safetensors", network="unet-same")
    assert difference(model.network, network) < 1e-6


def test_one_output_becomes_two_classes(tmp_path: Path) -> None:
    """The sigmoid of the one is the soft-max of the two."""
    torch.manual_seed(0)
    network = shaken(PublicUNet(classes=1, base=3, depth=2))
    path = saved(tmp_path, network.state_dict() | {"mask_values": [0, 255]})
    model = import_weights(path, tmp_path / "m.safetensors", network="unet-same")
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        likely, wanted = model.network.double()(x).softmax(1)[:, 1:], network.double()(x).sigmoid()
    torch.testing.assert_close(likely, wanted, rtol=0, atol=1e-10)
    assert 0 < wanted.min() < wanted.max() < 1
    assert [one.value for one in model.header.classes] == [0, 255]


def test_the_image_is_fed_as_the_public_unet_feeds_it(tmp_path: Path) -> None:
    """A small RGB image, from the file of weights to the mask: as the network gives of it mirrored, / 255."""
    torch.manual_seed(0)
    network = shaken(PublicUNet(base=4, depth=2))
    # both classes are to be there
    with torch.inference_mode():
        logits = network(torch.rand(1, 3, 64, 64))
    network.outc.conv.bias.data[0] += (logits[:, 1] - logits[:, 0]).median()
    import_weights(saved(tmp_path, network.state_dict()), tmp_path / "m.safetensors", network="unet-same")
    pixels = np.random.default_rng(0).integers(0, 256, (52, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    settings: dict[str, Any] = {"model": tmp_path / "m.safetensors", "tile": 64, "precision": "fp32"}
    tilesegment.predict(tmp_path / "image.png", tmp_path / "mask.png", **settings)
    mirrored = np.pad(pixels, ((32, 44), (32, 42), (0, 0)), mode="reflect")
    x = torch.from_numpy(mirrored / 255).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = network.double()(x)[0, :, 32:84, 32:102]
    wanted = logits.argmax(0).numpy()
    with Image.open(tmp_path / "mask.png") as mask:
        found = np.asarray(mask)
    near = (logits[0] - logits[1]).abs().numpy() < 1e-4
    assert 0.02 < wanted.mean() < 0.98 and near.mean() < 0.01
    assert np.array_equal(found[~near], wanted[~near])


OURS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "unet": ("unet", {"depth": 3, "base": 3}, {}),
    "no norm": ("unet-same", {"depth": 2, "base": 3, "norm": "none"}, {}),
    "stride-2": ("unet-same", {"depth": 3, "base": 2, "down": "stride-2"}, {}),
    "shuffle": ("unet-same", {"depth": 2, "base": 4, "up": "pixel-shuffle"}, {}),
    "bilinear": ("unet-same", {"depth": 2, "base": 4, "up": "bilinear"}, {"up": "bilinear"}),
    "reduced": ("unet-same", {"depth": 2, "base": 4, "reduction": 2}, {"reduction": 2}),
    "strided": ("unet-strided", {"depth": 2, "base": 3}, {}),
    "unetpp": ("unetpp", {"level": 3, "base": 2}, {}),
    "pruned": ("unetpp", {"level": 2, "base": 2, "supervision": "last"}, {}),
    "u2net": ("u2net-small", {}, {}),
    "fcn": ("fcn16", {"base": 2, "hidden": 8}, {"hidden": 8}),
}


@pytest.mark.parametrize("case", OURS)
def test_our_own_networks_are_found_again(case: str, tmp_path: Path) -> None:
    name, options, told = OURS[case]
    torch.manual_seed(0)
    network = shaken(build_network(name, {"in_channels": 2, "classes": 3, **options}))
    path = saved(tmp_path, network.state_dict())
    model = import_weights(path, tmp_path / "m.safetensors", network=name, options=told)
    assert {**options, "in_channels": 2, "classes": 3}.items() <= model.header.arguments.items()
    assert model.header.training["recognised_by"] == "names of tilesegment"
    # a size that the unpadded one takes, too
    assert difference(model.network, network, 2, 3 * 8 + 4 * 7 + 8 * 8 if name == "unet" else 64) < 1e-10


def test_what_the_weights_do_not_tell_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, build_network("unet-same", {"depth": 2, "base": 4, "up": "nearest"}).state_dict())
    assert "--option up=bilinear|nearest" in refused(tmp_path, path)


def test_unknown_names_go_by_order_only_if_that_is_wanted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = shaken(Tutorial())
    path = saved(tmp_path, network.state_dict())
    message = refused(tmp_path, path)
    assert "missing (down.0.0.weight, " in message and "left over (encoder.0.double_conv.0.weight, " in message
    assert message.endswith("if only the names differ, take them by order: --by-order")
    model = import_weights(path, tmp_path / "m.safetensors", network="unet-same", by_order=True)
    assert model.header.training["recognised_by"] == "order of the tensors"
    assert difference(model.network, network) < 1e-10
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert "safetensors" in refused(tmp_path, tmp_path / "w.safetensors", by_order=True)


def test_the_order_in_which_ours_are_built_is_one_too(tmp_path: Path) -> None:
    """Here one that is not the order in which it computes."""
    torch.manual_seed(0)
    network = shaken(build_network("unetpp", {"in_channels": 3, "level": 2, "base": 2}))
    state = {f"layer{n}.{name.split('.')[-1]}": value for n, (name, value) in enumerate(network.state_dict().items())}
    model = import_weights(saved(tmp_path, state), tmp_path / "m.safetensors", network="unetpp", by_order=True)
    assert difference(model.network, network) < 1e-10
