"""The pixel sizes of training images, and how images of several sizes are read at one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tilesegment.errors import DataError
from tilesegment.images import ImageSource
from tilesegment.images.resampled import at_scale
from tilesegment.labels.files import some_of
from tilesegment.labels.resampled import resampled_shape
from tilesegment.metadata import TOLERATED, PixelSize, size_difference
from tilesegment.prediction.resolution import level_at, step_between

_LISTED = 12  # images of a size that are named


@dataclass(frozen=True)
class Fitted:
    """How an image is read.

    Attributes:
        name: of its pair of image and label.
        size: of its pixels as stored, None if unknown.
        shape: (H, W) of what is read; with a wanted size, those pixels whose centres lie within the image.
        scale: (y, x) pixels of level 0 that one of these pixels spans.
        level: number of the level that is read, of `at_scale(image, step)`.
        step: (y, x) pixels of level 0 per pixel of a level that is computed; None for a stored one.
    """

    name: str
    size: PixelSize | None
    shape: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    level: int = 0
    step: tuple[float, float] | None = None


@dataclass(frozen=True)
class Sizing:
    """The pixel size at which images are read, `mpp`, and that of all their files; None if not chosen."""

    mpp: float | None = None
    source_mpp: float | None = None

    def assume(self, image: ImageSource) -> None:
        """Give an image the pixel size that was given for all; a note on it tells if its file says otherwise."""
        if self.source_mpp is not None:
            image.assume_pixel_size(PixelSize(self.source_mpp, self.source_mpp))

    def check(self, said: Mapping[str, PixelSize | None]) -> None:
        """Refuse to take one pixel size for images whose files, by their names, say several or only partly say one.

        Raises:
            DataError: sizes that are right would become wrong.
        """
        if self.source_mpp is None:
            return
        given = PixelSize(self.source_mpp, self.source_mpp)
        sizes = {name: size or given for name, size in said.items()}
        low, high = (choose(sizes, key=lambda name: sizes[name].y * sizes[name].x) for choose in (min, max))
        if size_difference(sizes[high], sizes[low]) > TOLERATED:
            words = [f"{name}: {said[name] or 'not said'}" for name in (low, high)]
            raise DataError(
                f"--source-mpp {self.source_mpp:g} counts for all images, whose files say several sizes "
                f"({', '.join(words)}); leave it out, and write the size into the files that lack it"
            )

    def fit(self, name: str, image: ImageSource) -> Fitted:
        """Choose how the image called `name` is read; its size was assumed if need be.

        Raises:
            DataError: it does not say how large its pixels are.
            PlanError: they differ too much from the wanted ones.
        """
        size = image.pixel_size
        if self.mpp is None:
            return Fitted(name, size, image.shape)
        if size is None:
            raise DataError(
                f"--mpp is {self.mpp:g}, but image {name} does not say how large its pixels are; give --source-mpp "
                "MICRONS, which counts for all images, or leave --mpp out to train in pixels"
            )
        step = step_between(PixelSize(self.mpp, self.mpp), size)
        chosen = level_at(image, step, f"--mpp {self.mpp:g}")
        level = at_scale(image, chosen.step).levels[chosen.level]
        height, width = resampled_shape(image.shape, level.scale)
        shape = (min(height, level.shape[0]), min(width, level.shape[1]))
        return Fitted(name, size, shape, level.scale, chosen.level, chosen.step)

    def common(self, fitted: Sequence[Fitted]) -> PixelSize | None:
        """Return the pixel size of what is read, None if images differ or do not say."""
        if self.mpp is not None:
            return PixelSize(self.mpp, self.mpp)
        sizes = {one.size for one in fitted}
        return sizes.pop() if len(sizes) == 1 else None


def size_words(fitted: Sequence[Fitted], common: PixelSize | None) -> list[str]:
    """Say which images have which pixel size and, if they are resampled, how: lines of a table; the first sums up."""
    sizes = {one.size for one in fitted}
    are_resampled = any(one.step is not None or one.level for one in fitted)
    if common is None and sizes <= {None}:
        return ["unknown; if you know it, give --source-mpp MICRONS"]
    head = "of several sizes" if common is None else f"{common.y:.4g} x {common.x:.4g} micrometres (y, x)"
    if sizes <= {common} and not are_resampled:
        return [head]
    lines = [head + (", to which images are brought:" if common is not None else ":")]
    groups: dict[tuple[PixelSize | None, tuple[float, float], int, bool], list[str]] = {}
    for one in fitted:
        groups.setdefault((one.size, one.scale, one.level, one.step is None), []).append(one.name)
    for (size, scale, level, is_stored), names in groups.items():
        how = ""
        if common is not None:
            factor = " x ".join(f"{side:.4g}" for side in dict.fromkeys(scale))
            read = f"level {level} as it is" if is_stored else "resampled"
            how = f", factor {factor}, {read}"
        lines.append(f"{'unknown' if size is None else f'{size} um'}{how}: {some_of(names, _LISTED)}")
    return lines


def size_warnings(fitted: Sequence[Fitted], common: PixelSize | None) -> tuple[str, ...]:
    """Warn of images whose pixels differ in size, so that objects do."""
    sizes = [one.size for one in fitted if one.size is not None]
    if common is not None or not sizes:
        return ()
    low, high = (choose(sizes, key=lambda one: one.y * one.x) for choose in (min, max))
    if size_difference(high, low) <= TOLERATED:
        return ()
    return (
        f"images have pixels of {low} to {high} um, so that the same object is of several sizes: --mpp {high} brings "
        "all to one",
    )
