"""Previews of objects: ids of ours and of others, and the connected regions of a mask."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from command_line import Outcome, Run
from conftest import data_folder, noise
from PIL import Image
from scipy import ndimage

import tilesegment
from tilesegment.draw import enlarged, is_picture_of_ours, overlay_objects, stretch
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.masks import MaskSpec, create_mask, create_objects
from tilesegment.metadata import LabelClass
from tilesegment.objects.find import find_objects
from tilesegment.preview import draw_preview

GAP = 12  # between and around the panels
CLASSES = (LabelClass("outside", "#000000"), LabelClass("cell", "#ff0000"), LabelClass("rim", "#00ff00"))


def some_ids(shape: tuple[int, int] = (130, 150), dtype: str = "uint32") -> np.ndarray:
    """Squares of 16 pixels with ids, every third of them bare; some of them touch."""
    rows, columns = (np.arange(side) // 16 for side in shape)
    ids = 1 + rows[:, None] * (columns[-1] + 1) + columns
    return np.where(ids % 3 == 0, 0, ids % min(np.iinfo(dtype).max, 10**9)).astype(dtype)


def panels(path: Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two panels of a preview of as many pixels as `ids`, enlarged, each (h, w, 3)."""
    times = 1024 // max(ids.shape)
    height, width = (side * times for side in ids.shape)
    with Image.open(path) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    top = sheet.shape[0] - 2 * GAP - height  # the title is higher on a wide sheet
    return tuple(sheet[top : top + height, x : x + width] for x in (GAP, 2 * GAP + width))


