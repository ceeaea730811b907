"""What other programs find in a mask: OME-Zarr, OME-TIFF, PNG, JPEG."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import ome_zarr_models
import pytest
import tifffile
import yaozarrs
import zarr
from mask_files import CLASSES, attributes, fill, finished, make_image, spec_of
from PIL import Image

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.masks import create_mask, create_probabilities, find_mask, open_mask
from tilesegment.masks.pyramid import halve
from tilesegment.metadata import Frame, LabelClass, PixelSize, Spacing


def validate(path: Path) -> Any:
    """Both validators: each misses what the other finds."""
    yaozarrs.validate_zarr_store(str(path))
    return ome_zarr_models.open_ome_zarr(zarr.open_group(path, mode="r"))


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("depth", [None, 2])
def test_a_mask_on_its_own_is_valid(tmp_path: Path, ngff: str, depth: int | None) -> None:
    place: dict[str, Any] = {"offset": (2, 8), "first_plane": 3, "frame": Frame(z=Spacing(1.0, unit="micrometer"))}
    spec = spec_of((40, 600), depth=depth, pixel_size=PixelSize(0.5, 0.25), **place)
    finished(tmp_path / "mask.zarr", spec, ngff=ngff)
    assert type(validate(tmp_path / "mask.zarr")).__name__ == "ImageLabel"
    ome = attributes(tmp_path / "mask.zarr")
    assert "source" not in ome["image-label"]
    assert [p["name"] for p in ome["image-label"]["properties"]] == [c.name for c in CLASSES]
    assert ome["image-label"]["colors"][1] == {"label-value": 1, "rgba": [*CLASSES[1].rgb, 255]}
    (multiscale,) = ome["multiscales"]
    lead, origin = ([], []) if depth is None else ([1.0], [3.0])
    assert [axis["unit"] for axis in multiscale["axes"]] == ["micrometer"] * len(multiscale["axes"])
    first, second = (dataset["coordinateTransformations"] for dataset in multiscale["datasets"])
    assert first == [
        {"type": "scale", "scale": [*lead, 0.5, 0.25]},
        {"type": "translation", "translation": [*origin, 1.0, 2.0]},
    ]
    assert second == [
        {"type": "scale", "scale": [*lead, 1.0, 0.5]},
        {"type": "translation", "translation": [*origin, 1.25, 2.125]},
    ]


def test_without_a_pixel_size_there_is_no_unit(tmp_path: Path) -> None:
    """A mask of a reduced level has larger pixels."""
    finished(tmp_path / "mask.zarr", spec_of((10, 10), scale=(4, 2), offset=(8, 8)))
    validate(tmp_path / "mask.zarr")
    (multiscale,) = attributes(tmp_path / "mask.zarr")["multiscales"]
    assert multiscale["axes"] == [{"name": axis, "type": "space"} for axis in "yx"]
    assert multiscale["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [4.0, 2.0]},
        {"type": "translation", "translation": [32.0, 16.0]},
    ]


def test_shards_are_blocks_with_checksums(tmp_path: Path) -> None:
    finished(tmp_path / "mask.zarr", spec_of((70, 70)))
    (codec,) = json.loads((tmp_path / "mask.zarr/0/zarr.json").read_text())["codecs"]
    assert codec["name"] == "sharding_indexed"
    inner = codec["configuration"]
    assert inner["chunk_shape"] == [16, 16]
    assert [c["name"] for c in inner["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert inner["index_location"] == "end"
    assert len([file for file in (tmp_path / "mask.zarr/0/c").rglob("*") if file.is_file()]) == 9


@pytest.mark.parametrize(("values", "most"), [("float32", 1.0), ("uint8", 255.0)])
def test_probabilities_are_a_valid_image(tmp_path: Path, values: str, most: float) -> None:
    spec = spec_of((600, 40), pixel_size=PixelSize(0.5, 0.5))
    writer = create_probabilities(tmp_path / "p.zarr", spec, values=values)
    fill(writer, np.zeros((4, 1, 600, 40), values))
    writer.finish()
    assert type(validate(tmp_path / "p.zarr")).__name__ == "Image"
    ome = attributes(tmp_path / "p.zarr")
    assert [channel["label"] for channel in ome["omero"]["channels"]] == [c.name for c in CLASSES]
    assert ome["multiscales"][0]["axes"][0] == {"name": "c", "type": "channel"}
    assert len(ome["multiscales"][0]["datasets"]) == 2
    for channel in ome["omero"]["channels"]:
        assert max(bytes.fromhex(channel["color"])) >= 80, "seen on black"
        assert channel["window"] == {"start": 0.0, "end": most, "min": 0.0, "max": most}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_mask_added_to_an_image(tmp_path: Path, version: str) -> None:
    image = tmp_path / "image.zarr"
    make_image(image, version, (1, 2, 8))
    spec = spec_of((60, 90), pixel_size=PixelSize(0.5, 0.25), offset=(4, 6))
    ids = finished(image / "labels/nuclei", spec)[0]
    finished(image / "labels/cells", spec_of((64, 96)))
    validate(image)
    assert attributes(image / "labels")["labels"] == ["nuclei", "cells"]
    assert type(validate(image / "labels/nuclei")).__name__ == "ImageLabel"
    ome = attributes(image / "labels/nuclei")
    assert ome["image-label"]["source"] == {"image": "../../"}
    datasets = ome["multiscales"][0]["datasets"]
    assert len(datasets) == 3
    # in the image's unit, from its corner: 4 * 500 + 1000 and 6 * 250 + 2000 nanometres
    assert datasets[0]["coordinateTransformations"][0]["scale"] == [500, 250]
    assert datasets[0]["coordinateTransformations"][1]["translation"] == [3000, 3500]
    assert datasets[2]["coordinateTransformations"][0]["scale"] == [4000, 2000]
    assert {axis["unit"] for axis in ome["multiscales"][0]["axes"]} == {"nanometer"}
    mask = open_mask(image / "labels/nuclei")
    assert np.array_equal(mask.read(Region(0, 0, 8, 12), 2), halve(halve(halve(ids))))
    # without a pixel size of its own it has the image's
    cells = attributes(image / "labels/cells")["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert [c.get("scale", c.get("translation")) for c in cells] == [[500, 250], [1000, 2000]]

    finished(image / "labels/cells", spec_of((64, 96)), seed=5, overwrite=True)
    assert attributes(image / "labels")["labels"] == ["nuclei", "cells"]
    validate(image)


def test_labels_of_others_stay_listed(tmp_path: Path) -> None:
    image = tmp_path / "image.zarr"
    make_image(image, "0.5")
    labels = zarr.create_group(image / "labels")
    labels.attrs.update({"ome": {"version": "0.5", "labels": ["theirs"]}, "note": "kept"})
    finished(image / "labels/ours", spec_of((64, 96)))
    group = zarr.open_group(image / "labels", mode="r")
    assert dict(group.attrs) == {"ome": {"version": "0.5", "labels": ["theirs", "ours"]}, "note": "kept"}


@pytest.mark.parametrize(
    ("version", "changes", "message"),
    [
        ("0.5", {"factors": (1, 3, 9)}, "do not shrink by powers of two"),
        ("0.5", {"factors": (4, 2, 1)}, "do not shrink by powers of two"),
        ("0.6", {}, r"is OME-Zarr 0\.6"),
        ("0.5", {"datasets": []}, "is no OME-Zarr image"),
        ("0.5", {"axes": "yx"}, "is no OME-Zarr image"),
        ("0.5", {"axes": [{"name": "y"}]}, "is no OME-Zarr image"),
        ("0.5", {"factors": (1, 2**70)}, "do not shrink by powers of two"),
    ],
)
def test_images_that_take_no_mask(tmp_path: Path, version: str, changes: dict[str, Any], message: str) -> None:
    make_image(tmp_path / "image.zarr", version, **changes)
    with pytest.raises(MaskError, match=message):
        create_mask(tmp_path / "image.zarr/labels/x", spec_of((64, 96)))
    assert not (tmp_path / "image.zarr/labels").exists()


@pytest.mark.parametrize("depth", [None, 1, 3])
def test_tiff(tmp_path: Path, depth: int | None) -> None:
    spec = spec_of((700, 1100), 512, 256, depth=depth, pixel_size=PixelSize(0.5, 0.25))
    ids = finished(tmp_path / "mask.tif", spec)
    with tifffile.TiffFile(tmp_path / "mask.tif") as tiff:
        (series,) = tiff.series
        assert series.kind == "ome"
        expected = list(ids)
        for level in series.levels:
            assert np.array_equal(level.asarray().reshape(len(expected), *expected[0].shape), np.stack(expected))
            expected = [halve(plane) for plane in expected]
        assert [level.shape[-2:] for level in series.levels] == [(700, 1100), (350, 550), (175, 275)]
        page = tiff.pages.first
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert (page.tilewidth, page.tilelength) == (512, 512)
        assert page.tags["XResolution"].value == (40_000, 1)
        assert tiff.ome_metadata is not None
        root = ElementTree.fromstring(tiff.ome_metadata)
    name = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
    pixels = next(root.iter(f"{name}Pixels")).attrib
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"]) == ("0.25", "0.5")
    assert int(pixels["SizeZ"]) == (depth or 1)
    text = next(root.iter(f"{name}M")).text
    assert text is not None
    record = json.loads(text)
    assert record["fingerprint"]["model"] == "a"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("depth", [None, 2])
def test_tiff_shows_ids_in_the_colours_of_their_classes(tmp_path: Path, depth: int | None) -> None:
    spec = spec_of((700, 1100), 512, 256, depth=depth)
    ids = finished(tmp_path / "mask.tif", spec)
    colours = np.array([one.rgb for one in CLASSES], np.uint8)
    with tifffile.TiffFile(tmp_path / "mask.tif") as tiff:
        for level in tiff.series[0].levels:
            assert level.keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE
            table = level.keyframe.colormap
            assert table is not None
            assert np.array_equal(table.T[: len(CLASSES)], colours.astype(int) * 257)
    with Image.open(tmp_path / "mask.tif") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), ids[0])
        assert np.array_equal(np.asarray(picture.convert("RGB")), colours[ids[0]])
    with open_image(tmp_path / "mask.tif") as source:
        assert (source.channels, source.dtype, source.depth) == (1, np.uint8, depth)
        assert [level.shape for level in source.levels] == [(700, 1100), (350, 550), (175, 275)]
        for z, plane in enumerate(ids):
            assert np.array_equal(source.read(Region(0, 0, 700, 1100), 0, z)[0], plane)
            assert np.array_equal(source.read(Region(0, 0, 350, 550), 1, z)[0], halve(plane))


def test_tiff_names_its_classes(tmp_path: Path) -> None:
    names = ['<background> & "none"', "细胞", "a\x00b\nc\udcff", *(f"class {n}" for n in range(3, 256))]
    classes = tuple(LabelClass(name, f"#{n:02x}{255 - n:02x}80") for n, name in enumerate(names))
    finished(tmp_path / "mask.tif", replace(spec_of((40, 40)), classes=classes))
    with tifffile.TiffFile(tmp_path / "mask.tif") as tiff:
        assert tiff.ome_metadata is not None
        root = ElementTree.fromstring(tiff.ome_metadata)
    (found,) = (one for one in root.iter() if one.get("Namespace") == "tilesegment/classes")
    listed = {entry.get("K"): entry.text for entry in found.iterfind("{*}Value/{*}M")}
    assert list(listed) == [str(n) for n in range(256)]
    assert [listed[str(n)] for n in range(4)] == [names[0], names[1], "a?b c?", "class 3"]
    assert open_mask(tmp_path / "mask.tif").spec.classes == classes


def test_a_palette_of_others_is_no_mask_of_ours(tmp_path: Path) -> None:
    table = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    tifffile.imwrite(tmp_path / "theirs.tif", np.zeros((40, 40), np.uint8), photometric="palette", colormap=table)
    assert find_mask(tmp_path / "theirs.tif") is None


def test_tiff_wider_than_a_band(tmp_path: Path) -> None:
    spec = spec_of((3, 8192 + 513), 4096, 512)
    ids = finished(tmp_path / "mask.tiff", spec)[0]
    assert np.array_equal(tifffile.imread(tmp_path / "mask.tiff"), ids)


def test_png_holds_ids_and_colours(tmp_path: Path) -> None:
    ids = finished(tmp_path / "mask.png", spec_of((45, 77), pixel_size=PixelSize(0.5, 0.25)))[0]
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), ids)
        rgb = np.asarray(picture.convert("RGB"))
        assert picture.info["dpi"] == pytest.approx((101_600, 50_800), abs=0.1)
        assert json.loads(picture.info["tilesegment"])["layout"]["shape"] == [45, 77]
    assert np.array_equal(rgb, np.array([c.rgb for c in CLASSES], np.uint8)[ids])
