"""What is skipped as empty, over parts, stops and workers, and what the command line says of it."""

import csv
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from conftest import noise, toy_model
from image_files import png, tiff
from mask_files import mask_of
from skipping_images import BLOCK, SHAPE, block_of, padded_section, predict, slide

import tilesegment
from tilesegment import MaskError
from tilesegment.cluster import Cluster
from tilesegment.prediction.result import Listener, Progress, Result

pytestmark = [
    pytest.mark.usefixtures("small_blocks"),
    # sockets and processes that dask leaves to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Heard(Listener):
    """Keeps what it hears of a run, and can have it stopped after some blocks."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.progress: list[Progress] = []
        self.stop_after = stop_after

    def progressed(self, result: Result, progress: Progress) -> None:
        self.progress.append(progress)

    def stop(self) -> bool:
        return self.stop_after is not None and len(self.progress) >= self.stop_after


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.start(2) as started:
        yield started


@pytest.mark.parametrize("mode", ["constant", "tissue"])
class TestRuns:
    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        return tiff("yx", tile=(64, 64))(tmp_path, padded_section())

    def test_parts_make_the_mask_of_one_run(self, mode: str, image: Path) -> None:
        one = predict(image, "one.zarr", skip_empty=mode)
        parts = [predict(image, "parts.zarr", skip_empty=mode, part=(k, 3)) for k in (1, 3, 2)]
        assert [part.complete for part in parts] == [False, False, True]
        assert sum(part.blocks_skipped for part in parts) == one.blocks_skipped > 0
        np.testing.assert_array_equal(mask_of(image.parent / "one.zarr"), mask_of(image.parent / "parts.zarr"))

    def test_a_run_that_was_stopped_goes_on_with_the_same_decision(self, mode: str, image: Path) -> None:
        one = predict(image, "one.zarr", skip_empty=mode)
        heard = Heard(stop_after=10)
        with pytest.raises(tilesegment.StoppedError):
            predict(image, "two.zarr", skip_empty=mode, listeners=[heard], stop=heard.stop)
        last = predict(image, "two.zarr", skip_empty=mode)
        assert 0 < last.blocks < 30
        assert last.blocks + last.blocks_resumed == 30
        assert 0 < last.blocks_skipped < one.blocks_skipped
        np.testing.assert_array_equal(mask_of(image.parent / "one.zarr"), mask_of(image.parent / "two.zarr"))
        assert predict(image, "two.zarr", skip_empty=mode).blocks == 0

    def test_what_is_skipped_is_part_of_what_decides_a_mask(self, mode: str, image: Path) -> None:
        predict(image, "mask.zarr", skip_empty=mode)
        with pytest.raises(MaskError, match="skipped"):
            predict(image, "mask.zarr")

    def test_skipped_pixels_count_neither_as_done_nor_as_to_do(self, mode: str, image: Path) -> None:
        heard = Heard()
        done = predict(image, "mask.zarr", skip_empty=mode, listeners=[heard])
        assert [one.blocks for one in heard.progress] == [*range(1, 31)]
        assert all(before.share <= after.share for before, after in itertools.pairwise(heard.progress))
        assert (heard.progress[-1].pixels, heard.progress[-1].total) == (done.pixels, done.pixels)
        if mode == "tissue":
            assert {one.total for one in heard.progress} == {done.pixels}, "known before the first block"

    def test_probabilities_of_what_is_skipped_are_those_of_class_0(self, mode: str, image: Path) -> None:
        found = image.parent / "p.zarr"
        predict(image, "mask.zarr", skip_empty=mode, probabilities=found)
        skipped = block_of(mask_of(found), 2, 5)
        assert skipped.shape == (3, BLOCK, 500 - 5 * BLOCK)
        assert (skipped[0] == 1).all()
        assert not skipped[1:].any()
        assert not (block_of(mask_of(found), 2, 1) == 1).any()

    def test_workers_of_a_cluster_skip_the_same_blocks(self, mode: str, image: Path, cluster: Cluster) -> None:
        one = predict(image, "one.zarr", skip_empty=mode)
        many = predict(image, "many.zarr", skip_empty=mode, workers=cluster)
        assert (many.blocks, many.complete) == (one.blocks, True)
        np.testing.assert_array_equal(mask_of(image.parent / "one.zarr"), mask_of(image.parent / "many.zarr"))
        assert many.blocks_skipped == one.blocks_skipped


class TestCommand:
    @pytest.fixture(autouse=True)
    def image(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        toy_model(channels=3).save(tmp_path / "toy.safetensors")
        png(tmp_path, slide()[0])

    LINE = "predict image.png -m toy.safetensors --tile 88 --skip-empty tissue "

    def test_the_plan_says_how_much_would_be_skipped(self, run: Run) -> None:
        told = json.loads(run(self.LINE + "--dry-run --json").out)
        shown = run(self.LINE + "--dry-run").out
        assert re.search(
            rf"^empty +{told['blocks_skipped']} of 30 blocks, .* % of the pixels, are skipped", shown, re.M
        )
        assert json.loads(run(self.LINE + "-o m.zarr --json -q").out)["blocks_skipped"] == told["blocks_skipped"] > 9

    def test_of_blocks_that_are_found_as_they_are_read_the_plan_gives_no_number(self, run: Run) -> None:
        found = run(self.LINE.replace("tissue", "constant") + "--dry-run --json")
        assert json.loads(found.out)["blocks_skipped"] is None

    def test_the_last_line_says_how_many_were_skipped(self, run: Run) -> None:
        said = run(self.LINE + "-o m.zarr").err.splitlines()[-1]
        assert re.search(r", \d+ of 30 blocks were empty and skipped$", said)
        without = run(self.LINE.replace("--skip-empty tissue", "") + "-o all.zarr").err
        assert "skipped" not in without

    def test_the_summary_has_a_column(self, run: Run) -> None:
        run(self.LINE + "--out-dir masks -q")
        (row,) = csv.DictReader(Path("masks/summary.csv").read_text().splitlines())
        assert 0 < int(row["skipped"]) < int(row["blocks"]) == 30
        assert "% of the pixels, are skipped (tissue)" in Path("masks/logs/image.zarr.log").read_text()

    def test_a_note_says_where_nothing_could_be_told(self, run: Run) -> None:
        png(Path(), noise((3, *SHAPE)))
        said = run(self.LINE + "-o m.zarr").err
        assert "Note: image.png: tissue cannot be told from glass, nothing is skipped there" in said
