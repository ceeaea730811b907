"""Tiles of an image: of every zoom and format the means of its pixels, in the colours that are asked for."""

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from image_files import make_pixels, ome_zarr, tiff, tiff_pyramid, zarr_array
from PIL import Image
from reader_cases import DRAWN
from viewing import ask

from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.viewer import Server, open_scene
from tilesegment.viewer.computed import ComputedZooms
from tilesegment.viewer.image_layer import ImageLayer
from tilesegment.viewer.layer import Picture
from tilesegment.viewer.means import Zoom, means
from tilesegment.viewer.tiling import SIDE, TileAt, shape_at, zooms


def drawn(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.data)))


def averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares of (..., h, w), what is cut off by the edge without what lies beyond."""
    height, width = pixels.shape[-2:]
    padded = np.full((*pixels.shape[:-2], height + -height % factor, width + -width % factor), np.nan)
    padded[..., :height, :width] = pixels
    rows, columns = padded.shape[-2] // factor, padded.shape[-1] // factor
    means: np.ndarray = np.nanmean(padded.reshape(*pixels.shape[:-2], rows, factor, columns, factor), axis=(-3, -1))
    return means


@given(st.integers(1, 70_000), st.integers(1, 70_000), st.data())
def test_the_tiles_of_a_zoom_cover_each_pixel_once(height: int, width: int, data: st.DataObject) -> None:
    shape = (height, width)
    zoom = data.draw(st.integers(0, zooms(shape) - 1))
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    at = TileAt(zoom, (y >> zoom) // SIDE, (x >> zoom) // SIDE)
    assert at.is_within(shape)
    assert at.region(shape).contains(Region(y, x, y + 1, x + 1))
    assert not TileAt(zoom, at.row + 1, at.column).region(shape).contains(Region(y, x, y + 1, x + 1))
    assert at.pixels(shape).height == -(-at.region(shape).height >> zoom)
    rows, columns = (-(-side // SIDE) for side in shape_at(shape, zoom))
    assert TileAt(zoom, rows - 1, columns - 1).is_within(shape)
    assert not TileAt(zoom, rows, 0).is_within(shape)
    assert not TileAt(zoom, 0, columns).is_within(shape)


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_the_coarsest_zoom_is_the_first_that_fits_on_a_tile(height: int, width: int) -> None:
    last = zooms((height, width)) - 1
    assert max(shape_at((height, width), last)) <= SIDE
    assert last == 0 or max(shape_at((height, width), last - 1)) > SIDE


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("factor", [(1, 1), (2, 2), (3, 5), (64, 1)])
def test_means_are_those_of_the_pixels_that_are_there(dtype: str, factor: tuple[int, int]) -> None:
    pixels = make_pixels(2, 37, 45, dtype=dtype)
    pixels[0, 0, 0] = np.iinfo(dtype).max if pixels.dtype.kind == "u" else np.inf
    found = means(pixels, factor)
    rows = [
        [
            pixels[:, y : y + factor[0], x : x + factor[1]].mean((1, 2), dtype=np.float64)
            for x in range(0, 45, factor[1])
        ]
        for y in range(0, 37, factor[0])
    ]
    exact = np.moveaxis(np.array(rows), -1, 0)
    assert found.dtype == pixels.dtype
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=0.5 if pixels.dtype.kind == "u" else 0)


def test_tiles_are_means_of_the_pixels_of_the_file(tmp_path: Path) -> None:
    pixels = make_pixels(3, 1101, 1403)
    path = tiff("yxc", tile=(128, 64), photometric="rgb")(tmp_path, pixels)
    with open_scene(path) as scene, Server(scene) as server:
        for zoom in range(zooms((1101, 1403))):
            whole = np.rint(averaged(pixels.astype(float), 1 << zoom))
            for row, column in ((0, 0), shape_at((1101 - SIDE * 2**zoom, 1403 - SIDE * 2**zoom), zoom)):
                at = TileAt(zoom, max(0, -(-row // SIDE)), max(0, -(-column // SIDE)))
                answer = ask(server, f"tile/0/0/{zoom}/{at.row}/{at.column}")
                expected = whole[:, *at.pixels((1101, 1403)).slices].transpose(1, 2, 0)
                assert answer.headers["Content-Type"] == "image/png"
                assert answer.picture.shape == expected.shape
                assert np.abs(answer.picture - expected).max() <= 1  # halves are rounded up


def test_the_coarsest_stored_level_that_is_fine_enough_is_read(tmp_path: Path) -> None:
    """The levels of this file are not means but every second pixel: they are what is seen."""
    pixels = make_pixels(1, 1200, 1300)
    path = tiff_pyramid("yx", tile=(64, 64))(tmp_path, pixels)
    with open_image(path) as source:
        layer = ImageLayer(source)
        whole = {"channels": "0:ffffff:0:255"}
        np.testing.assert_array_equal(drawn(layer.tile(TileAt(1, 0, 0), 0, whole)), pixels[0, ::2, ::2][:512, :512])
        assert [Zoom(source, zoom).base for zoom in range(3)] == [0, 1, 2]
        assert [Zoom(source, zoom).factor for zoom in range(3)] == [(1, 1)] * 3


def test_levels_that_are_no_powers_of_two_are_averaged_by_their_share(tmp_path: Path) -> None:
    path = tmp_path / "thirds.tif"
    full = np.add.outer(np.arange(1200), np.arange(1500)) // 12
    third = full.reshape(400, 3, 500, 3).mean((1, 3))
    with tifffile.TiffWriter(path) as writer:
        writer.write(full.astype(np.uint8), tile=(64, 64), subifds=1)
        writer.write(np.rint(third).astype(np.uint8), tile=(64, 64), subfiletype=1)
    with open_image(path) as source:
        zoom = Zoom(source, 2)
        assert zoom.base == 1
        assert zoom.factor == pytest.approx((4 / 3, 4 / 3))
        read = zoom.read(Region(0, 0, 300, 375), 0)[0]
    assert np.abs(read - averaged(full.astype(float), 4)).max() <= 1.5


@pytest.mark.parametrize("name", DRAWN)
def test_images_of_every_format_are_shown(name: str, tmp_path: Path) -> None:
    case = DRAWN[name]
    path = case.write(tmp_path, case.pixels)
    with open_scene(path) as scene:
        layer, source = scene.image, scene.image.source
        described = layer.described()
        assert len(described["channels"]) == source.channels
        top = 2.0 ** (8 * source.dtype.itemsize) - 1 if source.dtype.kind == "u" else 100.0
        stored = source.read(Region.of_shape(source.shape), 0, layer.plane(0))
        picture = drawn(layer.tile(TileAt(0, 0, 0), 0, {"channels": f"0:ffffff:0:{top}"}))
        expected = np.clip(stored[0].astype(float) / top * 255, 0, 255)
        np.testing.assert_allclose(picture, expected[: picture.shape[0], : picture.shape[1]], atol=0.51)
        assert drawn(layer.tile(TileAt(0, 0, 0), 0, {})).shape[:2] == picture.shape
        y, x = source.shape[0] - 1, source.shape[1] // 2
        value = layer.value(y, x, 0)
        values = value if source.channels > 1 else [value]
        kept = source.read_stored(Region(y, x, y + 1, x + 1), 0, 0)[:, 0, 0]
        np.testing.assert_array_equal(values, kept.tolist())
        assert layer.value(-1, 0, 0) is None
        assert layer.value(0, source.shape[1], 0) is None


def test_colours_are_shown_as_stored_and_transparency_on_white(tmp_path: Path) -> None:
    pixels = make_pixels(4, 33, 47)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "a.png")
    with open_image(tmp_path / "a.png") as source:
        picture = drawn(ImageLayer(source).tile(TileAt(0, 0, 0), 0, {})).transpose(2, 0, 1)
    share = pixels[3] / 255
    np.testing.assert_allclose(picture, pixels[:3] * share + 255 * (1 - share), atol=0.51)


def test_channels_add_up_in_their_colours(tmp_path: Path) -> None:
    pixels = make_pixels(3, 60, 70, dtype="uint16") * 100
    path = zarr_array("cyx", (1, 32, 32))(tmp_path, pixels)
    with open_scene(path) as scene, Server(scene) as server:
        answer = ask(server, "tile/0/0/0/0/0?channels=2:ff8000:1000:20000,0:0000ff:30000:-5000").picture
        light = [np.clip((pixels[2] - 1000.0) / 19000, 0, 1), np.clip((pixels[0] - 30000.0) / -35000, 0, 1)]
        expected = np.stack([light[0] * 255, light[0] * 128, light[1] * 255], -1)
        np.testing.assert_allclose(answer, np.clip(expected, 0, 255), atol=0.51)
        assert not ask(server, "tile/0/0/0/0/0?channels=").picture.any()


def test_ranges_are_percentiles_and_what_is_no_number_is_black(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(1000, 100, (1, 400, 500)).astype(np.float32)
    pixels[0, :5] = 1e6
    pixels[0, 10, :30], pixels[0, 11, 0] = np.nan, np.inf
    path = zarr_array("yx", (100, 100))(tmp_path, pixels)
    with open_scene(path) as scene, Server(scene) as server:
        (channel,) = ask(server, "scene.json").json["layers"][0]["channels"]
        known = pixels[np.isfinite(pixels)]
        assert (channel["low"], channel["high"]) == pytest.approx(tuple(np.percentile(known, (0.1, 99.9))), rel=1e-5)
        assert not ask(server, "tile/0/0/0/0/0").picture[10, :30].any()
        assert ask(server, "value?y=10&x=3").json == [{"layer": 0, "value": "nan"}]
        assert ask(server, "value?y=11&x=0").json == [{"layer": 0, "value": "inf"}]


def test_the_planes_of_a_stack_are_told_apart(tmp_path: Path) -> None:
    pixels = make_pixels(5, 1, 60, 71)
    path = ome_zarr("0.5", "zyx", 0.3)(tmp_path, pixels)
    with open_scene(path) as scene, Server(scene) as server:
        described = ask(server, "scene.json").json
        assert (described["image"]["depth"], described["layers"][0]["mpp"]) == (5, {"y": 0.3, "x": 0.3})
        for z in range(5):
            picture = ask(server, f"tile/0/{z}/0/0/0?channels=0:ffffff:0:255").picture
            np.testing.assert_array_equal(picture, pixels[z, 0])
            assert ask(server, f"value?y=7&x=9&z={z}").json[0]["value"] == pixels[z, 0, 7, 9]
        assert ask(server, "tile/0/5/0/0/0").status == 404


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An image without levels, of so many channels that zoom 1 is too much to read for a tile."""
    pixels = np.random.default_rng(0).integers(0, 60000, (16, 1301, 1530), np.uint16)
    path = tmp_path_factory.mktemp("many") / "image.zarr"
    zarr.create_array(path, data=pixels, chunks=(16, 256, 256), compressors=None)
    return path, pixels


