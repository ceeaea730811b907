"""What a model file says about itself, and every file that says it wrongly."""

import json
import os
import pickle
import struct
import tracemalloc
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

from tilesegment.errors import ModelError
from tilesegment.metadata import PixelSize
from tilesegment.models.header import KEY, VERSION, ModelHeader, Normalisation, read_header

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


def write_safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    """A file of the outer form of safetensors, whatever the header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def check_refused(path: Path) -> str:
    """The message with which `path` is refused: one line that names the file."""
    with pytest.raises(ModelError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def edited(edit: Callable[[dict[str, Any]], object]) -> str:
    """The JSON of a good header after `edit`."""
    given = json.loads(HEADER.to_json())
    edit(given)
    return json.dumps(given)


def test_a_header_survives_the_round_trip() -> None:
    assert ModelHeader.from_json(HEADER.to_json()) == HEADER
    assert ModelHeader.from_json(replace(HEADER, pixel_size=None).to_json()).pixel_size is None
    assert HEADER.channels == 3


def test_it_is_read_from_the_file_without_the_weights(toy: Path) -> None:
    header = read_header(toy)
    assert replace(header, weights_sha256="") == toy_model().header
    assert len(header.weights_sha256) == 64


@pytest.mark.parametrize("length", [640, 1152, 1408, 19280, 65536 + 640])
def test_no_length_of_a_header_is_taken_for_a_pickle(length: int, tmp_path: Path) -> None:
    """The first two bytes of a model are its header's length: 80 02, 80 04, 80 05 and PK are lengths too."""
    bare = ModelHeader("u", {"in_channels": 1, "classes": 0}, (), Normalisation((0.0,), (1.0,), "uint8"))
    header = replace(bare, name="n" * (length - len(json.dumps({"__metadata__": {KEY: bare.to_json()}}))))
    path = write_safetensors(tmp_path / "m.safetensors", {"__metadata__": {KEY: header.to_json()}})
    assert struct.unpack("<Q", path.read_bytes()[:8]) == (length,)
    assert read_header(path) == header


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_refused_and_never_run(protocol: int, tmp_path: Path) -> None:
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    path.write_bytes(pickle.dumps({"state": Canary(canary)}, protocol))
    message = check_refused(path)
    assert "safetensors" in message
    assert ("pickled checkpoint" in message) == (protocol >= 2)
    assert not canary.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_checkpoints_are_refused_and_never_run(zipped: bool, tmp_path: Path) -> None:
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    weights = {"weight": torch.zeros(3), "more": Canary(canary)}
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    assert "pickled checkpoint, which could run code" in check_refused(path)
    assert not canary.exists()


def test_a_file_cut_anywhere_is_refused(toy: Path) -> None:
    whole = toy.read_bytes()
    for tenth in range(10):
        toy.write_bytes(whole[: len(whole) * tenth // 10])
        check_refused(toy)
    toy.write_bytes(whole[:-1])
    assert (
        f"truncated or damaged: {len(whole) - 1} bytes, its header promises {len(whole)}; copy it again"
        in check_refused(toy)
    )
    toy.write_bytes(whole + b"\0")
    assert "truncated or damaged" in check_refused(toy)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=64), claimed=st.sampled_from([None, 0, 1, 2**31, 2**62, 2**64 - 1]))
