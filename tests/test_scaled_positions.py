"""Masks and objects of resampled images lie where they belong, by the files alone."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from command_line import Run
from image_files import png
from ome_xml import pixels_of
from ome_zarr_files import axes_of, transformations, write_image
from scaled_images import LINE, SETTINGS, X, Y, bright, centre, crop, ids_of, make_slide, rectangle

import tilesegment
from tilesegment import Region
from tilesegment.images import ResampledSource, open_image


@pytest.fixture
def slide(folder: Path) -> Path:
    """Of 0.365 um per pixel, in the working folder of the command line, with a model that wants 0.5 um."""
    return make_slide(folder)


def transformation(metadata: Mapping[str, Any], level: int) -> tuple[list[float], list[float], list[str | None]]:
    """Scale, translation and units of a level, read by hand."""
    (image,) = metadata["attributes"]["ome"]["multiscales"]
    scale, translation = image["datasets"][level]["coordinateTransformations"]
    return scale["scale"], translation["translation"], [axis.get("unit") for axis in image["axes"]]


def ome_zarr(path: Path, size: float | None) -> Path:
    """With pixels of `size` micrometres from an origin at (7, 9) um, or of none."""
    if size is None:
        return write_image(path, [rectangle()[0]], axes=axes_of("yx"))
    axes = axes_of("yx", {"y": "micrometer", "x": "micrometer"})
    return write_image(path, [rectangle()[0]], axes=axes, described=[transformations([size, size], [7, 9])])


@pytest.mark.parametrize("step", [2.5, 0.8, 4.0])
@pytest.mark.parametrize("size", [0.25, None])
@pytest.mark.parametrize("roi", [None, Region(30, 70, 150, 250)])
def test_the_mask_lies_over_the_image(step: float, size: float | None, roi: Region | None, tmp_path: Path) -> None:
    """By the metadata alone, without a reader of ours: in micrometres, or in pixels of level 0."""
    image, model = ome_zarr(tmp_path / "image.zarr", size), bright(diameter=10.0)
    # as a diameter or as a pixel size: it is the same
    wanted: dict[str, Any] = {"diameter": 10 * step} if size is None or step == 4 else {"mpp": size * step}
    per, (oy, ox) = (1.0, (0.0, 0.0)) if size is None else (size, (7.0, 9.0))
    expected = (oy + centre(*Y) * per, ox + centre(*X) * per)
    for name in ("m.zarr", "image.zarr/labels/m", "m.tif", "m.png"):
        tilesegment.predict(image, tmp_path / name, model, roi=roi, **wanted, **SETTINGS)
    for mask in (tmp_path / "m.zarr", image / "labels" / "m"):
        scale, translation, units = transformation(json.loads((mask / "zarr.json").read_text()), 0)
        assert scale == pytest.approx([step * per] * 2)
        assert units == [None if size is None else "micrometer"] * 2
        inside = np.argwhere(ids_of(mask)).mean(0)
        assert tuple(translation + inside * scale) == pytest.approx(expected)
    sizes, planes = pixels_of(tmp_path / "m.tif")
    inside = np.argwhere(tifffile.imread(tmp_path / "m.tif")).mean(0)
    assert sizes.get("PhysicalSizeXUnit", "µm") == ("pixel" if size is None else "µm")
    for axis, at, there in zip("YX", inside, expected, strict=True):
        start = float(planes[0][f"Position{axis}"]) if planes else 0.0
        assert start + at * float(sizes[f"PhysicalSize{axis}"]) == pytest.approx(there)
    assert (tilesegment.describe(tmp_path / "m.png")["pixel_size_um"] is None) == (size is None)


def test_objects_are_in_pixels_of_level_0(tmp_path: Path) -> None:
    image, model = png(tmp_path, rectangle()), bright(diameter=10.0)
    files = [tmp_path / "o.geojson", tmp_path / "o.csv", tmp_path / "o.zarr"]
    tilesegment.predict(
        image, tmp_path / "m.zarr", model, diameter=25, objects=files, measure_image=True, source_mpp=0.2, **SETTINGS
    )
    (feature,) = json.loads(files[0].read_text())["features"]
    corners = {tuple(corner) for corner in feature["geometry"]["coordinates"][0]}
    assert corners == {(x, y) for x in X for y in Y}
    (row,) = csv.DictReader(files[1].read_text().splitlines())
    found = [float(row[f"centroid-{axis}_px"]) for axis in (0, 1)]
    assert found == pytest.approx([centre(*Y), centre(*X)])
    box = [float(row[f"bbox-{edge}_px"]) for edge in range(4)]
    assert box == [Y[0], X[0], Y[1], X[1]]
    # counted in pixels of the mask
    area = (Y[1] - Y[0]) * (X[1] - X[0])
    assert float(row["area_px"]) == area / 2.5**2
    assert float(row["area_um2"]) == pytest.approx(area * 0.2**2)
    assert float(row["intensity_mean-0"]) == 236
    assert ids_of(files[2]).sum() == area / 2.5**2


def test_grey_values_are_those_of_the_resampled_image(slide: Path, run: Run) -> None:
    assert run(LINE.format(slide) + "--mpp model -o m.zarr --objects o.csv --measure-image").code == 0
    with open_image(slide) as source:
        pixels = crop(ResampledSource(source, (0.5 / 0.365, 0.5 / 0.365)))[0]
    rows = list(csv.DictReader(Path("o.csv").read_text().splitlines()))
    total = sum(float(row["intensity_mean-0"]) * float(row["area_px"]) for row in rows)
    assert total == pytest.approx(float(pixels[ids_of(Path("m.zarr")) == 1].sum()))
    # the same of the mask afterwards, and of the ids in it
    assert run("objects m.zarr --out again.csv --image fine.tif").code == 0
    assert Path("again.csv").read_text() == Path("o.csv").read_text()
    assert run("objects m.zarr --out ids.zarr").code == 0
    assert run("objects ids.zarr --out ids.csv --image fine.tif").code == 0
    assert [row["intensity_mean-0"] for row in csv.DictReader(Path("ids.csv").read_text().splitlines())] == [
        row["intensity_mean-0"] for row in rows
    ]


def test_a_label_lies_over_its_image_whatever_size_is_given(tmp_path: Path) -> None:
    image = ome_zarr(tmp_path / "image.zarr", None)
    tilesegment.predict(image, image / "labels" / "m", bright(), mpp=0.5, source_mpp=0.25, **SETTINGS)
    scale, _, units = transformation(json.loads((image / "labels" / "m" / "zarr.json").read_text()), 0)
    assert (scale, units) == ([2, 2], [None, None])
    assert tilesegment.describe(image / "labels" / "m")["pixel_size_um"] == [0.5, 0.5]
