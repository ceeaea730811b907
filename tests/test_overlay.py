"""A mask of any pixel size lies over its image exactly, by readers that are not ours.

What is computed here from metadata alone: pixel i of an axis covers the `scale` around `translation` + i * scale, as
napari, neuroglancer and QuPath draw it. The image, averaged over the rectangle of each pixel of the mask, is what the
model saw there: on noise, a shift of a hundredth of a pixel shows.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import ome_zarr_models
import openslide
import pytest
import shapely
import tifffile
import yaozarrs
import zarr
from conftest import noise
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ome_zarr_files import axes_of, transformations, write_image
from scaled_images import SETTINGS, bright, ids_of

import tilesegment
from tilesegment import Region

MODEL = bright(diameter=10.0)


class Axis(NamedTuple):
    """Where the pixels of an axis lie, micrometres: the edge of the first one, and their side."""

    edge: float
    side: float


Axes = tuple[Axis, Axis]  # y, x


def _placed(steps: Sequence[Any]) -> Axes:
    """Of the transformations of a level: scale, then translation."""
    (scale,) = (one.scale for one in steps if one.type == "scale")
    (translation,) = [one.translation for one in steps if one.type == "translation"] or [[0.0, 0.0]]
    y, x = (Axis(t - s / 2, s) for t, s in zip(translation, scale, strict=True))
    return y, x


def by_models(path: Path, level: int) -> Axes:
    """Of ome-zarr-models."""
    attributes: Any = ome_zarr_models.open_ome_zarr(zarr.open_group(path, mode="r")).attributes
    (image,) = getattr(attributes, "ome", attributes).multiscales
    assert [axis.unit for axis in image.axes] == ["micrometer"] * 2
    return _placed(image.datasets[level].coordinateTransformations)


def by_yaozarrs(path: Path, level: int) -> Axes:
    """Of yaozarrs."""
    about: Any = yaozarrs.open_group(str(path)).ome_metadata()
    (image,) = about.multiscales
    assert [str(axis.unit) for axis in image.axes] == ["micrometer"] * 2
    return _placed(image.datasets[level].coordinateTransformations)


def by_ome_xml(path: Path) -> Axes:
    """Of tifffile and Python's XML."""
    with tifffile.TiffFile(path) as tiff:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    (pixels,) = root.iterfind(".//{*}Pixels")
    (plane,) = pixels.iterfind("{*}Plane")
    assert {pixels.get("PhysicalSizeXUnit", "µm"), plane.get("PositionXUnit"), plane.get("PositionYUnit")} == {"µm"}
    y, x = (
        Axis(float(plane.attrib[f"Position{axis}"]) - side / 2, side)
        for axis in "YX"
        for side in [float(pixels.attrib[f"PhysicalSize{axis}"])]
    )
    return y, x


def sides_by_openslide(path: Path) -> list[float]:
    """The (y, x) sides of a pixel; of positions it knows nothing."""
    with openslide.open_slide(path) as slide:
        return [float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "yx"]


def weights(mask: Axis, count: int, image: Axis, size: int) -> np.ndarray:
    """What share of a mask's pixels each pixel of an axis of the image is, (count, size)."""
    low, pixels = (mask.edge - image.edge) / image.side + np.arange(count) * mask.side / image.side, np.arange(size)
    step = mask.side / image.side
    if step > 1 - 1e-9:
        shares = np.minimum(low[:, None] + step, pixels + 1) - np.maximum(low[:, None], pixels)
        shares = np.clip(shares, 0, None)
    else:  # between the centres of neighbours
        centre = np.clip(low + step / 2 - 0.5, 0, size - 1)
        shares = np.clip(1 - np.abs(centre[:, None] - pixels), 0, None)
    return np.asarray(shares / shares.sum(1, keepdims=True))


def check_registered(pixels: np.ndarray, image: Axes, ids: np.ndarray, mask: Axes) -> None:
    """Each pixel of a mask is 1 if the image is bright where it lies."""
    rows, columns = (weights(*one) for one in zip(mask, ids.shape, image, pixels.shape, strict=True))
    seen = rows @ pixels @ columns.T
    sure = np.abs(seen - 128.5) > 0.01
    np.testing.assert_array_equal(ids[sure] == 1, seen[sure] > 128.5)


sides, micrometres = st.integers(1, 130), st.floats(0.1, 0.7)


