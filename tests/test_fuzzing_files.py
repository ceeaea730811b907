"""Files of every kind with bytes changed, cut off or put in: each is read, or refused in one line of ours."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import toy_model
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import make_pixels
from onnx_files import describe, package, pooled
from PIL import Image
from test_fuzzing import check_answers

from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.models.model import Model
from tilesegment.models.onnx_file import parse_onnx
from tilesegment.models.package import read_package
from tilesegment.models.state_dict import read_state_dict

PIXELS = make_pixels(24, 40)
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="40" SizeY="24" SizeZ="1" SizeC="1" SizeT="1"'
    ' PhysicalSizeX="0.5" PhysicalSizeXUnit="nm" PhysicalSizeY="0.5"><Channel SamplesPerPixel="1"/>'
    '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
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

    @settings(max_examples=60)
    @given(damaged(whole))
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
    zipped = package(folder / "m.zip", describe(), graph).read_bytes()
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

    @settings(max_examples=60)
    @given(damaged(whole))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        check_answers(lambda: load(path))

    path.write_bytes(whole)
    assert load(path)
    check()


@settings(max_examples=60)
@given(damaged(OME.encode()))
def test_ome_xml(tmp_path_factory: pytest.TempPathFactory, xml: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "ome.tif"
    tifffile.imwrite(path, PIXELS, metadata=None, extratags=[(270, 2, len(xml) + 1, xml + b"\0", True)])

    def read() -> None:
        with open_image(path) as source:
            np.testing.assert_array_equal(source.read(Region.of_shape(source.shape))[0], PIXELS)

    check_answers(read)
