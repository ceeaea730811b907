"""Which annotations are held out: whole ones, spread over classes and images."""

from pathlib import Path

import numpy as np
import pytest
from annotation_files import write_json
from conftest import noise
from data_sets import write_files
from drawn_strokes import CLASSES, Box, area, feature, geojson, laid_out, painted, write_slide
from hypothesis import given, settings
from hypothesis import strategies as st

from tilesegment.training.data import IGNORE, SparseDataset, open_dataset, summary


@st.composite
def random_strokes(draw: st.DrawFn) -> list[tuple[Box, str]]:
    def box() -> Box:
        y, x, h, w = (draw(st.integers(0, most)) for most in (280, 280, 39, 39))
        return y, x, y + h + 1, x + w + 1

    return [(box(), CLASSES[n % 2]) for n in range(draw(st.integers(2, 14)))]


@settings(max_examples=20)
@given(random_strokes(), st.sampled_from([0.1, 0.2, 0.5]))
def test_annotations_are_held_out_whole(
    tmp_path_factory: pytest.TempPathFactory, strokes: list[tuple[Box, str]], share: float
) -> None:
    folder = tmp_path_factory.mktemp("held")
    side = (320, 320)
    write_files(folder, {"slide.png": noise(side)})
    labels = write_json(folder / "l.geojson", geojson(*(feature(area(box), name) for box, name in strokes)))
    data = open_dataset(folder / "slide.png", labels=labels)
    assert isinstance(data, SparseDataset)
    train, held_out = (laid_out(part, side) for part in data.split(share))
    np.testing.assert_array_equal(np.minimum(train, held_out), painted(strokes, side))
    assert ((train == IGNORE) | (held_out == IGNORE)).all()
    # an annotation lies on one side, with all that touch it
    for (y0, x0, y1, x1), _ in strokes:
        around = np.s_[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1]
        assert (train[around] == IGNORE).all() or (held_out[around] == IGNORE).all()
    # each class is learnt, and scored where there is enough of it
    has = data.counts() > 0
    for n in range(2):
        assert (train == n).any() or not has[:, n].any()
        alone = has[:, n] & (has.sum(1) == 1)
        assert (held_out == n).any() or alone.sum() < 2


def test_what_is_held_out_is_told_and_spread(tmp_path: Path) -> None:
    write_slide(tmp_path)
    features = [
        feature(area((20 + 60 * n, 50, 40 + 60 * n, 90)), CLASSES[n % 2], (10 * (n % 2), 200, 0)) for n in range(20)
    ]
    data = open_dataset(tmp_path / "slide.tif", labels=write_json(tmp_path / "l.geojson", geojson(*features)))
    _, held_out = data.split(0.2)
    rows = [int(np.flatnonzero(line.any(1))[0]) for line in [laid_out([one]) != IGNORE for one in held_out]]
    assert len(rows) == 4 and max(rows) - min(rows) > 500
    told = summary(data, held_out)
    assert "20 annotations on 1 image" in told and "4 of 20 annotations, each whole" in told
    assert "stroma 10 (2 held out), tumour 10 (2 held out)" in told and "what is not drawn is not background" in told
    assert [one.colour for one in data.classes] == ["#00c800", "#0ac800"]  # those of the file
    assert data.split(0)[1] == ()


def test_parts_of_one_annotation_go_together(tmp_path: Path) -> None:
    """A brush may draw several polygons, far apart, as one annotation; the squares of reading cut a long one."""
    write_slide(tmp_path)
    boxes = [((10, 10 + 80 * n, 40, 50 + 80 * n), (1200, 10 + 80 * n, 1230, 50 + 80 * n)) for n in range(8)]
    shapes = [{"type": "MultiPolygon", "coordinates": [area(box)["coordinates"] for box in two]} for two in boxes]
    long = feature(area((100, 700, 1280, 720)), "tumour"), feature(area((100, 800, 1280, 820)), "tumour")
    features = [*(feature(one, CLASSES[n % 2]) for n, one in enumerate(shapes)), *long]
    data = open_dataset(tmp_path / "slide.tif", labels=write_json(tmp_path / "l.geojson", geojson(*features)))
    held_out = laid_out(data.split(0.5)[1]) != IGNORE
    each = [[held_out[y0:y1, x0:x1] for y0, x0, y1, x1 in two] for two in boxes]
    each.append([held_out[100:1280, 700:720]])
    each.append([held_out[100:1280, 800:820]])
    assert all(len({bool(pixel) for part in parts for pixel in part.flat}) == 1 for parts in each)
    assert 3 <= sum(bool(parts[0].any()) for parts in each) <= 7
