"""Where a mask lies: its planes and pixels in the units of its image, from the image's own origin."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from command_line import Run
from conftest import noise
from mask_files import mask_of
from ome_zarr_files import axes_of, means, placement, transformations, write_image

from tilesegment.images import open_image

STACK = noise((4, 60, 70))
PREDICT = "predict {} -m toy.safetensors --tile 88 {} -o {}"
Z = {"z": "nanometer", "y": "micrometer", "x": "micrometer"}


def ome_tiff(path: Path, **more: object) -> Path:
    """A stack with planes 40 nm apart and pixels of 0.5 x 0.25 micrometres."""
    sizes = {"PhysicalSizeZ": 40.0, "PhysicalSizeZUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeX": 250.0}
    about = {"axes": "ZYX", "PhysicalSizeXUnit": "nm"} | sizes | more
    tifffile.imwrite(path, STACK, ome=True, metadata=about, photometric="minisblack")
    return path


def pixels_of(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What the OME-XML of a mask says of its pixels, and of each plane."""
    with tifffile.TiffFile(path) as tiff:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    (pixels,) = root.iterfind(".//{*}Pixels")
    return pixels.attrib, [plane.attrib for plane in pixels.iterfind("{*}Plane")]


@pytest.mark.parametrize("kind", ["ome-tiff", "zarr", "imagej"])
def test_planes_are_as_far_apart_as_in_the_image(kind: str, folder: Path, run: Run) -> None:
    if kind == "ome-tiff":
        image = ome_tiff(folder / "image.tif")
    elif kind == "imagej":
        image, about = folder / "image.tif", {"axes": "ZYX", "unit": "um", "spacing": 0.04}
        tifffile.imwrite(image, STACK, imagej=True, resolution=(4, 2), metadata=about)
    else:
        described = [transformations([40, 0.5, 0.25])]
        image = write_image(folder / "image.zarr", [STACK], axes=axes_of("zyx", Z), described=described)
    for options, first in (("", 0.0), ("--z 1:3", 0.04)):
        done = run(PREDICT.format(image, options, "m.zarr --overwrite"))
        assert done.code == 0, done.err
        scale, translation, units = placement(folder / "m.zarr")
        assert scale == pytest.approx([0.04, 0.5, 0.25])
        assert translation == pytest.approx([first, 0, 0])
        assert units == ["micrometer"] * 3
        assert run(PREDICT.format(image, options, "m.tif --overwrite")).code == 0
        sizes, planes = pixels_of(folder / "m.tif")
        assert float(sizes["PhysicalSizeZ"]) == pytest.approx(0.04)
        assert float(sizes["PhysicalSizeX"]) == pytest.approx(0.25)
        if first:
            assert [float(plane["PositionZ"]) for plane in planes] == pytest.approx([0.04, 0.08])
    assert "plane_spacing_um: 0.04" in run(f"info {image}").out


def test_a_spacing_that_the_image_does_not_give_is_not_invented(folder: Path, run: Run) -> None:
    assert run(PREDICT.format("stack.tif", "--z 1:3", "m.zarr")).code == 0
    scale, translation, units = placement(folder / "m.zarr")
    assert (scale, translation, units) == ([1, 1, 1], [1, 0, 0], [None] * 3)
    assert "plane_spacing_um: unknown" in run("info stack.tif").out


