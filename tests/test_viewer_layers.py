"""Masks over an image, as the viewer draws them: tiles compared with the files, pixel by pixel."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from drawn_layers import Blank, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_files import CLASSES, fill, finished, ids_of, spec_of
from PIL import Image

from tilesegment.draw.colours import colour_map
from tilesegment.errors import MaskError, ViewError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.masks import create_mask, create_objects, create_probabilities
from tilesegment.viewer import open_scene
from tilesegment.viewer.difference_layer import (
    CONFUSED,
    MADE_UP,
    MISSED,
    RIGHT,
    UNLABELLED,
    DifferenceLayer,
    difference,
)
from tilesegment.viewer.mask_layers import ClassLayer, IdLayer, MaskLayer, ProbabilityLayer, open_mask_layer
from tilesegment.viewer.palettes import id_colours, id_indices
from tilesegment.viewer.tiling import TileAt, zooms

Open = Callable[[Path, Blank], MaskLayer]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens layers, and closes them in the end."""
    with ExitStack() as files:

        def open_one(path: Path, image: Blank) -> MaskLayer:
            layer = open_mask_layer(path, image)
            files.callback(layer.close)
            return layer

        yield open_one


def coloured(ids: np.ndarray, classes: Sequence[Any] = CLASSES, hidden: Sequence[int] = ()) -> np.ndarray:
    """What classes look like, (h, w, 4) uint8."""
    colours = np.zeros((256, 4), np.uint8)
    for number, one in enumerate(classes):
        if number not in hidden:
            colours[number] = [*one.rgb, 255]
    return colours[ids]


@pytest.mark.parametrize("name", ["mask.zarr", "mask.tif", "mask.png"])
def test_the_nearest_zoom_is_the_mask(tmp_path: Path, name: str, opened: Open) -> None:
    spec = spec_of((700, 1001), 256, 128)
    ids = finished(tmp_path / name, spec)
    layer = opened(tmp_path / name, Blank(spec.shape))
    assert isinstance(layer, ClassLayer) and layer.progress() is None
    np.testing.assert_array_equal(whole(layer), coloured(ids[0]))
    np.testing.assert_array_equal(whole(layer, look={"hidden": "0,2"}), coloured(ids[0], hidden=(0, 2)))
    # class 0 is background: it is not shown unless it is asked for
    np.testing.assert_array_equal(whole(layer, look={}), coloured(ids[0], hidden=(0,)))
    assert [one["name"] for one in layer.described()["classes"]] == [one.name for one in CLASSES]
    assert layer.value(699, 1000, 0)["stored"] == ids[0, 699, 1000]
    assert layer.value(700, 0, 0) is None and layer.value(-1, 5, 0) is None


def test_a_mask_that_cannot_be_read_hides_no_other_value(tmp_path: Path) -> None:
    spec = spec_of((90, 100), 64, 64)
    finished(tmp_path / "mask.zarr", spec)
    Image.fromarray(np.full(spec.shape, 7, np.uint8)).save(tmp_path / "image.png")
    with open_scene(tmp_path / "image.png", [tmp_path / "mask.zarr"]) as scene:
        for chunk in (tmp_path / "mask.zarr" / "0" / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"damaged")
        image, mask = (one["value"] for one in scene.values(5, 6, 0))
    assert image == 7
    assert isinstance(mask, dict) and "cannot read" in str(mask["text"])


def test_smaller_zooms_are_the_stored_levels(tmp_path: Path, opened: Open) -> None:
    spec = spec_of((1500, 1101), 512, 256)
    finished(tmp_path / "mask.zarr", spec)
    stored, layer = (
        zarr.open_group(tmp_path / "mask.zarr", mode="r"),
        opened(tmp_path / "mask.zarr", Blank(spec.shape)),
    )
    assert zooms(spec.shape) == 3
    for zoom in (1, 2):
        np.testing.assert_array_equal(whole(layer, zoom), coloured(np.asarray(stored[str(zoom)])))


