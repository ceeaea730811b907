"""Regions of interest: outside them class 0, inside exactly what the whole image gives, no more is computed."""

import itertools
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from conftest import toy_model
from drawn_areas import box, feature, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import make_pixels, ome_zarr, tiff
from mask_files import mask_of
from skipping_images import BLOCK, SHAPE, padded_section, predict
from unreal_plans import image_of, network_of, plan_of

from tilesegment import MaskError, PlanError, StoppedError, TilesegmentError, open_mask
from tilesegment.cluster import Cluster
from tilesegment.geometry import FieldOfView, Region
from tilesegment.images.source import Level
from tilesegment.objects.summary import summarise
from tilesegment.prediction.plan import Plan

TRIANGLE = feature([[30.2, 20], [180, 35.5], [90, 250]], [[80, 60], [110, 60], [90, 100]])
CORNER = box(300, 410.5, 400, 500)
TOY = FieldOfView(divisor=4, before=20, after=20, crops=True)


def inside(path: Path, shape: tuple[int, int] = SHAPE, scale: float = 1.0) -> np.ndarray:
    """Which pixels of a level have their centre in one of the polygons of a file, by another way: ray casting."""
    found = np.zeros(shape, bool)
    y, x = ((np.arange(n) + 0.5) * scale for n in shape)
    for one in json.loads(path.read_text())["features"]:
        odd = np.zeros(shape, bool)
        for ring in one["geometry"]["coordinates"]:
            for (xa, ya), (xb, yb) in itertools.pairwise(ring):
                if ya == yb:
                    continue
                crosses = (np.minimum(ya, yb) <= y) & (y < np.maximum(ya, yb))
                at = xa + (y - ya) * (xb - xa) / (yb - ya)
                odd ^= crosses[:, None] & (at[:, None] <= x)
        found |= odd
    return found


