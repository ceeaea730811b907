"""The pictures of a run: its curves, its training examples, and held-out images."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from tilesegment.draw import UNLABELLED, Sample, compare, enlarged, legend_of, overlay, paint, save, sheet, stretch
from tilesegment.errors import one_line
from tilesegment.metadata import LabelClass
from tilesegment.models.header import Normalisation
from tilesegment.training.data import IGNORE, Section
from tilesegment.training.settings import GOAL_NAMES

if TYPE_CHECKING:
    from tilesegment.training.loop import Record
    from tilesegment.training.validation import Scores, Validation

_POINTS = 2000  # more than the picture's columns
_MOST_LINES = 7  # up to so many classes have different colours
_MARKERS = "osv^<P*"
_DARK = "#08519c"
_ACROSS = 4  # examples in a row
_LARGEST, _SMALLEST = 400, 240  # sides of an example in pixels


def draw_curves(records: Sequence["Record"], path: Path, loss: str, classes: Sequence[LabelClass]) -> None:
    """Draw loss, scores on the held-out images and learning rate over the steps; write a PNG.

    Args:
        records: one per step; may be empty.
        path: file of the PNG.
        loss: its name, such as "ce+dice".
        classes: names and colours for the IoU curves, which are drawn if there is neither V_Rand nor PQ.
    """
    seen = [record for record in records if record.scores is not None]
    figure = Figure(figsize=(12, 5.6) if seen else (7, 5), layout="constrained")
    grid = figure.add_gridspec(2, 2 if seen else 1, height_ratios=(4, 1))
    upper = figure.add_subplot(grid[0, 0])
    lower = figure.add_subplot(grid[1, 0], sharex=upper)
    # draw names literally: no formulas, and a box for letters that the font lacks
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _draw_loss(upper, records, loss)
        shown = records[:: _every(len(records))]
        lower.plot([r.step for r in shown], [r.rate for r in shown], _marker(shown), color="#444444")
        lower.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
        lower.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        upper.tick_params(labelbottom=False)
        if seen:
            _draw_scores(figure.add_subplot(grid[:, 1]), seen, classes)
        for axes in figure.axes:
            axes.grid(color="#e5e5e5", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        content = BytesIO()
        figure.savefig(content, dpi=120, format="png")
    save(Image.open(content), path)


def goal_name(goal: str, classes: Sequence[LabelClass]) -> str:
    """Return the name of the score that a run is judged by."""
    return {"v_rand": "V_Rand", "dice": f"Dice of {classes[1].name}", "miou": "mean IoU", "pq": "PQ"}[goal]


def _draw_loss(axes: Axes, records: Sequence["Record"], loss: str) -> None:
    """Draw the loss of each step in a light colour, and its moving mean in a dark one."""
    axes.set_title("Training loss", loc="left", fontweight="bold")
    axes.set_ylabel(f"loss ({_short(loss)})")
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
    # a few spikes must not flatten the rest
    axes.set_ylim(0, max(np.percentile(losses, 99.5), smooth.max(), 1e-6) * 1.08)
    axes.legend(frameon=False)


def _draw_scores(axes: Axes, seen: Sequence["Record"], classes: Sequence[LabelClass]) -> None:
    """Draw the score that the run is judged by as a heavy line, and V_Info, F1 and AJI, or the IoU of each class.

    The axis shows the range of the scores. The score of a constant predictor, often far below, is a dotted line if it
    is in that range, and is always in the legend.
    """
    steps = [record.step for record in seen]
    scores = [record.scores for record in seen if record.scores is not None]
    first, name = scores[0], _short(goal_name(scores[0].goal, classes))
    small = 5 if len(seen) <= 40 else 0

    def draw(label: str | None, values: Sequence[float | None], style: str, colour: str, width: float = 1.3) -> None:
        axes.plot(steps, np.array(values, float), style, color=colour, label=label, linewidth=width, markersize=small)

    several = len(first.iou) > _MOST_LINES
    if first.v_rand is not None:
        draw("V_Info", [one.v_info for one in scores], "s-", "#e69f00")
    if first.pq is not None:
        draw("F1 at IoU 0.5", [one.f1 for one in scores], "s-", "#e69f00")
        draw("AJI", [one.aji for one in scores], "^-", "#009e73")
    for n in range(len(first.iou)) if first.v_rand is None and first.pq is None else ():
        values = [found.iou[n] for found in scores]
        if several:
            draw("IoU of each class" if n == 0 else None, values, "-", "#bbbbbb", 0.8)
        else:
            draw(f"IoU of {_short(classes[n].name)}", values, f"{_MARKERS[n]}-", _ink(classes[n]))
    draw("pixel accuracy", [one.accuracy for one in scores], "x--", "#777777")
    draw(name, [one.value for one in scores], "D-", _DARK, 2.6)
    lowest = np.nanmin(np.concatenate([line.get_ydata() for line in axes.lines]))
    for what, floor, colour in (("pixel accuracy", first.floor, "#777777"), (name, first.floor_value, _DARK)):
        axes.axhline(floor, linestyle=":", color=colour, label=f"{what}, always the same class: {floor:.3f}")
    axes.set_title("Scores on the held-out images", loc="left", fontweight="bold")
    # a little room below, and above for markers of scores near 1
    room = 0.05 * max(1 - lowest, 0.01)
    axes.set(xlabel="step", ylim=(lowest - room, 1 + room))
    # below the axes, where it covers no curve
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def _every(count: int) -> int:
    return max(-(-count // _POINTS), 1)


def _marker(records: Sequence["Record"]) -> str:
    return "o" if len(records) == 1 else "-"  # a single point makes no line


def _ink(one: LabelClass) -> str:
    """Return the class's colour, darkened until it shows on white."""
    factor = min(150 / max(np.dot((0.299, 0.587, 0.114), one.rgb), 1), 1.0)
    return "#" + "".join(f"{round(factor * part):02x}" for part in one.rgb)