@settings(max_examples=25)
@given(
    height=st.integers(1, 1200),
    width=st.integers(1, 1200),
    zoom=st.integers(0, 3),
    seed=st.integers(0, 9),
)
def test_any_zoom_of_a_file_without_levels(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, zoom: int, seed: int
) -> None:
    """A pixel is one that the file has in the middle of what it spans, whichever way it is read."""
    folder = tmp_path_factory.mktemp("any")
    values = np.random.default_rng(seed).integers(0, 3, (height, width), np.uint8)
    tifffile.imwrite(folder / "a.tif", values)
    zoom = min(zoom, zooms((height, width)) - 1)
    layer = open_mask_layer(folder / "a.tif", Blank((height, width)))
    rows, columns = (
        np.minimum((np.arange(-(-side >> zoom)) << zoom) + (1 << zoom) // 2, side - 1) for side in (height, width)
    )
    if isinstance(layer, ClassLayer):  # a handful of pixels may look like ids
        colours = {one["id"]: one["colour"] for one in layer.described()["classes"]}
        for_ids = np.zeros((256, 4), np.uint8)
        for number, colour in colours.items():
            for_ids[number] = [*bytes.fromhex(colour[1:]), 255]
        np.testing.assert_array_equal(whole(layer, zoom), for_ids[values[rows[:, None], columns]])
    layer.close()


def test_a_file_without_levels_is_reduced_once(tmp_path: Path, opened: Open) -> None:
    """From afar, tiles come from a copy in memory: the same pixels, and the file is not read again."""
    values = np.random.default_rng(0).integers(0, 3, (2500, 2300), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(256, 256))
    layer = opened(tmp_path / "a.tif", Blank(values.shape))
    near, first = whole(layer, 2), whole(layer, 3)
    np.testing.assert_array_equal(near[:600, :500, :3].any(-1), values[2::4, 2::4][:600, :500] > 0)
    np.testing.assert_array_equal(first[:300, :250], near[1::2, 1::2][:300, :250])
    opened, _ = layer.current()
    opened.close()  # a closed file cannot be read
    np.testing.assert_array_equal(whole(layer, 3), first)


def test_outlines_do_not_break_where_tiles_meet(tmp_path: Path, opened: Open) -> None:
    values = np.zeros((700, 1100), np.uint8)
    values[100:650, 200:900], values[300:400, 500:513] = 1, 2
    tifffile.imwrite(tmp_path / "a.tif", values)
    layer = opened(tmp_path / "a.tif", Blank(values.shape))
    look = {"draw": "outline", "hidden": "0"}
    padded = np.pad(values, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    edge = np.zeros(values.shape, bool)
    for y, x in ((0, 1), (2, 1), (1, 0), (1, 2)):
        edge |= padded[y : y + 700, x : x + 1100] != inner
    np.testing.assert_array_equal(whole(layer, look=look)[..., 3] > 0, edge & (values > 0))
    # what is hidden has no outline, and leaves none in what is shown
    without = whole(layer, look={"draw": "outline", "hidden": "0,2"})[..., 3] > 0
    assert not without[300:400, 500:513].any() and without[300:400, 499].all() and not without[350, 300]


def test_a_mask_of_a_part_lies_where_it_was_cut_out(tmp_path: Path, opened: Open) -> None:
    """Of a region, at half the size; the image has planes, the mask is of one of them."""
    spec = spec_of((60, 70), offset=(20, 30.5), scale=(2.0, 2.0), first_plane=3)
    ids = finished(tmp_path / "mask.zarr", spec)
    layer = opened(tmp_path / "mask.zarr", Blank((400, 500), depth=5))
    place = layer.placement
    # the offset is that of the first pixel's centre, in pixels of the mask
    assert (place.y, place.x, place.height, place.width) == (39.5, 60.5, 120, 140)
    np.testing.assert_array_equal(whole(layer, z=3), coloured(ids[0]))
    assert not whole(layer, z=2).any()
    assert layer.value(40, 61, 3)["stored"] == ids[0, 0, 0]
    assert layer.value(158, 199, 3)["stored"] == ids[0, 59, 69]
    assert layer.value(38, 61, 3) is None and layer.value(40, 61, 0) is None
    with pytest.raises(MaskError, match="covers"):
        opened(tmp_path / "mask.zarr", Blank((100, 100)))


def test_a_stack_has_its_planes(tmp_path: Path, opened: Open) -> None:
    spec = spec_of((40, 50), depth=3)
    ids = finished(tmp_path / "mask.zarr", spec)
    layer = opened(tmp_path / "mask.zarr", Blank((40, 50), depth=3))
    assert layer.depth == 3
    for z in range(3):
        np.testing.assert_array_equal(whole(layer, z=z), coloured(ids[z]))


@pytest.mark.parametrize("name", ["mask.zarr", "mask.tif"])
def test_a_mask_in_progress_fills_in(tmp_path: Path, name: str, opened: Open) -> None:
    spec = spec_of((300, 260), 128, 64)
    ids, path = ids_of(spec), tmp_path / name
    writer = create_mask(path, spec)
    layer = opened(path, Blank(spec.shape))
    assert not whole(layer).any() and layer.value(5, 5, 0) is None
    before = layer.progress()
    assert before is not None and (before.done, before.total) == (0, 9)
    assert not layer.tile(TileAt(0, 0, 0), 0, {}).lasting
    first = Region(0, 128, 128, 256)
    writer.write(first, ids[(0, *first.slices)], 0)
    expected = np.zeros((*spec.shape, 4), np.uint8)
    expected[first.slices] = coloured(ids[0])[first.slices]
    np.testing.assert_array_equal(whole(layer), expected)
    assert layer.value(5, 130, 0)["stored"] == ids[0, 5, 130]
    fill(writer, ids[:, None][:, 0])
    writer.finish()
    np.testing.assert_array_equal(whole(layer), coloured(ids[0]))
    assert layer.progress() is None and layer.tile(TileAt(0, 0, 0), 0, {}).lasting
    # nothing but the mask was written
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_mask_in_progress_from_afar(tmp_path: Path, opened: Open) -> None:
    """Its reduced copy takes up blocks as they are stored."""
    spec = spec_of((2100, 2050), 512, 256)
    ids = ids_of(spec)
    writer = create_mask(tmp_path / "mask.zarr", spec)
    layer = opened(tmp_path / "mask.zarr", Blank(spec.shape))
    stored = np.zeros(spec.shape, bool)
    for region in (Region(0, 0, 512, 512), Region(2048, 1536, 2100, 2048)):
        writer.write(region, ids[(0, *region.slices)], 0)
        stored[region.slices] = True
        for zoom in (1, 2):
            rows, columns = (
                np.minimum((np.arange(-(-side >> zoom)) << zoom) + (1 << zoom) // 2, side - 1) for side in spec.shape
            )
            at = (rows[:, None], columns)
            expected = np.where(stored[at][..., None], coloured(ids[0])[at], 0)
            np.testing.assert_array_equal(whole(layer, zoom), expected)


def test_heat_maps(tmp_path: Path, opened: Open) -> None:
    spec = spec_of((90, 110))
    chances = np.random.default_rng(0).dirichlet(np.ones(4), (90, 110)).transpose(2, 0, 1).astype(np.float32)
    writer = create_probabilities(tmp_path / "p.zarr", spec)
    for region, z in writer.base.blocks():
        writer.write(region, np.ascontiguousarray(chances[(..., *region.slices)]), z)
    writer.finish()
    layer = opened(tmp_path / "p.zarr", Blank((90, 110)))
    assert isinstance(layer, ProbabilityLayer)
    greys = colour_map("gray")
    looks: dict[str, dict[str, str]] = {"2": {"class": "2", "map": "gray", "ground": "solid"}}
    looks["foreground"] = {"map": "gray", "ground": "solid"}
    for shown, values in (("2", chances[2]), ("foreground", 1 - chances[0])):
        np.testing.assert_array_equal(
            whole(layer, look=looks[shown])[..., :3], greys[np.rint(values * 255).astype(int)]
        )
    clear = whole(layer, look={"class": "1", "low": "0.25", "high": "0.5"})
    np.testing.assert_array_equal(clear[..., 3], np.rint(np.clip((chances[1] - 0.25) / 0.25, 0, 1) * 255))
    told = layer.value(7, 8, 0)
    assert told["stored"] == chances[:, 7, 8].tolist()
    assert told["text"].startswith(f"class {chances[:, 7, 8].argmax()} 0.")


def test_ids_of_objects(tmp_path: Path, opened: Open) -> None:
    """Ours in a label image, and those of another program in a TIFF: the same colour for an id everywhere."""
    ids = np.arange(50) // 9 + np.arange(40)[:, None] // 11 * 6
    ids = ids.astype(np.uint32)
    spec = spec_of((40, 50))
    writer = create_objects(tmp_path / "ids.zarr", spec)
    for region, z in writer.base.blocks():
        writer.write(region, ids[region.slices], z)
    writer.finish()
    tifffile.imwrite(tmp_path / "ids.tif", ids)
    tifffile.imwrite(tmp_path / "floats.tif", ids.astype(np.float32))
    for name in ("ids.zarr", "ids.tif", "floats.tif"):
        layer = opened(tmp_path / name, Blank((40, 50)))
        assert isinstance(layer, IdLayer), name
        np.testing.assert_array_equal(whole(layer, look={}), id_colours()[id_indices(ids)])
        assert layer.value(0, 0, 0)["text"] == "no object"
        assert layer.value(39, 49, 0)["id"] == ids[39, 49]
        edge = whole(layer, look={"draw": "outline"})[..., 3] > 0
        assert not edge[ids == 0].any() and edge[0, 9] and edge.sum() < (ids > 0).sum()


@pytest.mark.parametrize("kind", ["palette", "colours", "two values"])
def test_label_images_of_others(tmp_path: Path, kind: str, opened: Open) -> None:
    values = np.random.default_rng(1).integers(0, 3, (60, 70), np.uint8)
    picture = Image.fromarray(values)
    colours = [(0, 0, 0), (200, 10, 20), (1, 2, 250)]
    if kind == "palette":
        picture.putpalette([part for one in colours for part in one])
    elif kind == "colours":
        picture = Image.fromarray(np.array(colours, np.uint8)[values])
    else:
        values = np.where(values == 2, 255, 0).astype(np.uint8)
        picture, colours = Image.fromarray(values), []
    picture.save(tmp_path / "label.png")
    layer = opened(tmp_path / "label.png", Blank((60, 70)))
    assert isinstance(layer, ClassLayer)
    seen = whole(layer)
    if colours:
        np.testing.assert_array_equal(seen[..., :3], np.array(colours)[values])
    else:
        assert len(np.unique(seen[values == 255], axis=0)) == len(np.unique(seen[values == 0], axis=0)) == 1
        assert layer.value(*np.argwhere(values == 255)[0].tolist(), 0)["stored"] == 255


def test_a_label_image_lies_where_its_position_says(tmp_path: Path, opened: Open) -> None:
    """OME-Zarr of half the resolution, which begins 40 and 60 pixels into the image."""
    values = np.random.default_rng(0).integers(0, 2, (50, 60), np.uint8)
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("0", data=values)
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    # of the centre of the first pixel, as that of the image is 0
    steps = [{"type": "scale", "scale": [1.0, 1.0]}, {"type": "translation", "translation": [20.25, 30.25]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    layer = opened(tmp_path / "a.zarr", Blank((400, 500)))
    place = layer.placement
    assert (place.y, place.x, place.height, place.width) == (40, 60, 100, 120)
    assert layer.value(40, 60, 0)["stored"] == values[0, 0]
    assert layer.value(139, 179, 0)["stored"] == values[49, 59]
    tifffile.imwrite(tmp_path / "b.tif", values)
    with pytest.raises(MaskError, match="neither its size nor its pixel size"):
        opened(tmp_path / "b.tif", Blank((400, 500)))
    assert opened(tmp_path / "b.tif", Blank((100, 120))).placement.height == 100


def test_truth_against_prediction(tmp_path: Path, opened: Open) -> None:
    """Counted over the tiles, as pixels of the files."""
    rng = np.random.default_rng(3)
    spec = spec_of((520, 640), 256, 128)
    predicted = finished(tmp_path / "mask.zarr", spec)[0]
    true = np.where(rng.random(predicted.shape) < 0.7, predicted, rng.integers(0, 4, predicted.shape)).astype(np.uint8)
    true[:50, :60] = 255  # not labelled
    tifffile.imwrite(tmp_path / "truth.tif", true)
    image = Blank(spec.shape)
    layer = DifferenceLayer(opened(tmp_path / "truth.tif", image), opened(tmp_path / "mask.zarr", image))
    colours = {one["id"]: [*bytes.fromhex(one["colour"][1:]), 255] for one in layer.described()["classes"]}
    known = true != 255
    expected = {
        RIGHT: known & (true == predicted) & (true > 0),
        MISSED: known & (true > 0) & (predicted == 0),
        MADE_UP: (true == 0) & (predicted > 0),
        CONFUSED: known & (true > 0) & (predicted > 0) & (true != predicted),
        UNLABELLED: ~known,
    }
    seen = whole(layer)
    for number, where in expected.items():
        np.testing.assert_array_equal((seen == colours[number]).all(-1), where)
        y, x = np.argwhere(where)[-1].tolist()
        assert layer.value(y, x, 0)["id"] == number
    alone = whole(layer, look={"class": "2", "hidden": "1,5"})
    np.testing.assert_array_equal((alone == colours[MISSED]).all(-1), known & (true == 2) & (predicted != 2))
    assert not (alone == colours[RIGHT]).all(-1).any()


def test_a_difference_lies_where_the_prediction_does(tmp_path: Path, opened: Open) -> None:
    """The prediction covers a part at half the size; beyond the truth nothing is labelled."""
    predicted = finished(tmp_path / "mask.zarr", spec_of((30, 40), offset=(10.25, 5.25), scale=(2.0, 2.0)))[0]
    true = np.random.default_rng(5).integers(0, 4, (100, 120), np.uint8)
    tifffile.imwrite(tmp_path / "truth.tif", true)
    image = Blank((100, 120))
    layer = DifferenceLayer(opened(tmp_path / "truth.tif", image), opened(tmp_path / "mask.zarr", image))
    assert (layer.placement.y, layer.placement.x) == (20, 10)
    middle = true[21:81:2, 11:91:2].astype(int)
    found = difference(middle, predicted.astype(int))
    colours = np.zeros((6, 4), np.uint8)
    for one in layer.described()["classes"]:
        colours[one["id"]] = [*bytes.fromhex(one["colour"][1:]), 255]
    np.testing.assert_array_equal(whole(layer), colours[found])


@pytest.mark.parametrize(
    "look",
    [{"hidden": "256"}, {"hidden": "a"}, {"hidden": "-1"}, {"draw": "none"}, {"colour": "red"}, {"hidden": "1" * 3000}],
)
def test_malformed_looks_are_refused(tmp_path: Path, look: dict[str, str], opened: Open) -> None:
    finished(tmp_path / "mask.zarr", spec_of((20, 30)))
    layer = opened(tmp_path / "mask.zarr", Blank((20, 30), depth=2))
    for z in (0, 1):  # also where the mask has no plane
        with pytest.raises(ViewError):
            layer.tile(TileAt(0, 0, 0), z, look)


def test_what_is_no_mask_is_said(tmp_path: Path, opened: Open) -> None:
    image = Blank((20, 30))
    with pytest.raises(MaskError, match="there is no mask"):
        opened(tmp_path / "none.zarr", image)
    tifffile.imwrite(tmp_path / "five.tif", np.zeros((5, 20, 30), np.uint8), metadata={"axes": "CYX"})
    with pytest.raises(MaskError, match="5 channels of uint8"):
        opened(tmp_path / "five.tif", image)
    with open_image(tmp_path / "five.tif") as source:
        assert source.channels == 5
