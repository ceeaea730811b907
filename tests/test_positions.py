"""Where a mask lies: its planes and pixels in the units of its image, from the image's own origin."""

from pathlib import Path
from typing import Any

import pytest
import tifffile
from command_line import Run
from conftest import noise
from ome_xml import pixels_of
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


@pytest.mark.parametrize(("unit", "per"), [("angstrom", 1e-4), ("nanometer", 1e-3), ("inch", 25400)])
def test_each_axis_has_a_unit_of_its_own(unit: str, per: float, folder: Path, run: Run) -> None:
    """In a mask of its own all are micrometres, in a label those of the image."""
    axes = axes_of("zyx", {"z": unit, "y": "micrometer", "x": "nanometer"})
    described = [transformations([40, 0.5, 250], [80, 1, 1000])]
    image = write_image(folder / "image.zarr", [STACK], axes=axes, described=described)
    assert run(PREDICT.format(image, "--z 1:3", "m.zarr")).code == 0
    scale, translation, units = placement(folder / "m.zarr")
    assert scale == pytest.approx([40 * per, 0.5, 0.25])
    assert translation == pytest.approx([120 * per, 1, 1])
    assert units == ["micrometer"] * 3
    assert run(PREDICT.format(image, "--z 1:3", "image.zarr/labels/x")).code == 0
    expected = ([40, 0.5, 250], [120, 1, 1000], [unit, "micrometer", "nanometer"])
    assert placement(image / "labels/x") == expected


def test_units_that_are_no_lengths(folder: Path, run: Run) -> None:
    axes = axes_of("zyx", {"z": "nanometer", "y": "reference frame", "x": "furlong"})
    described = [transformations([40, 0.5, 0.25])]
    image = write_image(folder / "image.zarr", [STACK], axes=axes, described=described)
    assert run(PREDICT.format(image, "--z 1:2", "m.zarr")).code == 0
    scale, translation, units = placement(folder / "m.zarr")
    assert scale + translation == pytest.approx([0.04, 0.5, 0.25, 0.04, 0, 0])
    assert units == ["micrometer", None, None]


UM = {"y": "micrometer", "x": "micrometer"}
# units, what is said of levels 0 and 1 and of the whole image, options; scale and translation of a mask of its own
ORIGINS: dict[str, tuple[dict[str, str], list[Any], dict[str, Any], str, list[float], list[float]]] = {
    "of a region": (
        {"y": "nanometer", "x": "nanometer"},
        [transformations([5, 4], [1000, 2000]), transformations([10, 8])],
        {},
        "--roi 20:60,10:80",
        [0.005, 0.004],
        [1.1, 2.04],
    ),
    "of the whole image's transformations": (
        UM,
        [transformations([1, 1], [10, 20]), transformations([2, 2], [10.5, 20.5])],
        transformations([0.005, 0.004], [3, 4]),
        "",
        [0.005, 0.004],
        [3.05, 4.08],
    ),
    # the centre of a pixel of level 1 lies between those of two of level 0
    "of a level": (
        UM,
        [transformations([n, n], [100, 200]) for n in (1, 2)],
        {},
        "--level 1 --roi 10:40,20:60",
        [2, 2],
        [110.5, 220.5],
    ),
    # numbers without units are passed on as they are, so that mask and image lie upon each other
    "without units": (
        {},
        [transformations([n / 2, n / 4], [3, 4]) for n in (1, 2)],
        {},
        "--roi 10:40,20:60",
        [0.5, 0.25],
        [8, 9],
    ),
}


@pytest.mark.parametrize(("units", "described", "whole", "options", "scale", "origin"), ORIGINS.values(), ids=ORIGINS)
def test_origins(
    units: dict[str, str],
    described: list[Any],
    whole: dict[str, Any],
    options: str,
    scale: list[float],
    origin: list[float],
    folder: Path,
    run: Run,
) -> None:
    levels = means(noise((64, 80)), 2)
    image = write_image(folder / "image.zarr", levels, axes=axes_of("yx", units), described=described, **whole)
    per = 1000 if units.get("y") == "nanometer" else 1
    for out, factor in (("m.zarr", 1), ("image.zarr/labels/x", per)):
        assert run(PREDICT.format(image, options, out)).code == 0
        found = placement(folder / out)
        assert found[0] + found[1] == pytest.approx([number * factor for number in scale + origin])
    if not options.startswith("--level"):
        assert placement(image / "labels/x", 1)[0] == pytest.approx([2 * per * number for number in scale])


def test_of_an_ome_tiff(folder: Path, run: Run) -> None:
    """The position of the stage, in whatever unit; it is read back."""
    places = {"PositionX": [2.0] * 4, "PositionXUnit": ["mm"] * 4, "PositionY": [7.0] * 4, "PositionYUnit": ["µm"] * 4}
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
    assert (plane["PositionY"], plane["PositionX"], plane["PositionXUnit"]) == ("20.0", "30.0", "pixel")
    assert run(PREDICT.format("slide.tif", "", "all.tif")).code == 0
    assert pixels_of(folder / "all.tif")[1] == []
