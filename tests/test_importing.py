"""Weights from elsewhere: recognised, and the same function afterwards; or refused in a line, and nothing run."""

import json
import os
import pickle
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
from tilesegment.errors import ModelError
from tilesegment.metadata import PixelSize
from tilesegment.models.importing import import_weights
from tilesegment.models.model import Model
from tilesegment.networks import build_network


@pytest.fixture
def public() -> nn.Module:
    torch.manual_seed(0)
    return shaken(PublicUNet(base=3, depth=2))


def imported(tmp_path: Path, content: Any, **given: Any) -> Model:
    """The model of a state dict that is saved first."""
    given = {"network": "unet-same", "overwrite": True} | given
    return import_weights(saved(tmp_path, content), tmp_path / "m.safetensors", **given)


def test_the_networks_have_the_parameters_that_are_known_of_them() -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in one.parameters()) for one in (PublicUNet(), PublicBilinear(classes=1))]
    assert counts == [31_037_698, 17_262_977]


@pytest.mark.parametrize(("base", "depth", "channels", "classes"), [(2, 3, 3, 2), (3, 1, 1, 5)])
def test_the_public_unet_gives_the_same_logits(
    base: int, depth: int, channels: int, classes: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = shaken(PublicUNet(channels, classes, base, depth))
    # with biases before BatchNorm, as its earlier releases had: the sum is rounded to single precision once
    biased = shaken(PublicUNet(channels, classes, base, depth, bias=True))
    assert difference(imported(tmp_path, biased.state_dict()).network, biased, channels) < 1e-6
    model = imported(tmp_path, network.state_dict())
    assert difference(model.network, network, channels) < 1e-10
    sizes = {"base": base, "depth": depth, "in_channels": channels, "classes": classes}
    assert model.header.arguments == {**sizes, "norm": "batch", "up": "transposed", "down": "max-pool"}
    assert model.field_of_view.divisor == 2**depth


@pytest.mark.parametrize(("first", "up"), [(False, "align-corners"), (True, "align-corners-narrow")])
def test_the_bilinear_variant_gives_the_same_logits(first: bool, up: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = shaken(PublicBilinear(1, 5, 4, 2, first))
    imported(tmp_path, network.state_dict())
    loaded = Model.load(tmp_path / "m.safetensors")
    assert difference(loaded.network, network, 1) < 1e-10
    assert loaded.header.arguments["up"] == up


@pytest.mark.slow
def test_the_bilinear_variant_is_inexact_and_needs_a_halo(run: Run, folder: Path, public: nn.Module) -> None:
    torch.manual_seed(0)
    saved(folder, shaken(PublicBilinear(1, 2, 4, 2)).state_dict())
    done = run("import weights.pth --network unet-same --out m.safetensors")
    assert done.code == 0 and "align_corners=True" in done.err and "--halo" in done.err
    failed = run("predict slide.tif --model m.safetensors --out m.zarr")
    assert failed.code == 1 and "halo" in failed.err and "align_corners=True" in failed.err
    assert run("predict slide.tif --model m.safetensors --halo 32 --out m.zarr -q").code == 0
    # a halo may be part of the model
    assert run("import weights.pth --network unet-same --out h.safetensors --halo 30").code == 0
    assert Model.load("h.safetensors").field_of_view == Model.load("m.safetensors").with_halo(32).field_of_view
    assert run("predict slide.tif --model h.safetensors --out h.zarr -q").code == 0
    assert np.array_equal(mask_of("h.zarr"), mask_of("m.zarr"))
    saved(folder, public.state_dict())
    assert "xact" not in run("import weights.pth --network unet-same --out e.safetensors").err


@pytest.mark.parametrize(("dtype", "largest"), [("uint8", 255.0), ("uint16", 65535.0), ("float32", 1.0)])
def test_what_is_not_said_is_as_the_public_unet_is_used(
    dtype: str, largest: float, tmp_path: Path, public: nn.Module
) -> None:
    header = imported(tmp_path, public.state_dict() | {"mask_values": [0, 255]}, dtype=dtype).header
    scale = header.normalisation
    assert (scale.mean, scale.std, scale.dtype) == ((0.0,) * 3, (largest,) * 3, dtype)
    assert [(one.name, one.value) for one in header.classes] == [("value 0", 0), ("value 255", 255)]
    assert (header.name, header.licence, header.pixel_size) == ("weights", "", None)
    assert header.training["imported"] == "weights.pth"
    assert header.training["recognised_by"] == "names of the public U-Net"
    assert Model.load(tmp_path / "m.safetensors").header == header


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 0, 0], [255, 128, 0]], [("#000000", "#000000", 0), ("#ff8000", "#ff8000", 0xFF8000)]),
        *((odd, None) for odd in ([0, 1, 2], "text", [True, False], [[0, 0, 0], [0, 0, 256]])),
    ],
)
def test_values_of_the_classes_are_colours_or_left(
    values: object, expected: list[tuple[str, str, int]] | None, tmp_path: Path, public: nn.Module
) -> None:
    classes = imported(tmp_path, public.state_dict() | {"mask_values": values}).header.classes
    if expected is None:
        assert [(one.name, one.value) for one in classes] == [("class 0", None), ("class 1", None)]
    else:
        assert [(one.name, one.colour, one.value) for one in classes] == expected


