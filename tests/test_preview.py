"""Pictures of whole images: previews and heat maps, from Python and by `predict --heatmap`."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from command_line import Run
from conftest import noise, toy_model
from matplotlib import colormaps
from PIL import Image

import tilesegment
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.masks import MaskSpec
from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.preview import Heatmap, draw_overview, draw_preview

CLASSES = (LabelClass("outside", "#000000"), LabelClass("inside", "#ff0000"))
HE = ((243, 241, 242), (225, 161, 196))  # glass and stroma
TOP = 12 + 25  # where the panels begin, below the title, in a sheet as narrow as can be


class Halves:
    """Ids of an image whose right half is class 1."""

    def __init__(self, width: int) -> None:
        self.width = width

    def read(self, region: Region, z: int) -> np.ndarray:
        """(h, w) uint8."""
        row = (np.arange(region.x0, region.x1) >= self.width // 2).astype(np.uint8)
        return np.tile(row, (region.height, 1))


def overview(image: Path, ids: Halves, out: Path, pixel_size: PixelSize | None = None) -> np.ndarray:
    """The picture of an image and a mask of all of it, (h, w, 3)."""
    with open_image(image) as source:
        place = {"shape": source.shape, "level": 0, "planes": [0, 1], "region": [0, 0, *source.shape]}
        draw_overview(source, ids, MaskSpec(source.shape, None, 64, 64, CLASSES, pixel_size, fingerprint=place), out)
    with Image.open(out) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("shape", [(60, 90), (2500, 3001), (1, 4099)])
def test_an_image_of_any_size_fits_on_a_screen(shape: tuple[int, int], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", noise(shape), tile=(256, 256))
    pixels = overview(tmp_path / "image.tif", Halves(shape[1]), tmp_path / "out.png").astype(int)
    width = -(-shape[1] // -(-max(shape) // 1024))
    assert pixels.shape[1] == max(2 * width + 36, 640)
    red = (pixels[..., 0] - pixels[..., 2])[: pixels.shape[0] // 2, : 2 * width + 36]
    assert red[:, : width + 18].max() == 0, "the left panel and the left half of the right one are grey"
    assert red[:, -12 - width // 4 : -12].max() > 50, "the right half is drawn over in red"


def test_a_reduced_colour_image_has_its_own_colours(tmp_path: Path) -> None:
    image = np.empty((400, 4096, 3), np.uint8)
    image[:, :2048], image[:, 2048:] = HE
    tifffile.imwrite(tmp_path / "he.tif", image, tile=(64, 64), photometric="rgb")
    drawn = overview(tmp_path / "he.tif", Halves(9999), tmp_path / "out.png")
    panel = drawn[100:140, 12 : 12 + 1024]
    assert {tuple(colour) for colour in np.unique(panel.reshape(-1, 3), axis=0).tolist()} == set(HE)


@pytest.mark.parametrize(("width", "length"), [(0.004, 0.2), (0.01, 0.5), (0.5, 20), (40, 2000)])
def test_the_scale_bar_is_of_a_round_length(tmp_path: Path, width: float, length: float) -> None:
    tifffile.imwrite(tmp_path / "black.tif", np.zeros((200, 200), np.uint8))
    drawn = overview(tmp_path / "black.tif", Halves(999), tmp_path / "p.png", PixelSize(width, width))
    bar = (drawn[TOP : TOP + 200, 12:212] == 255).all(-1).sum(1).max()
    assert bar * width == pytest.approx(length, rel=0.05)


def test_a_preview_is_the_same_during_and_after_the_run(toy: Path, tmp_path: Path) -> None:
    Image.fromarray(noise((70, 80))).save(image := tmp_path / "image.png")
    mask, during, after = (tmp_path / name for name in ("mask.zarr", "during.png", "after.png"))
    tilesegment.predict(image, mask, toy, preview=during, roi=Region(10, 20, 60, 80))
    draw_preview(image, mask, after)
    assert during.read_bytes() == after.read_bytes()


def test_a_mask_of_another_image_is_refused(toy: Path, tmp_path: Path) -> None:
    for name, size in (("large.png", 80), ("small.png", 40)):
        Image.fromarray(noise((size, size))).save(tmp_path / name)
    tilesegment.predict(tmp_path / "large.png", tmp_path / "mask.zarr", toy)
    with pytest.raises(tilesegment.MaskError, match=r"small\.png.*large\.png"):
        draw_preview(tmp_path / "small.png", tmp_path / "mask.zarr", tmp_path / "out.png")


@pytest.mark.parametrize("name", ["out.bmp", "nowhere/out.png"])
def test_a_preview_that_cannot_be_is_refused_before_the_run(name: str, toy: Path, tmp_path: Path) -> None:
    Image.fromarray(noise((40, 40))).save(tmp_path / "image.png")
    with pytest.raises(tilesegment.MaskError, match=name):
        tilesegment.predict(tmp_path / "image.png", tmp_path / "mask.zarr", toy, preview=tmp_path / name)
    assert not list(tmp_path.glob("*.zarr*"))


LINE = "predict slide.tif --model toy.safetensors --tile 88 --out m.zarr --probabilities p.zarr -q "


def shown(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """The map in a picture, as probabilities: each colour of the palette is one of 256."""
    with Image.open(path) as picture:
        panel = np.asarray(picture)[TOP : TOP + shape[0], 12 : 12 + shape[1]].astype(int)
    palette = colormaps["inferno"](np.arange(256), bytes=True)[:, :3].astype(int)
    distance = np.abs(panel[:, :, None] - palette).sum(-1)
    assert distance.min(-1).max() == 0, "colours of the palette only"
    return distance.argmin(-1) / 255


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_heat_map_shows_the_probabilities(dtype: str, folder: Path, run: Run) -> None:
    line = LINE + f"--probabilities-dtype {dtype} --heatmap h.png "
    assert run(line).code == 0
    likely = np.asarray(zarr.open_group("p.zarr", mode="r")["0"])
    assert likely.dtype == dtype
    likely = likely / (255 if dtype == "uint8" else 1)
    assert np.abs(shown("h.png", (130, 150)) - likely[1]).max() < 0.005
    # the same command again changes nothing, and is not refused
    before = Path("h.png").read_bytes()
    assert run(line).code == 0
    assert Path("h.png").read_bytes() == before
    # another class, of probabilities that are complete
    assert run(line + "--heatmap-class 0").code == 0
    assert np.abs(shown("h.png", (130, 150)) - likely[0]).max() < 0.005


def test_the_foreground_is_every_class_but_0(folder: Path) -> None:
    toy_model(classes=4).save("four.safetensors")
    for name, wanted in (("f.png", None), ("two.png", "class 2")):
        given = {"probabilities": "p.zarr", "heatmap": name, "heatmap_class": wanted}
        tilesegment.predict("slide.tif", "m.zarr", "four.safetensors", **given)
    likely = np.asarray(zarr.open_group("p.zarr", mode="r")["0"])
    assert np.abs(shown("f.png", (130, 150)) - (1 - likely[0])).max() < 0.005
    assert np.abs(shown("two.png", (130, 150)) - likely[2]).max() < 0.005


def test_a_large_image_is_shown_at_a_reduced_level(folder: Path, run: Run) -> None:
    tifffile.imwrite("slide.tif", noise((40, 1100)), tile=(64, 64))
    assert run(LINE).code == 0
    group = zarr.open_group("p.zarr", mode="r")
    assert sorted(group.array_keys()) == ["0", "1", "2"]
    Heatmap(folder / "h.png", folder / "p.zarr").draw(300)
    assert np.abs(shown("h.png", (10, 275)) - np.asarray(group["2"])[1]).max() < 0.005
    # less than the smallest level: every third pixel
    Heatmap(folder / "i.png", folder / "p.zarr", 0).draw(100)
    assert np.abs(shown("i.png", (4, 92)) - np.asarray(group["2"])[0, ::3, ::3]).max() < 0.005


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ("--heatmap h.png", 2, "--probabilities"),
        ("--probabilities-dtype uint8", 2, "--probabilities"),
        ("--probabilities p.zarr --heatmap-class 1", 2, "--heatmap"),
        ("--probabilities p.zarr --heatmap h.gif", 1, ".png"),
        ("--probabilities p.zarr --heatmap no/h.png", 1, "no/h.png"),
        ("--probabilities p.zarr --heatmap rgb.png", 1, "rgb.png"),
        ("--probabilities p.zarr --heatmap h.png --heatmap-class nuclei", 1, "foreground, class 0, class 1"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_the_run(
    options: str, code: int, named: str, folder: Path, run: Run
) -> None:
    done = run("predict slide.tif --model toy.safetensors --out m.zarr " + options)
    assert done.code == code and named in done.err
    assert not list(folder.glob("*.zarr*"))
