"""The pixel size of images: given for each one in a list, doubted where it cannot be true."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import Run
from conftest import noise
from scaled_images import LINE, ids_of, make_slide
from unreal_plans import image_of

import tilesegment
from tilesegment.images import open_image
from tilesegment.metadata import PixelSize


@pytest.fixture
def slide(folder: Path) -> Path:
    """Of 0.365 um per pixel, and one of unknown size, beside a model that wants 0.5 um."""
    return make_slide(folder)


# a list with columns of sizes


def test_each_image_of_a_list_has_its_own_size(slide: Path, run: Run) -> None:
    """As if each had been predicted on its own, by its size in micrometres."""
    (slide.parent / "more").mkdir()
    for name in ("one.tif", "two.tif"):
        (slide.parent / "more" / name).write_bytes(slide.with_name("bare.tif").read_bytes())
    Path("l.csv").write_text("image,mpp\nbare.tif,0.25\nfine.tif,\nmore,0.4\n")
    found = run(LINE.format("") + "--list l.csv --mpp 0.5 --out-dir masks --dry-run")
    assert (found.code, found.err.count("each pixel spans 2 of level 0")) == (0, 1), found.err
    found = run(LINE.format("") + "--list l.csv --mpp 0.5 --out-dir masks")
    assert found.code == 0, found.err
    sizes = {name: tilesegment.describe(f"masks/{name}.zarr")["shape_yx"] for name in ("bare", "fine", "one", "two")}
    assert sizes == {"bare": [150, 210], "fine": [219, 307], "one": [240, 336], "two": [240, 336]}
    assert run(LINE.format("bare.tif") + "--mpp 0.5 --source-mpp 0.25 -o alone.zarr").code == 0
    np.testing.assert_array_equal(ids_of(Path("alone.zarr")), ids_of(Path("masks/bare.zarr")))


def test_the_list_has_the_last_word_and_what_the_file_says_otherwise_is_told(slide: Path, run: Run) -> None:
    Path("l.csv").write_text("image,mpp\nfine.tif,0.25\nbare.tif,\n")
    found = run(LINE.format("") + "--list l.csv --mpp 0.5 --source-mpp 1 --out-dir masks")
    assert found.code == 0, found.err
    assert "fine.tif says that its pixels are 0.365 um: 0.25 are taken, as was given" in found.err
    sizes = {name: tilesegment.describe(f"masks/{name}.zarr")["shape_yx"] for name in ("bare", "fine")}
    assert sizes == {"bare": [600, 840], "fine": [150, 210]}


def test_objects_of_each_image_have_their_own_diameter(slide: Path, run: Run) -> None:
    Path("l.csv").write_text("image,diameter\nbare.tif,40\nfine.tif,10\n")
    assert run(LINE.format("") + "--list l.csv --out-dir masks").code == 0
    sizes = {name: tilesegment.describe(f"masks/{name}.zarr")["shape_yx"] for name in ("bare", "fine")}
    assert sizes == {"bare": [150, 210], "fine": [600, 840]}


@pytest.mark.parametrize(
    ("rows", "more", "named"),
    [
        ("image,mpp\nbare.tif,0\n", "", "line 2 of l.csv: mpp is 0; write a positive number of micrometres"),
        ("image,diameter\nbare.tif,30\n", "--mpp 0.5", "bare.tif of the list: --diameter and --mpp each say"),
        ("image,mpp\nbare.tif,1\nbare.tif,2\n", "--mpp 1", "names bare.tif twice, with different settings"),
    ],
)
def test_sizes_of_a_list_that_cannot_be_are_refused_before_anything_begins(
    rows: str, more: str, named: str, slide: Path, run: Run
) -> None:
    Path("l.csv").write_text(rows)
    found = run(LINE.format("") + f"--list l.csv --out-dir masks {more}")
    assert (found.code, found.err.count("\n")) == (1, 1), found.err
    assert named in found.err
    assert not Path("masks").exists()


# doubts


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint8"), (3, "uint16"), (4, "uint8")])
@pytest.mark.parametrize("side", [0.000001, 0.004, 0.25, 30, 353.0])
def test_sizes_that_are_hardly_true_are_doubted_whoever_gives_them(channels: int, dtype: str, side: float) -> None:
    """Of colour images what light cannot resolve; of others what no microscope shows."""
    image = image_of(channels=channels, dtype=dtype)
    image.assume_pixel_size(PixelSize(0.25, side))
    is_colour = channels > 1 and dtype == "uint8"
    believed = 0.05 <= side <= 20 if is_colour else 0.00001 <= side <= 100
    assert ("hardly true" in " ".join(image.notes)) != believed


def test_a_size_of_a_file_that_is_hardly_true_is_told_where_it_is_used(folder: Path) -> None:
    for number, side in enumerate((0.25, 352.8)):
        said = {"axes": "YX", "PhysicalSizeX": side, "PhysicalSizeY": side}
        tifffile.imwrite(folder / f"{number}.ome.tif", noise((40, 50)), metadata=said)
        with open_image(folder / f"{number}.ome.tif") as source:
            assert any("hardly true" in note and "--source-mpp" in note for note in source.notes) == (side > 100)