WRAPPINGS: dict[str, Callable[[Mapping[str, Tensor]], Any]] = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "mask_values": [0, 7]},
    "model_state_dict": lambda state: {"model_state_dict": {**state, "mask_values": [0, 7]}, "loss": 0.1},
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
    model = imported(tmp_path, WRAPPINGS[wrapping](public.state_dict()))
    assert difference(model.network, public) < 1e-10
    assert [one.value for one in model.header.classes] == [0, 7]


@pytest.mark.slow
def test_other_files_with_the_same_weights(tmp_path: Path, public: nn.Module) -> None:
    """safetensors, the old format of torch.save, double and half precision."""
    state = {name: value.clone() for name, value in public.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for dtype in (torch.float64, torch.float16):
        torch.save({name: value.to(dtype) for name, value in state.items()}, tmp_path / f"{str(dtype)[6:]}.pt")
    for name, close in (("w.safetensors", 1e-10), ("old.pt", 1e-10), ("float64.pt", 1e-10), ("float16.pt", 0.05)):
        model = import_weights(tmp_path / name, tmp_path / "m.safetensors", network="unet-same", overwrite=True)
        assert next(model.network.parameters()).dtype == torch.float32
        assert difference(model.network, public) < close


def test_the_image_is_fed_as_the_public_unet_feeds_it(tmp_path: Path) -> None:
    """A small RGB image, from the file of weights to the mask: as the network gives of it mirrored, / 255.

    It has one output; its sigmoid is the soft-max of two.
    """
    torch.manual_seed(0)
    network = shaken(PublicUNet(base=4, depth=2, classes=1))
    with torch.inference_mode():
        network.outc.conv.bias.data -= network(torch.rand(1, 3, 64, 64)).median()  # both classes are to be there
    imported(tmp_path, network.state_dict())
    pixels = np.random.default_rng(0).integers(0, 256, (52, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    settings: dict[str, Any] = {"model": tmp_path / "m.safetensors", "tile": 64, "precision": "fp32"}
    tilesegment.predict(tmp_path / "image.png", tmp_path / "mask.png", **settings)
    mirrored = np.pad(pixels, ((32, 44), (32, 42), (0, 0)), mode="reflect")
    x = torch.from_numpy(mirrored / 255).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logit = network.double()(x)[0, 0, 32:84, 32:102].numpy()
    wanted, found = logit > 0, np.asarray(Image.open(tmp_path / "mask.png"))
    near = np.abs(logit) < 1e-4
    assert 0.02 < wanted.mean() < 0.98 and near.mean() < 0.01
    assert np.array_equal(found[~near], wanted[~near])


OURS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "unet": ("unet", {"depth": 3, "base": 3}, {}),
    "no norm": ("unet-same", {"depth": 2, "base": 3, "norm": "none"}, {}),
    "stride-2": ("unet-same", {"depth": 3, "base": 2, "down": "stride-2"}, {}),
    "shuffle": ("unet-same", {"depth": 2, "base": 4, "up": "pixel-shuffle"}, {}),
    "reduced": (
        "unet-same",
        {"depth": 2, "base": 4, "up": "bilinear", "reduction": 2},
        {"up": "bilinear", "reduction": 2},
    ),
    "strided": ("unet-strided", {"depth": 2, "base": 3}, {}),
    "unetpp": ("unetpp", {"level": 3, "base": 2}, {}),
    "pruned": ("unetpp", {"level": 2, "base": 2, "supervision": "last"}, {}),
    "u2net": ("u2net-small", {}, {}),
    "fcn": ("fcn16", {"base": 2, "hidden": 8}, {"hidden": 8}),
}


@pytest.mark.parametrize(
    "case",
    [case if case in ("unet", "shuffle", "pruned") else pytest.param(case, marks=pytest.mark.slow) for case in OURS],
)
def test_our_own_networks_are_found_again(case: str, tmp_path: Path) -> None:
    name, options, told = OURS[case]
    torch.manual_seed(0)
    network = shaken(build_network(name, {"in_channels": 2, "classes": 3, **options}))
    model = imported(tmp_path, network.state_dict(), network=name, options=told)
    assert {**options, "in_channels": 2, "classes": 3}.items() <= model.header.arguments.items()
    assert model.header.training["recognised_by"] == "names of tilesegment"
    # a size that the unpadded one takes, too
    assert difference(model.network, network, 2, 3 * 8 + 4 * 7 + 8 * 8 if name == "unet" else 64) < 1e-10


@pytest.mark.slow
def test_unknown_names_go_by_order_only_if_that_is_wanted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = shaken(Tutorial())
    state = {name: value.clone() for name, value in network.state_dict().items()}
    message = refused(tmp_path, saved(tmp_path, state))
    assert "down.0.0.weight" in message and "encoder.0.double_conv.0.weight" in message
    assert message.endswith("--by-order")
    model = imported(tmp_path, state, by_order=True)
    assert model.header.training["recognised_by"] == "order of the tensors"
    assert difference(model.network, network) < 1e-10
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert "safetensors" in refused(tmp_path, tmp_path / "w.safetensors", by_order=True)
    reversed_ = saved(tmp_path, dict(reversed(state.items())))
    assert "order" in refused(tmp_path, reversed_, by_order=True, options={"norm": "batch"})
    # the order in which ours are built is one too, even where it is not that in which they compute
    network = shaken(build_network("unetpp", {"in_channels": 3, "level": 2, "base": 2}))
    state = {f"layer{n}.{name.split('.')[-1]}": value for n, (name, value) in enumerate(network.state_dict().items())}
    assert difference(imported(tmp_path, state, network="unetpp", by_order=True).network, network) < 1e-10


@pytest.mark.slow
def test_what_does_not_fit_is_listed(tmp_path: Path, public: nn.Module) -> None:
    state = public.state_dict() | {"attention.weight": torch.zeros(3), "up1.up.weight": torch.zeros(12, 6, 3, 3)}
    del state["outc.conv.bias"]
    message = refused(tmp_path, saved(tmp_path, state))
    for words in ("1 missing (head.bias)", "1 left over (attention.weight)", "(12, 6, 3, 3) instead of (12, 6, 2, 2)"):
        assert words in message
    many = public.state_dict() | {f"extra.{n}.weight": torch.zeros(1) for n in range(8)}
    assert "8 left over (extra.0.weight, " in refused(tmp_path, saved(tmp_path, many))
    for options, fits in (({"depth": 3}, "--option depth=2"), ({"base": 4}, "--option base=3")):
        assert refused(tmp_path, saved(tmp_path, public.state_dict()), options=options).endswith(fits)
    assert "\x1b" not in refused(tmp_path, saved(tmp_path, {"a\x1b[31m\n.b": torch.zeros(3)}))
    network = build_network("unet-same", {"depth": 2, "base": 4, "up": "nearest"})
    assert "--option up=bilinear|nearest" in refused(tmp_path, saved(tmp_path, network.state_dict()))


class Canary:
    """Whose unpickling leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("writing", ["zip", "legacy", "pickle", "nested", "module"])
def test_a_pickle_is_never_run(
    writing: str, tmp_path: Path, public: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    if writing == "pickle":
        path.write_bytes(pickle.dumps(Canary(canary)))
    else:
        state = {**public.state_dict(), "epoch": Canary(canary)}
        content = {"nested": {"state_dict": public.state_dict(), "arguments": [Canary(canary)]}, "module": Tutorial()}
        torch.save(content.get(writing, state), path, _use_new_zipfile_serialization=writing != "legacy")
    message = refused(tmp_path, path)
    # of a pickle that torch did not write nothing is read at all
    names = {"pickle": "torch.save", "module": "foreign_networks.Tutorial"}
    assert names.get(writing, "posix.system") in message
    assert not canary.exists()
    if writing == "pickle":
        pickle.loads(path.read_bytes())
        assert canary.exists(), "it would have been"


def test_files_that_are_no_state_dict(tmp_path: Path, public: nn.Module) -> None:
    path = saved(tmp_path, public.state_dict())
    whole = path.read_bytes()
    pickles = (b"", b"\x80", b"PK\x03\x04", b"text of some length", bytes(100), whole[: len(whole) // 2])
    others = (b"\x02" + bytes(7) + b"{}", b"\xff" * 8 + b"{" + bytes(50), b"\x09" + bytes(7) + b'{"a":"b"}')
    for content in (*pickles, *others):
        path.write_bytes(content)
        assert "weights.pth" in refused(tmp_path, path)
    for thing, kind in (([1, 2], "list"), (torch.zeros(3), "Tensor"), ({"a": 1}, "dict"), ({}, "dict")):
        assert f"a {kind} without weights by name" in refused(tmp_path, saved(tmp_path, thing))
    assert "No such file" in refused(tmp_path, tmp_path / "nowhere.pth")
    assert "Is a directory" in refused(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (torch.zeros(3, 3, 3, 3, dtype=torch.int32), "inc.double_conv.0.weight"),
        (torch.zeros(3, 3, 3, 3).to_sparse(), "inc.double_conv.0.weight"),
        (torch.empty(3, 3, 3, 3, device="meta"), "inc.double_conv.0.weight"),
        (torch.zeros(1).expand(512, 64, 10**5, 10**5), "more numbers than it holds"),
        (torch.full((3, 3, 3, 3), torch.nan), "NaN"),
    ],
)
def test_tensors_that_are_no_weights(value: Tensor, named: str, tmp_path: Path, public: nn.Module) -> None:
    path = saved(tmp_path, {**public.state_dict(), "inc.double_conv.0.weight": value})
    assert named in refused(tmp_path, path)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"network": "unet2"}, "'unet2'"),
        ({"network": "unet"}, "unet-same"),
        ({"options": {"bass": 3}}, "'bass'"),
        ({"options": {"up": "sideways"}}, "'sideways'; allowed: transposed"),
        ({"dtype": "int8"}, "'int8'; allowed: uint8, uint16, float32"),
        ({"classes": ["a"]}, "2 different names"),
        ({"classes": ["a", "a"]}, "2 different names"),
        ({"mean": [1, 2]}, "2 values of mean for 3 channels"),
        ({"std": [0]}, "positive std"),
        ({"pixel_size": PixelSize(-1, 1)}, "-1 x 1"),
    ],
)
def test_what_cannot_be_given(given: dict[str, Any], named: str, tmp_path: Path, public: nn.Module) -> None:
    assert named in refused(tmp_path, saved(tmp_path, public.state_dict()), **given)


def test_an_existing_model_is_kept(tmp_path: Path, public: nn.Module) -> None:
    path, out = saved(tmp_path, public.state_dict()), tmp_path / "m.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(ModelError, match="--overwrite"):
        import_weights(path, out, network="unet-same")
    assert out.read_bytes() == b"mine"
    with pytest.raises(ModelError, match="would replace the weights"):
        import_weights(path, path, network="unet-same", overwrite=True)


@pytest.fixture
def weights(folder: Path, public: nn.Module) -> Path:
    """public.pth and tutorial.pth beside the images of the command line."""
    torch.save(public.state_dict() | {"mask_values": [0, 255]}, folder / "public.pth")
    torch.save(shaken(Tutorial()).state_dict(), folder / "tutorial.pth")
    return folder


def test_the_model_is_used_by_the_command_that_is_printed(weights: Path, run: Run) -> None:
    done = run("import public.pth --network unet-same")
    assert (done.code, done.out) == (0, "")
    assert "base=3" in done.err and "depth=2" in done.err and "value 255" in done.err
    command = done.err.splitlines()[-1].strip().removeprefix("tileseg ").replace("IMAGE", "rgb.png")
    assert run(f"{command} --tile 64").code == 0
    assert tilesegment.open_mask("mask.zarr").spec.shape == (40, 50)


@pytest.mark.slow
def test_every_option_reaches_the_library(weights: Path, run: Run) -> None:
    line = (
        "import tutorial.pth --network unet-same --by-order --out m.safetensors --option reduction=2 "
        "--option norm=batch --option up=transposed --option down=max-pool --option activation=leaky-relu "
        "--classes no,yes --mean 1,2,3 --std 50 --dtype uint16 --name tutorial-net --licence MIT "
    )
    done = run(line + "--pixel-size 0.5,0.25 --json")
    assert done.code == 0
    assert json.loads(done.out)["path"] == "m.safetensors"
    header = Model.load("m.safetensors").header
    assert [one.name for one in header.classes] == ["no", "yes"]
    assert (header.normalisation.mean, header.normalisation.std) == ((1, 2, 3), (50, 50, 50))
    assert (header.normalisation.dtype, header.pixel_size) == ("uint16", PixelSize(0.5, 0.25))
    assert (header.arguments["reduction"], header.arguments["activation"]) == (2, "leaky-relu")
    assert (header.name, header.licence) == ("tutorial-net", "MIT")
    assert run(line).code == 1
    again = run(line + "--pixel-size 0.5 --overwrite -q")
    assert (again.code, again.out, again.err) == (0, "", "")
    assert Model.load("m.safetensors").header.pixel_size == PixelSize(0.5, 0.5)
