"""A model: saved in one file, loaded as it was, and never loaded otherwise."""

import json
import struct
import time
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import toy_model
from torch import Tensor

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.metadata import PixelSize
from tilesegment.models import bundled_models, find_model
from tilesegment.models.header import KEY, ModelHeader
from tilesegment.models.model import Model, weights_hash
from tilesegment.networks import UNet


def write_model(path: Path, header: ModelHeader, weights: Mapping[str, Tensor]) -> Path:
    """A model file with any weights, whose hash is right."""
    weights = dict(weights)
    header = replace(header, weights_sha256=weights_hash(weights))
    safetensors.torch.save_file(weights, path, metadata={KEY: header.to_json()})
    return path


def check_refused(path: Path) -> str:
    """The message with which loading `path` is refused: one line that names the file."""
    with pytest.raises(ModelError) as caught:
        Model.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def same_weights(a: Model, b: Model) -> bool:
    ours, theirs = a.network.state_dict(), b.network.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_model_survives_the_round_trip(tmp_path: Path) -> None:
    model = toy_model(channels=3, classes=4)
    header = replace(model.header, pixel_size=PixelSize(0.5, 0.25), training={"steps": 3}, threshold=0.3)
    saved = replace(model, header=header).save(tmp_path / "model.safetensors")
    loaded = Model.load(tmp_path / "model.safetensors")
    assert same_weights(loaded, model)
    assert saved.header == loaded.header
    assert replace(loaded.header, weights_sha256="") == header
    assert loaded.header.weights_sha256 == weights_hash(model.network.state_dict())
    assert loaded.field_of_view == FieldOfView(4, 20, 20, True)


def test_a_loaded_network_is_ready_to_predict_and_not_to_train(toy: Path) -> None:
    network = Model.load(str(toy)).network
    assert not network.training
    assert all(
        not p.requires_grad and p.device.type == "cpu" and p.dtype == torch.float32 for p in network.parameters()
    )
    x = torch.rand(1, 1, 44, 44)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), toy_model().network(x), rtol=0, atol=0)


def test_half_a_file_is_half_as_large_and_loads_as_it_was_returned(tmp_path: Path) -> None:
    model = toy_model(base=16)
    model.save(tmp_path / "full.safetensors")
    saved = model.save(tmp_path / "half.safetensors", half=True)
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.6 * full
    assert same_weights(saved, Model.load(tmp_path / "half.safetensors"))
    assert saved.header.weights_sha256 == Model.load(tmp_path / "half.safetensors").header.weights_sha256
    for name, value in saved.network.state_dict().items():
        assert torch.equal(value, model.network.state_dict()[name].half().float())


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    toy_model().save(tmp_path / "a.safetensors")
    Model.load(tmp_path / "a.safetensors").save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_saving_replaces_the_file_and_leaves_nothing_beside_it(toy: Path) -> None:
    other = toy_model(seed=5).save(toy)
    assert same_weights(other, toy_model(seed=5))
    assert [path.name for path in toy.parent.iterdir()] == [toy.name]


@pytest.mark.parametrize("kind", ["nan", "inf", "too large for half"])
def test_a_model_that_could_not_be_loaded_does_not_replace_one_that_can(kind: str, toy: Path) -> None:
    good, bad = toy.read_bytes(), toy_model()
    value = {"nan": torch.nan, "inf": torch.inf, "too large for half": 1e5}[kind]
    bad.network.get_parameter("head.weight")[0, 0] = value
    with pytest.raises(ModelError, match=r"head\.weight holds NaN or infinity"):
        bad.save(toy, half=kind == "too large for half")
    assert toy.read_bytes() == good
    assert [path.name for path in toy.parent.iterdir()] == [toy.name]


def test_a_header_that_could_not_be_loaded_is_not_saved(toy: Path) -> None:
    good, model = toy.read_bytes(), toy_model()
    with pytest.raises(ModelError, match="threshold is 2"):
        replace(model, header=replace(model.header, threshold=2)).save(toy)
    assert toy.read_bytes() == good


def test_a_place_that_cannot_be_written_is_said_so(toy: Path) -> None:
    folder = toy.parent / "folder"
    folder.mkdir()
    for path in (folder, toy.parent / "none" / "m.safetensors", toy / "m.safetensors", toy.parent / ("n" * 300)):
        with pytest.raises(ModelError, match=r"cannot be written \(.*\); choose another place for the model"):
            toy_model().save(path)
    assert sorted(path.name for path in toy.parent.iterdir()) == ["folder", toy.name]


