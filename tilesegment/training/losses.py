"""Losses for pixel classes."""

import torch
from torch import Tensor
from torch.nn import functional


def soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean over classes of 2 sum(p t) / (sum p + sum t): Milletari et al. 2016 (arXiv:1606.04797), no squares.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64 class ids.

    Returns:
        A scalar, summed in float32 whatever the logits' precision. A class that the labels lack does not count.
    """
    p = torch.softmax(logits.float(), 1)
    t = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(p.dtype)
    both, p_sum, t_sum = (v.sum((0, 2, 3)) for v in (p * t, p, t))
    there = t_sum > 0
    return 1 - (2 * both[there] / (p_sum[there] + t_sum[there])).mean()


def cross_entropy_dice(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Pixel-wise cross-entropy plus soft Dice, the most robust of the common losses.

    Ma et al. 2021 (10.1016/j.media.2021.102035).

    Args:
        logits, labels: as in `soft_dice`.
        weights: (K,) of the classes in the cross-entropy, sum(w log p) / sum(w); None is 1 for each.
    """
    return functional.cross_entropy(logits.float(), labels, weights) + soft_dice(logits, labels)
