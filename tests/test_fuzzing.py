"""Descriptions and files of every kind, nearly right or not at all: each is read, or refused in one line of ours."""

import copy
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import tifffile
import torch
import zarr
from annotation_files import SIDE, annotation, coco, geojson, labelme, shape
from conftest import toy_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_files import make_pixels, multiscales
from onnx_files import describe as described_package
from onnx_files import package, pooled
from PIL import Image

from tilesegment.errors import TilesegmentError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.labels.annotations import forget, open_annotation
from tilesegment.masks.spec import MaskSpec, spec_from_record
from tilesegment.metadata import LabelClass, PixelSize, in_micrometres
from tilesegment.models.header import ModelHeader
from tilesegment.models.model import Model
from tilesegment.models.onnx_file import parse_onnx
from tilesegment.models.package import describe, read_package
from tilesegment.models.state_dict import read_state_dict
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


@settings(max_examples=100)
@given(damaged(HEADER) | VALUES)
def test_headers_of_models(document: Any) -> None:
    def load() -> None:
        header = ModelHeader.from_json(json.dumps(document))
        build_network(header.network, header.arguments)

    check_answers(load)


SPEC = MaskSpec((40, 50), 3, 32, 16, (LabelClass("a", "#000000", 0), LabelClass("b", "#ffffff", 1)), PixelSize(1, 1))
RECORD = {"layout": SPEC.layout(), "fingerprint": {"model": "1"}, "provenance": {}}


@settings(max_examples=100)
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


@settings(max_examples=60)
@given(damaged(ARRAY_3) | damaged(ARRAY_2), damaged({"_ARRAY_DIMENSIONS": ["y", "x"]}) | st.just({}))
def test_metadata_of_zarr_arrays(meta: Any, attributes: Any) -> None:
    check_answers(lambda: check_array("a.zarr", Node(2 + (meta.get("zarr_format") == 3), attributes, meta)))


@settings(max_examples=100)
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


@settings(max_examples=100)
@given(damaged(described_package()))
def test_descriptions_of_packages(rdf: Any) -> None:
    check_answers(lambda: describe(rdf, "model") if isinstance(rdf, dict) else None)


CONFIGURATION = Configuration(TrainingSettings(options={"up": "nearest"}), {"classes": ["a", "b"]}).to_json()


@settings(max_examples=100)
@given(damaged(CONFIGURATION) | VALUES)
def test_configurations_of_runs(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_text(json.dumps(document))
    check_answers(lambda: Configuration.read(path).settings.check())


PARAMETERS: list[tuple[types.Parsed, str]] = [
    (types.REGION, "0:9,1:12"),
    (types.RANGE, "0:9"),
    (types.PART, "2/3"),
    (types.BATCH, "12"),
    (types.PRUNE, "L2"),
    (types.DURATION, "1.5m"),
    (types.INTEGERS, "1,2"),
    (types.NUMBERS, "1.5,2"),
    (types.NAMES, "a,b"),
    (types.WEIGHTS, "auto"),
    (types.OPTION, "up=3"),
    (types.HELD_OUT, "0.2"),
    (types.SELECT, "t=3,c=0"),
]
DIGITS = "9" * 5000


@pytest.mark.parametrize(("kind", "good"), PARAMETERS, ids=[f"{kind.name} {good}" for kind, good in PARAMETERS])
def test_parameters_of_commands(kind: types.Parsed, good: str) -> None:
    nearly = st.lists(st.sampled_from([*good, "-", ".", "e", ",", ":", "=", "/", " ", "٣", "\n", DIGITS]), max_size=8)

    @settings(max_examples=60)
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


PIXELS = make_pixels(24, 40)
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="40" SizeY="24" SizeZ="1" SizeC="1" SizeT="1"'
    ' PhysicalSizeX="0.5" PhysicalSizeXUnit="nm" PhysicalSizeY="0.5"><Channel SamplesPerPixel="1"/>'
    '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
)


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with up to four places overwritten, and maybe a piece cut out or put in, or its end cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        start, junk = draw(st.integers(0, len(content) - 1)), draw(st.binary(min_size=1, max_size=4))
        content[start : start + len(junk)] = junk
    start = draw(st.integers(0, len(content)))
    match draw(st.integers(0, 3)):
        case 0:
            content[start : start + draw(st.integers(1, 8))] = draw(st.binary(max_size=8))
        case 1:
            del content[start:]
    return bytes(content)


