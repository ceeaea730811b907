"""Losses for pixel classes, sums of them such as `ce+dice`, and the weights of classes and pixels.

All losses take logits (B, K, H, W) and class ids (B, H, W) int64, in which `IGNORE` marks pixels that do not count, and
sum in float32 whatever the logits' precision. p is the softmax of the logits, t the one-hot label.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from tilesegment.errors import PlanError
from tilesegment.training.data import IGNORE, Dataset

_Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
_REACH = 4  # beyond this many sigma, border weights are less than w0 / 3000


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of the true class: (B, H, W) float32, 0 where the label is ignored."""
    return functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the classes of -(t log p + (1 - t) log(1 - p)): (B, H, W) float32, 0 where the label is ignored.

    As p is the softmax, this is `cross_entropy` for two classes: the usual binary cross-entropy of a single output
    z = logit 1 - logit 0 with a sigmoid.
    """
    log_p = torch.log_softmax(logits.float(), 1)
    # the other class of two; with more classes 1 - p, which float32 may round to 0
    log_rest = log_p.flip(1) if logits.shape[1] == 2 else (-torch.expm1(log_p)).clamp_min(1e-7).log()
    t, counted = _one_hot(labels, logits.shape[1])
    return -torch.where(t, log_p, log_rest).mean(1) * counted


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """(1 - p)^gamma times the cross-entropy, Lin et al. 2017 (arXiv:1708.02002): (B, H, W) float32."""
    entropy = cross_entropy(logits, labels)
    return (1 - torch.exp(-entropy)) ** gamma * entropy


def soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean over the classes in the labels of 2 sum(p t) / (sum p + sum t), a scalar.

    Milletari et al. 2016 (arXiv:1606.04797), without squares.
    """
    both, p_sum, t_sum = _overlap(logits, labels)
    return 1 - _mean_of_present(2 * both / (p_sum + t_sum).clamp_min(1e-12), t_sum)