def test_bytes_that_are_no_model_are_refused(
    data: bytes, claimed: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any bytes, and any length that they claim."""
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(data if claimed is None else struct.pack("<Q", claimed) + data)
    check_refused(path)


@pytest.mark.parametrize(
    "header",
    [
        [],
        5,
        "text",
        None,
        {},
        {"__metadata__": None},
        {"__metadata__": "text"},
        {"__metadata__": []},
        {"__metadata__": {KEY: 5}},
        {"__metadata__": {KEY: None}},
        {"__metadata__": {KEY: "[]"}},
        {"__metadata__": {KEY: "null"}},
        {"__metadata__": {KEY: "{"}},
        {"__metadata__": {KEY: "{}"}},
        {"a": 5},
        {"a": {}},
        {"a": {"data_offsets": []}},
        {"a": {"data_offsets": 7}},
        {"a": {"data_offsets": [0, "7"]}},
        {"a": {"data_offsets": [0, None]}},
        {"a": {"data_offsets": [0, 1e300]}},
        {"a": {"data_offsets": [0, [1]]}},
        {"a": {"data_offsets": [0, 1]}, "b": {"data_offsets": [0, "1"]}},
        b"{" * 100_000,
        b'{"__metadata__":' + b"[" * 100_000,
        b'{"a": {"data_offsets": [0, ' + b"9" * 5000 + b"]}}",
        b"\xff\xfe\x00\x00",
    ],
    ids=lambda header: repr(header)[:40],
)
def test_headers_that_are_not_ours_are_refused(header: object, tmp_path: Path) -> None:
    check_refused(write_safetensors(tmp_path / "m.safetensors", header))


def test_a_foreign_safetensors_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}):
        safetensors.torch.save_file({"w": torch.zeros(2)}, path, metadata=metadata)
        assert "a safetensors file without a tilesegment header; train or import a model" in check_refused(path)


def test_a_long_header_is_refused_unread(tmp_path: Path) -> None:
    """A sparse file of 200 MB that claims all of it as its header."""
    path = tmp_path / "long.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 200 * 10**6))
        file.truncate(8 + 200 * 10**6)
    tracemalloc.start()
    message = check_refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "not a model: expected a .safetensors file" in message
    assert peak < 10**6


def test_what_cannot_be_opened_is_said_so(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory); name a model file" in check_refused(tmp_path)
    assert "cannot be read (No such file or directory)" in check_refused(tmp_path / "missing.safetensors")
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    assert "not a model" in check_refused(empty)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda h: h.update(version=VERSION + 1), f"model format {VERSION + 1}; this release reads {VERSION}: update"),
        (lambda h: h.pop("version"), "not one of ours"),
        (lambda h: h.pop("network"), "not one of ours"),
        (lambda h: h.update(more=1), "not one of ours"),
        (lambda h: h.update(network=["unet"]), "are to be text"),
        (lambda h: h.update(name=None), "are to be text"),
        (lambda h: h.update(licence=5), "are to be text"),
        (lambda h: h.update(training=[1]), "are to be text"),
        (lambda h: h.update(arguments=[]), "not one of ours"),
        (lambda h: h.update(weights_sha256=1), "are to be text"),
        (lambda h: h["arguments"].update(in_channels=1), "do not fit each other"),
        (lambda h: h["arguments"].update(classes=2), "do not fit each other"),
        (lambda h: h["classes"].pop(), "do not fit each other"),
        (lambda h: h["normalisation"].update(std=[1, 1, 0]), "positive std"),
        (lambda h: h["normalisation"].update(std=[1, 1]), "positive std"),
        (lambda h: h["normalisation"].update(mean=[0, 0, float("nan")]), "finite mean"),
        (lambda h: h["normalisation"].update(mean=[], std=[]), "not one of ours"),
        (lambda h: h["normalisation"].update(mean="abc"), "not one of ours"),
        (lambda h: h.update(threshold=1.0), "its threshold is 1.0; allowed: between 0 and 1"),
        (lambda h: h.update(threshold="0.5"), "not one of ours"),
        (lambda h: h["classes"][0].update(colour="red"), "no colour of the form #rrggbb"),
        (lambda h: h["classes"][0].update(colour="#gggggg"), "no colour of the form #rrggbb"),
        (lambda h: h["classes"][0].update(colour="# 1 2 3"), "no colour of the form #rrggbb"),
        (lambda h: h["classes"][0].update(colour=5), "not one of ours"),
        (lambda h: h["classes"][0].update(name=5), "no colour of the form #rrggbb"),
        (lambda h: h["classes"][0].update(more=5), "not one of ours"),
        (lambda h: h["pixel_size"].update(y="1"), "not one of ours"),
        (lambda h: h["pixel_size"].update(y=0), "its pixel size is"),
        (lambda h: h["pixel_size"].update(x=float("inf")), "its pixel size is"),
        (lambda h: h.update(pixel_size=[1, 2]), "not one of ours"),
    ],
)
def test_values_that_cannot_be_are_refused(
    edit: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    metadata = {"__metadata__": {KEY: edited(edit)}}
    assert message in check_refused(write_safetensors(tmp_path / "m.safetensors", metadata))


@pytest.mark.parametrize("part", ["mean", "std"])
def test_whole_numbers_beyond_any_float_are_refused(part: str) -> None:
    document = json.loads(HEADER.to_json())
    document["normalisation"][part][0] = 10**400
    with pytest.raises(ModelError, match="not one of ours"):
        ModelHeader.from_json(json.dumps(document))
