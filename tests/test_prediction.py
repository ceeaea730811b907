"""From image files to mask files: what is predicted, what is recorded, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from conftest import noise, toy_model
from image_files import Write, make_pixels, ome_zarr, png, tiff, zarr_array
from mask_files import contents, mask_of, saved
from one_pass import EXACT, one_pass
from PIL import Image

import tilesegment
from tilesegment import ImageError, ModelError, PlanError, Region
from tilesegment.models.model import Model


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(tiff("yx", tile=(64, 64)), id="tiled"),
        pytest.param(tiff("yx", rowsperstrip=7, compression="zlib"), id="striped"),
        pytest.param(png, id="png"),
        pytest.param(zarr_array("yx", (40, 50), zarr_format=2), id="zarr 2"),
        pytest.param(zarr_array("yx", (40, 50)), id="zarr 3"),
        pytest.param(ome_zarr("0.4", "tcyx", 0.5), id="ome-zarr 0.4"),
        pytest.param(ome_zarr("0.5", "cyx", 0.5), id="ome-zarr 0.5"),
    ],
)
def test_every_format_gives_the_untiled_mask(write: Write, tmp_path: Path) -> None:
    pixels, model = make_pixels(1, 131, 205), toy_model()
    done = tilesegment.predict(write(tmp_path, pixels), tmp_path / "mask.zarr", saved(model, tmp_path), **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.zarr"), one_pass(model, pixels)[0])
    assert (done.pixels, done.blocks, done.blocks_resumed) == (131 * 205, 6, 0)
    assert (done.decided.tile, done.decided.step, done.state) == (88, 48, "complete")


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_types_of_pixels(dtype: str, tmp_path: Path) -> None:
    pixels, model = noise((1, 70, 61), dtype=dtype), toy_model(dtype=dtype, classes=3)
    tilesegment.predict(tiff("yx")(tmp_path, pixels), tmp_path / "mask.zarr", saved(model, tmp_path), **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.zarr"), one_pass(model, pixels)[0])


@pytest.mark.parametrize("z", [None, (1, 3)])
def test_a_stack_has_a_mask_of_the_same_planes(z: tuple[int, int] | None, tmp_path: Path) -> None:
    pixels, model = make_pixels(4, 1, 60, 51), toy_model()
    image = tiff("zyx", photometric="minisblack")(tmp_path, pixels)
    for name in ("mask.zarr", "mask.tif"):
        tilesegment.predict(image, tmp_path / name, saved(model, tmp_path), z=z, **EXACT)
    expected = np.stack([one_pass(model, plane)[0] for plane in pixels[slice(*(z or (0, 4)))]])
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.zarr"), expected)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif"), expected)


@pytest.mark.parametrize("roi", [(0, 0, 1, 1), (37, 51, 130, 170), (100, 0, 131, 205)])
def test_a_region_is_its_part_of_the_whole(roi: tuple[int, int, int, int], tmp_path: Path) -> None:
    pixels, model, region = make_pixels(1, 131, 205), toy_model(), Region(*roi)
    tilesegment.predict(png(tmp_path, pixels), tmp_path / "m.zarr", saved(model, tmp_path), roi=region, **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), one_pass(model, pixels)[0][region.slices])


def test_a_level_is_predicted_in_its_own_pixels_and_lies_where_they_lie(tmp_path: Path) -> None:
    """Pixel (y, x) of level 1 covers 2y and 2y + 1 of level 0: its centre is 2y + 0.5, here of 0.5 um each."""
    pixels, model = make_pixels(1, 120, 140), toy_model()
    image, out, roi = ome_zarr("0.5", "cyx", 0.5)(tmp_path, pixels), tmp_path / "mask.zarr", Region(20, 40, 100, 120)
    tilesegment.predict(image, out, saved(model, tmp_path), level=1, roi=roi, **EXACT)
    np.testing.assert_array_equal(mask_of(out), one_pass(model, pixels[:, ::2, ::2])[0][10:50, 20:60])
    described = zarr.open_group(out, mode="r").attrs["ome"]["multiscales"][0]["datasets"][0]
    scale, translation = (item[item["type"]] for item in described["coordinateTransformations"])
    assert scale == pytest.approx([1.0, 1.0])
    assert translation == pytest.approx([0.5 * (20 + 0.5), 0.5 * (40 + 0.5)])


@pytest.mark.parametrize(
    ("channels", "taken", "seen"), [(3, None, [0, 1, 2]), (3, (2, 1, 0), [2, 1, 0]), (1, (3,), [3])]
)
def test_channels_are_taken_in_order_and_alpha_is_left_out(
    channels: int, taken: tuple[int, ...] | None, seen: list[int], tmp_path: Path
) -> None:
    rgba, model = noise((4, 50, 40)), toy_model(channels=channels)
    Image.fromarray(rgba.transpose(1, 2, 0)).save(tmp_path / "rgba.png")
    path = saved(model, tmp_path)
    tilesegment.predict(tmp_path / "rgba.png", tmp_path / "m.png", path, channels=taken, **EXACT)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "m.png")), one_pass(model, rgba[seen])[0])


@pytest.mark.parametrize("tta", [False, True])
def test_probabilities_are_those_of_one_pass(tta: bool, tmp_path: Path) -> None:
    pixels, model, likely = make_pixels(1, 101, 130), toy_model(classes=3), tmp_path / "p.zarr"
    image, path = png(tmp_path, pixels), saved(model, tmp_path)
    tilesegment.predict(image, tmp_path / "m.zarr", path, probabilities=likely, tta=tta, **EXACT)
    ids, probabilities = one_pass(model, pixels, tta)
    np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), ids)
    np.testing.assert_allclose(mask_of(likely), probabilities, rtol=0, atol=1e-6)


def test_a_threshold_decides(tmp_path: Path) -> None:
    pixels, model = make_pixels(1, 64, 64), toy_model()
    likely = one_pass(model, pixels)[1][1]
    threshold = float(np.median(likely)) + 1e-3
    image = png(tmp_path, pixels)
    tilesegment.predict(image, tmp_path / "m.zarr", saved(model, tmp_path), threshold=threshold, **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), likely > threshold)


def test_a_model_may_be_an_object_and_is_known_by_its_weights(tmp_path: Path) -> None:
    pixels, model, out = make_pixels(1, 131, 205), toy_model(), tmp_path / "m.zarr"
    image = png(tmp_path, pixels)
    tilesegment.predict(image, out, model, **EXACT)
    np.testing.assert_array_equal(mask_of(out), one_pass(model, pixels)[0])
    assert tilesegment.predict(image, out, saved(model, tmp_path), **EXACT).blocks == 0, "the same model in a file"
    with pytest.raises(tilesegment.MaskError, match="model: "):
        tilesegment.predict(image, out, toy_model(seed=1), **EXACT)
    assert tilesegment.verify(image, model, tile=88, precision="fp32").seamless


def test_a_mask_in_its_image_and_a_preview(tmp_path: Path) -> None:
    pixels, model = make_pixels(1, 120, 140), toy_model()
    image = ome_zarr("0.5", "cyx", 0.5)(tmp_path, pixels)
    out, preview = image / "labels" / "cells", tmp_path / "look.png"
    tilesegment.predict(image, out, saved(model, tmp_path), preview=preview, **EXACT)
    np.testing.assert_array_equal(mask_of(out), one_pass(model, pixels)[0])
    preview.unlink()
    assert tilesegment.predict(image, out, saved(model, tmp_path), preview=preview, **EXACT).blocks == 0
    with Image.open(preview) as picture:
        assert picture.width > 2 * 140


def test_normalised_by_the_image_it_equals_the_model_trained_on_such_grey_values(tmp_path: Path) -> None:
    """Half the contrast and another type: with the image's own mean and spread that makes no difference."""
    grey = make_pixels(1, 90, 80)
    wide, model = tiff("yx")(tmp_path, grey.astype("uint16") * 200 + 1000), saved(toy_model(), tmp_path)
    tilesegment.predict(wide, tmp_path / "wide.zarr", model, normalise="image", **EXACT)
    tilesegment.predict(png(tmp_path, grey), tmp_path / "grey.zarr", model, normalise="image", **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "wide.zarr"), mask_of(tmp_path / "grey.zarr"))
    with pytest.raises(PlanError, match=r"uint16, .* uint8.* --normalise image"):
        tilesegment.predict(wide, tmp_path / "no.zarr", model, **EXACT)


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 7), ("uint16", 54_321)])
def test_a_constant_image_cannot_be_normalised_by_itself(dtype: str, value: int, tmp_path: Path) -> None:
    image = tiff("yx")(tmp_path, np.full((1, 600, 530), value, dtype))
    with pytest.raises(ImageError, match="is constant"):
        tilesegment.predict(image, tmp_path / "m.zarr", saved(toy_model(), tmp_path), normalise="image", **EXACT)


