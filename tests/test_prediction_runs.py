"""A run that stopped goes on, one that is given again changes nothing, parts make the whole."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import noise, toy_model
from image_files import make_pixels, ome_zarr, png, tiff, zarr_array
from mask_files import contents, mask_of, saved

import tilesegment
from tilesegment import ImageError, MaskError, PlanError
from tilesegment.prediction.result import Listener, Progress, Result

# fp64: no rounding, so that masks can be compared pixel for pixel
EXACT = {"tile": 88, "precision": "fp64"}


class StopAfter(Listener):
    """Presses Ctrl-C after so many blocks."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def progressed(self, result: Result, progress: Progress) -> None:
        if progress.blocks == self.blocks:
            raise KeyboardInterrupt


class Heard(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []

    def progressed(self, result: Result, progress: Progress) -> None:
        self.progress.append(progress)


class TestGoingOn:
    """A run that stopped goes on: the mask is that of an undisturbed run, bit for bit."""

    pixels = make_pixels(1, 200, 290)

    @pytest.fixture
    def image(self, small_blocks: None, tmp_path: Path) -> Path:
        return tiff("yx", tile=(64, 64), compression="zlib")(tmp_path, self.pixels)

    def run(self, image: Path, name: str, **settings: object) -> Result:
        model = image.with_name("model.safetensors")
        if not model.exists():
            toy_model().save(model)
        return tilesegment.predict(image, image.with_name(name), model, **{**EXACT, **settings})

    def same(self, folder: Path, one: str, other: str) -> None:
        assert mask_of(folder / one).any()
        np.testing.assert_array_equal(mask_of(folder / one), mask_of(folder / other))
        records = [zarr.open_group(folder / name, mode="r").attrs["tilesegment"] for name in (one, other)]
        assert records[0]["fingerprint"] == records[1]["fingerprint"]

    def test_after_a_damaged_chunk_was_repaired(self, image: Path, tmp_path: Path) -> None:
        store = zarr_array("yx", (64, 64))(tmp_path, self.pixels)
        (chunk,) = [path for path in store.rglob("*") if path.is_file() and path.match("c/3/4")]
        whole = chunk.read_bytes()
        chunk.write_bytes(whole[:-9])
        with pytest.raises(ImageError, match=r"c/3/4|is damaged"):
            self.run(store, "broken.zarr")
        assert not (tmp_path / "broken.zarr").exists()
        chunk.write_bytes(whole)
        done = self.run(store, "broken.zarr")
        # the chunk is at the corner: few blocks see it, and all others were done meanwhile
        assert done.blocks_resumed >= 8
        assert done.blocks + done.blocks_resumed == 12
        self.run(store, "undisturbed.zarr")
        self.same(tmp_path, "broken.zarr", "undisturbed.zarr")

    @pytest.mark.parametrize("with_probabilities", [False, True])
    def test_after_ctrl_c(self, image: Path, tmp_path: Path, with_probabilities: bool) -> None:
        more = {"probabilities": tmp_path / "p.zarr"} if with_probabilities else {}
        with pytest.raises(KeyboardInterrupt):
            self.run(image, "stopped.zarr", listeners=[StopAfter(3)], **more)
        heard = Heard()
        done = self.run(image, "stopped.zarr", listeners=[heard], **more)
        assert 3 <= done.blocks_resumed < 12
        assert {progress.total for progress in heard.progress} == {done.pixels}
        assert [progress.share for progress in heard.progress][-1] == 1
        self.run(image, "undisturbed.zarr")
        self.same(tmp_path, "stopped.zarr", "undisturbed.zarr")
        assert (tmp_path / "p.zarr").exists() == with_probabilities

    def test_only_with_the_same_settings(self, image: Path, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            self.run(image, "m.zarr", listeners=[StopAfter(1)])
        with pytest.raises(MaskError, match=r"begun with other settings \(.*threshold: 0.5 there, 0.6 now"):
            self.run(image, "m.zarr", threshold=0.6)
        assert self.run(image, "m.zarr", batch=3).blocks_resumed > 0


class TestRunAgain:
    """The same command once more."""

    @pytest.mark.parametrize("name", ["m.zarr", "m.tif", "m.png", "image.zarr/labels/m"])
    def test_a_finished_mask_is_left_as_it_is(self, small_blocks: None, tmp_path: Path, name: str) -> None:
        pixels = make_pixels(1, 200, 150)
        image = ome_zarr("0.5", "cyx", 0.5)(tmp_path, pixels)
        model = saved(toy_model(), tmp_path)
        first = tilesegment.predict(image, tmp_path / name, model, **EXACT)
        before = contents(tmp_path)
        again = tilesegment.predict(image, tmp_path / name, model, **EXACT)
        assert contents(tmp_path) == before
        assert (again.complete, again.blocks, again.pixels) == (True, 0, 0)
        assert first.blocks == 6

    def test_a_damaged_block_of_a_finished_mask_is_computed_again(self, small_blocks: None, tmp_path: Path) -> None:
        pixels, model = make_pixels(1, 200, 150), saved(toy_model(), tmp_path)
        image = png(tmp_path, pixels)
        tilesegment.predict(image, tmp_path / "m.zarr", model, **EXACT)
        whole = mask_of(tmp_path / "m.zarr")
        shard = tmp_path / "m.zarr/0/c/1/1"
        shard.write_bytes(shard.read_bytes()[:-5])
        again = tilesegment.predict(image, tmp_path / "m.zarr", model, **EXACT)
        assert (again.blocks, again.blocks_resumed, again.complete) == (1, 5, True)
        np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), whole)

    def test_probabilities_can_be_had_later(self, small_blocks: None, tmp_path: Path) -> None:
        pixels, model = make_pixels(1, 100, 150), saved(toy_model(), tmp_path)
        image = png(tmp_path, pixels)
        tilesegment.predict(image, tmp_path / "m.zarr", model, **EXACT)
        before = contents(tmp_path / "m.zarr")
        done = tilesegment.predict(image, tmp_path / "m.zarr", model, probabilities=tmp_path / "p.zarr", **EXACT)
        assert contents(tmp_path / "m.zarr") == before
        assert done.blocks == 4
        np.testing.assert_array_equal(mask_of(tmp_path / "p.zarr").argmax(0), mask_of(tmp_path / "m.zarr"))

    def test_another_image_of_the_same_name_and_size_is_refused(self, small_blocks: None, tmp_path: Path) -> None:
        model = saved(toy_model(), tmp_path)
        image = tiff("yx")(tmp_path, make_pixels(1, 200, 150))
        with pytest.raises(KeyboardInterrupt):
            tilesegment.predict(image, tmp_path / "m.zarr", model, listeners=[StopAfter(1)], **EXACT)
        tiff("yx")(tmp_path, noise((1, 200, 150), seed=5))
        with pytest.raises(MaskError, match=r"begun with other settings .*content: "):
            tilesegment.predict(image, tmp_path / "m.zarr", model, **EXACT)


