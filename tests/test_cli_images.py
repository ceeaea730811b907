"""What the command line says of an image, and how it is told which of several, and how it is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import Run
from conftest import noise, toy_model
from mask_files import mask_of
from PIL import Image

from tilesegment.training.data import open_dataset

PREDICT = "predict {} -m toy.safetensors --tile 88 --out {}"


def predicted(run: Run, image: str, out: str = "m.zarr", more: str = "") -> tuple[np.ndarray, str]:
    """The mask, and what was printed."""
    found = run(f"{PREDICT.format(image, out)} --overwrite {more}")
    assert found.code == 0, found.err
    return mask_of(out), found.err


def test_other_images_of_a_file_are_named_and_chosen(folder: Path, run: Run) -> None:
    images = noise((3, 60, 70))
    for number, image in enumerate(images):
        tifffile.imwrite("several.tif", image, append=number > 0)
        tifffile.imwrite(f"{number}.tif", image)
    expected = [predicted(run, f"{number}.tif", f"{number}.zarr") for number in range(3)]
    assert not any("Note:" in text for _, text in expected)
    mask, text = predicted(run, "several.tif")
    np.testing.assert_array_equal(mask, expected[0][0])
    assert "Note: several.tif holds 2 other images" in text and "--series N" in text
    mask, text = predicted(run, "several.tif", more="--series 2")
    np.testing.assert_array_equal(mask, expected[2][0])
    assert "other images" not in text
    assert run("preview several.tif m.zarr --out p.png").code == 0
    assert run("verify several.tif -m toy.safetensors --tile 88 --series 1 -q").code == 0
    found = run(f"{PREDICT.format('several.tif', 'x.zarr')} --series 3")
    assert (found.code, "from 0 to 2" in found.err) == (1, True)
    found = run("info several.tif")
    assert "series 2:" in found.out and "note: several.tif holds 2 other images" in found.out
    facts = json.loads(run("info several.tif --series 1 --json").out)
    assert len(facts["series"]) == 3 and "notes" not in facts


def test_a_choice_of_series_decides_the_mask(folder: Path, run: Run) -> None:
    """A mask of one image of a file is not taken for that of another."""
    for number in range(2):
        tifffile.imwrite("several.tif", noise((60, 70), number), append=number > 0)
    assert run(PREDICT.format("several.tif", "m.zarr")).code == 0
    again = run(f"{PREDICT.format('several.tif', 'm.zarr')} --series 1")
    assert (again.code, "m.zarr exists" in again.err) == (1, True)


def test_an_image_that_is_to_be_turned(folder: Path, run: Run) -> None:
    pixels = noise((60, 90))
    tifffile.imwrite("turned.tif", pixels, extratags=[(274, "H", 1, 6, True)], metadata=None)
    tifffile.imwrite("upright.tif", np.rot90(pixels, -1))
    mask, text = predicted(run, "turned.tif")
    np.testing.assert_array_equal(mask, predicted(run, "upright.tif", "u.zarr")[0])
    assert "turned by 90 degrees clockwise" in text


def test_an_image_that_counts_from_white(folder: Path, run: Run) -> None:
    pixels = noise((60, 90))
    tifffile.imwrite("white.tif", 255 - pixels, photometric="miniswhite")
    tifffile.imwrite("black.tif", pixels)
    expected = predicted(run, "black.tif", "b.zarr")[0]
    mask, text = predicted(run, "white.tif")
    assert "MINISWHITE" in text and "--invert" in text
    assert (mask != expected).any()
    np.testing.assert_array_equal(predicted(run, "white.tif", more="--invert")[0], expected)
    assert run("preview white.tif m.zarr --out p.png").code == 0
    Image.fromarray(pixels).save("a.png")
    assert "--invert changes nothing" in predicted(run, "a.png", more="--invert")[1]


@pytest.mark.parametrize("dtype", ["int16", "float64"])
def test_pixel_types_take_the_normalisation_of_the_image(folder: Path, run: Run, dtype: str) -> None:
    pixels = noise((60, 90)) // 2
    tifffile.imwrite("a.tif", pixels.astype(dtype))
    tifffile.imwrite("float.tif", pixels.astype(np.float32))
    toy_model(dtype="float32").save(folder / "float.safetensors")
    expected = predicted(run, "float.tif", "f.zarr", "--normalise image")[0]
    mask, text = predicted(run, "a.tif", more="--normalise image")
    np.testing.assert_array_equal(mask, expected)
    assert f"a.tif holds {dtype}" in text
    found = run(PREDICT.format("a.tif", "x.zarr").replace("toy", "float"))
    # floats mean to a model of floats what they mean in float32; whole numbers have another range
    assert found.code == (0 if dtype.startswith("float") else 1)
    assert f"a.tif is {dtype}, the model was trained on float32" in found.err or found.code == 0


def test_values_too_close_for_float32(folder: Path, run: Run) -> None:
    tifffile.imwrite("a.tif", noise((60, 90)).astype(np.int32) + 2**30)
    found = run(f"{PREDICT.format('a.tif', 'x.zarr')} --normalise image")
    assert found.code == 1
    assert "int32" in found.err and "float32" in found.err


def test_masks_whose_separator_was_lost(folder: Path, run: Run) -> None:
    """A mask of OME-Zarr 0.4 is compared and drawn as it is stored."""
    assert run(f"{PREDICT.format('slide.tif', 'm.zarr')} --ngff 0.4").code == 0
    assert run(f"{PREDICT.format('slide.tif', 'truth.png')}").code == 0
    for name in ("a.png", "b.png"):
        assert json.loads(run("evaluate m.zarr truth.png --json -q").out)["accuracy"] == 1
        assert run(f"preview slide.tif m.zarr --out {name}").code == 0
        for file in Path("m.zarr").glob("*/.zarray"):
            meta = json.loads(file.read_text())
            meta.pop("dimension_separator", None)
            file.write_text(json.dumps(meta))
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert run("info m.zarr").code == 0


def test_labels_that_count_from_white(folder: Path, run: Run) -> None:
    """Of bilevel TIFFs many do: their classes are swapped, which is said, and --invert settles it."""
    inside = noise((60, 70)) > 128
    Image.fromarray(inside.astype(np.uint8) * 255).save("mask.png")
    tifffile.imwrite("truth.tif", ~inside, photometric="miniswhite")
    found = run("evaluate mask.png truth.tif --json --no-cells")
    assert "MINISWHITE" in found.err and "--invert" in found.err
    assert json.loads(found.out)["accuracy"] == 0
    assert json.loads(run("evaluate mask.png truth.tif --invert --json --no-cells").out)["accuracy"] == 1
    for name in ("images", "labels"):
        (folder / name).mkdir()
        for number in range(2):
            tifffile.imwrite(folder / name / f"{number}.tif", ~inside, photometric="miniswhite")
    plain, inverted = (open_dataset(folder, invert=invert) for invert in (False, True))
    assert any("MINISWHITE" in note for note in plain.notes)
    for before, after in zip(plain.sections, inverted.sections, strict=True):
        np.testing.assert_array_equal(after.image, 255 - before.image)
        np.testing.assert_array_equal(after.label, 1 - before.label)
