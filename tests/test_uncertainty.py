"""Uncertainty of pixels and windows, windows that lie apart, and files of places."""

import csv
from pathlib import Path

import numpy as np
import pytest
from drawn_areas import box, feature, saved
from hypothesis import given
from hypothesis import strategies as st
from uncertain import entropy

from tilesegment import DataError, Region
from tilesegment.labels.geojson import read_features
from tilesegment.prediction.places import Place, read_places, write_places
from tilesegment.prediction.uncertainty import ONE, Cells, Windows, confused_pair, score_windows, spread, uncertainty


def probabilities(*shape: int, seed: int = 0) -> np.ndarray:
    likely = np.random.default_rng(seed).random(shape, np.float32) ** 3
    return likely / likely.sum(0)


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
