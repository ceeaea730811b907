"""A picture of a training run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from tilesegment.training.loop import Record


def draw_curves(records: Sequence["Record"], path: Path) -> None:
    """Draws the loss, and the scores on the held-out sections, over the steps; writes a PNG to `path`."""
    seen = [record for record in records if record.scores is not None]
    figure = Figure(figsize=(10, 4) if seen else (5.5, 4), layout="constrained")
    axes = figure.subplots(1, 2 if seen else 1, squeeze=False)[0]
    steps, losses = np.array([r.step for r in records]), np.array([r.loss for r in records])
    axes[0].plot(steps, losses, color="#9ecae1", linewidth=0.7, label="each step")
    width = max(len(losses) // 40, 1)
    smooth = np.convolve(losses, np.ones(width) / width, "valid")
    axes[0].plot(steps[width - 1 :], smooth, color="#08519c", label=f"mean of {width}")
    axes[0].set(xlabel="step", ylabel="cross-entropy + Dice", title="Training loss", ylim=(0, None))
    axes[0].legend()
    if seen:
        curves: dict[str, list[float | None]] = {
            "V_Rand": [r.scores.v_rand for r in seen if r.scores],
            "V_Info": [r.scores.v_info for r in seen if r.scores],
            "pixel accuracy": [r.scores.accuracy for r in seen if r.scores],
            "most frequent class": [r.scores.floor for r in seen if r.scores],
        }
        for (name, values), style in zip(curves.items(), ("o-", "s-", "^-", "k:"), strict=True):
            if values[0] is not None:
                axes[1].plot([r.step for r in seen], values, style, label=name)
        axes[1].set(xlabel="step", title="Held-out sections", ylim=(None, 1.0))
        axes[1].legend()
    figure.savefig(path, dpi=120)