def test_a_file_cut_anywhere_is_refused(toy: Path) -> None:
    whole = toy.read_bytes()
    for tenth in range(10):
        toy.write_bytes(whole[: len(whole) * tenth // 10])
        check_refused(toy)


def test_every_altered_byte_of_the_weights_is_noticed(toy: Path) -> None:
    whole = toy.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in range(start, len(whole), max((len(whole) - start) // 40, 1)):
        toy.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "SHA-256 differs" in check_refused(toy)


def test_headers_that_lie_about_the_weights_are_refused(toy: Path) -> None:
    """Tensors that overlap, have gaps, another dtype or another shape than their bytes."""
    whole = toy.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    for edit in (
        {"shape": [1, 2, 1, 2]},
        {"shape": [2, 3, 1, 2]},
        {"shape": [-2, -3, 1, 1]},
        {"shape": [2**62, 4]},
        {"dtype": "I32"},
        {"dtype": "F16"},
        {"dtype": "X"},
        {"data_offsets": [0, 24]},
        {"data_offsets": [8, 4]},
        {"data_offsets": [-8, 16]},
    ):
        header = json.loads(whole[8 : 8 + length])
        assert header["head.weight"]["shape"] == [2, 3, 1, 1]
        header["head.weight"].update(edit)
        text = json.dumps(header).encode()
        toy.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
        check_refused(toy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.bias"), "weights missing: ['head.bias'], left over: []"),
        (lambda w: w.update(more=torch.zeros(1)), "weights missing: [], left over: ['more']"),
        (lambda w: w.update({"head.bias": torch.zeros(3)}), "head.bias is (3,), the network wants (2,)"),
        (lambda w: w.update({"head.bias": torch.zeros(2, dtype=torch.int32)}), "head.bias is"),
        (lambda w: w["head.bias"].fill_(torch.nan), "head.bias holds NaN or infinity; the training had failed"),
        (lambda w: w["head.bias"].fill_(torch.inf), "head.bias holds NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    model = toy_model()
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    change(weights)
    assert message in check_refused(write_model(tmp_path / "m.safetensors", model.header, weights))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": 10**9}, "base is 1000000000; allowed: 1 to 512"),
        ({"base": 512, "depth": 7}, "the network wants"),
        ({"depth": 0}, "depth is 0; allowed: 1 to 7"),
        ({"depth": 10**6}, "allowed: 1 to 7"),
        ({"base": 3.0}, "base is 3.0"),
        ({"base": True}, "base is True"),
        ({"base": None}, "base is None"),
        ({"base": "3"}, "base is '3'"),
        ({"dropout": float("nan")}, "dropout is nan; allowed: 0 to 0.95"),
        ({"dropout": 1}, "dropout is 1"),
        ({"more": 1}, "network unet takes no 'more'; it takes: in_channels, classes"),
    ],
)
def test_absurd_networks_are_refused_at_once_and_without_memory(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Base 512 and depth 7 is a network of 200 GB, which a file of some KB must not make us hold."""
    model = toy_model()
    header = replace(model.header, arguments={**model.header.arguments, **arguments})
    path, start = write_model(tmp_path / "m.safetensors", header, model.network.state_dict()), time.process_time()
    if arguments.get("depth") == 7:
        weights = UNet(depth=1, base=1).state_dict()
        names = {key: torch.zeros(1) for key in _names(7) | weights.keys()}
        write_model(path, header, names)
    tracemalloc.start()
    found = check_refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message in found
    assert peak < 10**7
    assert time.process_time() - start < 5


def _names(depth: int) -> set[str]:
    with torch.device("meta"):
        return set(UNet(depth=depth, base=1).state_dict())


def test_an_unknown_network_is_refused_with_those_there_are(tmp_path: Path) -> None:
    model = toy_model()
    header = replace(model.header, network="vnet")
    path = write_model(tmp_path / "m.safetensors", header, model.network.state_dict())
    assert "no network is called 'vnet'; there are: unet" in check_refused(path)


def test_a_model_is_a_file_or_a_bundled_name(tmp_path: Path) -> None:
    for what in (tmp_path, tmp_path / "missing.safetensors", tmp_path / ("n" * 300)):
        assert "neither a file nor a bundled model" in check_refused(what)
    with pytest.raises(ModelError, match=r"^no model em-membran: neither a file nor a bundled model"):
        Model.load("em-membran")


def test_bundled_models_load_by_name_and_have_a_card() -> None:
    for name, path in bundled_models().items():
        assert find_model(name) == path
        assert path.with_suffix(".md").read_text(), f"{name} has no card"
        assert Model.load(name).header.licence


def test_the_hash_is_over_names_dtypes_shapes_and_bytes() -> None:
    base = {"a": torch.arange(4.0), "b": torch.zeros(2)}
    assert weights_hash(base) == weights_hash({"b": torch.zeros(2), "a": torch.arange(4.0)})
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"], "b": base["b"].int()},
        {"a": base["a"].reshape(2, 2), "b": base["b"]},
        {"a": base["a"].flip(0), "b": base["b"]},
        {"a": base["b"], "b": base["a"]},
    ]
    assert len({weights_hash(one) for one in [base, *others]}) == 6
    strided = torch.arange(8.0).reshape(4, 2).t()
    assert weights_hash({"a": strided}) == weights_hash({"a": strided.contiguous()})
