"""Previews of whole images."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import noise
from PIL import Image

import tilesegment
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.metadata import LabelClass
from tilesegment.overview import draw_preview, overview

CLASSES = (LabelClass("outside", "#000000"), LabelClass("inside", "#ff0000"))


class Halves:
    """Ids of an image whose right half is class 1."""

    def __init__(self, width: int) -> None:
        self.width = width

    def read(self, region: Region, z: int) -> np.ndarray:
        """(h, w) uint8."""
        row = (np.arange(region.x0, region.x1) >= self.width // 2).astype(np.uint8)
        return np.tile(row, (region.height, 1))


@pytest.mark.parametrize("shape", [(60, 90), (2500, 3001), (1, 4099)])
def test_an_image_of_any_size_fits_on_a_screen(shape: tuple[int, int], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", noise(shape), tile=(256, 256))
    with open_image(tmp_path / "image.tif") as source:
        overview(source, Halves(shape[1]), Region.of_shape(shape), 0, 0, CLASSES, None, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    factor = -(-max(shape) // 1024)
    width = -(-shape[1] // factor)
    assert pixels.shape[1] == 2 * width + 36
    red = pixels[: pixels.shape[0] // 2, :, 0] - pixels[: pixels.shape[0] // 2, :, 2]
    assert red[:, : width + 18].max() == 0, "the left panel and the left half of the right one are grey"
    assert red[:, -12 - width // 4 : -12].max() > 50, "the right half is drawn over in red"


def test_a_reduced_colour_image_has_its_own_colours(tmp_path: Path) -> None:
    image = np.empty((400, 4096, 3), np.uint8)
    image[:, :2048], image[:, 2048:] = (243, 241, 242), (225, 161, 196)
    tifffile.imwrite(tmp_path / "he.tif", image, tile=(64, 64), photometric="rgb")
    with open_image(tmp_path / "he.tif") as source:
        overview(source, Halves(9999), Region(0, 0, 400, 4096), 0, 0, CLASSES, None, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    panel = drawn[100:180, 12 : 12 + 1024]  # below the title
    assert {tuple(colour) for colour in np.unique(panel.reshape(-1, 3), axis=0).tolist()} == {
        (243, 241, 242),
        (225, 161, 196),
    }


def test_a_preview_is_the_same_during_and_after_the_run(toy: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(noise((70, 80))).save(image)
    mask, during, after = (tmp_path / name for name in ("mask.zarr", "during.png", "after.png"))
    tilesegment.predict(image, mask, toy, preview=during, roi=Region(10, 20, 60, 80))
    draw_preview(image, mask, after)
    assert during.read_bytes() == after.read_bytes()


def test_a_mask_of_another_image_is_refused(toy: Path, tmp_path: Path) -> None:
    for name, size in (("large.png", 80), ("small.png", 40)):
        Image.fromarray(noise((size, size))).save(tmp_path / name)
    tilesegment.predict(tmp_path / "large.png", tmp_path / "mask.zarr", toy)
    with pytest.raises(tilesegment.MaskError, match=r"not a mask of .*small.png: it was made of large.png"):
        draw_preview(tmp_path / "small.png", tmp_path / "mask.zarr", tmp_path / "out.png")


@pytest.mark.parametrize("name", ["out.bmp", "nowhere/out.png"])
def test_a_preview_that_cannot_be_is_refused_before_the_run(name: str, toy: Path, tmp_path: Path) -> None:
    Image.fromarray(noise((40, 40))).save(tmp_path / "image.png")
    with pytest.raises(tilesegment.MaskError, match=r"preview|folder"):
        tilesegment.predict(tmp_path / "image.png", tmp_path / "mask.zarr", toy, preview=tmp_path / name)
    assert not list(tmp_path.glob("*.zarr*"))
