"""What a network learns from objects gives these objects back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_objects import CLASSES, section
from masks_of_objects import masks, read_labels, write_mask
from scipy import ndimage

import tilesegment
from tilesegment.metadata import LabelClass
from tilesegment.scoring import object_scores
from tilesegment.training.data import IGNORE, Dataset, Section
from tilesegment.training.targets import cores_and_rims, depths, learnable, objects_of

EIGHT = np.ones((3, 3))


@st.composite
def nuclei(draw: st.DrawFn) -> np.ndarray:
    """Touching discs, one over the other, numbered from 1: (H, W) int32."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(20, 70)), draw(st.integers(20, 70))
    y, x = np.indices((height, width))
    ids = np.zeros((height, width), np.int32)
    for number in range(1, draw(st.integers(1, 12)) + 1):
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(1, 12)
        ids[(y - cy) ** 2 + (x - cx) ** 2 <= r * r] = number
    return _one_piece_each(ids)


def _one_piece_each(ids: np.ndarray) -> np.ndarray:
    found, count = np.zeros(ids.shape, np.int32), 0
    for number in np.unique(ids[ids > 0]):
        pieces, more = ndimage.label(ids == number)
        found += np.where(pieces > 0, pieces + count, 0).astype(np.int32)
        count += more
    return found


@settings(max_examples=40)
@given(ids=nuclei())
def test_depths_are_distances_to_the_next_pixel_outside(ids: np.ndarray) -> None:
    """Each by brute force, in an image whose objects go on beyond its edges."""
    depth, largest = depths(ids)
    wide = np.pad(ids, 64, mode="edge")
    for number in np.unique(ids[ids > 0]):
        box = ndimage.find_objects((ids == number).astype(int))[0]
        # beyond the edge an object goes on alone
        alone = np.pad((ids == number)[box], 64, mode="edge") if _is_cut(box, ids.shape) else None
        inside = wide == number if alone is None else alone
        expected = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1][64:-64, 64:-64]
        if alone is None:
            np.testing.assert_allclose(depth[ids == number], expected[ids == number], rtol=1e-6)
        assert largest[number] == depth[ids == number].max()
    assert not depth[ids == 0].any() and largest[0] == 0


def _is_cut(box: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    return any(side.start == 0 or side.stop == size for side, size in zip(box, shape, strict=True))


def test_an_object_that_the_edge_cuts_goes_on_beyond_it() -> None:
    ids = np.zeros((30, 40), np.int32)
    ids[:12, 10:30] = 1
    depth, largest = depths(ids)
    assert depth[0, 20] == pytest.approx(10) and largest[1] == pytest.approx(10)
    assert depth[11, 20] == 1 and depth[0, 10] == 1


@settings(max_examples=60)
@given(ids=nuclei())
def test_every_object_has_a_core_and_no_two_cores_touch(ids: np.ndarray) -> None:
    label = cores_and_rims(section(ids), 2)
    np.testing.assert_array_equal(label > 0, ids > 0)
    core = np.where(label == 1, ids, 0)
    assert set(np.unique(ids)) == set(np.unique(core)) | {0}
    thick = [n for n in np.unique(ids[ids > 0]) if depths(ids)[1][n] > 2]
    for number in thick:  # an object of a pixel or two is all core
        around = ndimage.binary_dilation(core == number, EIGHT, iterations=1)
        assert not (around & (ids != number) & (ids > 0)).any()


@settings(max_examples=30, deadline=None)
@given(ids=nuclei())
def test_perfect_predictions_give_the_objects_back(ids: np.ndarray) -> None:
    """All their pixels; a core of a bent object may be in pieces, and the rim goes to the nearest one."""
    label = cores_and_rims(section(ids), 2)
    whole = [n for n in np.unique(ids[ids > 0]) if ndimage.label((label == 1) & (ids == n))[1] == 1]
    kept = np.where(np.isin(ids, whole), ids, 0)
    found = objects_of(np.where(np.isin(ids, whole), label, 0).astype(np.uint8), CLASSES)
    assert found.max() == len(whole)
    core = (label == 1) & (kept > 0)
    pairs = np.unique(np.stack([kept[core], found[core]]), axis=1)
    assert pairs.shape[1] == len(whole) == len(set(pairs[1])), "each core becomes one object"
    np.testing.assert_array_equal(found > 0, kept > 0)


def test_nuclei_come_back_nearly_as_they_were() -> None:
    y, x = np.indices((120, 120))
    ids = np.zeros((120, 120), np.int32)
    for number, (cy, cx, r) in enumerate(((20, 20, 12), (20, 43, 10), (60, 30, 18), (60, 62, 13), (100, 100, 5)), 1):
        ids[(y - cy) ** 2 + (x - cx) ** 2 <= r * r] = number
    scores = object_scores(ids, objects_of(cores_and_rims(section(ids), 2), CLASSES))
    assert scores.at[0].f1 == 1 and scores.dice == 1 and scores.pq is not None and scores.pq > 0.98


@settings(max_examples=10, deadline=None)
@given(mask=masks())
def test_objects_are_those_of_the_command(mask: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("objects")
    path = write_mask(folder / "mask.zarr", mask, CLASSES)
    tilesegment.find_objects(path, folder / "objects.zarr")
    np.testing.assert_array_equal(objects_of(mask, CLASSES), read_labels(folder / "objects.zarr"))


def test_data_of_instances_get_a_rim_and_roles_and_others_stay() -> None:
    ids = np.zeros((20, 40), np.int32)
    ids[2:18, 2:18], ids[2:18, 18:38] = 1, 2
    kinds = np.where(ids == 2, 2, ids).astype(np.uint8)
    kinds[0] = IGNORE
    classes = tuple(LabelClass(name, "#000000", n) for n, name in enumerate(("background", "immune", "rim")))
    one = Section("one", np.zeros((1, 20, 40), np.uint8), kinds, ids)
    data = Dataset((one,), classes, None, instances=True)
    made = learnable(data)
    assert [(c.name, c.role) for c in made.classes] == [
        ("background", ""),
        ("immune", "object"),
        ("rim", "object"),
        ("border of objects", "border"),
    ]
    label = made.sections[0].label
    assert (label[0] == IGNORE).all() and label[10, 10] == 1 and label[10, 28] == 2 and (label[10, 16:20] == 3).all()
    found = objects_of(label, made.classes)
    assert found.max() == 2 and found[10, 10] != found[10, 28]
    plain = Dataset((Section("one", one.image, kinds),), classes, None)
    assert learnable(plain) is plain