LOOK = "channels=3:ffffff:0:65535"


def test_zooms_without_a_level_are_computed_once_and_then_exact(many: tuple[Path, np.ndarray]) -> None:
    path, pixels = many
    with open_scene(path, axes="cyx") as scene, Server(scene) as server:
        versions, until = [], time.monotonic() + 60
        while (how := scene.image.progress()) is not None and time.monotonic() < until:
            versions.append(how.version)
            assert 0 <= how.done < how.total == 4
            time.sleep(0.005)
        assert versions == sorted(versions)
        for zoom in (1, 2):
            whole = averaged(pixels[3].astype(float), 1 << zoom) / 65535 * 255
            answer = ask(server, f"tile/0/0/{zoom}/0/0?{LOOK}")
            assert "max-age" in answer.headers["Cache-Control"]
            assert np.abs(answer.picture - whole[:SIDE, :SIDE]).max() < 1
        assert ask(server, f"tile/0/0/2/0/0?{LOOK}").headers["Content-Type"] == "image/png"


def test_what_is_not_computed_yet_is_grey_and_not_kept(many: tuple[Path, np.ndarray]) -> None:
    path, _ = many
    with open_image(path, axes="cyx") as source:
        layer = ImageLayer(source)
        picture = layer.tile(TileAt(1, 0, 0), 0, {"channels": "3:ffffff:0:65535"})
        assert not picture.lasting
        assert (np.abs(drawn(picture).astype(int) - 128) <= 2).all()
        until = time.monotonic() + 60
        while layer.progress() is not None and time.monotonic() < until:
            time.sleep(0.005)
        assert layer.tile(TileAt(1, 0, 0), 0, {"channels": "3:ffffff:0:65535"}).lasting
        layer.close()