@pytest.mark.parametrize("unit", ["angstrom", "nanometer", "micrometer", "millimeter", "meter", "inch"])
def test_each_axis_has_a_unit_of_its_own(unit: str, folder: Path, run: Run) -> None:
    """In a mask of its own all are micrometres, in a label those of the image."""
    per = {"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1, "millimeter": 1e3, "meter": 1e6, "inch": 25400}[unit]
    axes = axes_of("zyx", {"z": unit, "y": "micrometer", "x": "nanometer"})
    described = [transformations([40, 0.5, 250], [80, 1, 1000])]
    image = write_image(folder / "image.zarr", [STACK], axes=axes, described=described)
    assert run(PREDICT.format(image, "--z 1:3", "m.zarr")).code == 0
    scale, translation, units = placement(folder / "m.zarr")
    assert scale == pytest.approx([40 * per, 0.5, 0.25])
    assert translation == pytest.approx([120 * per, 1, 1])
    assert units == ["micrometer"] * 3
    assert run(PREDICT.format(image, "--z 1:3", "image.zarr/labels/x")).code == 0
    scale, translation, units = placement(image / "labels/x")
    assert (scale, translation, units) == ([40, 0.5, 250], [120, 1, 1000], [unit, "micrometer", "nanometer"])


class TestOrigin:
    """Of an image that does not begin at 0."""

    def test_of_a_region(self, folder: Path, run: Run) -> None:
        axes = axes_of("yx", {"y": "nanometer", "x": "nanometer"})
        described = [transformations([5, 4], [1000, 2000])]
        image = write_image(folder / "image.zarr", [noise((160, 200))], axes=axes, described=described)
        line = PREDICT.format(image, "--roi 60:120,80:180", "{}")
        assert run(line.format("m.zarr")).code == 0
        scale, translation, units = placement(folder / "m.zarr")
        assert (scale, translation) == (pytest.approx([0.005, 0.004]), pytest.approx([1.3, 2.32]))
        assert units == ["micrometer"] * 2
        assert run(line.format("image.zarr/labels/x")).code == 0
        assert placement(image / "labels/x") == ([5, 4], [1300, 2320], ["nanometer"] * 2)
        assert run(line.format("m.tif")).code == 0
        _, (plane,) = pixels_of(folder / "m.tif")
        assert (float(plane["PositionY"]), float(plane["PositionX"])) == pytest.approx((1.3, 2.32))
        assert plane["PositionYUnit"] == plane["PositionXUnit"] == "µm"

    def test_transformations_of_the_whole_image(self, folder: Path, run: Run) -> None:
        axes = axes_of("yx", {"y": "micrometer", "x": "micrometer"})
        whole = transformations([0.005, 0.004], [3, 4])
        described = [transformations([1, 1], [10, 20]), transformations([2, 2], [10.5, 20.5])]
        image = write_image(folder / "image.zarr", means(noise((64, 80)), 2), axes=axes, described=described, **whole)
        for out in ("m.zarr", "image.zarr/labels/x"):
            assert run(PREDICT.format(image, "", out)).code == 0
            scale, translation, _ = placement(folder / out)
            assert scale == pytest.approx([0.005, 0.004])
            assert translation == pytest.approx([3.05, 4.08])
        assert placement(image / "labels/x", 1)[0] == pytest.approx([0.01, 0.008])

    def test_of_a_level(self, folder: Path, run: Run) -> None:
        """The centre of a pixel of level 1 lies between those of two of level 0."""
        axes = axes_of("yx", {"y": "micrometer", "x": "micrometer"})
        described = [transformations([n, n], [100, 200]) for n in (1, 2)]
        image = write_image(folder / "image.zarr", means(noise((64, 80)), 2), axes=axes, described=described)
        for out in ("m.zarr", "image.zarr/labels/x"):
            assert run(PREDICT.format(image, "--level 1 --roi 10:40,20:60", out)).code == 0
            assert placement(folder / out)[:2] == ([2, 2], [110.5, 220.5])

    def test_without_units(self, folder: Path, run: Run) -> None:
        """Numbers without units are passed on as they are, so that mask and image lie upon each other."""
        described = [transformations([0.5, 0.25], [3, 4])]
        image = write_image(folder / "image.zarr", [noise((64, 80))], axes=axes_of("yx"), described=described)
        for out in ("m.zarr", "image.zarr/labels/x"):
            assert run(PREDICT.format(image, "--roi 10:40,20:60", out)).code == 0
            assert placement(folder / out) == ([0.5, 0.25], [8, 9], [None, None])

    def test_of_an_ome_tiff(self, folder: Path, run: Run) -> None:
        """The position of the stage, in whatever unit."""
        places = {
            "PositionX": [2.0] * 4,
            "PositionXUnit": ["mm"] * 4,
            "PositionY": [7.0] * 4,
            "PositionYUnit": ["µm"] * 4,
        }
        image = ome_tiff(folder / "image.tif", Plane=places)
        assert run(PREDICT.format(image, "--roi 10:40,20:60 --z 0:1", "m.zarr")).code == 0
        assert placement(folder / "m.zarr")[1] == pytest.approx([0, 12, 2005])
        assert run(PREDICT.format(image, "--roi 10:40,20:60", "m.tif")).code == 0
        _, planes = pixels_of(folder / "m.tif")
        assert {(float(p["PositionY"]), float(p["PositionX"])) for p in planes} == {(12.0, 2005.0)}
        assert [float(plane["PositionZ"]) for plane in planes] == pytest.approx([0, 0.04, 0.08, 0.12])
        with open_image(folder / "m.tif") as mask:
            assert (mask.frame.y.origin, mask.frame.x.origin) == pytest.approx((12, 2005))


def test_a_tiff_of_a_region_says_where_it_lies(folder: Path, run: Run) -> None:
    """In pixels where their size is not known; a mask of all the image at 0 says nothing."""
    assert run(PREDICT.format("slide.tif", "--roi 20:100,30:120", "m.tif")).code == 0
    _, (plane,) = pixels_of(folder / "m.tif")
    assert (float(plane["PositionY"]), float(plane["PositionX"])) == (20, 30)
    assert plane["PositionXUnit"] == plane["PositionYUnit"] == "pixel"
    assert run(PREDICT.format("slide.tif", "", "all.tif")).code == 0
    assert pixels_of(folder / "all.tif")[1] == []


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "furlong", ""])
def test_units_that_are_no_lengths(unit: str, folder: Path, run: Run) -> None:
    axes = axes_of("zyx", {"z": "nanometer", "y": unit, "x": unit})
    described = [transformations([40, 0.5, 0.25])]
    image = write_image(folder / "image.zarr", [STACK], axes=axes, described=described)
    with open_image(image) as source:
        assert source.pixel_size is None
    assert run(PREDICT.format(image, "--z 1:2", "m.zarr")).code == 0
    scale, translation, units = placement(folder / "m.zarr")
    assert scale == pytest.approx([0.04, 0.5, 0.25])
    assert translation == pytest.approx([0.04, 0, 0])
    assert units == ["micrometer", None, None]
    np.testing.assert_array_equal(mask_of(folder / "m.zarr").shape, (1, 60, 70))
