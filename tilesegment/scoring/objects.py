"""Scores of objects: how many true objects are found, and how well; how many are missed, made up, split or merged.

All scores start from a table of overlaps. Tallies of planes are pooled; a score that has nothing to score is None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilesegment.scoring.overlaps import Overlaps, overlaps
from tilesegment.scoring.results import MatchScore, ObjectScore

IOU_THRESHOLDS = tuple(k / 20 for k in range(10, 20))  # 0.5, 0.55, ..., 0.95
_SHOWN = (0.5, 0.75, 0.9)


def object_scores(truth: np.ndarray, prediction: np.ndarray, ignore: int | None = None) -> ObjectScore:
    """Score predicted objects against true ones.

    A true and a predicted object match at a threshold t if their intersection over union (IoU) is at least t, as in
    StarDist and Cellpose; each has one partner at most, see `matches`. With TP the matches, FP the other predicted
    objects and FN the other true ones:

    - precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN);
    - AP = TP / (TP + FP + FN), the "average precision" of the Data Science Bowl 2018 (Caicedo et al. 2019,
      10.1038/s41592-019-0612-7), StarDist (Schmidt et al. 2018, arXiv:1806.03535) and Cellpose; `mean_ap` is its mean
      over t = 0.5, 0.55, ..., 0.95. It is not the area under a curve, as predictions have no confidence here;
    - PQ = SQ x RQ, the panoptic quality (Kirillov et al. 2019, arXiv:1801.00868), over the matches of IoU above 0.5,
      strictly: SQ is their mean IoU, RQ their F1;
    - AJI, the aggregated Jaccard index (Kumar et al. 2017, 10.1109/TMI.2017.2677499, algorithm 1): each true object
      takes the prediction of largest IoU (of several, the smallest id), which others may have taken before; the sum
      of these intersections over the sum of the unions and of the predictions that none took. Not the later AJI+;
    - Dice = 2 |T n P| / (|T| + |P|) of all pixels in objects;
    - split: a true object without match at 0.5, of which several predictions, each with at least half of its pixels
      in it, cover at least half together. Merged: a prediction that covers at least half of several true objects.

    Args:
        truth: (H, W) ids of objects, whole numbers, 0 for background. They may have gaps, and objects several pieces.
        prediction: (H, W) likewise.
        ignore: pixels where `truth` has this value are not counted, not even as part of a predicted object.

    Returns:
        Scores; None where nothing can be said, such as recall without true objects.

    Raises:
        DataError: the shapes differ, or a value is no id.
    """
    return pooled([tally(overlaps(truth, prediction, ignore))])


@dataclass(frozen=True, eq=False)
class Tally:
    """What is counted in one plane; see `object_scores`."""

    truth: int  # objects
    prediction: int
    split: int
    merged: int
    found: np.ndarray  # (10,) int64 matches, at each of IOU_THRESHOLDS
    above: int  # matches of IoU above 0.5
    above_iou: float  # sum of their IoU
    aji: float | None
    dice: float | None


def tally(table: Overlaps) -> Tally:
    """Count what is found in one plane."""
    above = table.iou > 0.5
    return Tally(
        truth=table.truth.size,
        prediction=table.prediction.size,
        split=int(split_objects(table).sum()),
        merged=int(merging_predictions(table).sum()),
        found=np.array([matches(table, threshold).size for threshold in IOU_THRESHOLDS], np.int64),
        above=int(above.sum()),
        above_iou=math.fsum(table.iou[above].tolist()),  # whatever the order of the ids
        aji=aggregated_jaccard(table),
        dice=_ratio(2 * int(table.pixels.sum()), int(table.truth_area.sum() + table.prediction_area.sum())),
    )


def pooled(tallies: Sequence[Tally]) -> ObjectScore:
    """Score planes together: counts are added; AJI and Dice are means over the planes that have any object."""
    truth, prediction = sum(one.truth for one in tallies), sum(one.prediction for one in tallies)
    found = np.sum([one.found for one in tallies], axis=0).tolist()
    at = [_match_score(t, n, truth, prediction) for t, n in zip(IOU_THRESHOLDS, found, strict=True)]
    above = sum(one.above for one in tallies)
    sq, rq = _ratio(math.fsum(one.above_iou for one in tallies), above), _ratio(2 * above, truth + prediction)
    return ObjectScore(
        truth=truth,
        prediction=prediction,
        split=sum(one.split for one in tallies),
        merged=sum(one.merged for one in tallies),
        at=tuple(one for one in at if one.threshold in _SHOWN),
        mean_ap=_mean([one.ap for one in at]),
        pq=None if rq is None else (sq or 0.0) * rq,
        sq=sq,
        rq=rq,
        aji=_mean([one.aji for one in tallies]),
        dice=_mean([one.dice for one in tallies]),
    )


def matches(table: Overlaps, threshold: float) -> np.ndarray:
    """Match true and predicted objects one to one: positions (k,) of pairs of IoU >= `threshold`, at least 0.5.

    As many as possible match: two pairs of IoU >= 0.5 that share an object have exactly 0.5 both, and then the two
    other objects are halves of the shared one, so that they have no further partner. Of such two the first is taken.
    """
    assert threshold >= 0.5, "below 0.5 objects may have several partners"
    good = np.flatnonzero(table.iou >= threshold)
    for objects in (table.rows, table.columns):
        good = good[np.sort(np.unique(objects[good], return_index=True)[1])]
    return good


def split_objects(table: Overlaps) -> np.ndarray:
    """Which true objects are split, (n,) bool: missed at 0.5, but covered by several predictions by half or more."""
    inner = 2 * table.pixels >= table.prediction_area[table.columns]
    pieces = np.bincount(table.rows[inner], minlength=table.truth.size)
    covered = np.bincount(table.rows[inner], table.pixels[inner], minlength=table.truth.size)
    split = (pieces > 1) & (2 * covered >= table.truth_area)
    split[table.rows[matches(table, 0.5)]] = False
    return split


def merging_predictions(table: Overlaps) -> np.ndarray:
    """Which predictions merge objects, (m,) bool: at least half of several true objects lies in each."""
    return np.bincount(table.columns[swallowed(table)], minlength=table.prediction.size) > 1


def swallowed(table: Overlaps) -> np.ndarray:
    """Pairs whose true object lies in the predicted one by half or more, (k,) bool."""
    return 2 * table.pixels >= table.truth_area[table.rows]


def aggregated_jaccard(table: Overlaps) -> float | None:
    """Return the AJI, see `object_scores`; None if there are no objects at all."""
    order = np.lexsort((table.columns, -table.iou, table.rows))
    best = order[np.unique(table.rows[order], return_index=True)[1]]
    alone = np.ones(table.truth.size, bool)
    alone[table.rows[best]] = False
    unused = np.ones(table.prediction.size, bool)
    unused[table.columns[best]] = False
    union = table.unions[best].sum() + table.truth_area[alone].sum() + table.prediction_area[unused].sum()
    return _ratio(int(table.pixels[best].sum()), int(union))


def _match_score(threshold: float, found: int, truth: int, prediction: int) -> MatchScore:
    return MatchScore(
        threshold=threshold,
        found=found,
        made_up=prediction - found,
        missed=truth - found,
        precision=_ratio(found, prediction),
        recall=_ratio(found, truth),
        f1=_ratio(2 * found, truth + prediction),
        ap=_ratio(found, truth + prediction - found),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
