"""The figure of an evaluation: the worst images and the best, their truth, prediction and errors."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tilesegment.draw import Sample, check_picture, compare, reduce, save
from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.labels.label import LabelOptions
from tilesegment.scoring.inputs import open_pair
from tilesegment.scoring.matching import Matching, Plane
from tilesegment.scoring.results import Evaluation, ImageScore
from tilesegment.stores import Place

_PANEL = 560  # most pixels a side; larger images are reduced
_NAME = 40  # most letters of a name


def check_figure(path: Path, inputs: Sequence[Place]) -> None:
    """Check that a figure can be written to `path`, before hours of work.

    Raises:
        MaskError: the suffix is not allowed, or there is no such folder.
        DataError: it would overwrite an input.
    """
    check_picture(path)
    files = [one.resolve() for one in inputs if isinstance(one, Path)]
    if any(file in (path.resolve(), *path.resolve().parents) for file in files):
        raise DataError(f"figure {path} is, or lies in, what is compared; choose another place")


def draw_figure(
    path: Path, planes: Sequence[Plane], found: Evaluation, matching: Matching, options: LabelOptions
) -> None:
    """Draw the two worst images and the best one (all, if up to three) by V_Rand, or by mIoU if cells are not scored.

    Args:
        path: `.png` or `.jpg`.
        planes: all planes.
        found: their scores, in the same order.
        matching: meaning of the values.
        options: how the files are opened.

    Raises:
        MaskError: it cannot be written.
        ImageError: an image cannot be read.
    """
    samples = [
        _sample(f"{rank}{_words(found.images[n])}", planes[n], matching, options)
        for rank, n in worst_and_best(found.images)
    ]
    save(compare(samples, matching.classes, "Prediction and truth"), path)


def worst_and_best(images: Sequence[ImageScore]) -> list[tuple[str, int]]:
    """Choose the images to draw: return rank in words, and index; none if no image has a score."""
    order = sorted((score, n) for n, one in enumerate(images) if (score := _score(one)) is not None)
    if not order:
        return []
    ranks = {1: [""], 2: ["worst, ", "best, "]}.get(len(order), ["worst, ", "second worst, ", "best, "])
    return [(rank, n) for rank, (_, n) in zip(ranks, [*order[: len(ranks) - 1], order[-1]], strict=True)]


def _score(image: ImageScore) -> float | None:
    """The score that ranks images: PQ of objects, V_Rand of cells, else mIoU."""
    if image.objects is not None:
        return image.objects.pq
    return image.miou if image.v_rand is None else image.v_rand


def _words(score: ImageScore) -> str:
    values = {"accuracy": score.accuracy, "mIoU": score.miou, "V_Rand": score.v_rand, "V_Info": score.v_info}
    words = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if value is not None)
    return f"{score.name[-_NAME:]}: {words}"


def _sample(caption: str, plane: Plane, matching: Matching, options: LabelOptions) -> Sample:
    factor, name = -(-max(plane.shape) // _PANEL), plane.pair.name

    def reduced(read: Callable[[Region], np.ndarray]) -> np.ndarray:
        return reduce(lambda region: read(region)[None], plane.shape, factor)[0]

    with open_pair(plane.pair, options) as (prediction, truth):
        true = reduced(lambda region: matching.truth.ids(truth.read(region, plane.z), name))
        guess = reduced(lambda region: matching.predicted_ids(prediction.read(region, plane.z), name))
    pixels = None
    if plane.pair.image is not None:
        with open_image(plane.pair.image, invert=options.invert) as image:
            pixels = reduce(lambda region: image.read(region, 0, plane.z), plane.shape, factor, mean=True)
    return Sample(caption, pixels, true, guess)
