"""Where to look next: scores are exact means, places lie apart and where they should, wrong input is told in a line."""

import csv
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
from hypothesis import given
from hypothesis import strategies as st
from image_files import make_pixels, ome_zarr, png, tiff
from mask_files import mask_of
from skipping_images import BLOCK, SHAPE, padded_section, predict, slide

import tilesegment
from tilesegment import DataError, MaskError, PlanError, Region, StoppedError
from tilesegment.labels.geojson import read_features
from tilesegment.prediction.places import Place, read_places, write_places
from tilesegment.prediction.suggesting import Suggestion, suggest
from tilesegment.prediction.uncertainty import ONE, Cells, Windows, confused_pair, score_windows, spread, uncertainty


def probabilities(*shape: int, seed: int = 0) -> np.ndarray:
    likely = np.random.default_rng(seed).random(shape, np.float32) ** 3
    return likely / likely.sum(0)


def entropy(likely: np.ndarray) -> np.ndarray:
    """By the formula, in double precision, 0 to 1."""
    unit = likely.astype(np.float64)
    unit = unit / unit.sum(0)
    return -np.where(unit > 0, unit * np.log(np.maximum(unit, 1e-300)), 0).sum(0) / np.log(len(unit))


class TestUncertainty:
    @pytest.mark.parametrize("measure", ["entropy", "margin"])
    @pytest.mark.parametrize("classes", [2, 5])
    def test_it_goes_from_sure_to_knowing_nothing(self, measure: str, classes: int) -> None:
        sure = np.zeros((classes, 2, 3), np.float32)
        sure[1] = 1
        assert not uncertainty(sure, measure).any()
        assert (uncertainty(np.full((classes, 2, 3), 1 / classes, np.float32), measure) == ONE).all()

    def test_it_is_that_of_the_formula(self) -> None:
        likely = probabilities(3, 20, 30)
        np.testing.assert_allclose(uncertainty(likely, "entropy") / ONE, entropy(likely), atol=2 / ONE)
        largest = np.sort(likely, axis=0)
        np.testing.assert_allclose(uncertainty(likely, "margin") / ONE, 1 - (largest[-1] - largest[-2]), atol=2 / ONE)
        stored = np.rint(likely * 255).astype(np.uint8)
        np.testing.assert_allclose(uncertainty(stored, "entropy") / ONE, entropy(stored), atol=2 / ONE)

    def test_the_pair_is_that_of_the_classes_in_doubt(self) -> None:
        likely = np.zeros((4, 10, 10), np.float32)
        likely[0] = 1  # sure in most of it
        likely[:, :3] = np.array([0.1, 0, 0.5, 0.4])[:, None, None]
        likely[:, 3:5] = np.array([0.5, 0.5, 0, 0])[:, None, None]
        assert confused_pair(likely, "entropy") == (2, 3)