def test_nan_is_refused_where_it_is_and_only_there(tmp_path: Path) -> None:
    pixels = noise((1, 200, 200), dtype="float32")
    pixels[0, 150, 160] = np.nan
    image, model = tiff("yx", tile=(64, 64))(tmp_path, pixels), saved(toy_model(dtype="float32"), tmp_path)
    with pytest.raises(ImageError, match=r"NaN or infinity within .* --roi"):
        tilesegment.predict(image, tmp_path / "m.zarr", model, **EXACT)
    assert not (tmp_path / "m.zarr").exists()
    assert tilesegment.predict(image, tmp_path / "part.zarr", model, roi=Region(0, 0, 96, 96), **EXACT).complete


def test_what_made_a_mask_is_recorded_in_it(tmp_path: Path) -> None:
    image, model = png(tmp_path, make_pixels(1, 50, 60)), saved(toy_model(), tmp_path)
    tilesegment.predict(image, tmp_path / "m.zarr", model, **EXACT)
    record: Any = zarr.open_group(tmp_path / "m.zarr", mode="r").attrs["tilesegment"]
    decided, known = record["fingerprint"], record["provenance"]
    assert decided["model"] == known["model"]["weights_sha256"] == Model.load(model).header.weights_sha256
    assert (decided["tile"], decided["step"], decided["precision"]) == (88, 48, "fp64")
    assert (decided["threshold"], decided["region"]) == (0.5, [0, 0, 50, 60])
    assert (known["image"], known["model"]["name"]) == (str(image), "toy-2")
    assert set(known["versions"]) == {"torch", "zarr", "numpy", "tilesegment"}
    assert known["seconds"] > 0


