"""What a model file says about itself, and every file that says it wrongly."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import toy_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from tilesegment.errors import ModelError
from tilesegment.metadata import PixelSize
from tilesegment.models import bundled_models
from tilesegment.models.header import KEY, NEWER, VERSION, ModelHeader, Normalisation, read_header

HEADER = replace(
    toy_model(channels=3, classes=3).header,
    pixel_size=PixelSize(0.004, 0.25),
    threshold=0.25,
    licence="CC0-1.0",
    training={"steps": 7, "losses": [0.5, 0.25], "data": "naïve ☃"},
)


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def write_safetensors(path: Path, header: object) -> Path:
    """A file of the outer form of safetensors, whatever the header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def check_refused(path: Path) -> str:
    """The message with which `path` is refused: one line that names the file."""
    with pytest.raises(ModelError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def test_a_header_survives_the_round_trip() -> None:
    assert ModelHeader.from_json(HEADER.to_json()) == HEADER
    assert ModelHeader.from_json(replace(HEADER, pixel_size=None).to_json()).pixel_size is None
    assert HEADER.channels == 3
    with_objects = replace(HEADER, diameter=27.5)
    assert ModelHeader.from_json(with_objects.to_json()) == with_objects
    assert "diameter" not in json.loads(HEADER.to_json()), "earlier releases read it"


def test_headers_without_percentiles_are_written_as_ever() -> None:
    """Older releases read them; those with percentiles they refuse, as they would overlook them."""
    (path,) = (path for name, path in bundled_models().items() if name == "em-membrane")
    with safe_open(path, "numpy") as opened:
        text = opened.metadata()[KEY]
    header = ModelHeader.from_json(text)
    assert header.to_json() == text
    assert json.loads(text)["version"] == VERSION
    newer = replace(header, normalisation=replace(header.normalisation, percentiles=(1.0, 99.8)))
    assert json.loads(newer.to_json())["version"] == NEWER
    assert ModelHeader.from_json(newer.to_json()) == newer
    lit = replace(header, ground="dark")
    assert (json.loads(lit.to_json())["version"], ModelHeader.from_json(lit.to_json())) == (NEWER, lit)


def test_a_normalisation_by_percentiles_has_an_equivalent_for_each_image() -> None:
    scale = Normalisation((0.25, 0.5), (0.125, 2.0), "", (1.0, 99.0))
    fixed = scale.for_limits(((100.0, 300.0), (-1.0, 1.0)), "uint16")
    assert fixed == Normalisation((150.0, 0.0), (25.0, 4.0), "uint16")
    for grey, n, low, span in ((175.0, 0, 100.0, 200.0), (0.5, 1, -1.0, 2.0)):
        assert (grey - fixed.mean[n]) / fixed.std[n] == ((grey - low) / span - scale.mean[n]) / scale.std[n]


def test_it_is_read_from_the_file(toy: Path) -> None:
    assert replace(read_header(toy), weights_sha256="") == toy_model().header


@pytest.mark.parametrize("length", [640, 1152, 1408, 19280])
def test_no_length_of_a_header_is_taken_for_a_pickle(length: int, tmp_path: Path) -> None:
    """The first two bytes of a model are its header's length: 80 02, 80 04, 80 05 and PK are lengths too."""
    bare = ModelHeader("u", {"in_channels": 1, "classes": 0}, (), Normalisation((0.0,), (1.0,), "uint8"))
    header = replace(bare, name="n" * (length - len(json.dumps({"__metadata__": {KEY: bare.to_json()}}))))
    path = write_safetensors(tmp_path / "m.safetensors", {"__metadata__": {KEY: header.to_json()}})
    assert struct.unpack("<Q", path.read_bytes()[:8]) == (length,)
    assert read_header(path) == header


@pytest.mark.parametrize("writer", [*range(pickle.HIGHEST_PROTOCOL + 1), "torch", "old torch"])
def test_pickles_are_refused_and_never_run(writer: int | str, tmp_path: Path) -> None:
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    content = {"weight": torch.zeros(3), "more": Canary(canary)}
    if isinstance(writer, int):
        path.write_bytes(pickle.dumps(content, writer))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    message = check_refused(path)
    assert ".safetensors" in message
    assert ("a pickled" in message) == (writer not in (0, 1)), "older pickles cannot be told"
    assert not canary.exists()


def test_a_file_of_another_length_is_refused(toy: Path) -> None:
    whole = toy.read_bytes()
    for tenth in range(10):
        toy.write_bytes(whole[: len(whole) * tenth // 10])
        check_refused(toy)
    for content in (whole[:-1], whole + b"\0"):
        toy.write_bytes(content)
        assert "damaged" in check_refused(toy)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=64), claimed=st.sampled_from([None, 0, 1, 2**31, 2**62, 2**64 - 1]))
def test_bytes_that_are_no_model_are_refused(
    data: bytes, claimed: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(data if claimed is None else struct.pack("<Q", claimed) + data)
    check_refused(path)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {},
        {"__metadata__": 5},
        {"__metadata__": {KEY: 5}},
        {"__metadata__": {KEY: "{"}},
        {"__metadata__": {KEY: "{}"}},
        {"a": {"data_offsets": [0, 1e300]}},
        b"{" * 100_000,
        b'{"__metadata__":' + b"[" * 100_000,
        b"\xff\xfe\x00\x00",
    ],
    ids=lambda header: repr(header)[:40],
)
def test_headers_that_are_not_ours_are_refused(header: object, tmp_path: Path) -> None:
    check_refused(write_safetensors(tmp_path / "m.safetensors", header))


