"""Compare the pixel size of an image with that in training."""

from tilesegment.images.source import ImageSource
from tilesegment.metadata import TOLERATED, PixelSize, size_difference


def resolution_notes(
    source: ImageSource, trained: PixelSize | None, level: int, diameter: float | None = None
) -> tuple[str, ...]:
    """Return a note with advice if the pixels of `level` differ in size from those in training.

    Empty where either size is unknown, unless it is known how large the objects were. A model trained at a lower
    `--scale` reduces images itself: `trained` is the size of what it is given.

    Args:
        source: the image.
        trained: pixel size in training.
        level: that is predicted.
        diameter: of the objects in training, in pixels.
    """
    base = source.pixel_size
    if base is None or trained is None:
        if diameter is None or len(source.levels) > len(source.stored_levels):
            return ()
        return (
            f"{source.path}: the model was trained on objects about {diameter:.3g} px across; if those here are of "
            "another size, give it with --diameter PX",
        )
    sizes = [PixelSize(base.y * one.scale[0], base.x * one.scale[1]) for one in source.levels]
    differences = [size_difference(size, trained) for size in sizes]
    if differences[level] <= TOLERATED:
        return ()
    best = differences.index(min(differences))
    advice = "--mpp model resamples the image to their size"
    if differences[best] <= TOLERATED:
        advice = f"--level {best} has such pixels, {advice}"
    here, factors = sizes[level], (trained.y / sizes[level].y, trained.x / sizes[level].x)
    factor = max(factors, key=lambda one: abs(one - 1))
    which = f"pixels of level {level}" if level < len(source.stored_levels) else "resampled pixels"
    return (
        f"{source.path}: {which} are {here} um, those that the model was trained on {trained} um, so objects look "
        f"{factor:.2g} times as large as in training: {advice}",
    )
