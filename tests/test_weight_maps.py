"""The paper's weight map, against figures worked out by hand and a slow, plain computation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tilesegment.training.losses import border_weights


def test_between_two_cells_by_hand() -> None:
    """A gap of five pixels: the middle one is 3 from either cell, its neighbours 2 + 4."""
    inside = np.ones((9, 25), bool)
    inside[:, 10:15] = False
    weights = border_weights(inside, w0=10, sigma=5)
    assert (weights.shape, weights.dtype) == ((9, 25), np.float32)
    expected = 10 * np.exp(-36 / 50)
    assert weights[4, 10:15] == pytest.approx([expected] * 5, rel=1e-6)
    assert not weights[inside].any()


def test_a_wider_gap_weighs_less_and_one_cell_alone_nothing() -> None:
    gaps = []
    for gap in (1, 4, 8, 16):
        inside = np.ones((5, 60), bool)
        inside[:, 20 : 20 + gap] = False
        gaps.append(border_weights(inside)[2, 20])
    assert gaps == sorted(gaps, reverse=True)
    alone = np.zeros((40, 40), bool)
    alone[10:20, 10:20] = True
    assert border_weights(alone).max() == 0
    assert border_weights(np.zeros((4, 4), bool)).max() == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(1, 6), st.floats(0.3, 0.9), st.integers(0, 999))
def test_as_the_formula_says(height: int, width: int, sigma: float, share: float, seed: int) -> None:
    """Against the distances to every cell over the whole image."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 1)
    inside = smooth > np.quantile(smooth, share)
    cells, count = ndimage.label(inside)
    each = [ndimage.distance_transform_edt(cells != n) for n in range(1, count + 1)]
    expected = np.zeros((height, width))
    if count >= 2:
        nearest = np.sort(each, axis=0)
        expected = np.where(inside, 0, 10 * np.exp(-((nearest[0] + nearest[1]) ** 2) / (2 * sigma**2)))
    # beyond four sigma it is cut off, at 10 exp(-8)
    np.testing.assert_allclose(border_weights(inside, 10, sigma), expected, atol=0.0034)
