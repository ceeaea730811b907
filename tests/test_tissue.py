"""The tissue as a file: it lies where it belongs, and leaves out the blocks that `--skip-empty tissue` leaves out."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from command_line import Run
from conftest import data_folder, noise, toy_model
from image_files import Write, ome_zarr, png, tiff
from mask_files import attributes, contents, mask_of
from PIL import Image
from scipy import ndimage
from skipping_images import BLOCK, padded_section, slide
from unreal_plans import network_of, plan_of

import tilesegment
from tilesegment import MaskError, PlanError, Region, TilesegmentError, describe, open_image, open_mask, write_tissue
from tilesegment.geometry import FieldOfView
from tilesegment.images.artefacts import find_pen
from tilesegment.labels.geojson import read_features
from tilesegment.prediction.tissue import tissue_of
from tilesegment.preview import draw_preview

KINDS = ["t.png", "t.zarr", "t.tif", "t.geojson"]
TOY = FieldOfView(divisor=4, before=20, after=20, crops=True)


def odd_slide() -> np.ndarray:
    """A slide whose sides no factor divides, with tissue in its last rows and columns."""
    pixels, inside = slide()
    pixels[:, 380:, 460:] = pixels[:, 170:190, 200:240]
    assert inside[170:190, 200:240].all()
    return pixels[:, :397, :499]


def tiff_of_two_levels(folder: Path, pixels: np.ndarray) -> Path:
    """A TIFF whose second level is 2.005 times as small, as those of some scanners."""
    path = folder / "image.tif"
    rows, columns = (np.arange(198) * 397 // 198, np.arange(249) * 499 // 249)
    with tifffile.TiffWriter(path) as file:
        file.write(pixels.transpose(1, 2, 0), tile=(64, 64), subifds=1, photometric="rgb")
        file.write(pixels[:, rows][:, :, columns].transpose(1, 2, 0), tile=(64, 64), photometric="rgb", subfiletype=1)
    return path


def left_out(image: Path, skip_empty: str | Path, **settings: Any) -> np.ndarray:
    with open_image(image) as source:
        model = network_of(TOY, channels=source.channels)
        return plan_of(source, model, tile=88, block=BLOCK, skip_empty=str(skip_empty), **settings).skipping.empty


@pytest.mark.parametrize("side", [2048, 128])
@pytest.mark.parametrize(
    ("write", "more"),
    [
        pytest.param(png, [], id="png"),
        pytest.param(tiff_of_two_levels, [{"level": 1}], id="uneven levels"),
        pytest.param(ome_zarr("0.5", "cyx", 0.5), [{"level": 1}, {"mpp": 0.8}], id="pyramid"),
    ],
)
def test_a_file_leaves_out_the_same_blocks(
    write: Write, more: list[dict[str, Any]], side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilesegment.images.overview.SIDE", side)
    image, some = write(tmp_path, odd_slide()), 0
    for name in KINDS:
        write_tissue(image, tmp_path / name)
    for settings in ({}, {"roi": Region(31, 45, 397, 499)}, *more):
        expected = left_out(image, "tissue", **settings)
        some += np.count_nonzero(expected)
        for name in KINDS:
            np.testing.assert_array_equal(left_out(image, tmp_path / name, **settings), expected, err_msg=name)
    assert some > 9


def test_a_corrected_picture_counts_pixel_by_pixel(tmp_path: Path) -> None:
    image = png(tmp_path, slide()[0])
    write_tissue(image, tmp_path / "t.png")
    ids = np.asarray(Image.open(tmp_path / "t.png")).copy()
    ids[390:, 490:] = 1
    Image.fromarray(ids * np.uint8(255)).save(tmp_path / "mine.png")  # as an editor does: grey, without our record
    before, after = (left_out(image, tmp_path / name)[0] for name in ("t.png", "mine.png"))
    assert np.argwhere(before & ~after).tolist() == [[4, 5]]


def test_areas_of_another_image_are_doubted(tmp_path: Path) -> None:
    """Its name comes with every area, also through QuPath, which keeps metadata."""
    image, other = png(tmp_path, slide()[0]), tmp_path / "other.png"
    image.rename(other)
    write_tissue(other, tmp_path / "t.geojson")
    other.rename(image)
    doubt = f"t.geojson was made of other.png, not of {image.name}: its areas may lie elsewhere"
    for settings in ({"skip_empty": str(tmp_path / "t.geojson")}, {"roi": tmp_path / "t.geojson"}):
        done = tilesegment.predict(
            image, tmp_path / "m.zarr", toy_model(channels=3), tile=88, overwrite=True, **settings
        )
        assert [note for note in done.notes if "elsewhere" in note] == [doubt]


def test_planes_of_a_stack_have_their_own_tissue(tmp_path: Path) -> None:
    pixels = padded_section()
    stack = np.stack([pixels, np.roll(pixels, 150, 2), np.roll(pixels, 290, 2)])
    image = tiff("zyx", photometric="minisblack")(tmp_path, stack)
    expected = left_out(image, "tissue")
    assert len({one.tobytes() for one in expected}) == 3
    for name in ("t.zarr", "t.tif", "t.geojson"):
        write_tissue(image, tmp_path / name)
        np.testing.assert_array_equal(left_out(image, tmp_path / name), expected)
        np.testing.assert_array_equal(left_out(image, tmp_path / name, z=(1, 3)), expected[1:])
    with pytest.raises(MaskError, match="at most one plane"):
        write_tissue(image, tmp_path / "t.png")


def test_outlines_are_pieces_in_pixels_of_level_0_as_qupath_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilesegment.images.overview.SIDE", 128)
    image = png(tmp_path, odd_slide())
    found = write_tissue(image, tmp_path / "t.geojson")
    assert found.scale == (4, 4)
    with open_image(image) as source:
        mask = tissue_of(source, (0, 1, 2)).mask
    document = json.loads((tmp_path / "t.geojson").read_text())
    assert len(document["features"]) == ndimage.label(mask)[1] == 2
    for one in document["features"]:
        assert one["properties"]["objectType"] == "annotation"
        assert one["properties"]["classification"]["name"] == "Tissue"
        assert shapely.from_geojson(json.dumps(one["geometry"])).is_valid
    drawn = shapely.union_all([shapely.from_geojson(json.dumps(one["geometry"])) for one in document["features"]])
    y, x = (np.arange(n) + 0.5 for n in (397, 499))
    there = shapely.contains_xy(drawn, x[None, :], y[:, None])
    np.testing.assert_array_equal(there, mask.repeat(4, 0).repeat(4, 1)[:397, :499])
    assert shapely.bounds(drawn)[2:].tolist() == [499, 397]
    write_tissue(image, tmp_path / "t.geojson.gz")
    assert json.loads(gzip.decompress((tmp_path / "t.geojson.gz").read_bytes())) == document
    assert {one.name for one in read_features(tmp_path / "t.geojson")} == {"Tissue"}


def test_a_mask_says_where_its_pixels_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.images.overview.SIDE", 128)
    image = ome_zarr("0.5", "cyx", 0.5)(tmp_path, slide()[0])
    found = write_tissue(image, tmp_path / "t.zarr")
    label = write_tissue(image, image / "labels" / "tissue")
    assert found.shape == label.shape == (100, 125)
    spec = open_mask(tmp_path / "t.zarr").spec
    assert spec.pixel_size is not None
    assert (spec.pixel_size.y, [one.name for one in spec.classes]) == (2.0, ["glass", "Tissue"])
    for path in (tmp_path / "t.zarr", image / "labels" / "tissue"):
        (multiscale,) = attributes(path)["multiscales"]
        scale, move = multiscale["datasets"][0]["coordinateTransformations"]
        unit = 1000 if path.parent.name == "labels" else 1  # the image tells its size in nanometres
        assert scale["scale"][-2:] == pytest.approx([2.0 * unit] * 2)
        assert move["translation"][-2:] == pytest.approx([0.75 * unit] * 2), "of the first centre"
    np.testing.assert_array_equal(mask_of(tmp_path / "t.zarr"), mask_of(image / "labels" / "tissue"))
    draw_preview(image, tmp_path / "t.zarr", tmp_path / "p.png")
    assert (tmp_path / "p.png").exists()


class TestShares:
    def test_ink_is_told_by_its_colour(self) -> None:
        pixels = np.moveaxis(np.full((200, 300, 3), 0.95, np.float32), 2, 0)
        inks = {"blue": (0.1, 0.2, 0.7), "green": (0.1, 0.5, 0.3), "black": (0.1, 0.1, 0.12)}
        others = {
            "eosin": (0.9, 0.5, 0.65),
            "haematoxylin": (0.45, 0.3, 0.65),
            "DAB": (0.5, 0.35, 0.2),
            "glass": (1, 1, 1),
        }
        for n, colour in enumerate((*inks.values(), *others.values())):
            pixels[:, 20:50, 40 * n : 40 * n + 30] = np.array(colour)[:, None, None]
        found = find_pen(pixels)
        assert found[:, :120].sum() == 3 * 30 * 30
        assert not found[:, 120:].any()

    @pytest.mark.parametrize("ink", [(30, 60, 170), (20, 110, 60), (25, 25, 28)])
    def test_a_line_of_ink_on_glass_is_measured_and_said(self, ink: tuple[int, ...], tmp_path: Path) -> None:
        pixels = slide()[0]
        pixels[:, 20:40, 30:430] = np.array(ink, np.uint8)[:, None, None]
        image = png(tmp_path, pixels)
        found = write_tissue(image, tmp_path / "t.png")
        assert found.shares.pen == pytest.approx(20 * 400 / (400 * 500), rel=0.02)
        assert any("look like pen marks" in note for note in found.notes)
        ids = np.asarray(Image.open(tmp_path / "t.png"))
        assert bool(ids[30, 100]) == (max(ink) > 30), "coloured ink is kept as tissue, black is not"

    def test_a_blurred_slide_is_out_of_focus(self, tmp_path: Path) -> None:
        sharp = np.full((3, 900, 900), 240, np.uint8)
        pink = np.array((226, 168, 205))[:, None, None]
        sharp[:, 100:800, 100:800] = pink + noise((1, 700, 700)).astype(int) // 4 - 32
        blurred = np.stack([ndimage.gaussian_filter(one, 3) for one in sharp])
        shares = []
        for name, pixels in (("a", sharp), ("b", blurred)):
            (tmp_path / name).mkdir()
            with open_image(png(tmp_path / name, pixels)) as source:
                shares.append(tissue_of(source, (0, 1, 2)).shares.blurred)
        assert shares == [0, 1]

    def test_damaged_pixels_are_left_to_their_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The overview is made of another level; windows on level 0 that cannot be read are left out."""
        monkeypatch.setattr("tilesegment.images.overview.SIDE", 1024)
        pixels = slide(150)[0].repeat(4, 1).repeat(4, 2)
        image = ome_zarr("0.5", "cyx", 0.5)(tmp_path, pixels)
        for chunk in (image / "0" / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"damaged")
        with open_image(image) as source:
            found = tissue_of(source, (0, 1, 2))
        assert found.threshold is not None
        assert found.shares.blurred is None

    def test_grey_images_and_all_tissue_have_no_such_shares(self, tmp_path: Path) -> None:
        found = write_tissue(png(tmp_path, padded_section()), tmp_path / "t.png")
        assert found.shares.glass == pytest.approx(0.59, abs=0.02)
        assert (found.shares.pen, found.shares.blurred) == (None, None)
        (tmp_path / "full").mkdir()
        found = write_tissue(png(tmp_path / "full", noise((3, 300, 300))), tmp_path / "full.png")
        assert found.shares.glass is None
        assert "cannot be told from glass" in found.notes[0]

    def test_real_slides(self, tmp_path: Path) -> None:
        wsi = data_folder("wsi")
        for name, glass in (("tcga-cr-7395-01a-01-ts1.svs", 0.33), ("cmu_small_region.svs", 0.55)):
            found = write_tissue(wsi / name, tmp_path / f"{name}.png")
            assert found.shares.glass == pytest.approx(glass, abs=0.02)
            assert found.shares.pen == pytest.approx(0, abs=0.001)
            assert found.shares.blurred == 0
            assert not found.notes


