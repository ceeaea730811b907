"""What makes an object is chosen on held-out sections, and travels with the model and its masks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import toy_model
from data_sets import write_files
from labelled_objects import CLASSES, section
from masks_of_objects import write_mask
from scipy import ndimage

import tilesegment
from tilesegment.models.header import read_header
from tilesegment.training.cores import Cores, choose_cores, with_cores
from tilesegment.training.targets import cores_and_rims, objects_of, without_small


def probabilities(label: np.ndarray, sure: float = 0.9) -> np.ndarray:
    """(3, H, W) with `sure` for the class of each pixel."""
    rest = (1 - sure) / 2
    return np.stack([np.where(label == n, sure, rest) for n in range(3)]).astype(np.float32)


@pytest.fixture
def pair() -> np.ndarray:
    """Two touching discs and a third one, ids (60, 90)."""
    y, x = np.indices((60, 90))
    ids = np.zeros((60, 90), np.int32)
    for number, (cy, cx) in enumerate(((30, 20), (30, 43), (30, 72)), 1):
        ids[(y - cy) ** 2 + (x - cx) ** 2 <= 144] = number
    return ids


def test_a_bridge_that_is_hardly_sure_is_cut(pair: np.ndarray) -> None:
    one = section(pair)
    label = cores_and_rims(one, 2)
    p = probabilities(label)
    p[:, 26:34, 22:42] = np.array([0.02, 0.52, 0.46])[:, None, None]  # the two cores and what parts them
    p[:, 26:34, 10:20] = p[:, 26:34, 46:54] = np.array([0.02, 0.96, 0.02])[:, None, None]
    assert objects_of(p.argmax(0).astype(np.uint8), CLASSES).max() == 2
    chosen = choose_cores([one], [p], CLASSES)
    assert chosen.bias < 0 and chosen.pq > chosen.pq_before + 0.2 and chosen.pq > 0.9


def test_crumbs_are_left_out_but_no_true_object(pair: np.ndarray) -> None:
    pair[2:6, 2:7] = 4  # a true object of 20 px
    one = section(pair)
    label = cores_and_rims(one, 2)
    rng = np.random.default_rng(0)
    for y, x in zip(rng.integers(0, 9, 12), 15 + 6 * np.arange(12), strict=True):
        label[y : y + 2, x : x + 2] = 1
    chosen = choose_cores([one], [probabilities(label)], CLASSES)
    assert 4 < chosen.min_area <= 20 and chosen.bias == 0 and chosen.pq > 0.9


def test_the_least_area_leaves_true_objects_however_bad_the_prediction(pair: np.ndarray) -> None:
    """All that is predicted is noise of many sizes; leaving out everything would be the best."""
    rng = np.random.default_rng(1)
    label = np.zeros(pair.shape, np.uint8)
    for _ in range(20):
        y, x, side = rng.integers(0, 50), rng.integers(0, 80), rng.integers(2, 8)
        label[y : y + side, x : x + side] = 1
    chosen = choose_cores([section(pair)], [probabilities(label)], CLASSES)
    assert chosen.min_area <= np.percentile(np.bincount(pair.ravel())[1:], 10)
    tiny = np.where(ndimage.binary_erosion(pair > 0, iterations=10), pair, 0).astype(np.int32)
    chosen = choose_cores([section(tiny)], [probabilities(label)], CLASSES)
    assert chosen.min_area <= np.percentile(np.bincount(tiny.ravel())[1:], 10) < 200


def test_what_gains_nothing_is_not_chosen(pair: np.ndarray) -> None:
    one = section(pair)
    chosen = choose_cores([one], [probabilities(cores_and_rims(one, 2))], CLASSES)
    assert (chosen.bias, chosen.min_area) == (0, 0) and chosen.pq == chosen.pq_before


def test_small_objects_are_left_out_and_the_others_keep_their_order() -> None:
    ids = np.array([[1, 0, 2, 2], [3, 3, 0, 2], [3, 0, 4, 0]], np.uint32)
    np.testing.assert_array_equal(without_small(ids, 2), [[0, 0, 1, 1], [2, 2, 0, 1], [2, 0, 0, 0]])
    np.testing.assert_array_equal(without_small(ids, 0), ids)
    assert not without_small(np.zeros((2, 2), np.uint32), 5).any()


def test_bias_and_least_area_are_part_of_the_model(tmp_path: Path) -> None:
    model = toy_model(classes=3)
    model = replace(model, header=replace(model.header, classes=CLASSES))
    changed = with_cores(model, Cores(-1.5, 30, 0.8, 0.7))
    for before, after in zip(model.network.heads, changed.network.heads, strict=True):
        assert before.bias is not None and after.bias is not None
        assert (after.bias - before.bias).tolist() == pytest.approx([0, -1.5, 0])
    changed.save(tmp_path / "model.safetensors")
    header = read_header(tmp_path / "model.safetensors")
    assert [one.min_area for one in header.classes] == [0, 30, 0]


def test_objects_of_a_mask_know_the_least_area(pair: np.ndarray, tmp_path: Path) -> None:
    pair[2:6, 2:7] = 4
    label = cores_and_rims(section(pair), 2)
    classes = (CLASSES[0], replace(CLASSES[1], min_area=25), CLASSES[2])
    mask = write_mask(tmp_path / "mask.zarr", label, classes)
    assert tilesegment.find_objects(mask).count == objects_of(label, classes).max() == 3
    assert tilesegment.find_objects(mask, min_area=0).count == 4
    assert tilesegment.find_objects(mask, min_area=10_000).count == 0
    write_files(tmp_path, {"truth.tif": pair.astype(np.uint16)})
    found = tilesegment.evaluate(mask, tmp_path / "truth.tif", objects=True)
    assert found.objects is not None and (found.objects.prediction, found.objects.truth) == (3, 4)