@settings(max_examples=6, deadline=None)
@given(
    st.tuples(sides, sides),
    st.tuples(micrometres, micrometres),
    st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)),
    st.floats(0.3, 5),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from(["0.4", "0.5"]),
)
@example((120, 130), (0.25, 0.25), (0, 0), 2.5, (0.13, 0.9, 0.21, 0.8), "0.5")
@example((90, 110), (0.3, 0.5), (7, -9), 0.37, (0.4, 0.7, 0.2, 0.9), "0.4")
@example((100, 60), (0.25, 0.5), (0, 0), 2, (0, 1, 0, 1), "0.5")
def test_the_model_saw_what_lies_below_each_pixel(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    size: tuple[float, float],
    origin: tuple[float, float],
    factor: float,
    ends: tuple[float, float, float, float],
    version: str,
) -> None:
    folder, pixels = tmp_path_factory.mktemp("overlay"), noise(shape)
    um = axes_of("yx", {"y": "micrometer", "x": "micrometer"})
    said = [transformations(size, origin)]
    image = write_image(folder / "image.zarr", [pixels], version, axes=um, described=said)
    (y0, y1), (x0, x1) = (
        sorted(int(one * side) for one in ends[n : n + 2]) for n, side in ((0, shape[0]), (2, shape[1]))
    )
    roi = Region(min(y0, shape[0] - 1), min(x0, shape[1] - 1), max(y1, y0 + 1), max(x1, x0 + 1))
    masks = [folder / "m.zarr", image / "labels" / "m", folder / "m.tif"]
    for mask in masks:
        tilesegment.predict(image, mask, MODEL, mpp=size[0] * factor, roi=roi, ngff=version, **SETTINGS)
    ids, by_own = ids_of(masks[0]), by_yaozarrs(image, 0)
    assert by_own == tuple(Axis(o - s / 2, s) for o, s in zip(origin, size, strict=True))
    for mask in masks[:2]:
        np.testing.assert_array_equal(ids_of(mask), ids)
        for read in (by_models, by_yaozarrs):
            check_registered(pixels, by_own, ids, read(mask, 0))
    np.testing.assert_array_equal(tifffile.imread(masks[2]), ids)
    check_registered(pixels, by_own, ids, by_ome_xml(masks[2]))
    assert sides_by_openslide(masks[2]) == pytest.approx([one.side for one in by_ome_xml(masks[2])], rel=1e-6)


@pytest.mark.parametrize(("mpp", "roi"), [(0.2, None), (0.13, Region(11, 3, 290, 420))])
def test_all_levels_of_a_mask_cover_the_same_area(mpp: float, roi: Region | None, tmp_path: Path) -> None:
    """A pixel of a level covers four of the next finer one."""
    um = axes_of("yx", {"y": "micrometer", "x": "micrometer"})
    image = write_image(
        tmp_path / "i.zarr", [noise((300, 440))], axes=um, described=[transformations([0.25] * 2, [3, 5])]
    )
    tilesegment.predict(image, tmp_path / "m.zarr", MODEL, mpp=mpp, roi=roi, **SETTINGS)
    levels = len(list(zarr.open_group(tmp_path / "m.zarr", mode="r").arrays()))
    assert levels > 1
    for read in (by_models, by_yaozarrs):
        finest = read(tmp_path / "m.zarr", 0)
        for level in range(1, levels):
            for axis, fine in zip(read(tmp_path / "m.zarr", level), finest, strict=True):
                assert axis == pytest.approx((fine.edge, fine.side * 2**level))


@pytest.mark.parametrize("mpp", [0.55, 0.17])
def test_outlines_are_in_pixels_of_level_0(mpp: float, tmp_path: Path) -> None:
    """By shapely: the centre of each pixel of the mask lies in an outline if the pixel is of class 1."""
    um = axes_of("yx", {"y": "micrometer", "x": "micrometer"})
    said = [transformations([0.25, 0.3], [100, -100])]
    image = write_image(tmp_path / "i.zarr", [noise((60, 50))], axes=um, described=said)
    outlines, roi = tmp_path / "o.geojson", Region(7, 4, 55, 50)
    tilesegment.predict(image, tmp_path / "m.zarr", MODEL, mpp=mpp, roi=roi, objects=outlines, **SETTINGS)
    ids = ids_of(tmp_path / "m.zarr")
    y, x = (
        (mask.edge - own.edge + (np.arange(count) + 0.5) * mask.side) / own.side
        for mask, own, count in zip(by_models(tmp_path / "m.zarr", 0), by_yaozarrs(image, 0), ids.shape, strict=True)
    )
    there = np.zeros(ids.shape, bool)
    for feature in json.loads(outlines.read_text())["features"]:
        there |= shapely.contains_xy(shapely.geometry.shape(feature["geometry"]), *np.meshgrid(x, y))
    within = np.outer(y < 60, x < 50)
    np.testing.assert_array_equal(there[within], ids[within] == 1)
    assert 0 < np.count_nonzero(ids) < ids.size
