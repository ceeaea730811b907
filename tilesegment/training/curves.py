"""A picture of a training run: loss, scores and learning rate over the steps."""

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from tilesegment.files import write_atomically
from tilesegment.metadata import LabelClass

if TYPE_CHECKING:
    from tilesegment.training.loop import Record

_POINTS = 2000  # more than the picture has columns
_MOST_LINES = 7  # classes that are told apart by colour
_MARKERS = "osv^<P*"
_DARK = "#08519c"


def draw_curves(records: Sequence["Record"], path: Path, loss: str, classes: Sequence[LabelClass]) -> None:
    """Draws loss, scores on the held-out images and learning rate over the steps; writes a PNG to `path`, atomically.

    Args:
        records: of a run, one a step; there may be none yet.
        path: of the PNG.
        loss: what it is called, such as "ce+dice".
        classes: names and colours, for the IoU curves, which are drawn where there is no V_Rand.
    """
    seen = [record for record in records if record.scores is not None]
    figure = Figure(figsize=(12, 5.6) if seen else (7, 5), layout="constrained")
    grid = figure.add_gridspec(2, 2 if seen else 1, height_ratios=(4, 1))
    upper = figure.add_subplot(grid[0, 0])
    lower = figure.add_subplot(grid[1, 0], sharex=upper)
    _draw_loss(upper, records, loss)
    shown = records[:: _every(len(records))]
    lower.plot([r.step for r in shown], [r.rate for r in shown], _marker(shown), color="#444444")
    lower.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    lower.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    upper.tick_params(labelbottom=False)
    axes = [upper, lower]
    if seen:
        axes.append(figure.add_subplot(grid[:, 1]))
        _draw_scores(axes[-1], seen, classes)
    for one in axes:
        one.grid(color="#e5e5e5", linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    content = BytesIO()
    figure.savefig(content, dpi=120, format="png")
    write_atomically(path, content.getvalue())


def goal_name(goal: str, classes: Sequence[LabelClass]) -> str:
    """What the score is called that a run is judged by."""
    return {"v_rand": "V_Rand", "dice": f"Dice of {classes[1].name}", "miou": "mean IoU"}[goal]


def _draw_loss(axes: Axes, records: Sequence["Record"], loss: str) -> None:
    """Each step's loss, light, and their moving mean, dark."""
    axes.set_title("Training loss", loc="left", fontweight="bold")
    axes.set_ylabel(f"loss ({_drawable(loss)})")
    if not records:
        return
    steps, losses = np.array([r.step for r in records]), np.array([r.loss for r in records])
    width, every = max(len(losses) // 40, 1), _every(len(losses))
    sums = np.cumsum(np.append(0.0, losses))
    smooth = (sums[width:] - sums[:-width]) / width
    light = "#9ecae1" if width > 1 else _DARK
    axes.plot(steps[::every], losses[::every], _marker(records), color=light, linewidth=0.7, label="each step")
    if width > 1:
        axes.plot(steps[width - 1 :][::every], smooth[::every], color=_DARK, label=f"mean of {width:,} steps")
    # a few spikes must not flatten all the rest
    axes.set_ylim(0, max(np.percentile(losses, 99.5), smooth.max(), 1e-6) * 1.08)
    axes.legend(frameon=False)


def _draw_scores(axes: Axes, seen: Sequence["Record"], classes: Sequence[LabelClass]) -> None:
    """What the run is judged by, heavy, and what a constant predictor gets, dotted; V_Info or the IoU of each class.

    The axis shows the range of the scores: that of a constant predictor, often far below, would flatten what happens
    between 0.95 and 0.99, so it is drawn where it falls into that range and is written in the legend wherever it is.
    """
    steps = [record.step for record in seen]
    scores = [record.scores for record in seen if record.scores is not None]
    first, name = scores[0], _drawable(goal_name(scores[0].goal, classes))
    small = 5 if len(seen) <= 40 else 0

    def draw(label: str | None, values: Sequence[float | None], style: str, colour: str, width: float = 1.3) -> None:
        axes.plot(steps, np.array(values, float), style, color=colour, label=label, linewidth=width, markersize=small)

    if first.v_rand is None:
        several = len(first.iou) > _MOST_LINES
        for n in range(len(first.iou)):
            values = [found.iou[n] for found in scores]
            if several:
                draw("IoU of each class" if n == 0 else None, values, "-", "#bbbbbb", 0.8)
            else:
                draw(f"IoU of {_drawable(classes[n].name)}", values, f"{_MARKERS[n]}-", _ink(classes[n]))
    else:
        draw("V_Info", [one.v_info for one in scores], "s-", "#e69f00")
    draw("pixel accuracy", [one.accuracy for one in scores], "x--", "#777777")
    draw(name, [one.value for one in scores], "D-", _DARK, 2.6)
    lowest = np.nanmin(np.concatenate([line.get_ydata() for line in axes.lines]))
    for what, floor, colour in (("pixel accuracy", first.floor, "#777777"), (name, first.floor_value, _DARK)):
        axes.axhline(floor, linestyle=":", color=colour, label=f"{what}, always the same class: {floor:.3f}")
    axes.set_title("Scores on the held-out images", loc="left", fontweight="bold")
    # a little room below, and above for the markers of what is nearly 1
    room = 0.05 * max(1 - lowest, 0.01)
    axes.set(xlabel="step", ylim=(lowest - room, 1 + room))
    # below, where it covers no curve
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def _every(count: int) -> int:
    return max(-(-count // _POINTS), 1)


def _marker(records: Sequence["Record"]) -> str:
    """A single point is no line, and would not show."""
    return "o" if len(records) == 1 else "-"


def _ink(one: LabelClass) -> str:
    """The class's colour, darkened until it shows on white."""
    red, green, blue = one.rgb
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    factor = min(150 / max(luminance, 1), 1.0)
    return "#" + "".join(f"{round(factor * part):02x}" for part in (red, green, blue))


def _drawable(text: str, length: int = 28) -> str:
    """A name as one short line that matplotlib draws as it is, whatever it holds."""
    text = "".join(c if ord(c) in _glyphs() and c.isprintable() else "?" for c in " ".join(text.split()))
    text = text if len(text) <= length else text[: length - 3] + "..."
    return text.replace("$", r"\$")  # a pair of them would be read as a formula


@cache
def _glyphs() -> frozenset[int]:
    """Code points that the font knows; drawing any other warns."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())
