"""Whether an image has pixels of the size that a model was trained on."""

from tilesegment.images.source import ImageSource
from tilesegment.metadata import TOLERATED, PixelSize, size_difference


def resolution_notes(source: ImageSource, trained: PixelSize | None, level: int) -> tuple[str, ...]:
    """A note where the pixels of `level` differ from those that the model was `trained` on, and what to do.

    Empty where either size is unknown. A model trained at a lower `--scale` reduces images itself: `trained` is the
    size of what it is given.
    """
    if source.pixel_size is None or trained is None or _difference(source, level, trained) <= TOLERATED:
        return ()
    here = _size(source, level)
    nearest = min(range(len(source.levels)), key=lambda number: _difference(source, number, trained))
    advice = "resample the image, or train on such images"
    if nearest != level and _difference(source, nearest, trained) <= TOLERATED:
        advice = f"--level {nearest} has such pixels"
    sizes = f"pixels of level {level} are {_text(here)} um, those that the model was trained on {_text(trained)} um"
    return (f"{source.path}: {sizes}, so objects look {_factor(here, trained)}: {advice}",)


def _size(source: ImageSource, level: int) -> PixelSize:
    size, (sy, sx) = source.pixel_size, source.levels[level].scale
    assert size is not None
    return PixelSize(size.y * sy, size.x * sx)


def _difference(source: ImageSource, level: int, trained: PixelSize) -> float:
    """The larger of the differences along y and x, in parts of the model's pixel size."""
    return size_difference(_size(source, level), trained)


def _factor(here: PixelSize, trained: PixelSize) -> str:
    factor = trained.x / here.x if abs(trained.x / here.x - 1) > abs(trained.y / here.y - 1) else trained.y / here.y
    return f"{factor:.2g} times as large as in training"


def _text(size: PixelSize) -> str:
    return f"{size.y:.3g}" if size.y == size.x else f"{size.y:.3g} x {size.x:.3g}"
