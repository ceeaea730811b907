"""What is said where an image has other pixels than the model was trained on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from conftest import noise, toy_model
from ome_zarr_files import axes_of, means, transformations, write_image
from unreal_plans import image_of

from tilesegment.images.source import ImageSource, Level
from tilesegment.metadata import Frame, PixelSize, Spacing
from tilesegment.models.model import Model
from tilesegment.prediction.resolution import resolution_notes

HALF = PixelSize(0.5, 0.5)


def pyramid(y: float, x: float) -> ImageSource:
    """An image of three levels, pixels of y times x micrometres."""
    levels = tuple(Level((128 // n, 128 // n), (float(n), float(n))) for n in (1, 2, 4))
    frame = Frame(y=Spacing(y, 0.0, "micrometer"), x=Spacing(x, 0.0, "micrometer"))
    return type(image_of())("a.tif", "TIFF", levels, None, 1, np.dtype("uint8"), frame)


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
def test_a_difference_of_more_than_a_fifth_is_said(size: float, level: int, is_said: bool) -> None:
    notes = resolution_notes(pyramid(size, size), HALF, level)
    assert bool(notes) == is_said
    assert all(f"level {level} are" in note and "0.5 um" in note for note in notes)


def test_the_level_that_fits_and_the_axis_that_differs_are_named() -> None:
    (note,) = resolution_notes(pyramid(0.125, 0.125), HALF, 0)
    assert "4 times as large" in note
    assert "--level 2" in note
    (note,) = resolution_notes(pyramid(0.5, 0.25), HALF, 0)
    assert "0.5 x 0.25 um" in note
    assert "2 times as large" in note
    assert resolution_notes(image_of(), HALF, 0) == resolution_notes(pyramid(0.1, 0.1), None, 0) == ()


def test_an_image_without_a_pixel_size_and_what_helps_are_named() -> None:
    (note,) = resolution_notes(image_of(), HALF, 0, diameter=20)
    assert "does not say how large its pixels are" in note
    assert all(option in note for option in ("--diameter PX", "--mpp model", "--source-mpp MICRONS"))
    (note,) = resolution_notes(pyramid(0.1, 0.1), None, 0, diameter=20)
    assert "--diameter PX" in note and "does not say" not in note and "--mpp" not in note


def test_a_prediction_and_its_plan_say_it(folder: Path, run: Run) -> None:
    model = toy_model()
    Model(replace(model.header, pixel_size=HALF), model.network).save(folder / "half.safetensors")
    described = [transformations([0.25 * n, 0.25 * n]) for n in (1, 2, 4)]
    axes = axes_of("yx", {"y": "micrometer", "x": "micrometer"})
    write_image(folder / "a.zarr", means(noise((128, 128)), 3), axes=axes, described=described)
    line = "predict a.zarr -m half.safetensors --tile 88 "
    for more, notes in (("", 1), ("--level 1 ", 0)):
        assert len(json.loads(run(line + more + "--dry-run --json").out)["notes"]) == notes
        assert ("--level 1" in run(line + more + "-o m.zarr --overwrite").err) == bool(notes)
