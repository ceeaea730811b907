"""Blocks that are skipped as empty become class 0; those that are predicted stay as they are, byte for byte."""

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import Write, make_pixels, ome_zarr, png, tiff, zarr_array
from mask_files import mask_of
from skipping_images import BLOCK, SHAPE, blocks_where, both, padded_section, predict, skipped_of, slide, written
from unreal_plans import image_of, network_of, plan_of

from tilesegment import ImageError, PlanError, Region
from tilesegment.geometry import FieldOfView
from tilesegment.masks import open_mask
from tilesegment.prediction.job import Job
from tilesegment.prediction.settings import Settings
from tilesegment.prediction.skipping import Skipping, find_tissue

pytestmark = pytest.mark.usefixtures("small_blocks")


class TestConstant:
    def test_blocks_of_one_value_become_class_0_and_all_others_are_as_they_would_be(self, tmp_path: Path) -> None:
        image = tiff("yx", tile=(64, 64))(tmp_path, padded_section())
        whole, done = predict(image, "whole.zarr"), predict(image, "skipping.zarr", skip_empty="constant")
        skipped = skipped_of(mask_of(tmp_path / "whole.zarr"), mask_of(tmp_path / "skipping.zarr"))
        # the network sees 20 px more on either side: those of column 288 on read nothing but black
        assert skipped == {(row, column) for row in range(5) for column in (3, 4, 5)}
        assert (whole.blocks, whole.blocks_skipped, whole.pixels) == (30, 0, 400 * 500)
        assert (done.blocks, done.blocks_skipped, done.pixels) == (30, 15, 400 * 288)
        assert done.mpx_per_s == pytest.approx(done.pixels / 1e6 / done.seconds)

    def test_one_other_pixel_in_what_the_network_reads_keeps_a_block(self, tmp_path: Path) -> None:
        pixels = np.full((1, *SHAPE), 7, np.uint8)
        pixels[0, 2 * BLOCK - 1, 3 * BLOCK + 40] = 8  # in block (1, 3), read by (2, 3) too
        done = predict(png(tmp_path, pixels), "mask.zarr", skip_empty="constant")
        assert done.blocks_skipped == 30 - 2

    def test_a_colour_counts_as_one_value(self, tmp_path: Path) -> None:
        pixels = np.broadcast_to(np.array([200, 90, 200], np.uint8)[:, None, None], (3, *SHAPE))
        assert predict(png(tmp_path, pixels), "mask.zarr", skip_empty="constant").blocks_skipped == 30

    def test_what_the_last_run_found_is_recorded(self, tmp_path: Path) -> None:
        predict(tiff("yx")(tmp_path, padded_section()), "mask.zarr", skip_empty="constant")
        recorded = open_mask(tmp_path / "mask.zarr").spec.provenance["skipped"]
        assert recorded == {"mode": "constant", "blocks": 15, "of_blocks": 30, "share": round(212 / 500, 6)}