def expected(pixels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The right panel of a preview of grey pixels (h, w) and ids (h, w)."""
    times = 1024 // max(ids.shape)
    return overlay_objects(enlarged(stretch(pixels[None]), 1024), ids.repeat(times, 0).repeat(times, 1))


def write_ids(path: Path, ids: np.ndarray) -> None:
    """As Cellpose and StarDist do, and as plain Zarr."""
    if path.suffix == ".zarr":
        zarr.create_array(path, data=ids, chunks=(64, 64))
    elif path.suffix == ".tif":
        tifffile.imwrite(path, ids, compression="zlib")
    else:
        Image.fromarray(ids).save(path)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("ids.png", "uint8"), ("ids.png", "uint16"), ("ids.tif", "int32"), ("ids.tif", "uint32"), ("ids.zarr", "uint64")],
)
def test_ids_of_others_are_drawn(name: str, dtype: str, folder: Path, run: Run) -> None:
    ids = some_ids(dtype=dtype)
    write_ids(folder / name, ids)
    found = run(f"preview slide.tif {name} --out p.png")
    assert (found.code, found.out, found.err) == (0, "p.png\n", "")
    plain, drawn = panels(folder / "p.png", ids)
    np.testing.assert_array_equal(plain, enlarged(stretch(noise((130, 150))[None]), 1024))
    np.testing.assert_array_equal(drawn, expected(noise((130, 150)), ids))
    assert is_picture_of_ours(folder / "p.png")


def test_a_part_is_drawn_in_the_colours_of_its_ids(folder: Path, run: Run) -> None:
    ids = some_ids()
    write_ids(folder / "ids.tif", ids)
    assert run("preview slide.tif ids.tif --out p.png --roi 20:90,30:130").code == 0
    np.testing.assert_array_equal(
        panels(folder / "p.png", ids[20:90, 30:130])[1], expected(noise((130, 150))[20:90, 30:130], ids[20:90, 30:130])
    )


def test_ids_are_counted_in_the_part_that_is_drawn(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number stands in the title."""
    titles = []

    def sheet(*rows: object, title: str, **rest: object) -> Image.Image:
        titles.append(title)
        return Image.new("RGB", (9, 9))

    monkeypatch.setattr("tilesegment.preview.overview.sheet", sheet)
    write_ids(folder / "ids.tif", some_ids())
    run("preview slide.tif ids.tif --out p.png --roi 0:32,0:64")
    assert run("preview slide.tif ids.tif --out p.png --roi 0:16,0:16").err == ""
    assert titles == [
        "slide.tif, 32 x 64 px from 0, 0 (y, x), 6 objects",
        "slide.tif, 16 x 16 px from 0, 0 (y, x), 1 object",
    ]


def test_a_large_picture_is_reduced_to_nearest_pixels(tmp_path: Path) -> None:
    ids, pixels = some_ids((40, 2500)), np.zeros((40, 2500), np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", pixels, tile=(64, 64))
    zarr.create_array(tmp_path / "ids.zarr", data=ids, chunks=(40, 100))
    draw_preview(tmp_path / "image.tif", tmp_path / "ids.zarr", tmp_path / "p.png")
    reduced = ids[::3, ::3]
    np.testing.assert_array_equal(
        panels(tmp_path / "p.png", reduced)[1], overlay_objects(np.zeros((*reduced.shape, 3), np.uint8), reduced)
    )


def decided(shape: tuple[int, int], region: Region) -> dict[str, object]:
    """What the fingerprint of a mask says about its place."""
    return {"image": "slide.tif", "shape": list(shape), "level": 0, "planes": [0, 1], "region": [*region_of(region)]}


def region_of(region: Region) -> tuple[int, int, int, int]:
    """(y0, x0, y1, x1)."""
    return region.y0, region.x0, region.y1, region.x1


def write_objects(path: Path, ids: np.ndarray, fingerprint: dict[str, object]) -> None:
    """As `tileseg objects` does."""
    writer = create_objects(path, MaskSpec(ids.shape, None, 64, 32, CLASSES[:2], None, fingerprint=fingerprint))
    for region in Region.of_shape(ids.shape).squares(64):
        writer.write(region, ids[region.slices])
    writer.finish()


def test_ids_of_a_region_lie_where_the_mask_lies(folder: Path) -> None:
    ids, region = some_ids((70, 100)) * 60_000_000, Region(20, 30, 90, 130)
    write_objects(folder / "objects.zarr", ids, {"made_of": "a mask", "mask": decided((130, 150), region)})
    draw_preview("slide.tif", "objects.zarr", "p.png")
    np.testing.assert_array_equal(panels(folder / "p.png", ids)[1], expected(noise((130, 150))[20:90, 30:130], ids))
    draw_preview("slide.tif", "objects.zarr", "p.png", roi=Region(40, 40, 80, 200))
    np.testing.assert_array_equal(
        panels(folder / "p.png", ids[20:60, 10:100])[1],
        expected(noise((130, 150))[40:80, 40:130], ids[20:60, 10:100]),
    )
    Image.fromarray(noise((130, 151))).save("other.png")
    with pytest.raises(tilesegment.MaskError, match=r"objects\.zarr is not a mask of other\.png"):
        draw_preview("other.png", "objects.zarr", "p.png")


def test_ids_of_a_whole_image_need_no_place(folder: Path) -> None:
    ids = some_ids()
    write_objects(folder / "objects.zarr", ids, {})
    draw_preview("slide.tif", "objects.zarr", "p.png")
    np.testing.assert_array_equal(panels(folder / "p.png", ids)[1], expected(noise((130, 150)), ids))


def test_ids_that_were_found_in_a_mask_are_drawn(folder: Path, run: Run) -> None:
    """From the image to the picture: a mask of a region, its objects, and the preview of these."""
    tilesegment.predict("slide.tif", "mask.zarr", "toy.safetensors", roi=Region(20, 30, 90, 130), precision="fp32")
    found = find_objects("mask.zarr", "objects.zarr")
    assert run("preview slide.tif objects.zarr --out p.png") == Outcome(0, "p.png\n", "")
    with open_image("objects.zarr") as source:
        ids = source.read_stored(Region.of_shape(source.shape))[0]
    assert ids.dtype == np.uint32 and ids.max() == found.count > 5
    np.testing.assert_array_equal(panels(folder / "p.png", ids)[1], expected(noise((130, 150))[20:90, 30:130], ids))
    # in the colours that the regions of the mask have
    assert run("preview slide.tif mask.zarr --out q.png --objects").code == 0
    for one, other in zip(panels(folder / "p.png", ids), panels(folder / "q.png", ids), strict=True):
        np.testing.assert_array_equal(one, other)


def write_mask(path: Path, ids: np.ndarray, classes: tuple[LabelClass, ...] = CLASSES) -> None:
    """A mask of slide.tif."""
    spec = MaskSpec(ids.shape, None, 64, 32, classes, None, fingerprint=decided(ids.shape, Region.of_shape(ids.shape)))
    writer = create_mask(path, spec)
    for region in Region.of_shape(ids.shape).squares(64):
        writer.write(region, ids[region.slices])
    writer.finish()


def blots(seed: int = 0) -> np.ndarray:
    """Class ids (130, 150) uint8 of 0 to 2, and 9, which is no data."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(130, 150)), 4)
    ids = np.digitize(smooth, np.quantile(smooth, [0.5, 0.8])).astype(np.uint8)
    ids[:5, :5] = 9
    return ids


@pytest.mark.parametrize("form", ["mask.zarr", "mask.tif", "mask.png"])
def test_connected_regions_of_classes_are_objects(form: str, folder: Path, run: Run) -> None:
    ids = blots()
    if form == "mask.png":
        ids[:5, :5] = 0
    write_mask(folder / form, ids)
    assert run(f"preview slide.tif {form} --out p.png --objects").code == 0
    apart = np.zeros(ids.shape, np.int64)
    firsts = []
    for value in (1, 2):
        parts, count = ndimage.label(ids == value)
        apart += np.where(parts > 0, parts + apart.max(), 0)
        firsts += [np.flatnonzero(parts == n)[0] for n in range(1, count + 1)]
    numbers = np.concatenate([[0], np.argsort(np.argsort(firsts)) + 1])  # by their first pixel
    np.testing.assert_array_equal(panels(folder / "p.png", ids)[1], expected(noise((130, 150)), numbers[apart]))
    # and without the option they are classes, as ever
    assert run(f"preview slide.tif {form} --out q.png").code == 0
    with Image.open("q.png") as picture:
        assert picture.width == max(2 * 150 + 3 * GAP, 640)


def test_only_classes_that_make_objects_are_drawn_as_objects(folder: Path) -> None:
    ids = np.zeros((130, 150), np.uint8)
    ids[20:60, 20:60], ids[20:60, 60:100] = 1, 2
    write_mask(folder / "mask.zarr", ids, (CLASSES[0], LabelClass("cell", "#ff0000", role="object"), CLASSES[2]))
    draw_preview("slide.tif", "mask.zarr", "p.png", objects=True)
    np.testing.assert_array_equal(panels(folder / "p.png", ids)[1], expected(noise((130, 150)), ids % 2))


def test_black_and_white_masks_of_others_are_parted(folder: Path, run: Run) -> None:
    white = (some_ids() > 0).astype(np.uint8) * 255
    write_ids(folder / "white.png", white)
    found = run("preview slide.tif white.png --out p.png")
    assert found.code == 0 and "--objects" in found.err and found.err.count("\n") == 1
    assert run("preview slide.tif white.png --out p.png --objects").err == ""
    parts = ndimage.label(white)[0]
    assert parts.max() > 5
    np.testing.assert_array_equal(panels(folder / "p.png", parts)[1], expected(noise((130, 150)), parts))


def test_too_many_pixels_to_part_are_parted_in_the_picture(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mask(folder / "mask.zarr", blots())
    assert run("preview slide.tif mask.zarr --out whole.png --objects").err == ""
    monkeypatch.setattr("tilesegment.preview.overview.MOST_APART", 99)
    found = run("preview slide.tif mask.zarr --out p.png --objects")
    assert found.code == 0 and "--roi" in found.err and found.err.count("\n") == 1
    # which is the same where the picture is not reduced
    for one, other in zip(panels(folder / "p.png", blots()), panels(folder / "whole.png", blots()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "pixels", "named"),
    [
        ("small.png", np.ones((40, 50), np.uint8), "40 x 50"),
        ("deep.tif", np.ones((3, 130, 150), np.uint16), "planes 3"),
        ("colour.png", np.ones((130, 150, 3), np.uint8), "3 channels"),
        ("real.tif", np.ones((130, 150), np.float32), "float32"),
    ],
)
def test_what_is_no_label_image_of_the_image_is_refused(
    name: str, pixels: np.ndarray, named: str, folder: Path, run: Run
) -> None:
    if name.endswith(".tif"):
        tifffile.imwrite(name, pixels, photometric="minisblack")
    else:
        Image.fromarray(pixels).save(name)
    for more in ("", " --objects"):
        found = run(f"preview slide.tif {name} --out p.png{more}")
        assert (found.code, found.out) == (1, "")
        assert found.err.startswith("Error: ") and found.err.count("\n") == 1
        assert name in found.err and named in found.err
    assert not Path("p.png").exists()


@pytest.mark.parametrize("data", ["nuclei-fluo", "nuclei-he"])
def test_real_nuclei_are_drawn(data: str, tmp_path: Path) -> None:
    image = sorted((data_folder(data) / "images").iterdir())[0]
    draw_preview(image, image.parents[1] / "labels" / image.name, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert max(picture.size) > 1000
