"""What is said where an image has other pixels than the model was trained on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile
from command_line import Run
from conftest import noise, toy_model
from ome_zarr_files import axes_of, means, transformations, write_image

from tilesegment.metadata import PixelSize
from tilesegment.models.model import Model

UNITS = {"y": "micrometer", "x": "micrometer"}


@pytest.fixture
def half(folder: Path) -> Path:
    """A model trained on pixels of 0.5 micrometres."""
    model = toy_model()
    Model(replace(model.header, pixel_size=PixelSize(0.5, 0.5)), model.network).save(folder / "half.safetensors")
    return folder


def pyramid(folder: Path, size: float) -> Path:
    described = [transformations([size * n, size * n]) for n in (1, 2, 4)]
    levels = means(noise((128, 128)), 3)
    return write_image(folder / "a.zarr", levels, axes=axes_of("yx", UNITS), described=described)


@pytest.mark.parametrize(
    ("size", "level", "is_said"),
    [
        (0.25, 0, True),
        (0.25, 1, False),
        (0.25, 2, True),
        (0.5, 0, False),
        (0.5, 1, True),
        (0.4, 0, False),
        (0.39, 0, True),
        (0.6, 0, False),
        (0.61, 0, True),
        (0.125, 2, False),
    ],
)
def test_a_difference_of_more_than_a_fifth_is_said(
    size: float, level: int, is_said: bool, half: Path, run: Run
) -> None:
    pyramid(half, size)
    line = f"predict a.zarr -m half.safetensors --tile 88 --level {level} "
    done, planned = run(line + "-o m.zarr"), run(line + "--dry-run")
    assert (done.code, planned.code) == (0, 0)
    for said in (done.err, planned.err):
        assert (f"level {level} are" in said and "trained on 0.5 um" in said) == is_said
    assert len(json.loads(run(line + "--dry-run --json").out)["notes"]) == is_said


def test_the_level_that_fits_is_named(half: Path, run: Run) -> None:
    pyramid(half, 0.125)
    said = run("predict a.zarr -m half.safetensors --tile 88 -o m.zarr").err
    assert "4 times as large" in said
    assert "--level 2" in said


def test_either_axis_counts_and_unknown_sizes_do_not(half: Path, run: Run) -> None:
    tifffile.imwrite("a.tif", noise((64, 64)), ome=True, metadata={"PhysicalSizeY": 0.5, "PhysicalSizeX": 0.25})
    assert "0.5 x 0.25 um" in run("predict a.tif -m half.safetensors --tile 88 -o a.zarr").err
    assert "trained on" not in run("predict slide.tif -m half.safetensors --tile 88 -o b.zarr").err
    assert "trained on" not in run("predict a.tif -m toy.safetensors --tile 88 -o c.zarr").err


def test_a_model_that_reduces_its_images_is_given_those_it_was_trained_on(half: Path, run: Run) -> None:
    """Trained with --scale 0.5 on pixels of 0.5 um it takes such pixels, and reduces them itself."""
    reduced = toy_model()
    arguments = {**reduced.header.arguments, "reduction": 2}
    from tilesegment.networks import build_network

    network = build_network("unet", arguments).requires_grad_(False).eval()
    Model(replace(reduced.header, arguments=arguments, pixel_size=PixelSize(0.5, 0.5)), network).save(
        half / "reduced.safetensors"
    )
    pyramid(half, 0.5)
    line = "predict a.zarr -m reduced.safetensors -o m.zarr --overwrite --level "
    assert "trained on" not in run(line + "0").err
    assert "trained on 0.5 um" in run(line + "1").err