def test_where_there_is_no_room_a_coarser_zoom_is_kept_and_enlarged(many: tuple[Path, np.ndarray]) -> None:
    path, pixels = many
    with open_image(path, axes="cyx") as source:
        computed = ComputedZooms(source, [Zoom(source, zoom) for zoom in range(3)], most_kept=8 << 20)
        assert (computed.asked, computed.first, computed.last) == (1, 2, 2)
        at = TileAt(1, 1, 0)
        until = time.monotonic() + 60
        while not (found := computed.read(at, 0))[1].all() and time.monotonic() < until:
            time.sleep(0.005)
        computed.close()
    whole = np.rint(averaged(pixels[3].astype(float), 4)).repeat(2, 0).repeat(2, 1)
    assert found[0].shape == (16, 651 - 512, 512)
    assert np.abs(found[0][3] - whole[512:651, :512].astype(float)).max() <= 1


def test_tiles_go_before_what_is_computed_but_do_not_stop_it(many: tuple[Path, np.ndarray]) -> None:
    path, _ = many
    with open_image(path, axes="cyx") as source:
        computed = ComputedZooms(source, [Zoom(source, zoom) for zoom in range(3)])
        with computed.ahead():
            until = time.monotonic() + 100
            while computed.progress() is not None and time.monotonic() < until:
                time.sleep(0.01)
            assert computed.progress() is None
        computed.close()


def test_an_image_that_is_closed_is_not_computed_further(many: tuple[Path, np.ndarray]) -> None:
    path, _ = many
    source = open_image(path, axes="cyx")
    layer = ImageLayer(source)
    layer.tile(TileAt(2, 0, 0), 0, {})
    layer.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "overview"]