def _short(name: str, length: int = 28) -> str:
    name = one_line(name)
    return name if len(name) <= length else name[: length - 3] + "..."


def draw_examples(
    examples: Sequence[tuple[np.ndarray, np.ndarray]], scale: Normalisation, classes: Sequence[LabelClass], path: Path
) -> None:
    """Draw inputs of the network, with a white frame around its output and the outlines of labels; write a PNG.

    All share one contrast, to show variations of brightness, contrast and colour.

    Args:
        examples: one or more: input (C, T, T) float, and label (t, t) class ids, t <= T, at the input's centre.
        scale: normalisation of the inputs, to undo.
        classes: names and colours.
        path: file of the PNG.
    """
    side, output = examples[0][0].shape[-1], examples[0][1].shape[-1]
    joined = np.concatenate([image for image, _ in examples], axis=1)
    pictures = stretch(_grey_values(joined, scale)).reshape(-1, side, side, 3)
    panels = [_panel(one, label, classes) for one, (_, label) in zip(pictures, examples, strict=True)]
    legend = list(legend_of(classes))
    if any(np.any(label == IGNORE) for _, label in examples):
        legend.append(("not labelled", UNLABELLED))
    framed = f", which decides the {output} x {output} px in the white frame" if output < side else ""
    picture = sheet(
        [panels[n : n + _ACROSS] for n in range(0, len(panels), _ACROSS)],
        title=f"What the network sees: {side} x {side} px{framed}",
        legends={"outlines": legend},
    )
    save(picture, path)


def _grey_values(inputs: np.ndarray, scale: Normalisation) -> np.ndarray:
    """Undo the normalisation of inputs (C, H, W), in the dtype of the images."""
    mean, std = (np.array(values)[:, None, None] for values in (scale.mean, scale.std))
    values, dtype = inputs * std + mean, np.dtype(scale.dtype)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


def _panel(picture: np.ndarray, label: np.ndarray, classes: Sequence[LabelClass]) -> np.ndarray:
    """Draw frame and outlines into an input (T, T, 3) uint8, reduced or enlarged to a handy size."""
    factor = -(-len(picture) // _LARGEST)
    panel = np.array(Image.fromarray(picture).reduce(factor))
    ids = label.astype(np.uint8)[::factor, ::factor]
    top = (len(picture) - len(label)) // 2 // factor
    inner = panel[top : top + len(ids), top : top + len(ids)]
    inner[:] = overlay(paint(inner, ids == IGNORE, UNLABELLED, 0.6), ids, classes, 0)
    if top >= 2:  # white inside black is visible on any image
        for width, grey in ((2, 0), (1, 255)):
            first, last = top - width, top + len(ids) + width - 1
            panel[[first, last], first : last + 1] = grey
            panel[first : last + 1, [first, last]] = grey
    return enlarged(panel, _SMALLEST)


def worst_first(scores: "Scores") -> list[int]:
    """Return the positions of the sections, the worst score first."""
    return sorted(range(len(scores.sections)), key=lambda n: scores.sections[n][1])


def draw_samples(
    sections: Sequence[Section],
    found: "Validation",
    order: Sequence[int],
    classes: Sequence[LabelClass],
    path: Path,
    title: str,
) -> None:
    """Draw images, labels, predictions and errors of some sections; write a PNG.

    Args:
        sections, found: all sections, and what was predicted there.
        order: positions of those to draw.
        classes: names and colours; of instances, whose objects have colours of their own, the first two count.
        path, title: file and heading.
    """
    scores, samples = found.scores, []
    for n in order:
        name, value = scores.sections[n]
        objects = None if found.objects is None else found.objects[n]
        samples.append(_sample(f"{name}: {GOAL_NAMES[scores.goal]} {value:.3f}", sections[n], found.masks[n], objects))
    save(compare(samples, classes if found.objects is None else classes[:2], title), path)


def _sample(caption: str, section: Section, mask: np.ndarray, objects: np.ndarray | None) -> Sample:
    """A section and its predicted mask, or of instances the objects in both."""
    if objects is None or section.objects is None:
        return Sample(caption, section.image, section.label, mask)
    truth = np.where(section.label == IGNORE, np.uint8(IGNORE), section.objects > 0).astype(np.uint8)
    return Sample(caption, section.image, truth, (objects > 0).astype(np.uint8), (section.objects, objects))