def test_a_foreign_safetensors_file_is_named_as_such(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    assert "import" in check_refused(tmp_path / "foreign.safetensors")


def test_what_cannot_be_opened_is_named_with_the_reason(tmp_path: Path) -> None:
    assert "Is a directory" in check_refused(tmp_path)
    assert "No such file or directory" in check_refused(tmp_path / "missing.safetensors")
    os.mkfifo(tmp_path / "pipe")
    assert "pipe" in check_refused(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda h: h.update(version=NEWER + 1), f"format {NEWER + 1}"),
        (lambda h: h.pop("version"), "version"),
        (lambda h: h.pop("network"), "network"),
        (lambda h: h.update(more=1), "more"),
        (lambda h: h.update(network=["unet"]), "network"),
        (lambda h: h.update(name=None), "name"),
        (lambda h: h.update(training=[1]), "training"),
        (lambda h: h.update(arguments=[]), "header"),
        (lambda h: h.update(weights_sha256=1), "hash"),
        (lambda h: h["arguments"].update(in_channels=1), "network"),
        (lambda h: h["classes"].pop(), "classes"),
        (lambda h: h["normalisation"].update(std=[1, 1, 0]), "std"),
        (lambda h: h["normalisation"].update(mean=[0, 0, float("nan")]), "mean"),
        (lambda h: h["normalisation"].update(mean=[], std=[]), "header"),
        (lambda h: h["normalisation"].update(mean="abc"), "header"),
        (lambda h: h["normalisation"].update(std=[10**400, 1, 1]), "header"),
        (lambda h: h["normalisation"].update(percentiles=[99, 1]), "percentiles"),
        (lambda h: h["normalisation"].update(percentiles=[1, 50, 99]), "percentiles"),
        (lambda h: h["normalisation"].update(percentiles=[1, 100.5]), "percentiles"),
        (lambda h: h["normalisation"].update(percentiles=[float("nan"), 99]), "percentiles"),
        (lambda h: h["normalisation"].update(percentiles=5), "header"),
        (lambda h: h.update(ground="grass"), "ground is 'grass'"),
        (lambda h: h.update(threshold=1.0), "threshold is 1.0"),
        (lambda h: h.update(halo=-1), "halo is -1"),
        (lambda h: h["classes"][0].update(colour="#gggggg"), "#rrggbb"),
        (lambda h: h["classes"][0].update(colour=5), "header"),
        (lambda h: h["classes"][0].update(name=5), "class 5"),
        (lambda h: h["pixel_size"].update(y="1"), "header"),
        (lambda h: h["pixel_size"].update(y=0), "pixel size is 0"),
        (lambda h: h.update(pixel_size=[1, 2]), "header"),
        (lambda h: h.update(diameter=0), "diameter of its objects is 0"),
        (lambda h: h.update(diameter=float("inf")), "diameter of its objects is inf"),
        (lambda h: h.update(diameter="30"), "header"),
    ],
)
def test_values_that_are_not_allowed_are_named(
    edit: Callable[[dict[str, Any]], object], named: str, tmp_path: Path
) -> None:
    document = json.loads(HEADER.to_json())
    edit(document)
    metadata = {"__metadata__": {KEY: json.dumps(document)}}
    assert named in check_refused(write_safetensors(tmp_path / "m.safetensors", metadata))
