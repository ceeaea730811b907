"""Losses for pixel classes, and sums of them such as `ce+dice`.

All take logits (B, K, H, W) and class ids (B, H, W) int64, in which `IGNORE` marks pixels that do not count, and sum in
float32 whatever the logits' precision. p is the soft-max of the logits, t the one-hot label.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tilesegment.errors import PlanError
from tilesegment.training.data import IGNORE


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of the true class: (B, H, W) float32, 0 where the label is ignored."""
    return functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Each class against all others, -(t log p + (1 - t) log(1 - p)), its mean over the classes: (B, H, W) float32.

    p is the soft-max, by which every model here predicts, so for two classes this is `cross_entropy`; for one output z
    with a sigmoid it is the usual binary cross-entropy of z = logit 1 - logit 0. 0 where the label is ignored.
    """
    log_p = torch.log_softmax(logits.float(), 1)
    # for two classes the rest is the other one; for more, 1 - p, which float32 may round to 0
    log_rest = log_p.flip(1) if logits.shape[1] == 2 else (-torch.expm1(log_p)).clamp_min(1e-7).log()
    t, counted = _one_hot(labels, logits.shape[1])
    return -torch.where(t, log_p, log_rest).mean(1) * counted


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """(1 - p)^gamma times the cross-entropy, Lin et al. 2017 (arXiv:1708.02002): (B, H, W) float32."""
    entropy = cross_entropy(logits, labels)
    return (1 - torch.exp(-entropy)) ** gamma * entropy


def soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean over classes of 2 sum(p t) / (sum p + sum t): Milletari et al. 2016 (arXiv:1606.04797), no squares.

    A class that the labels lack does not count. A scalar.
    """
    both, p_sum, t_sum = _overlap(logits, labels)
    return 1 - _mean_of_present(2 * both / (p_sum + t_sum).clamp_min(1e-12), t_sum)


def soft_iou(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean over classes of sum(p t) / (sum p + sum t - sum(p t)): the soft Jaccard index.

    Rahman and Wang 2016 (10.1007/978-3-319-50835-1_22). A class that the labels lack does not count. A scalar.
    """
    both, p_sum, t_sum = _overlap(logits, labels)
    return 1 - _mean_of_present(both / (p_sum + t_sum - both).clamp_min(1e-12), t_sum)


# a loss a pixel, which weights of classes and of a border map multiply
PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "bce": binary_cross_entropy,
    "focal": focal,
}
# a loss a batch
REGION_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"dice": soft_dice, "iou": soft_iou}


@dataclass(frozen=True)
class Loss:
    """A sum of losses, such as cross-entropy plus Dice, the most robust of the common ones.

    Ma et al. 2021 (10.1016/j.media.2021.102035).

    Args:
        text: names of `PIXEL_LOSSES` and `REGION_LOSSES` joined by `+`.

    Raises:
        PlanError: another name, or one twice.
    """

    text: str

    def __post_init__(self) -> None:
        names = self.names
        unknown = [name for name in names if name not in {**PIXEL_LOSSES, **REGION_LOSSES}]
        if unknown or len(set(names)) != len(names):
            allowed = ", ".join((*PIXEL_LOSSES, *REGION_LOSSES))
            raise PlanError(f"loss {self.text!r} is unknown; allowed: {allowed}, and sums of them such as ce+dice")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the losses that are summed."""
        return tuple(part.strip() for part in self.text.split("+"))

    def __call__(
        self,
        logits: Tensor | tuple[Tensor, ...],
        labels: Tensor,
        class_weights: Tensor | None = None,
        border: Tensor | None = None,
    ) -> Tensor:
        """The loss, a float32 scalar; 0 if no pixel counts.

        Args:
            logits: (B, K, H, W); of several outputs (deep supervision) the mean of the losses is taken.
            labels: (B, H, W) int64 class ids or `IGNORE`.
            class_weights: (K,) float32; None is 1 for each.
            border: (B, H, W) float32, added to the class weights: `weight_maps.border_weights`.
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


def balanced_weights(shares: tuple[float, ...]) -> tuple[float, ...]:
    """Weights of classes that make up `shares` of the labelled pixels: 1 / share, a class that is absent 1; mean 1.

    Raises:
        PlanError: there is no share that is positive.
    """
    inverse = [1 / share if share > 0 else None for share in shares]
    known = [value for value in inverse if value is not None]
    if not known:
        raise PlanError("no class has a labelled pixel, so there are no class weights; give them as numbers")
    mean = sum(known) / len(known)
    return tuple(1.0 if value is None else value / mean for value in inverse)


def _one_hot(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(B, K, H, W) bool, all False where the label is ignored, and (B, H, W) bool, where it is not."""
    counted = labels != IGNORE
    ids = torch.arange(classes, device=labels.device)[:, None, None]
    return labels[:, None] == ids, counted


def _overlap(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sum(p t), sum p and sum t over the pixels that count, each (K,) float32."""
    t, counted = _one_hot(labels, logits.shape[1])
    p = torch.softmax(logits.float(), 1) * counted[:, None]
    return (p * t).sum((0, 2, 3)), p.sum((0, 2, 3)), t.to(p.dtype).sum((0, 2, 3))


def _mean_of_present(scores: Tensor, t_sum: Tensor) -> Tensor:
    """Mean of the classes' scores (K,) over those that the labels have; 1 if they have none."""
    there = t_sum > 0
    return torch.where(there, scores, 0).sum() / there.sum() if bool(there.any()) else scores.sum() * 0 + 1
