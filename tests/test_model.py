"""A model: saved in one file, loaded as it was, and refused in any other state."""

import struct
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import toy_model, toy_network
from torch import Tensor

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.metadata import PixelSize
from tilesegment.models import bundled_models, find_model
from tilesegment.models.header import KEY, ModelHeader
from tilesegment.models.model import Model, weights_hash
from tilesegment.networks import UNet


def write_model(path: Path, header: ModelHeader, weights: dict[str, Tensor]) -> Path:
    """A model file with any weights, whose hash is right."""
    header = replace(header, weights_sha256=weights_hash(weights))
    safetensors.torch.save_file(weights, path, metadata={KEY: header.to_json()})
    return path


def check_refused(path: Path) -> str:
    """The message with which loading `path` is refused: one line that names the file."""
    with pytest.raises(ModelError) as caught:
        Model.load(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def same_weights(a: Model, b: Model) -> bool:
    ours, theirs = a.network.state_dict(), b.network.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_model_survives_the_round_trip(tmp_path: Path) -> None:
    model = toy_model(channels=3, classes=4)
    header = replace(model.header, pixel_size=PixelSize(0.5, 0.25), training={"steps": 3}, threshold=0.3)
    saved = replace(model, header=header).save(tmp_path / "model.safetensors")
    loaded = Model.load(tmp_path / "model.safetensors")
    assert same_weights(loaded, model) and saved.header == loaded.header
    assert loaded.header == replace(header, weights_sha256=weights_hash(model.network.state_dict()))
    assert loaded.field_of_view == FieldOfView(4, 20, 20, True)
    assert not loaded.network.training
    for parameter in loaded.network.parameters():
        assert (parameter.requires_grad, parameter.device.type, parameter.dtype) == (False, "cpu", torch.float32)
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_half_a_file_is_half_as_large_and_loads_as_it_was_returned(tmp_path: Path) -> None:
    model = toy_model(base=16)
    model.save(tmp_path / "full.safetensors")
    saved = model.save(tmp_path / "half.safetensors", half=True)
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.6 * full
    loaded = Model.load(tmp_path / "half.safetensors")
    assert same_weights(saved, loaded) and saved.header == loaded.header
    for name, value in saved.network.state_dict().items():
        assert torch.equal(value, model.network.state_dict()[name].half().float())


@pytest.mark.parametrize("kind", ["nan", "too large for half", "threshold"])
def test_a_model_that_could_not_be_loaded_does_not_replace_one_that_can(kind: str, toy: Path) -> None:
    good, bad = toy.read_bytes(), toy_model()
    if kind == "threshold":
        bad = replace(bad, header=replace(bad.header, threshold=2))
    else:
        bad.network.get_parameter("head.weight")[0, 0] = torch.nan if kind == "nan" else 1e5
    with pytest.raises(ModelError, match=r"threshold" if kind == "threshold" else r"head\.weight"):
        bad.save(toy, half=kind == "too large for half")
    assert toy.read_bytes() == good
    assert [path.name for path in toy.parent.iterdir()] == [toy.name]


def test_a_place_that_cannot_be_written_is_named(toy: Path) -> None:
    folder = toy.parent / "folder"
    folder.mkdir()
    for path in (folder, toy.parent / "none" / "m.safetensors", toy / "m.safetensors", toy.parent / ("n" * 300)):
        with pytest.raises(ModelError, match="cannot be written") as caught:
            toy_model().save(path)
        assert str(path) in str(caught.value)
    assert sorted(path.name for path in toy.parent.iterdir()) == ["folder", toy.name]


def test_altered_weights_are_noticed(toy: Path) -> None:
    whole = toy.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in range(start, len(whole), (len(whole) - start) // 10):
        toy.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "SHA-256" in check_refused(toy)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop("head.bias"), "missing: ['head.bias']"),
        (lambda w: w.update(more=torch.zeros(1)), "left over: ['more']"),
        (lambda w: w.update({"head.bias": torch.zeros(3)}), "head.bias is (3,)"),
        (lambda w: w.update({"head.bias": torch.zeros(2, dtype=torch.int32)}), "head.bias is"),
        (lambda w: w["head.bias"].fill_(torch.inf), "head.bias holds"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Any, named: str, tmp_path: Path) -> None:
    model = toy_model()
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    change(weights)
    assert named in check_refused(write_model(tmp_path / "m.safetensors", model.header, weights))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"base": 10**9}, "base is 1000000000; allowed: 1 to 512"),
        ({"base": 512, "depth": 7}, "the network wants"),
        ({"base": True}, "base is True"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"more": 1}, "'more'"),
    ],
)
def test_absurd_networks_are_refused_at_once_and_without_memory(
    arguments: dict[str, Any], named: str, tmp_path: Path
) -> None:
    """Base 512 and depth 7 is a network of 200 GB, which a file of some KB must not make us hold."""
    model, path, start = toy_model(), tmp_path / "m.safetensors", time.process_time()
    header = replace(model.header, arguments={**model.header.arguments, **arguments})
    weights = model.network.state_dict()
    if arguments.get("depth") == 7:
        with torch.device("meta"):
            names = UNet(depth=7, base=1).state_dict().keys()
        weights = {name: torch.zeros(1) for name in names}
    write_model(path, header, weights)
    tracemalloc.start()
    found = check_refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert named in found
    assert peak < 10**7
    assert time.process_time() - start < 5


def test_a_model_is_a_file_a_bundled_name_or_a_folder_with_one(tmp_path: Path) -> None:
    for what in (tmp_path, tmp_path / "missing.safetensors", tmp_path / ("n" * 300)):
        assert "em-membrane" in check_refused(what)
    (tmp_path / "checkpoint.safetensors").touch()
    toy_model().save(tmp_path / "one.safetensors")
    assert find_model(tmp_path) == tmp_path / "one.safetensors"
    toy_model().save(tmp_path / "two.safetensors")
    assert "one.safetensors, two.safetensors" in check_refused(tmp_path)
    toy_model().save(tmp_path / "model.safetensors")
    assert Model.load(tmp_path).header.name == "toy-2"


def test_bundled_models_load_by_name_and_have_a_card() -> None:
    for name, path in bundled_models().items():
        assert find_model(name) == path
        assert path.with_suffix(".md").read_text(), f"{name} has no card"
        assert Model.load(name).header.licence


def test_a_pruned_model_needs_less(tmp_path: Path) -> None:
    whole = toy_network("unetpp", level=3, base=2, reduction=2)
    part = whole.pruned(1)
    assert part.field_of_view.before < whole.field_of_view.before
    assert part.save(tmp_path / "m.safetensors").header.arguments["level"] == 1
    with pytest.raises(ModelError, match="unetpp"):
        toy_model().pruned(1)


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
