"""What the network is trained on: some augmented examples on one sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tilesegment.metadata import LabelClass
from tilesegment.models.header import Normalisation
from tilesegment.preview import overlay, stretch
from tilesegment.training.data import IGNORE
from tilesegment.training.samples import UNLABELLED, painted
from tilesegment.training.sheet import draw_sheet, enlarged

_ACROSS = 4
_LARGEST, _SMALLEST = 400, 240  # sides of a panel in pixels


def draw_examples(
    examples: Sequence[tuple[np.ndarray, np.ndarray]], scale: Normalisation, classes: Sequence[LabelClass], path: Path
) -> None:
    """Draw the network's inputs, a white frame where its output lies, and the labels' outlines within it.

    All panels are drawn alike, so that variations of brightness, contrast and colour show. Writes a PNG to `path`.

    Args:
        examples: one or more: input (C, T, T) float and label (t, t) class ids, t <= T, at the input's centre; `IGNORE`
            where there is no label.
        scale: normalisation of the inputs; without it, they have the colours of the images.
        classes: names and colours.
        path: of the PNG.
    """
    side = examples[0][0].shape[-1]
    joined = np.concatenate([image for image, _ in examples], axis=1)
    pictures = stretch(_grey_values(joined, scale)).reshape(-1, side, side, 3)
    panels = [_panel(one, label, tuple(classes)) for one, (_, label) in zip(pictures, examples, strict=True)]
    legend = {one.name: one.colour for one in classes[1:]}
    if any(np.any(label == IGNORE) for _, label in examples):
        legend["not labelled"] = UNLABELLED
    output = examples[0][1].shape[-1]
    framed = f", which decides the {output} x {output} px in the white frame" if output < side else ""
    draw_sheet(
        path,
        [panels[n : n + _ACROSS] for n in range(0, len(panels), _ACROSS)],
        title=f"What the network sees: {side} x {side} px{framed}",
        legends={"outlines": legend},
    )


def _grey_values(inputs: np.ndarray, scale: Normalisation) -> np.ndarray:
    """Inputs (C, H, W) as the grey values that they stand for, in the type of the images."""
    mean, std = (np.array(values)[:, None, None] for values in (scale.mean, scale.std))
    values, dtype = inputs * std + mean, np.dtype(scale.dtype)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


def _panel(picture: np.ndarray, label: np.ndarray, classes: tuple[LabelClass, ...]) -> np.ndarray:
    """One input (T, T, 3) uint8 with frame and outlines, reduced or enlarged to a handy size."""
    margin = (len(picture) - len(label)) // 2
    factor = -(-len(picture) // _LARGEST)
    panel = np.array(Image.fromarray(picture).reduce(factor))
    ids = label.astype(np.uint8)[::factor, ::factor]
    top = margin // factor
    inner = panel[top : top + len(ids), top : top + len(ids)]
    # outlines on black, so that the picture below is not stretched once more
    lines = overlay(np.zeros((1, *ids.shape), np.uint8), ids, classes, 0)
    inner[:] = np.where(lines.any(-1, keepdims=True), lines, painted(inner, ids == IGNORE, UNLABELLED, 0.6))
    if top >= 2:  # white within black shows on any image
        for width, grey in ((2, 0), (1, 255)):
            first, last = top - width, top + len(ids) + width - 1
            panel[[first, last], first : last + 1] = grey
            panel[first : last + 1, [first, last]] = grey
    return enlarged(panel, _SMALLEST)
