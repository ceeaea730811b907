"""Where to look next: scores are exact means, places lie apart and where they should, wrong input is told in a line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from command_line import Run
from conftest import noise, toy_model
from drawn_areas import box, feature, saved
from image_files import make_pixels, ome_zarr, png, tiff
from mask_files import mask_of
from skipping_images import BLOCK, SHAPE, padded_section, predict, slide
from uncertain import entropy

import tilesegment
from tilesegment import MaskError, PlanError, Region, StoppedError
from tilesegment.prediction.places import read_places
from tilesegment.prediction.suggesting import Suggestion, suggest
from tilesegment.stores import Location


def kept(folder: Path, pixels: np.ndarray, **more: Any) -> tuple[Path, Path]:
    """A mask with its probabilities."""
    image = tiff("yxc" if len(pixels) == 3 else "yx", tile=(64, 64))(folder, pixels)
    predict(image, "mask.zarr", probabilities=folder / "p.zarr", precision="fp32", **{"overwrite": True, **more})
    return folder / "mask.zarr", folder / "p.zarr"


def regions(found: Suggestion) -> list[Region]:
    return [one.region for one in found.places]


class TestKept:
    def test_places_are_the_best_windows_and_say_what_is_confused(self, tmp_path: Path) -> None:
        mask, likely = kept(tmp_path, make_pixels(1, *SHAPE))
        found = suggest(mask, probabilities=likely, count=5, size=64, distance=110)
        assert (len(found.places), found.sampled, found.notes) == (5, None, ())
        stored = mask_of(likely)
        best = max(
            entropy(stored[:, y : y + 64, x : x + 64]).mean()
            for y in range(0, SHAPE[0] - 63, 16)
            for x in range(0, SHAPE[1] - 63, 16)
        )
        assert found.places[0].score == pytest.approx(best, abs=1e-4)
        for rank, one in enumerate(found.places, 1):
            part = stored[:, *one.region.slices]
            assert one.region.shape == (64, 64)
            assert one.score == pytest.approx(entropy(part).mean(), abs=1e-4)
            order = np.argsort(-part, axis=0)[:2]
            pairs = np.bincount((order.min(0) * 3 + order.max(0)).ravel(), entropy(part).ravel())
            assert one.classes == tuple(f"class {n}" for n in divmod(int(pairs.argmax()), 3))
            assert one.rank == rank
        centres = [((r.y0 + r.y1) / 2, (r.x0 + r.x1) / 2) for r in regions(found)]
        assert all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 110 for a in centres for b in centres if a is not b)

    def test_blocks_change_nothing(self, tmp_path: Path) -> None:
        found = []
        for block in (BLOCK, 2 * BLOCK):
            (tmp_path / str(block)).mkdir()
            mask, likely = kept(tmp_path / str(block), make_pixels(1, *SHAPE), block=block)
            found.append(suggest(mask, probabilities=likely, count=7, size=50).places)
        # the network's own rounding differs with the number of tiles at a time
        assert [replace(one, score=0.0) for one in found[0]] == [replace(one, score=0.0) for one in found[1]]
        assert [one.score for one in found[0]] == pytest.approx([one.score for one in found[1]], abs=1e-6)

    def test_the_probabilities_alone_will_do(self, tmp_path: Path) -> None:
        mask, likely = kept(tmp_path, make_pixels(1, *SHAPE))
        assert suggest(likely, size=64).places == suggest(mask, probabilities=likely, size=64).places

    @pytest.mark.parametrize("dtype", ["float32", "uint8"])
    def test_a_part_at_another_level_lies_where_it_is_in_level_0(self, tmp_path: Path, dtype: str) -> None:
        image = ome_zarr("0.5", "yx", 0.5)(tmp_path, make_pixels(1, 800, 1000))
        part = Region(200, 400, 600, 800)
        more = {"probabilities": tmp_path / "p.zarr", "probabilities_dtype": dtype}
        predict(image, "mask.zarr", level=1, roi=part, **more)
        found = suggest(tmp_path / "mask.zarr", probabilities=tmp_path / "p.zarr", count=4, size=64)
        stored = mask_of(tmp_path / "p.zarr")
        for one in found.places:
            assert part.contains(one.region)
            assert one.region.shape == (64, 64)
            own = Region(*(n // 2 for n in (one.region.y0, one.region.x0, one.region.y1, one.region.x1)))
            assert one.score == pytest.approx(
                entropy(stored[:, *own.within(Region(100, 200, 300, 400)).slices]).mean(), abs=1e-4
            )

    def test_blocks_that_were_skipped_are_left_out(self, tmp_path: Path) -> None:
        mask, likely = kept(tmp_path, padded_section(), skip_empty="constant")
        found = suggest(mask, probabilities=likely, count=40, size=32)
        assert found.places
        assert max(one.x1 for one in regions(found)) <= 288 + 32
        assert all(mask_of(likely)[0, *one.slices].min() < 1 for one in regions(found))

    def test_what_is_annotated_is_left_out(self, tmp_path: Path) -> None:
        mask, likely = kept(tmp_path, make_pixels(1, *SHAPE))
        before = suggest(mask, probabilities=likely, count=4, size=40)
        strokes = [Region(one.y0 + 10, one.x0 + 10, one.y0 + 14, one.x0 + 14) for one in regions(before)[:2]]
        drawn = [box(one.y0, one.x0, one.y1, one.x1, name="cell") for one in strokes]
        after = suggest(mask, probabilities=likely, count=4, size=40, labels=saved(tmp_path, *drawn))
        assert len(after.places) == 4
        assert not any(one.intersect(stroke).area for one in regions(after) for stroke in strokes)
        # without a class it is a place, not a label
        places = [box(one.y0, one.x0, one.y1, one.x1) for one in regions(before)]
        assert (
            suggest(mask, probabilities=likely, count=4, size=40, labels=saved(tmp_path, *places)).places
            == before.places
        )

    def test_only_the_region_of_interest_is_searched(self, tmp_path: Path) -> None:
        mask, likely = kept(tmp_path, make_pixels(1, *SHAPE))
        part = Region(100, 50, 300, 250)
        found = suggest(mask, probabilities=likely, count=6, size=40, roi=part)
        assert len(found.places) == 6
        assert all(part.contains(one) for one in regions(found))
        triangle = saved(tmp_path, feature([[50, 50], [350, 60], [60, 350]]))
        found = suggest(mask, probabilities=likely, count=6, size=40, roi=triangle)
        assert len(found.places) == 6
        assert all(one.y0 + one.x0 < 400 for one in regions(found))

    def test_a_stack_has_places_in_its_planes(self, tmp_path: Path) -> None:
        image = tiff("zyx", photometric="minisblack")(tmp_path, make_pixels(5, 1, 96, 120))
        predict(image, "mask.zarr", axes="zyx", z=(1, 5), probabilities=tmp_path / "p.zarr")
        found = suggest(tmp_path / "mask.zarr", probabilities=tmp_path / "p.zarr", count=8, size=48)
        stored = mask_of(tmp_path / "p.zarr")
        assert {one.plane for one in found.places} == {1, 2, 3, 4}
        for one in found.places:
            assert one.plane is not None
            expected = entropy(stored[:, one.plane - 1, *one.region.slices]).mean()
            assert one.score == pytest.approx(expected, abs=1e-4)

    def test_a_mask_smaller_than_a_place_is_one(self, tmp_path: Path) -> None:
        mask, likely = kept(tmp_path, make_pixels(1, 60, 70))
        found = suggest(mask, probabilities=likely)
        assert regions(found) == [Region(0, 0, 60, 70)]
        assert "1 place was found, 20 wanted" in found.notes[-1]

    def test_it_stops_when_asked_and_writes_nothing(self, tmp_path: Path) -> None:
        mask, likely = kept(tmp_path, make_pixels(1, *SHAPE))
        with pytest.raises(StoppedError):
            suggest(mask, tmp_path / "places.csv", probabilities=likely, stop=lambda: True)
        assert not (tmp_path / "places.csv").exists()


def test_masks_on_a_server_are_searched_there(tmp_path: Path, s3: Location) -> None:
    image, mask = tiff("yx")(tmp_path, make_pixels(1, 200, 240)), s3 / "mask.zarr"
    toy_model(classes=3).save(tmp_path / "toy.safetensors")
    likely = {"probabilities": s3 / "p.zarr", "precision": "fp32"}
    tilesegment.predict(image, mask, tmp_path / "toy.safetensors", tile=88, block=BLOCK, **likely)
    found = suggest(mask, tmp_path / "places.csv", probabilities=s3 / "p.zarr", count=3, size=50)
    predict(image, "mask.zarr", probabilities=tmp_path / "p.zarr", precision="fp32")
    assert found.places == suggest(tmp_path / "p.zarr", count=3, size=50).places
    sample = suggest(mask, model=tmp_path / "toy.safetensors", count=2, size=50, sample=4)
    assert len(sample.places) == 2


class TestSample:
    def test_a_mask_in_a_file_will_do(self, tmp_path: Path) -> None:
        image = png(tmp_path, make_pixels(1, 200, 240))
        predict(image, "mask.tif")
        found = suggest(tmp_path / "mask.tif", model=tmp_path / "toy-1.safetensors", count=2, size=64, sample=4)
        assert len(found.places) == 2

    def test_what_is_predicted_again_is_what_was_kept(self, tmp_path: Path) -> None:
        mask, likely = kept(tmp_path, make_pixels(1, *SHAPE))
        model, asked = tmp_path / "toy-1.safetensors", {"count": 5, "size": 50, "sample": 30, "precision": "fp32"}
        found = suggest(mask, model=model, **asked)
        assert found.sampled == 30
        assert len(found.places) == 5
        stored = mask_of(likely)
        for one in found.places:
            assert one.score == pytest.approx(entropy(stored[:, *one.region.slices]).mean(), abs=1e-4)
        assert found.places == suggest(mask, model=model, **asked).places
        assert found.places != suggest(mask, model=model, seed=1, **asked).places

    @pytest.mark.parametrize(
        "how",
        [
            {"level": 1},
            {"level": 1, "roi": Region(100, 200, 500, 700), "normalise": "image"},
            {"mpp": 0.8},
            {"tta": True, "skip_empty": "constant"},
        ],
        ids=["level", "part, scaled by the image", "resampled", "views"],
    )
    def test_it_is_read_and_scaled_as_the_mask_was(self, tmp_path: Path, how: dict[str, Any]) -> None:
        image = ome_zarr("0.5", "yx", 0.5)(tmp_path, make_pixels(1, 600, 800))
        predict(image, "mask.zarr", probabilities=tmp_path / "p.zarr", precision="fp32", **how)
        asked = {"count": 3, "size": 64, "precision": "fp32"}
        found = suggest(tmp_path / "mask.zarr", model=tmp_path / "toy-1.safetensors", sample=6, **asked)
        (scale, *_), stored = _scale_of(tmp_path / "p.zarr"), mask_of(tmp_path / "p.zarr")
        corner = how["roi"] if "roi" in how else Region(0, 0, 1, 1)
        for one in found.places:
            y, x = round((one.region.y0 - corner.y0) / scale), round((one.region.x0 - corner.x0) / scale)
            side = round(64 / scale)
            assert one.score == pytest.approx(entropy(stored[:, y : y + side, x : x + side]).mean(), abs=2e-4)

    def test_it_lies_on_tissue_and_not_in_blocks_left_out(self, tmp_path: Path) -> None:
        pixels, inside = slide()
        image = tiff("yxc")(tmp_path, pixels)
        predict(image, "mask.zarr", skip_empty="tissue")
        model = tmp_path / "toy-3.safetensors"
        for wanted in ({}, {"roi": Region(100, 0, 260, 500)}):
            found = suggest(tmp_path / "mask.zarr", model=model, count=8, size=32, sample=60, **wanted)
            grown = np.zeros_like(inside)
            y, x = np.nonzero(inside)
            grown[y.min() - 40 : y.max() + 40, x.min() - 40 : x.max() + 40] = True
            assert found.places
            assert all(grown[one.slices].any() for one in regions(found))

    def test_annotated_places_are_not_predicted(self, tmp_path: Path) -> None:
        mask, _ = kept(tmp_path, make_pixels(1, *SHAPE))
        labels = saved(tmp_path, box(0, 0, 400, 250, name="cell"))
        found = suggest(mask, model=tmp_path / "toy-1.safetensors", count=4, size=40, labels=labels)
        assert all(one.x1 > 250 for one in regions(found))
        everywhere = saved(tmp_path, box(0, 0, 400, 500, name="cell"))
        with pytest.raises(tilesegment.ImageError, match="no place is left"):
            suggest(mask, model=tmp_path / "toy-1.safetensors", size=40, labels=everywhere)

    def test_the_bundled_model_that_made_a_mask_is_known(self, tmp_path: Path) -> None:
        image = png(tmp_path, noise((1, 150, 170)))
        tilesegment.predict(image, tmp_path / "mask.zarr", "em-membrane", tile=252)
        found = suggest(tmp_path / "mask.zarr", count=1, size=32, sample=1)
        assert "em-membrane" in found.notes[0]


def _scale_of(path: Path) -> tuple[float, float]:
    record = dict(zarr.open_group(path, mode="r").attrs)["tilesegment"]
    assert isinstance(record, dict)
    return tuple(record["layout"]["scale"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("suggest")
    kept(here, make_pixels(1, *SHAPE))
    toy_model(classes=2).save(here / "other.safetensors")
    return here


class TestCommand:
    def test_it_writes_both_files_and_says_so(self, folder: Path, tmp_path: Path, run: Run) -> None:
        out = [tmp_path / "places.geojson", tmp_path / "places.csv"]
        line = f"suggest {folder}/mask.zarr --probabilities {folder}/p.zarr -n 3 --size 64 --json"
        found = run(line, "-o", str(out[0]), "-o", str(out[1]))
        assert found.code == 0, found.err
        said = json.loads(found.out)
        assert [one["name"] for one in said["places"]] == [one.name for one in read_places(out[0])]
        assert len(out[1].read_text().splitlines()) == 4
        assert "3 places in" in found.err
        again = run(line, "-o", str(out[0]))
        assert (again.code, again.err.count("\n")) == (1, 1)
        assert "--overwrite" in again.err
        assert run(line + " --overwrite", "-o", str(out[0])).code == 0

    def test_without_a_file_it_prints_a_table(self, folder: Path, run: Run) -> None:
        found = run(f"suggest {folder}/p.zarr -n 3 --size 64 --measure margin")
        assert found.code == 0
        assert len(found.out.splitlines()) == 4

    @pytest.mark.parametrize(
        ("more", "told"),
        [
            ("", "--probabilities"),
            ("--probabilities {0}/p.zarr --count 0", "1 to 10000"),
            ("--probabilities {0}/p.zarr --size 2", "16 to"),
            ("--probabilities {0}/p.zarr --distance 10", "at least --size"),
            ("--probabilities {0}/p.zarr --model {0}/other.safetensors", "one of the two"),
            ("--probabilities {0}/mask.zarr", "no probabilities"),
            ("--probabilities {0}/p.zarr --roi 900:950,0:10", "0:400,0:500"),
            ("--probabilities {0}/p.zarr --labels {0}/image.tif", "as GeoJSON"),
            ("--probabilities {0}/p.zarr --roi {0}/image.tif", "GeoJSON"),
            ("--probabilities {0}/p.zarr --out {0}/places.txt", "NAME.geojson"),
            ("--model {0}/other.safetensors", "classes"),
            ("--model {0}/toy-1.safetensors --sample 3", "at least --count"),
            ("--model {0}/toy-1.safetensors --image {0}/none.tif", "none.tif"),
        ],
    )
    def test_wrong_input_is_one_line(self, folder: Path, run: Run, more: str, told: str) -> None:
        size = "" if "--size" in more else "--size 64 "
        found = run(f"suggest {folder}/mask.zarr {size}{more.format(folder)}")
        assert found.code in (1, 2), found.out
        assert found.err.startswith("Error: ") and found.err.count("\n") == 1, found.err
        assert told in found.err

    def test_probabilities_of_another_mask_are_refused(self, folder: Path, tmp_path: Path) -> None:
        mask, _ = kept(tmp_path, make_pixels(1, *SHAPE), tta=True)
        with pytest.raises(MaskError, match=r"not the probabilities of .*tta"):
            suggest(mask, probabilities=folder / "p.zarr")

    def test_another_image_is_refused_and_other_weights_are_told(self, folder: Path, tmp_path: Path) -> None:
        other = png(tmp_path, make_pixels(1, 300, 300))
        model = folder / "toy-1.safetensors"
        with pytest.raises(MaskError, match=r"is not a mask of .*\[400, 500\].*\[300, 300\]"):
            suggest(folder / "mask.zarr", image=other, model=model)
        toy_model(classes=3, seed=5).save(tmp_path / "new.safetensors")
        found = suggest(folder / "mask.zarr", model=tmp_path / "new.safetensors", count=2, sample=2, size=32)
        assert "other weights" in found.notes[1]

    def test_a_mask_of_an_image_that_moved_asks_for_it(self, tmp_path: Path) -> None:
        mask, _ = kept(tmp_path, make_pixels(1, 100, 120))
        (tmp_path / "image.tif").rename(tmp_path / "moved.tif")
        with pytest.raises(PlanError, match="--image"):
            suggest(mask, model=tmp_path / "toy-1.safetensors")
        found = suggest(mask, image=tmp_path / "moved.tif", model=tmp_path / "toy-1.safetensors", count=2, size=32)
        assert len(found.places) == 2
