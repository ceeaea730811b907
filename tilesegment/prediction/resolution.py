"""The pixel size at which an image is predicted: that of a stored level, or the one that the model expects."""

from dataclasses import dataclass

from tilesegment.errors import PlanError
from tilesegment.images import ImageSource, open_image
from tilesegment.images.arrays import ImageArray
from tilesegment.images.layout import Choices
from tilesegment.images.resampled import base_level
from tilesegment.metadata import TOLERATED, PixelSize, size_difference
from tilesegment.models.header import ModelHeader
from tilesegment.prediction.settings import Settings
from tilesegment.stores import Place

_SAME = 0.02  # a level whose pixels differ by no more is read as it is: augmentation varies sizes ten times as much
_MOST = 16.0  # times that a pixel is larger than those it is made of, or smaller


@dataclass(frozen=True)
class Resolution:
    """What is read of an image.

    Attributes:
        level: its number, of the image as `at_scale` wraps it.
        step: (y, x) pixels of level 0 per pixel of a level that is resampled; None for a stored one.
        notes: for the user.
    """

    level: int
    step: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def open_source(path: str | Place | ImageArray, settings: Settings) -> ImageSource:
    """Open an image, or an array, as the settings say, with their pixel size if they give one.

    Raises:
        ImageError: as `open_image`.
    """
    if isinstance(path, ImageArray):
        choices = Choices(settings.axes, settings.select or {}, settings.series, settings.invert)
        source: ImageSource = path.open(choices)
    else:
        source = open_image(path, **settings.reading)
    if settings.source_mpp is not None:
        source.assume_pixel_size(PixelSize(settings.source_mpp, settings.source_mpp))
    return source


def choose_resolution(source: ImageSource, header: ModelHeader, settings: Settings) -> Resolution:
    """Choose the level that is predicted: the one named, one that fits, or a resampled one.

    Raises:
        PlanError: there is no such level, image or model do not say how large their pixels or objects are, or the
            pixels would differ too much from all that are stored.
    """
    if settings.diameter is None and settings.mpp is None:
        if not 0 <= settings.level < len(source.levels):
            raise PlanError(f"--level is {settings.level}; {source.path} has levels 0 to {len(source.levels) - 1}")
        return Resolution(settings.level)
    if settings.diameter is not None:
        return level_at(source, _step_of_diameter(header, settings.diameter), f"--diameter {settings.diameter:g}")
    return level_at(source, _step_of_mpp(source, header, settings), f"--mpp {_text(settings.mpp)}")


def level_at(source: ImageSource, step: tuple[float, float], wanted: str) -> Resolution:
    """Choose a stored level whose pixels span about `step` (y, x) pixels of level 0, or a resampled one of just that.

    Args:
        source: the image.
        step: positive.
        wanted: the option that asks for it, for messages.

    Raises:
        PlanError: pixels would differ too much from all that are stored.
    """
    factors = [tuple(s / t for s, t in zip(step, one.scale, strict=True)) for one in source.levels]
    off = [max(abs(one - 1) for one in each) for each in factors]
    nearest = off.index(min(off))
    if off[nearest] <= _SAME:
        note = f"{source.path}: {wanted} is the size of level {nearest} within 2 %, which is read as it is"
        return Resolution(nearest, None, (note,))
    base = base_level(source, step)
    worst = max(factors[base], key=lambda one: max(one, 1 / one))
    if not 1 / _MOST <= worst <= _MOST:
        raise PlanError(
            f"{source.path}: with {wanted} a pixel would span {worst:.4g} of those of level {base}; allowed: "
            f"1/{_MOST:.0f} to {_MOST:.0f} (is the pixel size right? tileseg info shows those of image and model)"
        )
    spans = " x ".join(f"{one:.4g}" for one in dict.fromkeys(step))
    return Resolution(
        len(source.levels),
        step,
        (f"{source.path}: {wanted}: each pixel spans {spans} of level 0, resampled from level {base}",),
    )


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
        sized = trained is not None  # so that it is the image that lacks a size
        return (
            f"{source.path}{' does not say how large its pixels are' if sized else ''}: the model was trained on "
            f"objects about {diameter:.3g} px across; if those here are of another size, give it with --diameter PX"
            + (", or --mpp model with --source-mpp MICRONS" if sized else ""),
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


def _step_of_diameter(header: ModelHeader, diameter: float) -> tuple[float, float]:
    if header.diameter is None:
        raise PlanError(
            f"--diameter is {diameter:g}, but the model {header.name} does not say how large objects were in its "
            "training; give --mpp or --level, or a model of which tileseg info shows diameter_px"
        )
    return _rounded(diameter / header.diameter), _rounded(diameter / header.diameter)


def _step_of_mpp(source: ImageSource, header: ModelHeader, settings: Settings) -> tuple[float, float]:
    wanted, size = header.pixel_size, source.pixel_size
    if not isinstance(settings.mpp, str):
        assert settings.mpp is not None
        wanted = PixelSize(settings.mpp, settings.mpp)
    if wanted is None:
        raise PlanError(
            f"--mpp is model, but the model {header.name} does not say how large pixels were in its training; give "
            "--mpp MICRONS"
        )
    if size is None:
        raise PlanError(
            f"--mpp is {_text(settings.mpp)}, but {source.path} does not say how large its pixels are; give "
            "--source-mpp MICRONS, too, or --diameter PX instead (of many images, columns mpp or diameter of a --list)"
        )
    return step_between(wanted, size)


def step_between(wanted: PixelSize, size: PixelSize) -> tuple[float, float]:
    """Return the (y, x) pixels of `size` that a pixel of the `wanted` size spans."""
    return _rounded(wanted.y / size.y), _rounded(wanted.x / size.x)


def _rounded(step: float) -> float:
    """Round a step that is whole but for the rounding of pixel sizes in files."""
    whole = round(step)
    return float(whole) if whole and abs(step / whole - 1) < 1e-6 else step


def _text(mpp: float | str | None) -> str:
    return mpp if isinstance(mpp, str) else f"{mpp:g}"
