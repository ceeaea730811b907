"""The figure of an evaluation of objects: outlines of the true and the predicted ones, coloured by what became of them.

The worst images and the best are drawn. Objects that match are found; of the others, true ones are missed, split or
merged, predicted ones made up or pieces of a split one, and a prediction that merges several is drawn so in any case.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tilesegment.draw import enlarged, paint, save, sheet, stretch
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.labels.label import LabelOptions
from tilesegment.scoring.figure import worst_and_best
from tilesegment.scoring.instances import Readings, open_objects
from tilesegment.scoring.object_evaluation import ObjectPlane
from tilesegment.scoring.objects import matches, merging_predictions, split_objects, swallowed
from tilesegment.scoring.overlaps import Overlaps
from tilesegment.scoring.results import Evaluation, ImageScore

FOUND, MISSED, MADE_UP, SPLIT, MERGED = range(5)
# Okabe and Ito (2008), distinguishable by colour-blind readers, and bright on grey
_COLOURS = ("#009e73", "#d55e00", "#56b4e9", "#f0e442", "#cc79a7")
_WORDS = ("found", "missed", "made up", "split, and its pieces", "merged")
_PANEL = 700  # most pixels a side; of larger images a part is drawn
_ENLARGED = 560  # small ones are enlarged up to this
_MOST_WINDOWS = 64  # that are looked at for the worst one
_BARE, _DIM = 70, 0.7  # grey without an image, and what is left of an image's brightness below outlines
_FILL, _LINE = 0.3, 0.95  # opacities
_NAME = 40  # most letters of a name


def fates(table: Overlaps) -> tuple[np.ndarray, np.ndarray]:
    """Say what became of each true and each predicted object: (n,) and (m,) int64, FOUND to MERGED."""
    split, merging, pairs = split_objects(table), merging_predictions(table), matches(table, 0.5)
    truth, prediction = np.full(table.truth.size, MISSED), np.full(table.prediction.size, MADE_UP)
    truth[table.rows[swallowed(table) & merging[table.columns]]] = MERGED
    truth[split] = SPLIT
    truth[table.rows[pairs]] = FOUND
    inner = 2 * table.pixels >= table.prediction_area[table.columns]
    prediction[table.columns[inner & split[table.rows]]] = SPLIT
    prediction[table.columns[pairs]] = FOUND
    prediction[merging] = MERGED
    return truth, prediction


def draw_objects(
    path: Path, planes: Sequence[ObjectPlane], found: Evaluation, readings: Readings, options: LabelOptions
) -> None:
    """Draw the two worst images and the best one (all, if up to three) by panoptic quality.

    Args:
        path: `.png` or `.jpg`.
        planes: all planes.
        found: their scores, in the same order.
        readings: what their files hold.
        options: how they are opened.

    Raises:
        MaskError: it cannot be written.
        ImageError: an image cannot be read.
    """
    chosen = worst_and_best(found.images) or [("", 0)]
    pictured = planes[0].pair.image is not None
    save(
        sheet(
            [_panels(planes[n], readings, options) for _, n in chosen],
            title="Predicted and true objects",
            headings=("image", "truth", "prediction")[not pictured :],
            captions=[f"{rank}{_words(found.images[n])}" for rank, n in chosen],
            legends={"outlines": list(zip(_WORDS, _COLOURS, strict=True))},
        ),
        path,
    )


def _words(score: ImageScore) -> str:
    """Name an image, its scores and the numbers of its objects."""
    objects = score.objects
    assert objects is not None, "only planes with scores of objects are drawn"
    half = objects.at[0]
    scores = {"F1": half.f1, "AP": half.ap, "PQ": objects.pq, "AJI": objects.aji}
    words = [f"{name} {value:.3f}" for name, value in scores.items() if value is not None]
    counts = f"{half.found} found, {half.missed} missed, {half.made_up} made up"
    more = f", {objects.split} split, {objects.merged} merged"
    return f"{score.name[-_NAME:]}: {', '.join([*words, counts])}{more}"


def _panels(plane: ObjectPlane, readings: Readings, options: LabelOptions) -> list[np.ndarray]:
    """The image if there is one, and the outlines of the truth and the prediction over it, (h, w, 3) uint8 each."""
    table, known_fates = plane.overlaps, fates(plane.overlaps)
    with open_objects(plane.pair, readings, options) as (guesses, trues):

        def fates_in(window: Region) -> list[np.ndarray]:
            ids = trues.read(window, plane.z), guesses.read(window, plane.z)
            pairs = zip(ids, (table.truth, table.prediction), known_fates, strict=True)
            return [np.stack([one, _fate_of(one, known, fate)]) for one, known, fate in pairs]

        window = _worst_window(plane.shape, fates_in)
        objects = fates_in(window)
    if plane.pair.image is None:
        images = []
        base = np.full((*window.shape, 3), _BARE, np.uint8)
    else:
        with open_image(plane.pair.image, invert=options.invert) as image:
            images = [enlarged(stretch(image.read(window, 0, plane.z)), _ENLARGED)]
        base = images[0]
    grey = np.rint(base.mean(axis=-1, keepdims=True) * _DIM).astype(np.uint8).repeat(3, axis=-1)
    times = max(_ENLARGED // max(window.shape), 1)
    grey = grey if images else enlarged(grey, _ENLARGED)
    return [*images, *(_outlined(grey, one.repeat(times, axis=1).repeat(times, axis=2)) for one in objects)]


def _worst_window(shape: tuple[int, int], fates_in: Callable[[Region], list[np.ndarray]]) -> Region:
    """The part of a plane that is drawn: the plane, or of some windows in a large one that with most wrong objects."""
    whole = Region.of_shape(shape)
    windows = list(whole.squares(_PANEL))
    if len(windows) == 1:
        return whole
    step = -(-len(windows) // _MOST_WINDOWS)

    def wrong(window: Region) -> tuple[int, int]:
        held = [(ids[fate > FOUND], ids[fate >= FOUND]) for ids, fate in fates_in(window)]
        bad, every = (sum(np.unique(one[part]).size for one in held) for part in (0, 1))
        return bad, every

    return max(windows[::step], key=wrong)


def _fate_of(ids: np.ndarray, known: np.ndarray, fate: np.ndarray) -> np.ndarray:
    """The fate of each pixel's object, (h, w) int64; -1 for background, and for objects that are not counted."""
    if not known.size:
        return np.full(ids.shape, -1)
    places = np.searchsorted(known, ids.astype(np.int64)).clip(max=known.size - 1)
    return np.where(known[places] == ids, fate[places], -1)


def _outlined(picture: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Draw the outlines of objects, ids and fates (2, h, w), inside their edges; those not found are filled lightly."""
    ids, fate = objects
    padded, (height, width) = np.pad(ids, 2, mode="edge"), ids.shape
    edge = np.zeros(ids.shape, bool)
    for y, x in ((1, 2), (3, 2), (2, 1), (2, 3), (0, 2), (4, 2), (2, 0), (2, 4)):
        edge |= padded[y : y + height, x : x + width] != ids
    for number, colour in enumerate(_COLOURS):
        where = fate == number
        if number != FOUND:
            picture = paint(picture, where & ~edge, colour, _FILL)
        picture = paint(picture, where & edge, colour, _LINE)
    return picture