def tiff(**options: Any) -> bytes:
    content = io.BytesIO()
    tifffile.imwrite(content, PIXELS, **{"metadata": None, "software": False} | options)
    return content.getvalue()


def flat(kind: str, mode: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(content, kind)
    return content.getvalue()


IMAGES = {
    "raw": tiff(),
    "strips": tiff(compression="zlib", rowsperstrip=8),
    "tiles": tiff(tile=(16, 16), compression="lzw", predictor=True),
    "big": tiff(tile=(16, 16), bigtiff=True, byteorder=">", compression="packbits"),
    "ome": tiff(description=OME, tile=(16, 16)),
    "imagej": tiff(imagej=True, metadata={"unit": "um"}, resolution=(2, 2)),
    "aperio": tiff(description="Aperio Image Library v1\n24x40|MPP = 0.25|AppMag = 40", tile=(16, 16)),
    "png": flat("PNG", "L"),
    "palette": flat("PNG", "P"),
    "jpeg": flat("JPEG", "RGB"),
}


@pytest.mark.parametrize("whole", IMAGES.values(), ids=IMAGES)
def test_images(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "image"

    def read() -> None:
        with open_image(path) as source:
            height, width = source.shape
            for level in range(len(source.levels)):
                source.read(Region(0, 0, *(min(n, 40) for n in source.levels[level].shape)), level)
            source.read(Region(max(0, height - 40), max(0, width - 40), height, width))

    @settings(max_examples=30)
    @given(damaged_bytes(whole))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        check_answers(read)

    path.write_bytes(whole)
    with open_image(path) as source:
        assert source.shape == (24, 40)
    check()


def saved(network: torch.nn.Module, **options: Any) -> bytes:
    content = io.BytesIO()
    torch.save(network.state_dict(), content, **options)
    return content.getvalue()


def models(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], object]]]:
    """A file of each kind that holds a model or weights, and what reads it."""
    toy = toy_model(depth=1, base=1)
    toy.save(folder / "toy")
    graph = pooled().model()
    zipped = package(folder / "m.zip", described_package(), graph).read_bytes()
    return {
        "model.safetensors": ((folder / "toy").read_bytes(), Model.load),
        "weights.safetensors": ((folder / "toy").read_bytes(), read_state_dict),
        "weights.pth": (saved(toy.network), read_state_dict),
        "legacy.pth": (saved(toy.network, _use_new_zipfile_serialization=False), read_state_dict),
        "graph.onnx": (graph.SerializeToString(), lambda path: parse_onnx(path.read_bytes(), str(path))),
        "package.zip": (zipped, read_package),
    }


@pytest.mark.parametrize(
    "name", ["model.safetensors", "weights.safetensors", "weights.pth", "legacy.pth", "graph.onnx", "package.zip"]
)
def test_models(tmp_path: Path, name: str) -> None:
    whole, load = models(tmp_path)[name]
    path = tmp_path / name

    @settings(max_examples=30)
    @given(damaged_bytes(whole))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        check_answers(lambda: load(path))

    path.write_bytes(whole)
    assert load(path)
    check()


@settings(max_examples=30)
@given(damaged_bytes(OME.encode()))
def test_ome_xml(tmp_path_factory: pytest.TempPathFactory, xml: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "ome.tif"
    tifffile.imwrite(path, PIXELS, metadata=None, extratags=[(270, 2, len(xml) + 1, xml + b"\0", True)])

    def read() -> None:
        with open_image(path) as source:
            np.testing.assert_array_equal(source.read(Region.of_shape(source.shape))[0], PIXELS)

    check_answers(read)


@pytest.mark.parametrize("kind", ["labelme", "coco", "geojson"])
@settings(max_examples=100)
@given(st.data())
def test_outlines(kind: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    mask = {"size": [SIDE, SIDE], "counts": [5, 9, SIDE * SIDE - 14]}
    documents = {
        "labelme": labelme(shape([[2, 2], [9, 9]], "a", "circle"), shape([[2, 2], [9, 9], [2, 9]], "b", None, 3)),
        "coco": coco(["a.png"], annotation(1, mask), annotation(1, [[2, 2, 9, 9, 2, 9]]), annotation(1, mask)),
        "geojson": geojson(),
    }
    path = tmp_path_factory.getbasetemp() / f"outlines_{kind}.json"
    path.write_text(json.dumps(data.draw(damaged(documents[kind]))))

    def read() -> None:
        forget()
        with open_annotation(path, None, (SIDE, SIDE), 1, "image a") as label:
            label.read(Region.of_shape(label.shape), 0)

    check_answers(read)