def soft_iou(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean over the classes in the labels of sum(p t) / (sum p + sum t - sum(p t)), a scalar: soft Jaccard index.

    Rahman and Wang 2016 (10.1007/978-3-319-50835-1_22).
    """
    both, p_sum, t_sum = _overlap(logits, labels)
    return 1 - _mean_of_present(both / (p_sum + t_sum - both).clamp_min(1e-12), t_sum)


# per pixel, multiplied by the weights of classes and borders
PIXEL_LOSSES: dict[str, _Loss] = {"ce": cross_entropy, "bce": binary_cross_entropy, "focal": focal}
# per batch
REGION_LOSSES: dict[str, _Loss] = {"dice": soft_dice, "iou": soft_iou}


@dataclass(frozen=True)
class Loss:
    """A sum of losses, such as cross-entropy plus Dice: Ma et al. 2021 (10.1016/j.media.2021.102035).

    Args:
        text: names of `PIXEL_LOSSES` and `REGION_LOSSES` joined by `+`.

    Raises:
        PlanError: an unknown name, or one twice.
    """

    text: str

    def __post_init__(self) -> None:
        known = {**PIXEL_LOSSES, **REGION_LOSSES}
        if not known.keys() >= set(self.names) or len(set(self.names)) != len(self.names):
            raise PlanError(f"--loss is {self.text!r}; allowed: {', '.join(known)}, and sums of them such as ce+dice")

    @property
    def names(self) -> tuple[str, ...]:
        """The losses that are summed."""
        return tuple(part.strip() for part in self.text.split("+"))

    def __call__(
        self,
        logits: Tensor | tuple[Tensor, ...],
        labels: Tensor,
        class_weights: Tensor | None = None,
        border: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a float32 scalar; 0 if no pixel counts.

        Args:
            logits: (B, K, H, W); for several outputs (deep supervision) the losses are averaged.
            labels: (B, H, W) int64 class ids or `IGNORE`.
            class_weights: (K,) float32; None is 1 for all.
            border: (B, H, W) float32, added to the class weights: `border_weights`.
        """
        if isinstance(logits, tuple):
            return torch.stack([self(output, labels, class_weights, border) for output in logits]).mean()
        counted = labels != IGNORE
        weight = counted.float()
        if class_weights is not None:
            weight = weight * class_weights[labels.where(counted, 0)]
        if border is not None:
            weight = weight + border * counted
        total = logits.new_zeros((), dtype=torch.float32)
        for name in self.names:
            if name in PIXEL_LOSSES:
                total = total + (weight * PIXEL_LOSSES[name](logits, labels)).sum() / weight.sum().clamp_min(1e-12)
            else:
                total = total + REGION_LOSSES[name](logits, labels)
        return total


def class_weights(weights: tuple[float, ...] | str | None, data: Dataset, device: torch.device) -> Tensor | None:
    """Return class weights (K,) float32 on `device`: those given, `auto` by their shares in `data`, or None.

    Raises:
        PlanError: not one positive number per class.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        weights = balanced_weights(data.shares())
    if len(weights) != len(data.classes) or not all(0 < weight <= 1e4 for weight in weights):
        names = ", ".join(one.name for one in data.classes)
        expected = f"{len(data.classes)} positive numbers, one per class: {names}"
        raise PlanError(f"--class-weights is {', '.join(f'{one:g}' for one in weights)}; expected {expected}")
    return torch.tensor(weights, dtype=torch.float32, device=device)


def balanced_weights(shares: tuple[float, ...]) -> tuple[float, ...]:
    """Return weights of mean 1 in proportion to 1 / share of the pixels; an absent class gets 1.

    Raises:
        PlanError: no share is positive.
    """
    inverse = [1 / share if share > 0 else None for share in shares]
    known = [value for value in inverse if value is not None]
    if not known:
        raise PlanError("no class has a labelled pixel, so there are no class weights; give them as numbers")
    mean = sum(known) / len(known)
    return tuple(1.0 if value is None else value / mean for value in inverse)


def border_weights(cells: np.ndarray, w0: float = 10.0, sigma: float = 5.0, *, within: bool = False) -> np.ndarray:
    """Return w0 exp(-(d1 + d2)^2 / (2 sigma^2)) outside of cells: (H, W) float32.

    The weight map of Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597), equation 2, without class weights. d1 and
    d2 are the distances to the nearest two cells in pixels.

    Args:
        cells: (H, W) int, numbers of the cells, 0 outside.
        w0, sigma: largest weight, and the distance at which it falls off.
        within: whether pixels of cells have a weight, too, with d1 = 0, as where cells touch; else theirs is 0.
    """
    nearest = np.full(cells.shape, np.inf, np.float32)
    second = nearest.copy()
    reach = int(np.ceil(_REACH * sigma))
    for cell, box in enumerate(ndimage.find_objects(cells), 1):
        if box is None:  # a number that no cell has
            continue
        around = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
        distance = ndimage.distance_transform_edt(cells[around] != cell).astype(np.float32)
        second[around] = np.minimum(second[around], np.maximum(distance, nearest[around]))
        nearest[around] = np.minimum(nearest[around], distance)
    weights = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return np.where((cells > 0) & (not within), 0, weights).astype(np.float32)


def _one_hot(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(B, K, H, W) bool, False where the label is ignored, and (B, H, W) bool, where it is not."""
    ids = torch.arange(classes, device=labels.device)[:, None, None]
    return labels[:, None] == ids, labels != IGNORE


def _overlap(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sum(p t), sum p and sum t over the pixels that count, each (K,) float32."""
    t, counted = _one_hot(labels, logits.shape[1])
    p = torch.softmax(logits.float(), 1) * counted[:, None]
    return (p * t).sum((0, 2, 3)), p.sum((0, 2, 3)), t.to(p.dtype).sum((0, 2, 3))


def _mean_of_present(scores: Tensor, t_sum: Tensor) -> Tensor:
    """Mean of the scores (K,) of the classes in the labels; 1 if there are none."""
    there = t_sum > 0
    return torch.where(there, scores, 0).sum() / there.sum() if bool(there.any()) else scores.sum() * 0 + 1
