"""Scores of cell boundaries: V_Rand, V_Info and the Rand error.

V_Rand and V_Info are those of the ISBI 2012 challenge, foreground-restricted after border thinning, by the formulas of
Arganda-Carreras et al. 2015 (10.3389/fnana.2015.00142). They show what pixel scores hardly do: one gap in a membrane
merges two cells, while a membrane that is too thick costs nothing. The Rand error is the challenge's older measure
without border thinning, which penalises thick membranes, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from skimage.segmentation import watershed

from tilesegment.errors import DataError
from tilesegment.scoring.pixels import check_shapes

THRESHOLDS = tuple(k / 10 for k in range(11))  # the challenge's, on the probability of 'inside a cell'


def segment_cells(inside_probability: np.ndarray, threshold: float) -> np.ndarray:
    """Segment cells from a probability map (H, W), with borders thinned to one pixel: (H, W) int32, 0 for dams.

    The 4-connected regions strictly above the threshold are basins; a watershed on a flat landscape grows them at one
    speed until only dams of one pixel separate them. Without basins all is 0.
    """
    basins, count = ndimage.label(inside_probability > threshold)
    if count < 2:  # a single basin floods everything
        return np.full(basins.shape, count, np.int32)
    return watershed(np.zeros(basins.shape, np.uint8), basins, connectivity=1, watershed_line=True).astype(np.int32)


def foreground_scores(truth_labels: np.ndarray, proposal_labels: np.ndarray) -> tuple[float, float]:
    """Return V_Rand and V_Info of a proposed segmentation, over the pixels that the truth assigns to a cell.

    With p_ij the share of these n pixels in true cell i and proposed cell j, a_i and b_j its sums, and each dam pixel
    of the proposal as a separate cell (so that their share p_0 = sum_i p_i0 adds p_0 / n to sums of squares and
    p_0 log n to entropies), Arganda-Carreras et al. 2015 with alpha = 1/2:
        V_Rand = sum_ij p_ij^2 / (sum_i a_i^2 / 2 + sum_j b_j^2 / 2)
        V_Info = I / (H(A) / 2 + H(B) / 2),  I = H(A) + H(B) - H(A, B)
    These are the F-scores (harmonic means) of the splitting and merging parts.

    Args:
        truth_labels: (H, W) int, 0 for membrane, which is ignored.
        proposal_labels: (H, W) int, 0 for dams.

    Returns:
        (V_Rand, V_Info), each 0 to 1, 1 for the truth itself.

    Raises:
        DataError: shapes differ or no pixel of the truth is inside a cell.
    """
    check_shapes(truth_labels, proposal_labels)
    inside = truth_labels > 0
    n = np.count_nonzero(inside)
    if n == 0:
        raise DataError("no pixel of this truth is inside a cell, so there is nothing to score: leave the section out")
    a, b = truth_labels[inside], proposal_labels[inside]
    joint = coo_array((np.full(n, 1 / n), (a, b))).tocsc()  # tocsc sums duplicates of (i, j)
    a_i, b_j = joint.sum(1), joint.sum(0)
    p_0, p_ij, b_j = b_j[0], joint[:, 1:].data, b_j[1:]

    squares_a, squares_b, squares_ab = np.sum(a_i**2), np.sum(b_j**2) + p_0 / n, np.sum(p_ij**2) + p_0 / n
    v_rand = 2 * squares_ab / (squares_a + squares_b)

    h_a, h_b, h_ab = _entropy(a_i), _entropy(b_j) + p_0 * np.log(n), _entropy(p_ij) + p_0 * np.log(n)
    # one cell in both: nothing to get wrong
    v_info = 2 * (h_a + h_b - h_ab) / (h_a + h_b) if h_a + h_b > 0 else 1.0
    return float(v_rand), float(v_info)


@dataclass(frozen=True, eq=False)
class MembraneScores:
    """Scores of a stack of S sections at T thresholds on the probability of 'inside a cell'."""

    v_rand: float  # largest mean over the sections, over all thresholds
    v_info: float
    rand_error: float  # smallest
    threshold_rand: float  # that gives it
    threshold_info: float
    threshold_error: float
    thresholds: tuple[float, ...]  # T
    section_rand: np.ndarray  # (T, S) float64, the score of each section at each threshold
    section_info: np.ndarray
    section_error: np.ndarray


def section_scores(truth: np.ndarray, probability: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
    """Return V_Rand, V_Info and Rand error of one section at each threshold, (3, T) float64.

    The Rand error is that of the ISBI 2012 challenge as it was first scored (and of SNEMI3D, "adapted Rand error"): 1
    minus the F-score of the Rand index, without true membrane. It is computed as V_Rand in `foreground_scores`, but for
    the 4-connected regions above the threshold, without border thinning: each pixel of a true cell at or below the
    threshold counts as a separate cell.

    Args:
        truth: (H, W) bool, True inside a cell, False on membrane; its cells are the 4-connected regions.
        probability: (H, W), probability of 'inside a cell', 0 to 1; or bool, or values on the scale of `thresholds`.
        thresholds: T of them.

    Raises:
        DataError: shapes differ, a probability is not finite, or no pixel of the truth is inside a cell.
    """
    check_shapes(truth, probability)
    if not np.isfinite(probability).all():
        raise DataError("the probability map holds NaN or infinity; allowed: 0 to 1")
    cells, _ = ndimage.label(truth)
    scores = np.empty((3, len(thresholds)))
    for t, threshold in enumerate(thresholds):
        scores[:2, t] = foreground_scores(cells, segment_cells(probability, threshold))
        regions, _ = ndimage.label(probability > threshold)
        scores[2, t] = 1 - foreground_scores(cells, regions)[0]
    return scores


def summarise(sections: Sequence[np.ndarray], thresholds: Sequence[float] = THRESHOLDS) -> MembraneScores:
    """Return the scores of a stack at the best thresholds for all its sections, each (3, T) of `section_scores`."""
    rand, info, error = np.stack(sections, axis=-1)
    best_rand, best_info = int(rand.mean(1).argmax()), int(info.mean(1).argmax())
    best_error = int(error.mean(1).argmin())
    return MembraneScores(
        v_rand=float(rand[best_rand].mean()),
        v_info=float(info[best_info].mean()),
        rand_error=float(error[best_error].mean()),
        threshold_rand=thresholds[best_rand],
        threshold_info=thresholds[best_info],
        threshold_error=thresholds[best_error],
        thresholds=tuple(thresholds),
        section_rand=rand,
        section_info=info,
        section_error=error,
    )


def membrane_scores(
    truths: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], thresholds: Sequence[float] = THRESHOLDS
) -> MembraneScores:
    """Score membrane probability maps by the protocol of the ISBI 2012 challenge.

    Args:
        truths: (H, W) bool per section, True inside a cell, False on membrane; its cells are the 4-connected regions.
        probabilities: (H, W) float per section, 0 to 1, the probability of 'inside a cell'.
        thresholds: the best of these is taken, one for all sections.

    Raises:
        DataError: no section, not as many truths as maps, shapes differ, a map is not finite, or a truth has no cell.
    """
    if len(truths) != len(probabilities) or not truths:
        raise DataError(f"{len(truths)} truths and {len(probabilities)} probability maps: give one of each per section")
    scores = []
    for s, (truth, probability) in enumerate(zip(truths, probabilities, strict=True)):
        try:
            scores.append(section_scores(truth, probability, thresholds))
        except DataError as error:
            raise DataError(f"section {s}: {error}") from error
    return summarise(scores, thresholds)


def _entropy(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-np.sum(positive * np.log(positive)))
