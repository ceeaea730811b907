"""Compare the pixel size of an image with that in training."""

from tilesegment.images.source import ImageSource
from tilesegment.metadata import TOLERATED, PixelSize, size_difference


def resolution_notes(source: ImageSource, trained: PixelSize | None, level: int) -> tuple[str, ...]:
    """Return a note with advice if the pixels of `level` differ in size from those in training.

    Empty where either size is unknown. A model trained at a lower `--scale` reduces images itself: `trained` is the
    size of what it is given.
    """
    if source.pixel_size is None or trained is None:
        return ()
    base = source.pixel_size
    sizes = [PixelSize(base.y * one.scale[0], base.x * one.scale[1]) for one in source.levels]
    differences = [size_difference(size, trained) for size in sizes]
    if differences[level] <= TOLERATED:
        return ()
    best = differences.index(min(differences))
    advice = "resample the image, or train on such images"
    if differences[best] <= TOLERATED:
        advice = f"--level {best} has such pixels"
    here, factors = sizes[level], (trained.y / sizes[level].y, trained.x / sizes[level].x)
    factor = max(factors, key=lambda one: abs(one - 1))
    return (
        f"{source.path}: pixels of level {level} are {_text(here)} um, those that the model was trained on "
        f"{_text(trained)} um, so objects look {factor:.2g} times as large as in training: {advice}",
    )


def _text(size: PixelSize) -> str:
    return f"{size.y:.3g}" if size.y == size.x else f"{size.y:.3g} x {size.x:.3g}"