class TestRefused:
    """Nothing is computed, nothing is written, what is there stays."""

    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        saved(toy_model(), tmp_path)
        ome_zarr("0.5", "cyx", 0.5)(tmp_path, make_pixels(1, 120, 140))
        for name in ("old.png", "m.tif"):
            (tmp_path / name).write_bytes(b"mine")
        return png(tmp_path, make_pixels(1, 50, 60))

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"out": "image.png", "overwrite": True}, ["out", "image.png is the image"]),
            ({"preview": "image.png", "overwrite": True}, ["preview", "image.png is the image"]),
            ({"probabilities": "m.zarr"}, ["out, probabilities", "one file twice"]),
            ({"image": "image.zarr", "out": "image.zarr/0/m.zarr"}, ["m.zarr lies in the image", "labels/NAME"]),
            ({"image": "image.zarr/0", "out": "image.zarr", "overwrite": True}, ["or holds it"]),
            ({"preview": "old.png"}, ["old.png exists", "--overwrite"]),
            ({"preview": "look.gif"}, ["look.gif", ".png"]),
            ({"preview": "no/look.png"}, ["no folder"]),
            ({"out": "m.tif"}, ["m.tif exists"]),
            ({"heatmap": "h.png"}, ["--heatmap", "--probabilities"]),
            ({"tile": 87}, ["tile 87", "84", "88"]),
            ({"tile": 1}, ["44", "48"]),
            ({"roi": Region(0, 0, 51, 10)}, ["roi 0:51,0:10"]),
            ({"threshold": 1.5}, ["--threshold is 1.5", "between 0 and 1"]),
            ({"device": "tpu"}, ["'tpu'", "auto, cpu"]),
            ({"precision": "fp8"}, ["fp8", "auto, fp32, bf16, fp16"]),
            ({"tiles": 3}, ["no setting 'tiles'", "tile, "]),
        ],
    )
    def test_outputs_and_settings_that_cannot_be(
        self, image: Path, tmp_path: Path, settings: dict[str, Any], named: list[str]
    ) -> None:
        before, given = contents(tmp_path), {"tile": 88, "image": image.name, "out": "m.zarr", **settings}
        paths = {name: tmp_path / given[name] for name in ("preview", "probabilities", "heatmap") if name in given}
        given |= {"model": tmp_path / "model.safetensors", **paths}
        with pytest.raises(tilesegment.TilesegmentError) as caught:
            tilesegment.predict(tmp_path / given.pop("image"), tmp_path / given.pop("out"), **given)
        assert "\n" not in str(caught.value)
        assert all(one in str(caught.value) for one in named)
        assert contents(tmp_path) == before

    def test_a_mask_of_other_settings(self, image: Path, tmp_path: Path) -> None:
        model = tmp_path / "model.safetensors"
        tilesegment.predict(image, tmp_path / "m.zarr", model, tile=88)
        with pytest.raises(tilesegment.MaskError, match=r"exists.*tile: 88 there, 104 now.*--overwrite"):
            tilesegment.predict(image, tmp_path / "m.zarr", model, tile=104)

    def test_without_a_model_not_any_number_of_channels(self, tmp_path: Path) -> None:
        image = png(tmp_path, make_pixels(3, 50, 60))
        with pytest.raises(ModelError, match="2 channels and no model was named; em-membrane takes 1"):
            tilesegment.predict(image, tmp_path / "m.zarr", channels=(0, 1))
