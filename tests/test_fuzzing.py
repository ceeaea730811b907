"""Descriptions of every kind, nearly right or not at all: each is read, or refused in one line of ours."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import zarr
from conftest import toy_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_files import multiscales
from onnx_files import describe as described_package

from tilesegment.errors import TilesegmentError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.masks.spec import MaskSpec, spec_from_record
from tilesegment.metadata import LabelClass, PixelSize, in_micrometres
from tilesegment.models.header import ModelHeader
from tilesegment.models.package import describe
from tilesegment.networks import build_network
from tilesegment.ome_zarr.multiscale import read_multiscale
from tilesegment.ome_zarr.node import Node, check_array
from tilesegment.training.folder import Configuration
from tilesegment.training.settings import TrainingSettings
from tilesegment_cli import types

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [-1, 0, 1, 2, 2**33, 10**15, 2**64, 10**400, "y", "uint8", "../x", "two\nlines", "\x1b[2J", "\ud800"]
    ),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every list or object within `document`, with each of its indices or keys."""
    found, pending = [], [document]
    while pending:
        holder = pending.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder) if isinstance(holder, list) else 0):
            found.append((holder, key))
            pending.append(holder[key])
    return found


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """`document` with one to three of its values replaced or left out."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        where = places(document)
        if where:
            holder, key = draw(st.sampled_from(where))
            if draw(st.booleans()) or draw(st.booleans()):
                holder[key] = draw(VALUES)
            else:
                del holder[key]
    return document


def check_answers(ask: Callable[[], object]) -> None:
    """Whether `ask` returns, or raises an error of ours: one line without control characters."""
    message = ""
    try:
        ask()
    except TilesegmentError as error:
        message = str(error)
    assert message.isprintable()


HEADER = json.loads(replace(toy_model().header, pixel_size=PixelSize(1, 1), training={"steps": 1}).to_json())


@settings(max_examples=300)
@given(damaged(HEADER) | VALUES)
def test_headers_of_models(document: Any) -> None:
    def load() -> None:
        header = ModelHeader.from_json(json.dumps(document))
        build_network(header.network, header.arguments)

    check_answers(load)


SPEC = MaskSpec((40, 50), 3, 32, 16, (LabelClass("a", "#000000", 0), LabelClass("b", "#ffffff", 1)), PixelSize(1, 1))
RECORD = {"layout": SPEC.layout(), "fingerprint": {"model": "1"}, "provenance": {}}


@settings(max_examples=300)
@given(damaged(RECORD) | st.dictionaries(st.text(max_size=8), VALUES))
def test_records_of_masks(record: Any) -> None:
    check_answers(lambda: spec_from_record(record))


CHUNKS = {"name": "regular", "configuration": {"chunk_shape": [16, 16]}}
CODECS = [
    {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [8, 8], "codecs": [{"name": "bytes"}], "index_codecs": [{"name": "bytes"}]},
    }
]
ARRAY_3 = {"zarr_format": 3, "node_type": "array", "shape": [40, 50], "data_type": "uint8", "chunk_grid": CHUNKS}
ARRAY_3 |= {"codecs": CODECS, "dimension_names": ["y", "x"], "attributes": {}, "storage_transformers": []}
ARRAY_2 = {"zarr_format": 2, "shape": [40, 50], "chunks": [16, 16], "dtype": "<u2", "filters": [{"id": "delta"}]}
ARRAY_2 |= {"compressor": {"id": "zlib", "level": 1}, "fill_value": 0, "order": "C"}


@settings(max_examples=400)
@given(damaged(ARRAY_3) | damaged(ARRAY_2), damaged({"_ARRAY_DIMENSIONS": ["y", "x"]}) | st.just({}))
def test_metadata_of_zarr_arrays(meta: Any, attributes: Any) -> None:
    check_answers(lambda: check_array("a.zarr", Node(2 + (meta.get("zarr_format") == 3), attributes, meta)))


@settings(max_examples=300)
@given(damaged({"ome": {"version": "0.5", "multiscales": [multiscales("tczyx", 2, 1.0)]}}))
def test_metadata_of_ome_zarr(attributes: Any) -> None:
    def read() -> None:
        image = read_multiscale("a.zarr", Node(3, attributes))
        if image is not None:
            image.reductions([(64, 96), (32, 48)][: len(image.paths)])
            in_micrometres(image.frame())

    check_answers(read)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OME-Zarr image of one level."""
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    group = zarr.open_group(path, mode="w", attributes={"ome": {"multiscales": [multiscales("yx", 1, 1.0)]}})
    group.create_array("0", shape=(40, 50), chunks=(16, 16), dtype="uint8", fill_value=7)[:20] = 1
    return path


@settings(max_examples=100)
@given(st.data())
def test_stores_are_read_or_refused(store: Path, data: st.DataObject) -> None:
    """Whatever is opened gives pixels, too."""

    def read() -> None:
        with open_image(store) as source:
            height, width = source.shape
            source.read(Region(0, 0, min(height, 40), min(width, 40)))

    file = store / data.draw(st.sampled_from(["zarr.json", "0/zarr.json"]))
    whole = file.read_bytes()
    try:
        file.write_text(json.dumps(data.draw(damaged(json.loads(whole)))))
        check_answers(read)
    finally:
        file.write_bytes(whole)


@settings(max_examples=300)
@given(damaged(described_package()))
def test_descriptions_of_packages(rdf: Any) -> None:
    check_answers(lambda: describe(rdf, "model") if isinstance(rdf, dict) else None)


CONFIGURATION = Configuration(TrainingSettings(options={"up": "nearest"}), {"classes": ["a", "b"]}).to_json()


@settings(max_examples=300)
@given(damaged(CONFIGURATION) | VALUES)
def test_configurations_of_runs(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_text(json.dumps(document))
    check_answers(lambda: Configuration.read(path).settings.check())


PARAMETERS: list[tuple[click.ParamType, str]] = [
    (types.RegionType(), "0:9,1:12"),
    (types.RangeType(), "0:9"),
    (types.PartType(), "2/3"),
    (types.BatchType(), "12"),
    (types.PruneType(), "L2"),
    (types.DurationType(), "1.5m"),
    (types.ListType(int), "1,2"),
    (types.ListType(float), "1.5,2"),
    (types.ListType(str), "a,b"),
    (types.WeightsType(), "auto"),
    (types.OptionType(), "up=3"),
    (types.HeldOutType(), "0.2"),
    (types.SelectType(), "t=3,c=0"),
]
DIGITS = "9" * 5000


@pytest.mark.parametrize(("kind", "good"), PARAMETERS, ids=[type(kind).__name__ for kind, _ in PARAMETERS])
def test_parameters_of_commands(kind: click.ParamType, good: str) -> None:
    nearly = st.lists(st.sampled_from([*good, "-", ".", "e", ",", ":", "=", "/", " ", "٣", "\n", DIGITS]), max_size=8)

    @settings(max_examples=150)
    @given(nearly.map("".join) | st.text(max_size=8))
    @example(good.replace("2", DIGITS))
    def check(text: str) -> None:
        message = ""
        try:
            kind.convert(text, None, None)
        except click.UsageError as error:
            message = error.format_message()
        assert message.isprintable()

    check()