class TestMask:
    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        return tiff("yx", tile=(64, 64))(tmp_path, make_pixels(1, *SHAPE))

    def test_outside_is_class_0_and_inside_is_as_without_polygons(self, image: Path) -> None:
        rois = saved(image.parent, TRIANGLE, CORNER)
        likely = {"probabilities": image.parent / "p.zarr"}
        predict(image, "whole.zarr", probabilities=image.parent / "q.zarr", precision="fp32")
        done = predict(image, "mask.zarr", roi=rois, precision="fp32", **likely)
        whole, mask, where = mask_of(image.parent / "whole.zarr"), mask_of(image.parent / "mask.zarr"), inside(rois)
        np.testing.assert_array_equal(mask, np.where(where, whole, 0))
        p, q = (mask_of(image.parent / name) for name in ("p.zarr", "q.zarr"))
        background = np.array([1, 0, 0], np.float32)[:, None, None]
        np.testing.assert_array_equal(p, np.where(where, q, background))
        rows, columns = (-(-side // BLOCK) for side in SHAPE)
        blocks = [where[y * BLOCK :, x * BLOCK :][:BLOCK, :BLOCK].any() for y, x in np.ndindex(rows, columns)]
        assert (done.blocks, done.blocks - done.blocks_skipped) == (30, sum(blocks))
        assert 0 < sum(blocks) < 20
        spec = open_mask(image.parent / "mask.zarr").spec
        known: Any = spec.provenance["roi"]
        assert known == {"polygons": 2, "pixels": where.sum(), "share": round(float(where.mean()), 6)}
        assert "areas.geojson" not in json.dumps(dict(spec.fingerprint)) + json.dumps(dict(spec.provenance))

    def test_density_refers_to_the_pixels_inside(self, image: Path) -> None:
        rois = saved(image.parent, TRIANGLE, CORNER)
        predict(image, "mask.zarr", roi=rois)
        (found,) = summarise([image.parent / "mask.zarr"])
        assert found.tissue.pixels == pytest.approx(inside(rois).sum(), abs=1)

    def test_parts_and_a_repeated_command_make_the_same_mask(self, image: Path) -> None:
        rois = saved(image.parent, TRIANGLE)
        predict(image, "one.zarr", roi=rois)
        for k in (2, 1):
            part = predict(image, "parts.zarr", roi=rois, part=(k, 2))
        assert part.complete
        np.testing.assert_array_equal(mask_of(image.parent / "one.zarr"), mask_of(image.parent / "parts.zarr"))
        (image.parent / "other").mkdir()
        turned = feature([[90, 250], [30.2, 20], [180, 35.5]], [[80, 60], [110, 60], [90, 100]])
        again = predict(image, "one.zarr", roi=saved(image.parent / "other", turned))
        assert (again.blocks, again.complete) == (0, True), "other polygons around the same pixels"
        with pytest.raises(MaskError, match="roi"):
            predict(image, "one.zarr", roi=saved(image.parent / "other", CORNER))

    def test_a_stopped_run_goes_on(self, image: Path) -> None:
        rois, asked = saved(image.parent, TRIANGLE, CORNER), itertools.count()
        predict(image, "one.zarr", roi=rois)
        with pytest.raises(StoppedError):
            predict(image, "two.zarr", roi=rois, stop=lambda: next(asked) > 4)
        last = predict(image, "two.zarr", roi=rois)
        assert 0 < last.blocks_resumed < 30
        np.testing.assert_array_equal(mask_of(image.parent / "one.zarr"), mask_of(image.parent / "two.zarr"))

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_workers_of_a_cluster_need_no_file(self, image: Path, cluster: Cluster) -> None:
        rois = saved(image.parent, TRIANGLE, CORNER)
        predict(image, "one.zarr", roi=rois)
        many = predict(image, "many.zarr", roi=rois, workers=cluster)
        assert many.complete
        np.testing.assert_array_equal(mask_of(image.parent / "one.zarr"), mask_of(image.parent / "many.zarr"))

    def test_with_blocks_of_one_value_the_bar_ends_at_the_end(self, tmp_path: Path) -> None:
        image = tiff("yx", tile=(64, 64))(tmp_path, padded_section())
        rois = saved(tmp_path, box(0, 0, 90, 480))
        done = predict(image, "mask.zarr", roi=rois, skip_empty="constant")
        # of the six blocks of the first row, three are black
        assert (done.blocks_skipped, done.pixels) == (27, 3 * BLOCK * BLOCK)
        predict(image, "whole.zarr", skip_empty="constant")
        np.testing.assert_array_equal(
            mask_of(tmp_path / "mask.zarr"), np.where(inside(rois), mask_of(tmp_path / "whole.zarr"), 0)
        )


@pytest.mark.parametrize(
    ("options", "scale"),
    [pytest.param({"level": 1}, 2.0, id="level"), pytest.param({"mpp": 0.8}, 1.6, id="resampled")],
)
def test_polygons_are_in_pixels_of_level_0(options: dict[str, Any], scale: float, tmp_path: Path) -> None:
    image = ome_zarr("0.5", "cyx", 0.5)(tmp_path, make_pixels(1, *SHAPE))
    rois = saved(tmp_path, TRIANGLE, CORNER)
    predict(image, "whole.zarr", precision="fp32", **options)
    predict(image, "mask.zarr", roi=rois, precision="fp32", **options)
    whole = mask_of(tmp_path / "whole.zarr")
    where = inside(rois, whole.shape, scale)
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.zarr"), np.where(where, whole, 0))
    assert where.any()


def test_polygons_of_one_plane_count_in_all_planes(tmp_path: Path) -> None:
    image = tiff("zyx", photometric="minisblack")(tmp_path, make_pixels(3, 1, 120, 130))
    rois = saved(tmp_path, box(10, 20, 50, 60, z=2))
    predict(image, "whole.zarr", z=(1, 3))
    predict(image, "mask.zarr", z=(1, 3), roi=rois)
    where = inside(rois, (120, 130))
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.zarr"), np.where(where, mask_of(tmp_path / "whole.zarr"), 0))
    with pytest.raises(PlanError, match="areas in several planes"):
        predict(image, "other.zarr", roi=saved(tmp_path, box(0, 0, 9, 9), box(0, 0, 9, 9, z=1)))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 2.0, 1.37]))