class TestTissue:
    @pytest.fixture(autouse=True)
    def small_overview(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that images of the tests are reduced, or read from a smaller level, as slides are."""
        monkeypatch.setattr("tilesegment.prediction.skipping._SIDE", 250)

    @pytest.mark.parametrize(
        ("write", "level"),
        [
            (ome_zarr("0.5", "cyx", 0.5), 0),
            (ome_zarr("0.5", "cyx", 0.5), 1),
            (zarr_array("cyx", (3, 128, 128)), 0),
            (png, 0),
        ],
        ids=["pyramid", "level of a pyramid", "chunks", "png"],
    )
    def test_glass_is_skipped_and_no_tissue_is(self, write: Write, level: int, tmp_path: Path) -> None:
        pixels, inside = slide()
        image, roi = write(tmp_path, pixels), Region(30, 10, 400, 500)
        masks = both(image, roi=roi, level=level, skip_empty="tissue")
        settings = Settings(tmp_path / "toy-3.safetensors", tile=88, roi=roi, level=level, skip_empty="tissue")
        with Job.prepare(image, settings) as job:
            skipped = {(int(row), int(column)) for _, row, column in np.argwhere(job.plan.skipping.empty)}
        glass = blocks_where(~inside[roi.slices][:: 2**level, :: 2**level])
        assert skipped_of(*masks) <= skipped <= glass
        assert len(skipped) >= len(glass) / 2

    def test_the_decision_is_recorded_with_its_threshold(self, tmp_path: Path) -> None:
        done = predict(png(tmp_path, slide()[0]), "mask.zarr", skip_empty="tissue")
        spec = open_mask(tmp_path / "mask.zarr").spec
        recorded: Any = spec.provenance["skipped"]
        assert (recorded["mode"], recorded["blocks"]) == ("tissue", done.blocks_skipped)
        assert recorded["share"] == pytest.approx(1 - done.pixels / (SHAPE[0] * SHAPE[1]), abs=1e-6)
        (threshold,) = recorded["thresholds"]
        assert 3 < threshold < 58, "between the saturation of glass and of tissue"
        decided: Any = spec.fingerprint["skipped"]
        assert decided["mode"] == "tissue"
        assert re.fullmatch("[0-9a-f]{64}", decided["digest"])

    def test_planes_are_decided_one_by_one(self, tmp_path: Path) -> None:
        grey = make_pixels(3, 1, *SHAPE) + 30
        grey[0, :, :, 250:], grey[2, :, :250] = 0, 0
        image = tiff("zyx", photometric="minisblack")(tmp_path, grey)
        whole, found = both(image, skip_empty="tissue")
        assert skipped_of(whole[0], found[0]) == {(row, column) for row in range(5) for column in (3, 4, 5)}
        assert skipped_of(whole[1], found[1]) == set(), "nothing but tissue"
        assert skipped_of(whole[2], found[2]) == {(row, column) for row in (0, 1) for column in range(6)}

    @pytest.mark.parametrize("radius", [0, 1000])
    def test_where_there_is_no_tissue_or_nothing_else_nothing_is_skipped_and_it_is_said(
        self, radius: float, tmp_path: Path
    ) -> None:
        image = png(tmp_path, slide(radius=radius)[0])
        np.testing.assert_array_equal(*both(image, skip_empty="tissue"))
        with Job.prepare(image, Settings(tmp_path / "toy-3.safetensors", tile=88, skip_empty="tissue")) as job:
            assert any("tissue cannot be told from glass" in note for note in job.plan.notes)

    def test_what_is_not_read_cannot_fail(self, tmp_path: Path) -> None:
        """Of a pyramid the small level says where glass is: no pixel of the large one is touched there."""
        image = ome_zarr("0.5", "cyx", 0.5)(tmp_path, slide()[0])
        (image / "0" / "c" / "0" / "11" / "14").write_bytes(b"no chunk")
        with pytest.raises(ImageError, match="damaged"):
            predict(image, "whole.zarr")
        assert predict(image, "skipping.zarr", skip_empty="tissue").complete

    def test_ink_does_not_hide_pale_tissue(self) -> None:
        pixels, inside = slide()
        pixels[:, :80, :300] = np.array((20, 40, 230), np.uint8)[:, None, None]
        pixels[:, inside] = (pixels[:, inside].astype(int) + np.array([[6], [35], [15]])).clip(0, 255)
        tissue, threshold = find_tissue(pixels.astype(np.float32), 255.0)
        assert threshold is not None
        assert tissue[inside].all()
        assert tissue[:80, :300].all()
        assert tissue.mean() < 0.4

    def test_values_that_are_none_count_as_tissue(self) -> None:
        pixels = padded_section().astype(np.float32)
        pixels[0, 300, 400] = np.nan
        pixels[0, 100, 400] = np.inf
        tissue, threshold = find_tissue(pixels, 1.0)
        assert threshold is not None
        assert tissue[300, 400]
        assert tissue[100, 400]
        assert not tissue[200, 400]
        assert find_tissue(np.full((1, 9, 9), np.nan, np.float32), 1.0)[1] is None

    @given(st.integers(0, 3), st.sampled_from([(1, 1, 1), (3, 1, 1), (1, 1, 40), (3, 31, 2)]))
    def test_images_of_any_size_and_of_one_value_are_all_tissue(self, value: int, shape: tuple[int, ...]) -> None:
        tissue, threshold = find_tissue(np.full(shape, 85.0 * value, np.float32), 255.0)
        assert (tissue.shape, tissue.all(), threshold) == (shape[1:], True, None)


class TestMaskOfTheUser:
    @pytest.mark.parametrize(
        ("write", "scale"),
        [(png, 0.05), (tiff("yx"), 0.5), (zarr_array("yx", (64, 64)), 1), (tiff("yx", tile=(64, 64)), 2)],
        ids=["png", "striped", "zarr", "tiled"],
    )
    def test_blocks_are_predicted_where_the_mask_is_not_zero(self, write: Write, scale: float, tmp_path: Path) -> None:
        image = tiff("yx")(tmp_path, make_pixels(1, *SHAPE))
        wanted = np.zeros([round(side * scale) for side in SHAPE], np.uint8)
        # the image's rows 100 to 280 and columns 200 to 280, in pixels of the mask: within two blocks
        wanted[round(100 * scale) : round(280 * scale), round(200 * scale) : round(280 * scale)] = 5
        masks = both(image, skip_empty=written(write, tmp_path / "mask", wanted[None]))
        assert skipped_of(*masks) == {*np.ndindex(5, 6)} - {(1, 2), (2, 2)}

    @given(st.integers(2, 40), st.integers(0, 10**6), st.sampled_from([(0, 0, 400, 500), (33, 41, 399, 480)]))
    def test_a_pixel_of_the_mask_keeps_the_blocks_that_its_rectangle_touches_and_no_others(
        self, tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int, roi: tuple[int, int, int, int]
    ) -> None:
        """By exact fractions: pixel r of `rows` stands for the image's rows r * H / rows up to (r + 1) * H / rows."""
        columns, rng = max(rows * 5 // 4, 1), np.random.default_rng(seed)
        row, column = int(rng.integers(rows)), int(rng.integers(columns))
        pixels = np.zeros((1, rows, columns), np.uint8)
        pixels[0, row, column] = 1
        mask = png(tmp_path_factory.mktemp("mask"), pixels)
        view = FieldOfView(divisor=4, before=20, after=20, crops=True)
        plan = plan_of(image_of(SHAPE), network_of(view), tile=88, roi=Region(*roi), skip_empty=str(mask))
        found = plan.skipping
        for block in plan.grid:
            one = block.write
            touches = (
                one.y0 * rows < (row + 1) * SHAPE[0]
                and row * SHAPE[0] < one.y1 * rows
                and one.x0 * columns < (column + 1) * SHAPE[1]
                and column * SHAPE[1] < one.x1 * columns
            )
            assert found.is_empty(0, block.row, block.column) == (not touches)

    def test_a_stack_may_have_a_mask_for_each_plane(self, tmp_path: Path) -> None:
        write = tiff("zyx", photometric="minisblack")
        wanted = np.ones((3, 1, 40, 50), np.uint8)
        wanted[1] = 0
        wanted[2, :, :, 25:] = 0
        image, mask = write(tmp_path, make_pixels(3, 1, *SHAPE)), written(write, tmp_path / "mask", wanted)
        whole, found = both(image, z=(1, 3), skip_empty=mask)
        assert skipped_of(whole[0], found[0]) == {*np.ndindex(5, 6)}
        assert skipped_of(whole[1], found[1]) == {(row, column) for row in range(5) for column in (3, 4, 5)}

    def test_alpha_is_no_mask(self, tmp_path: Path) -> None:
        image = png(tmp_path, make_pixels(1, *SHAPE))
        rgba = np.zeros((4, 40, 50), np.uint8)
        rgba[3] = 255
        assert predict(image, "mask.zarr", skip_empty=written(png, tmp_path / "mask", rgba)).blocks_skipped == 30

    @pytest.mark.parametrize(
        ("shape", "match"),
        [((1, 50, 50), "is 50 x 50 pixels, the image 400 x 500: give one of the same"), ((2, 40, 50), "x 2 planes")],
    )
    def test_a_mask_of_another_image_is_refused(self, shape: tuple[int, int, int], match: str, tmp_path: Path) -> None:
        image = png(tmp_path, make_pixels(1, *SHAPE))
        write, pixels = tiff("zyx", photometric="minisblack"), np.ones((shape[0], 1, *shape[1:]), np.uint8)
        with pytest.raises(PlanError, match=match):
            predict(image, "mask.zarr", skip_empty=written(write, tmp_path / "mask", pixels))
        assert not list(tmp_path.glob("*.zarr*"))

    def test_a_mode_that_there_is_not_is_refused(self, tmp_path: Path) -> None:
        image = png(tmp_path, make_pixels(1, *SHAPE))
        for mode in ("tisue", ""):
            with pytest.raises(
                PlanError, match=f"--skip-empty is '{mode}'; allowed: constant, tissue, or an image file"
            ):
                predict(image, "mask.zarr", skip_empty=mode)


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**30))
def test_the_decision_is_packed_and_travels(planes: int, rows: int, columns: int, seed: int) -> None:
    empty = np.random.default_rng(seed).random((planes, rows, columns)) < 0.5
    packed = Skipping("mask", empty.shape, np.packbits(empty).tobytes(), 0.5)
    found: Skipping = pickle.loads(pickle.dumps(packed))
    assert found == packed
    np.testing.assert_array_equal(found.empty, empty)
    assert all(found.is_empty(*place) == empty[place] for place in np.ndindex(empty.shape))
    assert found.blocks == np.count_nonzero(empty)
    flipped = np.packbits(~empty).tobytes()
    assert replace(packed, bits=flipped).decides != packed.decides