class TestParts:
    @pytest.mark.parametrize("order", [(1, 2, 3, 4, 5), (5, 3, 1, 4, 2)])
    def test_parts_make_the_whole_and_the_last_one_finishes(
        self, order: tuple[int, ...], small_blocks: None, tmp_path: Path
    ) -> None:
        pixels, model = make_pixels(1, 200, 290), saved(toy_model(), tmp_path)
        image = png(tmp_path, pixels)
        done = [tilesegment.predict(image, tmp_path / "m.zarr", model, part=(k, 5), **EXACT) for k in order]
        assert [one.complete for one in done] == [False] * 4 + [True]
        assert sum(one.blocks for one in done) == 12
        tilesegment.predict(image, tmp_path / "whole.zarr", model, **EXACT)
        for level in range(len([p for p in (tmp_path / "m.zarr").iterdir() if p.is_dir()])):
            np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr", level), mask_of(tmp_path / "whole.zarr", level))
        again = tilesegment.predict(image, tmp_path / "m.zarr", model, part=(2, 5), **EXACT)
        assert (again.complete, again.blocks) == (True, 0)

    @pytest.mark.parametrize("part", [(0, 3), (4, 3), (1, 0), (-1, -1)])
    def test_parts_that_there_are_not(self, part: tuple[int, int], tmp_path: Path) -> None:
        with pytest.raises(PlanError, match=f"--part is {part[0]}/{part[1]}; allowed: k/n"):
            tilesegment.predict(png(tmp_path, make_pixels(1, 9, 9)), tmp_path / "m.zarr", part=part)
