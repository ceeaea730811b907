"""From image files to mask files: what is predicted, what is recorded, how a run goes on."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from conftest import noise, toy_model
from image_files import Write, make_pixels, ome_zarr, png, tiff, zarr_array
from mask_files import contents, mask_of, saved
from PIL import Image

import tilesegment
from tilesegment import ImageError, ModelError, PlanError, Region
from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

# fp64: no rounding, so that files can be compared pixel for pixel with one pass
EXACT = {"tile": 88, "precision": "fp64"}


def one_pass(model: Model, image: np.ndarray, tta: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Class ids (H, W) and probabilities (K, H, W) of an image (C, H, W), untiled."""
    predictor = TorchPredictor(model, torch.device("cpu"), "fp64", tta=tta)
    return predict_array(predictor, image, -(-max(image.shape[1:]) // 8) * 8)


GREY_FILES = {
    "tiled": tiff("yx", tile=(64, 64)),
    "striped": tiff("yx", rowsperstrip=7, compression="zlib"),
    "png": png,
    "zarr 2": zarr_array("yx", (40, 50), zarr_format=2),
    "zarr 3": zarr_array("yx", (40, 50)),
    "ome-zarr 0.4": ome_zarr("0.4", "tcyx", 0.5),
    "ome-zarr 0.5": ome_zarr("0.5", "cyx", 0.5),
}


@pytest.mark.parametrize("write", GREY_FILES.values(), ids=GREY_FILES.keys())
def test_every_format_gives_the_untiled_mask(write: Write, small_blocks: None, tmp_path: Path) -> None:
    pixels, model = make_pixels(1, 131, 205), toy_model()
    done = tilesegment.predict(write(tmp_path, pixels), tmp_path / "mask.zarr", saved(model, tmp_path), **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.zarr"), one_pass(model, pixels)[0])
    assert (done.pixels, done.blocks, done.blocks_resumed) == (131 * 205, 6, 0)
    plan = done.decided
    assert (plan.tile, plan.step, plan.precision, plan.device) == (88, 48, "fp64", "cpu")


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_types_of_pixels(dtype: str, tmp_path: Path) -> None:
    pixels, model = noise((1, 70, 61), dtype=dtype), toy_model(dtype=dtype, classes=3)
    image = tiff("yx")(tmp_path, pixels)
    tilesegment.predict(image, tmp_path / "mask.zarr", saved(model, tmp_path), **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.zarr"), one_pass(model, pixels)[0])


@pytest.mark.parametrize("z", [None, (1, 3)])
def test_a_stack_has_a_mask_of_the_same_planes(z: tuple[int, int] | None, tmp_path: Path) -> None:
    pixels, model = make_pixels(4, 1, 60, 51), toy_model()
    image = tiff("zyx", photometric="minisblack")(tmp_path, pixels)
    tilesegment.predict(image, tmp_path / "mask.zarr", saved(model, tmp_path), z=z, **EXACT)
    tilesegment.predict(image, tmp_path / "mask.tif", saved(model, tmp_path), z=z, **EXACT)
    expected = np.stack([one_pass(model, plane)[0] for plane in pixels[slice(*(z or (0, 4)))]])
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.zarr"), expected)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif"), expected)


@pytest.mark.parametrize("roi", [(0, 0, 1, 1), (37, 51, 130, 170), (100, 0, 131, 205)])
def test_a_region_is_its_part_of_the_whole(roi: tuple[int, ...], small_blocks: None, tmp_path: Path) -> None:
    pixels, model, region = make_pixels(1, 131, 205), toy_model(), Region(*roi)
    image = png(tmp_path, pixels)
    tilesegment.predict(image, tmp_path / "mask.zarr", saved(model, tmp_path), roi=region, **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.zarr"), one_pass(model, pixels)[0][region.slices])


def test_a_level_is_predicted_in_its_own_pixels_and_lies_where_they_lie(tmp_path: Path) -> None:
    """Pixel (y, x) of level 1 covers 2y and 2y + 1 of level 0: its centre is 2y + 0.5, here of 0.5 um each."""
    pixels, model = make_pixels(1, 120, 140), toy_model()
    image, out = ome_zarr("0.5", "cyx", 0.5)(tmp_path, pixels), tmp_path / "mask.zarr"
    roi = Region(20, 40, 100, 120)
    tilesegment.predict(image, out, saved(model, tmp_path), level=1, roi=roi, **EXACT)
    expected = one_pass(model, pixels[:, ::2, ::2])[0][10:50, 20:60]
    np.testing.assert_array_equal(mask_of(out), expected)
    described = zarr.open_group(out, mode="r").attrs["ome"]["multiscales"][0]["datasets"][0]
    scale, translation = (item[item["type"]] for item in described["coordinateTransformations"])
    assert scale == pytest.approx([1.0, 1.0])
    assert translation == pytest.approx([0.5 * (20 + 0.5), 0.5 * (40 + 0.5)])


def test_channels_are_chosen_in_order_and_alpha_is_left_out(tmp_path: Path) -> None:
    rgba = noise((4, 50, 40))
    Image.fromarray(rgba.transpose(1, 2, 0)).save(tmp_path / "rgba.png")
    grey, colour = toy_model(), toy_model(channels=3)
    cases = [(colour, None, [0, 1, 2]), (colour, (2, 1, 0), [2, 1, 0]), (grey, (3,), [3])]
    for model, channels, seen in cases:
        path = saved(model, tmp_path)
        tilesegment.predict(tmp_path / "rgba.png", tmp_path / "m.png", path, channels=channels, overwrite=True, **EXACT)
        found = np.asarray(Image.open(tmp_path / "m.png"))
        np.testing.assert_array_equal(found, one_pass(model, rgba[seen])[0])


@pytest.mark.parametrize("tta", [False, True])
def test_probabilities_are_those_of_one_pass(tta: bool, small_blocks: None, tmp_path: Path) -> None:
    pixels, model = make_pixels(1, 101, 130), toy_model(classes=3)
    out, likely = tmp_path / "mask.zarr", tmp_path / "p.zarr"
    image = png(tmp_path, pixels)
    tilesegment.predict(image, out, saved(model, tmp_path), probabilities=likely, tta=tta, **EXACT)
    ids, probabilities = one_pass(model, pixels, tta)
    np.testing.assert_array_equal(mask_of(out), ids)
    np.testing.assert_allclose(mask_of(likely), probabilities, rtol=0, atol=1e-6)


def test_a_threshold_decides(tmp_path: Path) -> None:
    pixels, model = make_pixels(1, 64, 64), toy_model()
    likely = one_pass(model, pixels)[1][1]
    threshold = float(np.median(likely)) + 1e-3
    image = png(tmp_path, pixels)
    tilesegment.predict(image, tmp_path / "m.zarr", saved(model, tmp_path), threshold=threshold, **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), likely > threshold)


def test_a_mask_in_its_image_and_a_preview(tmp_path: Path) -> None:
    pixels, model = make_pixels(1, 120, 140), toy_model()
    image = ome_zarr("0.5", "cyx", 0.5)(tmp_path, pixels)
    out, preview = image / "labels" / "cells", tmp_path / "look.png"
    tilesegment.predict(image, out, saved(model, tmp_path), preview=preview, **EXACT)
    np.testing.assert_array_equal(mask_of(out), one_pass(model, pixels)[0])
    with Image.open(preview) as picture:
        assert picture.width > 2 * 140


def test_normalised_by_the_image_it_equals_the_model_trained_on_such_grey_values(tmp_path: Path) -> None:
    """Half the contrast and another type: with the image's own mean and spread that makes no difference."""
    grey = make_pixels(1, 90, 80)
    wide = tiff("yx")(tmp_path, grey.astype("uint16") * 200 + 1000)
    model = saved(toy_model(), tmp_path)
    tilesegment.predict(wide, tmp_path / "wide.zarr", model, normalise="image", **EXACT)
    tilesegment.predict(png(tmp_path, grey), tmp_path / "grey.zarr", model, normalise="image", **EXACT)
    np.testing.assert_array_equal(mask_of(tmp_path / "wide.zarr"), mask_of(tmp_path / "grey.zarr"))
    with pytest.raises(PlanError, match=r"is uint16, the model was trained on uint8: .* use --normalise image"):
        tilesegment.predict(wide, tmp_path / "no.zarr", model, **EXACT)


def test_a_constant_image_cannot_be_normalised_by_itself(tmp_path: Path) -> None:
    for dtype, value in (("uint8", 7), ("uint16", 54_321)):
        image = tiff("yx")(tmp_path, np.full((1, 600, 530), value, dtype))
        with pytest.raises(ImageError, match="is constant"):
            tilesegment.predict(image, tmp_path / "m.zarr", saved(toy_model(), tmp_path), normalise="image", **EXACT)


def test_nan_is_refused_where_it_is_and_only_there(small_blocks: None, tmp_path: Path) -> None:
    pixels = noise((1, 200, 200), dtype="float32")
    pixels[0, 150, 160] = np.nan
    image, model = tiff("yx", tile=(64, 64))(tmp_path, pixels), saved(toy_model(dtype="float32"), tmp_path)
    with pytest.raises(ImageError, match=r"NaN or infinity within .* leave the region out with --roi"):
        tilesegment.predict(image, tmp_path / "m.zarr", model, **EXACT)
    assert not (tmp_path / "m.zarr").exists()
    tilesegment.predict(image, tmp_path / "part.zarr", model, roi=Region(0, 0, 96, 96), **EXACT)
    assert (tmp_path / "part.zarr").exists()


def test_what_made_a_mask_is_recorded_in_it(tmp_path: Path) -> None:
    image, model = png(tmp_path, make_pixels(1, 50, 60)), toy_model()
    tilesegment.predict(image, tmp_path / "m.zarr", saved(model, tmp_path), **EXACT)
    record = dict(zarr.open_group(tmp_path / "m.zarr", mode="r").attrs["tilesegment"])
    decided, known = record["fingerprint"], record["provenance"]
    loaded = Model.load(tmp_path / "model.safetensors")
    assert decided["model"] == known["model"]["weights_sha256"] == loaded.header.weights_sha256
    assert (decided["tile"], decided["step"], decided["precision"]) == (88, 48, "fp64")
    assert (decided["threshold"], decided["region"]) == (0.5, [0, 0, 50, 60])
    assert known["image"] == str(image)
    assert {"torch", "zarr", "numpy", "tilesegment"} == set(known["versions"])
    assert known["seconds"] > 0
    assert known["model"]["name"] == "toy-2"


class TestRefused:
    """Nothing is computed, nothing is written, what is there stays."""

    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        toy_model().save(tmp_path / "model.safetensors")
        return png(tmp_path, make_pixels(1, 50, 60))

    def refused(self, image: Path, out: str = "m.zarr", **settings: object) -> str:
        """The one line that says why."""
        folder = next(parent for parent in image.parents if (parent / "model.safetensors").exists())
        before = contents(folder)
        names = {key: folder / str(settings[key]) for key in ("preview", "probabilities") if key in settings}
        with pytest.raises(tilesegment.TilesegmentError) as caught:
            tilesegment.predict(image, folder / out, folder / "model.safetensors", **{**settings, **names})
        assert "\n" not in str(caught.value)
        assert contents(folder) == before
        return str(caught.value)

    def test_outputs_that_are_inputs_or_each_other(self, image: Path) -> None:
        assert "is the image that is read" in self.refused(image, out="image.png", overwrite=True, tile=88)
        assert "is the image that is read" in self.refused(image, preview="image.png", overwrite=True, tile=88)
        assert "name one file twice" in self.refused(image, probabilities="m.zarr", tile=88)

    def test_an_output_elsewhere_in_the_image(self, image: Path, tmp_path: Path) -> None:
        host = ome_zarr("0.5", "cyx", 0.5)(tmp_path, make_pixels(1, 120, 140))
        assert "lies in the image; choose another place" in self.refused(host, out="image.zarr/0/m.zarr")
        assert "or holds it" in self.refused(host / "0", out="image.zarr", overwrite=True, tile=88)

    def test_a_preview_that_cannot_be(self, image: Path) -> None:
        (image.parent / "old.png").write_bytes(b"old")
        assert "exists; choose another name" in self.refused(image, preview="old.png", tile=88)
        assert "a preview is written as .png" in self.refused(image, preview="look.gif", tile=88)
        assert "there is no folder" in self.refused(image, preview="no/look.png", tile=88)

    def test_an_output_that_exists(self, image: Path, tmp_path: Path) -> None:
        tilesegment.predict(image, tmp_path / "m.zarr", tmp_path / "model.safetensors", tile=88)
        said = self.refused(image, tile=104)
        assert "exists" in said
        assert "tile: 88 there, 104 now" in said
        assert "--overwrite" in said
        (tmp_path / "m.tif").write_bytes(b"mine")
        assert "exists" in self.refused(image, out="m.tif", tile=88)

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"tile": 87}, "tile 87 does not fit the network; the nearest that do are 84 and 88"),
            ({"tile": 1}, "nearest that do are 44 and 48"),
            ({"roi": Region(0, 0, 51, 10)}, "roi 0:51,0:10 is empty or outside"),
            ({"level": 1}, "has levels 0 to 0"),
            ({"z": (0, 1)}, "has no z axis"),
            ({"channels": (1,)}, "has channels 0 to 0"),
            ({"threshold": 1.5}, "allowed: between 0 and 1"),
            ({"batch": 0}, "allowed: 1 to 1024"),
            ({"normalise": "tile"}, "allowed: model, image"),
            ({"device": "tpu"}, "there are: auto, cpu"),
            ({"precision": "fp8"}, "allowed: auto, fp32, bf16, fp16"),
            ({"tiles": 3}, "there is no setting 'tiles'; there are: model, "),
        ],
    )
    def test_settings_that_cannot_be(self, image: Path, settings: dict[str, object], match: str) -> None:
        assert match in self.refused(image, **settings)

    def test_without_a_model_only_one_channel(self, tmp_path: Path) -> None:
        image = png(tmp_path, make_pixels(3, 50, 60))
        with pytest.raises(ModelError, match="has 3 channels and no model was named; em-membrane takes 1"):
            tilesegment.predict(image, tmp_path / "m.zarr")
