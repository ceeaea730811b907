"""Which blocks are empty: what is predicted never depends on what is skipped."""

import csv
import itertools
import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from conftest import noise, toy_model
from drawn_areas import box, saved
from hypothesis import given
from hypothesis import strategies as st
from image_files import Write, make_pixels, ome_zarr, png, tiff, zarr_array
from mask_files import mask_of
from skipping_images import BLOCK, EVERY, SHAPE, padded_section, predict, skipped, slide, written
from unreal_plans import Unreal, image_of, network_of, plan_of

import tilesegment
from tilesegment import MaskError, PlanError, Region, open_mask
from tilesegment.cluster import Cluster
from tilesegment.geometry import FieldOfView
from tilesegment.images.source import Level
from tilesegment.images.tissue import find_tissue
from tilesegment.prediction.job import Job
from tilesegment.prediction.result import Listener, Progress, Result
from tilesegment.prediction.settings import Settings
from tilesegment.prediction.skipping import Skipping

BLACK = {(row, column) for row in range(5) for column in (3, 4, 5)}
STACK = tiff("zyx", photometric="minisblack")


class TestConstant:
    def test_blocks_of_one_value_are_skipped_and_no_others(self, tmp_path: Path) -> None:
        image = tiff("yx")(tmp_path, padded_section())
        # the network sees 20 px more on either side: those of column 288 on read nothing but black
        assert skipped(image, skip_empty="constant") == [BLACK]
        done = predict(image, "again.zarr", skip_empty="constant")
        assert (done.blocks, done.blocks_skipped, done.pixels) == (30, 15, 400 * 288)
        recorded = open_mask(tmp_path / "again.zarr").spec.provenance["skipped"]
        assert recorded == {"mode": "constant", "blocks": 15, "of_blocks": 30, "share": round(212 / 500, 6)}

    def test_one_other_pixel_in_what_the_network_reads_keeps_a_block(self, tmp_path: Path) -> None:
        pixels = np.full((1, *SHAPE), 7, np.uint8)
        pixels[0, 2 * BLOCK - 1, 3 * BLOCK + 40] = 8  # in block (1, 3), read by (2, 3) too
        assert predict(png(tmp_path, pixels), "mask.zarr", skip_empty="constant").blocks_skipped == 30 - 2

    def test_a_colour_counts_as_one_value(self, tmp_path: Path) -> None:
        pixels = np.broadcast_to(np.array([200, 90, 200], np.uint8)[:, None, None], (3, *SHAPE))
        assert predict(png(tmp_path, pixels), "mask.zarr", skip_empty="constant").blocks_skipped == 30


