"""The example that measures whether corrections pay where `tileseg suggest` says, at toy size."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage

from tilesegment.geometry import Region
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import LabelClass

EXAMPLES = Path(__file__).parents[1] / "examples"
TOY = "--size 512 --seeds 1 --strokes 8 --places 3 --side 128 --first-steps 3 --steps 3 --base 4 --depth 2 --tile 92"


@pytest.fixture(scope="module")
def loop() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(EXAMPLES)
    import measure_loop

    yield measure_loop
    patch.undo()


def test_rare_patches_are_rare_and_look_different(loop: ModuleType) -> None:
    slide = loop.Varied(1024, 1)
    rare = slide.is_rare(0, 0, 1024, 1024)
    assert 0.02 < rare.mean() < 0.15
    plain = loop.Tissues(1024, 1)
    here, there = slide.pixels(0, 0, 1024), plain.pixels(0, 0, 1024)
    np.testing.assert_array_equal(here[~rare], there[~rare])
    assert np.abs(here[rare].astype(int) - there[rare]).mean() > 10
    part = slide.pixels(256, 512, 256)
    np.testing.assert_array_equal(part, here[256:512, 512:768])


def test_strokes_of_a_place_lie_in_one_tissue_each_where_the_model_is_wrong(loop: ModuleType) -> None:
    slide = loop.Varied(1024, 0)
    truth = slide.truth(0, 0, 1024, 1024)
    edges = ndimage.uniform_filter(truth.astype(float), 256)
    y, x = np.unravel_index(np.abs(edges - 0.5)[128:-128, 128:-128].argmin(), (768, 768))
    place = Region(int(y), int(x), int(y) + 256, int(x) + 256)
    here = truth[place.slices]
    ids = here.astype(np.uint8)
    ids[:, :128] = 0  # tumour is missed in the left half
    drawn = loop.corrected(slide, ids, place, 3, seed=1)
    assert drawn == loop.corrected(slide, ids, place, 3, seed=1)
    assert len(drawn) == 3
    for one in drawn:
        (x0, y0), (x1, y1) = one["geometry"]["coordinates"]
        ends = np.array([[y0 - place.y0, x0 - place.x0], [y1 - place.y0, x1 - place.x0]])
        tissue = one["properties"]["classification"]["name"]
        assert (here[loop._pixels(ends)] == (tissue == "tumour")).all()
    first = drawn[0]
    assert first["properties"]["classification"]["name"] == "tumour"
    assert min(point[0] for point in first["geometry"]["coordinates"]) < place.x0 + 128


def test_random_places_do_not_overlap(loop: ModuleType) -> None:
    places = loop.random_places(700, 12, 100, 3)
    assert len(places) == 12 and places == loop.random_places(700, 12, 100, 3) != loop.random_places(700, 12, 100, 4)
    assert all(not a.intersect(b).area for a in places for b in places if a is not b)


def test_accuracy_is_that_of_the_whole_and_of_the_rest(loop: ModuleType, tmp_path: Path) -> None:
    slide = loop.Varied(512, 2)
    truth = slide.truth(0, 0, 512, 512)
    classes = (LabelClass("tumour", "#ff0000"), LabelClass("stroma", "#00ff00"))  # in another order
    writer = create_mask(tmp_path / "mask.zarr", MaskSpec((512, 512), None, 512, 256, classes, None))
    ids = np.where(truth, 0, 1).astype(np.uint8)
    ids[:100, :200] ^= 1
    writer.write(Region(0, 0, 512, 512), ids)
    writer.finish()
    whole, rest = loop.right(slide, tmp_path / "mask.zarr", [Region(0, 0, 100, 100)])
    assert whole == pytest.approx(1 - 20_000 / 512**2)
    assert rest == pytest.approx(1 - 10_000 / (512**2 - 10_000))


@pytest.mark.slow
def test_it_measures_both_ways(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "measure_loop.py"), *TOY.split(), "--folder", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    (seed,) = found["of_seeds"]
    assert seed["suggested_strokes"] == seed["random_strokes"] == 6
    assert found["ahead"] == pytest.approx(seed["suggested"] - seed["random"], abs=2e-5)
    assert 0 < seed["first"] < 1
    assert not list(tmp_path.iterdir())