def test_the_plan_counts_the_pixels_inside_each_block(
    tmp_path_factory: pytest.TempPathFactory, seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    rings = [(rng.random((4, 2)) * (500 * scale, 400 * scale)).tolist() for _ in range(3)]
    rois = saved(tmp_path_factory.mktemp("roi"), *map(feature, rings))
    image = image_of(levels=(Level((548, 685), (1.0, 1.0)), Level(SHAPE, (scale, scale))))
    plan = plan_of(image, network_of(TOY), tile=88, block=BLOCK, level=1, roi=rois)
    where, found = inside(rois, SHAPE, scale), pickle.loads(pickle.dumps(plan))
    assert isinstance(found, Plan)
    assert found.roi is not None
    counts = [np.count_nonzero(where[one.slices]) for one in Region.of_shape(SHAPE).squares(BLOCK)]
    assert found.roi.inside.ravel().tolist() == counts
    assert (found.left_out[0].ravel() == (np.array(counts) == 0)).all()
    assert (found.roi.digest, found.decides["roi"]) == (plan.decides["roi"], plan.decides["roi"])
    assert found.skipped["share"] == pytest.approx(1 - where.mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        pytest.param("nowhere.geojson", "nowhere.geojson does not exist", id="missing"),
        pytest.param("rois.txt", "allowed: y0:y1,x0:x1, or a GeoJSON file", id="suffix"),
        pytest.param(3, "allowed: a tilesegment.Region", id="type"),
    ],
)
def test_what_is_no_region_is_refused(given_: Any, named: str, tmp_path: Path) -> None:
    image = tiff("yx")(tmp_path, make_pixels(1, *SHAPE))
    with pytest.raises(TilesegmentError, match=named):
        predict(image, "mask.zarr", roi=given_)


def test_areas_without_a_pixel_are_refused(tmp_path: Path) -> None:
    image = tiff("yx")(tmp_path, make_pixels(1, *SHAPE))
    with pytest.raises(PlanError, match="no pixel of the image lies in its areas"):
        predict(image, "mask.zarr", roi=saved(tmp_path, box(10.6, 10.6, 11.4, 11.4)))
    assert not list(tmp_path.glob("*.zarr*"))


@pytest.mark.usefixtures("small_blocks")
class TestCommand:
    @pytest.fixture(autouse=True)
    def image(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        toy_model().save(tmp_path / "toy.safetensors")
        tiff("yx", tile=(64, 64))(tmp_path, make_pixels(1, *SHAPE))

    def test_plan_and_result_say_what_is_left_out(self, run: Run) -> None:
        saved(Path(), TRIANGLE)
        line = "predict image.tif -m toy.safetensors --tile 88 --roi areas.geojson "
        planned = run(line + "--dry-run")
        assert "1 polygon, " in planned.out
        done = run(line + "-o m.zarr --preview p.png")
        assert done.code == 0, done.err
        assert "blocks were empty or outside --roi and skipped" in done.err
        assert run("status m.zarr").code == 0

    def test_a_rectangle_is_what_it_was_and_many_images_are_refused(self, run: Run) -> None:
        saved(Path(), TRIANGLE)
        assert run("predict image.tif -m toy.safetensors --tile 88 --roi 0:100,0:100 -o m.zarr").code == 0
        assert open_mask("m.zarr").spec.shape == (100, 100)
        for bad in ("5:5,0:9", "0:9"):
            found = run(f"predict image.tif -m toy.safetensors --roi {bad} -o n.zarr")
            assert (found.code, "is not a region that holds pixels" in found.err) == (2, True)
        shutil.copy("image.tif", "copy.tif")
        Path("list.csv").write_text("image,roi,skip_empty\nimage.tif,areas.geojson,\ncopy.tif,,constant\n")
        assert run("predict --list list.csv -m toy.safetensors --tile 88 --out-dir listed").code == 0
        where, masks = inside(Path("areas.geojson")), [mask_of(f"listed/{name}.zarr") for name in ("image", "copy")]
        np.testing.assert_array_equal(masks[0], np.where(where, masks[1], 0))
        assert "skipped" in open_mask("listed/copy.zarr").spec.fingerprint
        many = run("predict image.tif copy.tif -m toy.safetensors --roi areas.geojson --out-dir masks")
        assert (many.code, "holds areas of one image, but 2 images have it" in many.err) == (2, True)