class TestTissue:
    @pytest.mark.parametrize(
        ("write", "level"),
        [
            pytest.param(ome_zarr("0.5", "cyx", 0.5), 0, id="pyramid"),
            pytest.param(ome_zarr("0.5", "cyx", 0.5), 1, id="level of a pyramid"),
            pytest.param(zarr_array("cyx", (3, 128, 128)), 0, id="chunks"),
        ],
    )
    def test_glass_is_skipped_and_no_tissue_is(self, write: Write, level: int, tmp_path: Path) -> None:
        pixels, inside = slide()
        image, roi = write(tmp_path, pixels), Region(30, 10, 400, 500)
        (found,) = skipped(image, roi=roi, level=level, skip_empty="tissue")
        settings = Settings(
            tmp_path / "toy-3.safetensors", tile=88, block=BLOCK, roi=roi, level=level, skip_empty="tissue"
        )
        with Job.prepare(image, settings) as job:
            decided = {(int(row), int(column)) for _, row, column in np.argwhere(job.plan.skipping.empty)}
        there = inside[roi.slices][:: 2**level, :: 2**level]
        squares = Region.of_shape((there.shape[0], there.shape[1])).squares(BLOCK)
        glass = {(one.y0 // BLOCK, one.x0 // BLOCK) for one in squares if not there[one.slices].any()}
        assert found <= decided <= glass
        assert len(decided) >= len(glass) / 2

    def test_the_decision_is_recorded_with_its_threshold(self, tmp_path: Path) -> None:
        done = predict(png(tmp_path, slide()[0]), "mask.zarr", skip_empty="tissue")
        spec = open_mask(tmp_path / "mask.zarr").spec
        recorded: Any = spec.provenance["skipped"]
        assert (recorded["mode"], recorded["blocks"]) == ("tissue", done.blocks_skipped)
        assert recorded["share"] == pytest.approx(1 - done.pixels / (SHAPE[0] * SHAPE[1]), abs=1e-6)
        assert 3 < recorded["thresholds"][0] < 58, "between the saturation of glass and of tissue"
        decided: Any = spec.fingerprint["skipped"]
        assert decided["mode"] == "tissue"
        assert re.fullmatch("[0-9a-f]{64}", decided["digest"])

    def test_planes_are_decided_one_by_one(self, tmp_path: Path) -> None:
        grey = make_pixels(3, 1, *SHAPE) + 30
        grey[0, :, :, 250:], grey[2, :, :250] = 0, 0
        rows = {(row, column) for row in (0, 1) for column in range(6)}
        assert skipped(STACK(tmp_path, grey), skip_empty="tissue") == [BLACK, set(), rows]

    @pytest.mark.parametrize("radius", [0, 1000])
    def test_where_there_is_no_tissue_or_nothing_else_nothing_is_skipped(self, radius: float, tmp_path: Path) -> None:
        image = png(tmp_path, slide(radius)[0])
        assert skipped(image, skip_empty="tissue") == [set()]
        done = predict(image, "again.zarr", skip_empty="tissue")
        assert "tissue cannot be told from glass" in done.notes[0]

    def test_a_large_image_is_decided_on_an_overview_of_its_smallest_large_level(self) -> None:
        pixels, inside = slide()

        class Slide(Unreal):
            """Each pixel 30 x 30 on level 0, of which windows are read to judge the focus, and 6 x 6 on level 1."""

            def _read(self, region: Region, level: int, z: int) -> np.ndarray:
                assert level == 1 or (level == 0 and region.shape == (256, 256))
                rows, columns = (
                    np.arange(*ends) // (30, 6)[level] for ends in ((region.y0, region.y1), (region.x0, region.x1))
                )
                return pixels[:, rows[:, None], columns]

        shapes = ((12_000, 15_000), (2_400, 3_000), (400, 500))
        levels = tuple(Level(shape, (12_000 / shape[0],) * 2) for shape in shapes)
        image = Slide(__file__, "TIFF", levels, None, 3, np.dtype("uint8"))
        plan = plan_of(image, network_of(channels=3), tile=668, block=30 * BLOCK, skip_empty="tissue")
        empty = plan.skipping.empty[0]
        assert empty.shape == (5, 6)
        for one in Region.of_shape(SHAPE).squares(BLOCK):
            assert not (inside[one.slices].any() and empty[one.y0 // BLOCK, one.x0 // BLOCK])
        assert empty.mean() > 0.4

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
        pixels[0, 300, 400], pixels[0, 100, 400] = np.nan, np.inf
        tissue, threshold = find_tissue(pixels, 1.0)
        assert threshold is not None
        assert (tissue[300, 400], tissue[100, 400], tissue[200, 400]) == (True, True, False)
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
        found = skipped(image, skip_empty=written(write, tmp_path / "mask", wanted[None]))
        assert found == [EVERY - {(1, 2), (2, 2)}]

    @given(st.integers(2, 40), st.integers(0, 10**6), st.sampled_from([(0, 0, 400, 500), (33, 41, 399, 480)]))
    def test_a_pixel_of_the_mask_keeps_the_blocks_that_its_rectangle_touches_and_no_others(
        self, tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int, roi: tuple[int, int, int, int]
    ) -> None:
        """By exact fractions: pixel r of `rows` stands for the image's rows r * H / rows up to (r + 1) * H / rows."""
        columns, rng = max(rows * 5 // 4, 1), np.random.default_rng(seed)
        row, column = int(rng.integers(rows)), int(rng.integers(columns))
        pixels = np.zeros((1, rows, columns), np.uint8)
        pixels[0, row, column] = 1
        mask = str(png(tmp_path_factory.mktemp("mask"), pixels))
        network = network_of(FieldOfView(divisor=4, before=20, after=20, crops=True))
        plan = plan_of(image_of(SHAPE), network, tile=88, block=BLOCK, roi=Region(*roi), skip_empty=mask)
        for block in plan.grid:
            one = block.write
            touches = (
                one.y0 * rows < (row + 1) * SHAPE[0]
                and row * SHAPE[0] < one.y1 * rows
                and one.x0 * columns < (column + 1) * SHAPE[1]
                and column * SHAPE[1] < one.x1 * columns
            )
            assert plan.skipping.is_empty(0, block.row, block.column) == (not touches)

    def test_blocks_are_predicted_where_an_area_touches_them(self, tmp_path: Path) -> None:
        image = tiff("yx")(tmp_path, make_pixels(1, *SHAPE))
        # the second only meets the block to its right in an edge
        areas = saved(tmp_path, box(100, 200, 280, 280), box(300, 400, 310, 480), box(0, 0, 50, 50, name="Ignore*"))
        assert skipped(image, skip_empty=str(areas)) == [EVERY - {(1, 2), (2, 2), (3, 4)}]
        recorded: Any = open_mask(tmp_path / "skipping.zarr").spec.provenance["skipped"]
        assert (recorded["mode"], recorded["blocks"]) == ("areas", 27)

    def test_a_stack_may_have_areas_for_each_plane_or_for_all(self, tmp_path: Path) -> None:
        image = STACK(tmp_path, make_pixels(3, 1, *SHAPE))
        both = saved(tmp_path, box(0, 0, 400, 288), box(0, 288, 400, 500, z=2))
        assert skipped(image, skip_empty=str(both)) == [BLACK, EVERY, EVERY - BLACK]
        assert skipped(image, skip_empty=str(saved(tmp_path, box(0, 0, 400, 288, z=1))), z=(0, 2)) == [BLACK, BLACK]

    def test_a_stack_may_have_a_mask_for_each_plane(self, tmp_path: Path) -> None:
        wanted = np.ones((3, 1, 40, 50), np.uint8)
        wanted[1], wanted[2, :, :, 25:] = 0, 0
        image = STACK(tmp_path, make_pixels(3, 1, *SHAPE))
        assert skipped(image, z=(1, 3), skip_empty=written(STACK, tmp_path / "mask", wanted)) == [EVERY, BLACK]

    def test_alpha_is_no_mask(self, tmp_path: Path) -> None:
        rgba = np.zeros((4, 40, 50), np.uint8)
        rgba[3] = 255
        mask, image = written(png, tmp_path / "mask", rgba), png(tmp_path, make_pixels(1, *SHAPE))
        assert predict(image, "mask.zarr", skip_empty=mask).blocks_skipped == 30

    @pytest.mark.parametrize(
        ("shape", "named"), [((1, 50, 50), "50 x 50 pixels, the image 400 x 500"), ((2, 40, 50), "x 2 planes")]
    )
    def test_a_mask_of_another_image_is_refused(self, shape: tuple[int, int, int], named: str, tmp_path: Path) -> None:
        image, pixels = png(tmp_path, make_pixels(1, *SHAPE)), np.ones((shape[0], 1, *shape[1:]), np.uint8)
        with pytest.raises(PlanError, match=named):
            predict(image, "mask.zarr", skip_empty=written(STACK, tmp_path / "mask", pixels))
        assert not list(tmp_path.glob("*.zarr*"))

    @pytest.mark.parametrize("mode", ["tisue", ""])
    def test_a_mode_that_there_is_not_is_refused(self, mode: str, tmp_path: Path) -> None:
        with pytest.raises(PlanError, match=f"--skip-empty is '{mode}'; allowed: constant, tissue, or a file"):
            predict(png(tmp_path, make_pixels(1, *SHAPE)), "mask.zarr", skip_empty=mode)


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**30))
def test_the_decision_is_packed_and_travels(planes: int, rows: int, columns: int, seed: int) -> None:
    empty = np.random.default_rng(seed).random((planes, rows, columns)) < 0.5
    packed = Skipping("mask", (planes, rows, columns), np.packbits(empty).tobytes(), 0.5)
    found: Skipping = pickle.loads(pickle.dumps(packed))
    assert found == packed
    np.testing.assert_array_equal(found.empty, empty)
    assert all(found.is_empty(*place) == empty[place] for place in np.ndindex(planes, rows, columns))
    assert found.blocks == np.count_nonzero(empty)
    assert replace(packed, bits=np.packbits(~empty).tobytes()).decides != packed.decides


class Heard(Listener):
    """Keeps what it hears of a run, and can have it stopped after some blocks."""

    def __init__(self, stop_after: int = 99) -> None:
        self.progress: list[Progress] = []
        self.stop_after = stop_after

    def progressed(self, result: Result, progress: Progress) -> None:
        self.progress.append(progress)

    def stop(self) -> bool:
        return len(self.progress) >= self.stop_after


@pytest.mark.parametrize("mode", ["constant", "tissue"])
class TestRuns:
    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        return tiff("yx", tile=(64, 64))(tmp_path, padded_section())

    def test_parts_and_stops_make_the_mask_of_one_run(self, mode: str, image: Path) -> None:
        one, heard = predict(image, "one.zarr", skip_empty=mode), Heard(stop_after=10)
        parts = [predict(image, "parts.zarr", skip_empty=mode, part=(k, 3)) for k in (1, 3, 2)]
        assert [part.complete for part in parts] == [False, False, True]
        assert sum(part.blocks_skipped for part in parts) == one.blocks_skipped > 0
        with pytest.raises(tilesegment.StoppedError):
            predict(image, "two.zarr", skip_empty=mode, listeners=[heard], stop=heard.stop)
        last = predict(image, "two.zarr", skip_empty=mode)
        assert 0 < last.blocks_resumed == 30 - last.blocks
        assert 0 < last.blocks_skipped < one.blocks_skipped
        for name in ("parts.zarr", "two.zarr"):
            np.testing.assert_array_equal(mask_of(image.parent / "one.zarr"), mask_of(image.parent / name))
        with pytest.raises(MaskError, match="skipped"):
            predict(image, "one.zarr")

    def test_skipped_pixels_count_neither_as_done_nor_as_to_do(self, mode: str, image: Path) -> None:
        heard = Heard()
        done = predict(image, "mask.zarr", skip_empty=mode, listeners=[heard])
        assert [one.blocks for one in heard.progress] == [*range(1, 31)]
        assert all(before.share <= after.share for before, after in itertools.pairwise(heard.progress))
        assert (heard.progress[-1].pixels, heard.progress[-1].total) == (done.pixels, done.pixels)
        if mode == "tissue":
            assert {one.total for one in heard.progress} == {done.pixels}, "known before the first block"

    def test_probabilities_of_what_is_skipped_are_those_of_class_0(self, mode: str, image: Path) -> None:
        predict(image, "mask.zarr", skip_empty=mode, probabilities=image.parent / "p.zarr")
        likely = mask_of(image.parent / "p.zarr")
        assert (likely[0, :, 3 * BLOCK :] == 1).all()
        assert not likely[1:, :, 3 * BLOCK :].any()
        assert not (likely[:, :, :BLOCK] == 1).any()

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_workers_of_a_cluster_skip_the_same_blocks(self, mode: str, image: Path, cluster: Cluster) -> None:
        one = predict(image, "one.zarr", skip_empty=mode)
        many = predict(image, "many.zarr", skip_empty=mode, workers=cluster)
        assert (many.blocks, many.blocks_skipped, many.complete) == (one.blocks, one.blocks_skipped, True)
        np.testing.assert_array_equal(mask_of(image.parent / "one.zarr"), mask_of(image.parent / "many.zarr"))


@pytest.mark.usefixtures("small_blocks")
class TestCommand:
    LINE = "predict image.png -m toy.safetensors --tile 88 --skip-empty tissue "

    @pytest.fixture(autouse=True)
    def image(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        toy_model(channels=3).save(tmp_path / "toy.safetensors")
        png(tmp_path, slide()[0])

    def test_plan_result_summary_and_log_say_how_much_is_skipped(self, run: Run) -> None:
        told = json.loads(run(self.LINE + "--dry-run --json").out)["blocks_skipped"]
        assert re.search(rf"^empty +{told} of 30 blocks, .* % of the pixels", run(self.LINE + "--dry-run").out, re.M)
        assert json.loads(run(self.LINE + "-o m.zarr --json -q").out)["blocks_skipped"] == told > 9
        assert f"{told} of 30 blocks were empty" in run(self.LINE + "--out-dir masks").err
        (row,) = csv.DictReader(Path("masks/summary.csv").read_text().splitlines())
        assert (int(row["skipped"]), int(row["blocks"])) == (told, 30)
        assert "skipped (tissue)" in Path("masks/logs/image.zarr.log").read_text()
        told = json.loads(run(self.LINE.replace("tissue", "constant") + "--dry-run --json").out)["blocks_skipped"]
        assert told is None, "found only as they are read"

    def test_a_note_says_where_nothing_could_be_told(self, run: Run) -> None:
        png(Path(), noise((3, *SHAPE)))
        assert "Note: image.png: tissue cannot be told from glass" in run(self.LINE + "-o m.zarr").err