@given(st.data())
def test_scores_of_windows_are_means_whatever_is_read_at_once(data: st.DataObject) -> None:
    height, width = (data.draw(st.integers(1, 60), label=name) for name in ("height", "width"))
    top, left = (data.draw(st.integers(0, 5), label=name) for name in ("top", "left"))
    side = tuple(data.draw(st.integers(1, size), label="side") for size in (height, width))
    likely = probabilities(2, height + top, width + left, seed=height * width)
    within = Region(top, left, top + height, left + width)
    inside, taken = (np.random.default_rng(n).random(likely.shape[1:]) < share for n, share in ((1, 0.7), (2, 0.02)))
    cells = Cells.of(within, (side[0], side[1]))
    assert all(one % cell == 0 for one, cell in zip(side, cells.cell, strict=True))
    found = score_windows(
        lambda region, z: likely[:, *region.slices],
        cells,
        3,
        "entropy",
        counts=lambda region, z: inside[region.slices],
        taken=lambda region, z: taken[region.slices],
        at_once=data.draw(st.integers(1, 64), label="at once"),
    )
    expected, exact = {}, uncertainty(likely, "entropy")
    for y in range(top, top + max(height - side[0] + cells.cell[0], 1), cells.cell[0]):
        for x in range(left, left + max(width - side[1] + cells.cell[1], 1), cells.cell[1]):
            part = Region(y, x, y + side[0], x + side[1]).intersect(within)
            counted = exact[part.slices][inside[part.slices]]
            if not taken[part.slices].any() and 2 * counted.size >= part.area and counted.sum():
                expected[y, x] = counted.sum() / (counted.size * ONE)
    # a window that is clipped begins no more than a cell before the end
    rows, columns = (
        range(start, start + max((-(-size // cell) - one // cell) * cell, 0) + 1, cell)
        for start, size, cell, one in zip((top, left), (height, width), cells.cell, side, strict=True)
    )
    expected = {place: score for place, score in expected.items() if place[0] in rows and place[1] in columns}
    assert {(y, x): s for y, x, s in zip(found.y, found.x, found.score, strict=True)} == expected
    assert (found.plane == 3).all()


def windows_of(score: np.ndarray, side: int = 2) -> Windows:
    """Windows that begin with each pixel but the last ones."""
    y, x = (one.ravel() for one in np.indices(score.shape))
    within = Region(0, 0, score.shape[0] + side - 1, score.shape[1] + side - 1)
    return Windows(y, x, np.zeros(y.size, np.int64), score.ravel(), (side, side), within)


class TestSpread:
    def test_the_highest_are_taken_that_lie_apart(self) -> None:
        score = np.random.default_rng(0).random((30, 40))
        windows, rest, expected = windows_of(score), score.copy(), []
        for _ in range(6):
            y, x = np.unravel_index(rest.argmax(), rest.shape)
            expected.append((y, x))
            rest[max(y - 7, 0) : y + 8, max(x - 7, 0) : x + 8] = -1
        found = [(windows.y[n], windows.x[n]) for n in spread(windows, 6, 8)]
        assert found == expected

    def test_one_hot_spot_does_not_take_all(self) -> None:
        score = np.full((40, 40), 0.1)
        score[:10, :10] = 0.9
        chosen = spread(windows_of(score), 4, 20)
        assert [score.ravel()[n] for n in chosen] == [0.9, 0.1, 0.1, 0.1]

    def test_they_come_nearer_where_too_few_are_left_but_never_overlap(self) -> None:
        windows = windows_of(np.random.default_rng(0).random((9, 9)))
        assert len(spread(windows, 9, 100, nearer=False)) == 1
        found = spread(windows, 12, 100)
        assert len(found) > 6
        for n in found:
            apart = np.maximum(abs(windows.y[found] - windows.y[n]), abs(windows.x[found] - windows.x[n]))
            assert np.count_nonzero(apart < 2) == 1
        assert windows.score[found].tolist() == sorted(windows.score[found], reverse=True)

    def test_planes_of_a_stack_are_apart(self) -> None:
        one = windows_of(np.full((1, 1), 0.5))
        planes = Windows.joined(
            [Windows(one.y, one.x, np.array([z]), one.score, one.side, one.within) for z in range(10)],
            (2, 2),
            one.within,
        )
        assert planes.plane[spread(planes, 3, 8, planes=4)].tolist() == [0, 4, 8]
        assert len(spread(planes, 30, 8, planes=4)) == 10

    def test_none_of_none(self) -> None:
        assert spread(windows_of(np.zeros((0, 3))), 3, 4) == []


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
        found = suggest(mask, probabilities=likely, count=5, size=64)
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
        # half of what spreads five places evenly
        apart = 0.5 * (SHAPE[0] * SHAPE[1] / 5) ** 0.5
        centres = [((r.y0 + r.y1) / 2, (r.x0 + r.x1) / 2) for r in regions(found)]
        assert all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= apart for a in centres for b in centres if a is not b)

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
        drawn = [box(r.y0 + 10, r.x0 + 10, r.y0 + 14, r.x0 + 14, name="cell") for r in regions(before)[:2]]
        # without a class it is a place, not a label
        drawn.append(box(*(getattr(regions(before)[3], name) for name in ("y0", "x0", "y1", "x1"))))
        labels = saved(tmp_path, *drawn)
        after = suggest(mask, probabilities=likely, count=4, size=40, labels=labels)
        assert len(after.places) == 4
        for gone in regions(before)[:2]:
            stroke = Region(gone.y0 + 10, gone.x0 + 10, gone.y0 + 14, gone.x0 + 14)
            assert not any(one.intersect(stroke).area for one in regions(after))
        assert regions(before)[2] in regions(after)
        assert regions(before)[3] in regions(after)

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


class TestSample:
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


class TestFiles:
    PLACES = (
        Place(1, 0.9, Region(10, 20, 42, 52), None, ("cell, inner", "<b>")),
        Place(2, 0.25, Region(100, 7, 132, 39), 3, ("a", "b")),
    )

    def test_geojson_holds_annotations_without_a_class_and_is_read_back(self, tmp_path: Path) -> None:
        path = tmp_path / "places.geojson"
        write_places(path, self.PLACES, "entropy")
        features = list(read_features(path))
        assert [(one.name, one.object_type, one.plane) for one in features] == [
            (None, "annotation", 0),
            (None, "annotation", 3),
        ]
        np.testing.assert_array_equal(features[0].polygons[0][0], [[10, 20], [10, 52], [42, 52], [42, 20]])
        assert read_places(path) == self.PLACES

    def test_a_table_holds_the_same(self, tmp_path: Path) -> None:
        write_places(tmp_path / "places.csv", self.PLACES, "margin")
        rows = list(csv.DictReader((tmp_path / "places.csv").read_text().splitlines()))
        assert rows[0] == {
            "rank": "1", "score": "0.900000", "y": "10", "x": "20", "height": "32", "width": "32", "plane": "",
            "class": "cell, inner", "other_class": "<b>",
        }  # fmt: skip
        assert rows[1]["plane"] == "3"

    def test_areas_of_another_program_are_places_in_their_order(self, tmp_path: Path) -> None:
        point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}
        path = saved(tmp_path, feature([[5, 1], [9.4, 3], [6, 8]], name="x"), point, box(0, 0, 3, 4, z=2))
        first, second = read_places(path)
        assert (first.region, first.score, first.classes) == (Region(1, 5, 8, 9), None, ())
        assert (second.region, second.plane, second.rank) == (Region(0, 0, 3, 4), 2, 3)

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", '{"features":[]}', '{"features":[{"geometry":{"type":"Polygon","coordinates":[[["a",1]]]}}]}'],
    )
    def test_what_is_no_list_of_places_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "places.geojson").write_text(text)
        with pytest.raises(DataError, match=r"places\.geojson holds no"):
            read_places(tmp_path / "places.geojson")

    def test_a_file_of_another_name_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="by its name"):
            read_places(tmp_path / "places.csv")


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