class TestFiles:
    @pytest.mark.parametrize("name", KINDS)
    def test_what_exists_is_only_replaced_if_wanted(self, name: str, tmp_path: Path) -> None:
        image, out = png(tmp_path, slide()[0]), tmp_path / name
        write_tissue(image, out)
        before = contents(out)
        with pytest.raises(MaskError, match="exists"):
            write_tissue(image, out)
        assert contents(out) == before
        png(tmp_path, slide(90)[0])
        write_tissue(image, out, overwrite=True)
        assert contents(out) != before
        assert {one.name for one in tmp_path.iterdir()} == {"image.png", name}

    def test_the_image_is_no_output(self, tmp_path: Path) -> None:
        image = ome_zarr("0.5", "cyx", 0.5)(tmp_path, slide()[0])
        for bad in (image, image / "t.png"):
            with pytest.raises(PlanError, match=r"is the image|lies in the image"):
                write_tissue(image, bad, overwrite=True)

    @pytest.mark.parametrize("channels", [(3,), (-1,), ()])
    def test_channels_that_there_are_not_are_refused(self, channels: tuple[int, ...], tmp_path: Path) -> None:
        with pytest.raises(TilesegmentError, match="has channels 0 to 2"):
            write_tissue(png(tmp_path, slide()[0]), tmp_path / "t.png", channels=channels)


class TestCommand:
    @pytest.fixture(autouse=True)
    def image(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        png(tmp_path, slide()[0])

    def test_it_says_what_it_wrote(self, run: Run) -> None:
        done = run("tissue image.png -o t.geojson --json")
        assert done.code == 0, done.err
        assert "t.geojson: 400 x 500 pixels (y, x), each 1 x 1 of level 0; 93.5 % glass, 0.0 % pen marks" in done.err
        told = json.loads(done.out)
        assert (told["shape"], told["scale"], told["planes"]) == ([400, 500], [1.0, 1.0], None)
        assert told["shares"]["pen"] == 0
        assert run("tissue image.png -o t.geojson").code == 1
        assert run("tissue image.png -o t.bmp").code == 1

    def test_info_tells_the_shares_on_demand(self, run: Run) -> None:
        assert "tissue" not in run("info image.png").out
        assert "glass" in run("info image.png --tissue").out
        told = json.loads(run("info image.png --tissue --json").out)["tissue"]
        assert told["share"] == pytest.approx(1 - told["glass"])
        assert 0.05 < told["share"] < 0.2
        assert describe("image.png", tissue=True)["tissue"] == told
        assert run("tissue image.png -o t.png").code == 0
        refused = run("info t.png --tissue")
        assert (refused.code, "--tissue is about images" in refused.err) == (1, True)
