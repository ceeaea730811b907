"""Where on an image a mask lies: by its record, by its pixel size and position, or by its size."""

import math

from tilesegment.errors import MaskError
from tilesegment.images import ImageSource
from tilesegment.masks import MaskSpec
from tilesegment.metadata import MICROMETRE, Spacing
from tilesegment.objects.plan import first_pixel
from tilesegment.viewer.layer import Placement

_BEYOND = 1.0  # pixels of its own by which a mask may reach beyond the image: sides are rounded
_SHAPE_AGREES = 1.0  # pixels by which the side of a reduced mask may be off


def recorded_place(spec: MaskSpec) -> Placement:
    """Return where a mask of ours, or ids that were made of one, lies on the image that it was made of."""
    (y, x), (sy, sx), (height, width) = first_pixel(spec), spec.scale, spec.shape
    return Placement(y, x, height * sy, width * sx)


def check_place(placement: Placement, image: ImageSource, what: str, made_of: str) -> None:
    """Check that a mask lies on the image.

    Args:
        placement: of the mask.
        image: that is shown.
        what: name of the mask.
        made_of: name of the image that it was made of; empty if unknown.

    Raises:
        MaskError: it reaches beyond it.
    """
    sides = ((placement.y, placement.height, image.shape[0]), (placement.x, placement.width, image.shape[1]))
    # of a level whose sides were rounded up, the last pixel may reach beyond the image
    if all(start >= -1 and start + length <= side * 1.02 + 2 for start, length, side in sides):
        return
    y0, x0 = placement.y, placement.x
    covers = f"{y0:g}:{y0 + placement.height:g},{x0:g}:{x0 + placement.width:g}"
    raise MaskError(
        f"{what} covers y0:y1,x0:x1 {covers} of {made_of or 'its image'}, and {image.path} is {image.shape[0]} x "
        f"{image.shape[1]} (y, x): name the image that it was made of"
    )


def found_place(source: ImageSource, image: ImageSource) -> Placement:
    """Return where a label image of another program lies: by its position, if it says so, else by its size.

    Raises:
        MaskError: nothing tells.
    """
    placed = _by_position(source, image)
    if placed is not None:
        return placed
    if _is_reduced(source.shape, image.shape):
        return Placement(0, 0, *image.shape)
    (height, width), (tall, wide) = source.shape, image.shape
    raise MaskError(
        f"{source.path} is {height} x {width} (y, x) and {image.path} {tall} x {wide}: neither its size nor its pixel "
        "size and position tell where it lies; name the label image of this image"
    )


def _is_reduced(shape: tuple[int, int], whole: tuple[int, int]) -> bool:
    """Whether one shape is the other, reduced or enlarged: by the same factor along both sides, but for rounding."""
    (height, width), (tall, wide) = shape, whole
    return abs(height * wide - width * tall) <= _SHAPE_AGREES * max(tall, wide)


def _by_position(source: ImageSource, image: ImageSource) -> Placement | None:
    """Return where it lies by pixel size and position; None if these are unknown, or lie outside the image."""
    if (source.frame.y.origin, source.frame.x.origin) == (image.frame.y.origin, image.frame.x.origin):
        return None  # most files say nothing of it
    starts, sides = [], []
    for here, there, count, whole in (
        (source.frame.y, image.frame.y, source.shape[0], image.shape[0]),
        (source.frame.x, image.frame.x, source.shape[1], image.shape[1]),
    ):
        if not (_is_known(here) and _is_known(there)):
            return None
        scale = here.scale / there.scale
        # origins are those of the centres of pixels
        start = (here.origin - there.origin) / there.scale + 0.5 - scale / 2
        if start < -_BEYOND * scale or start + count * scale > whole + _BEYOND * scale:
            return None
        starts.append(round(start, 6))
        sides.append(count * scale)
    return Placement(starts[0], starts[1], sides[0], sides[1])


def _is_known(spacing: Spacing) -> bool:
    return spacing.unit == MICROMETRE and spacing.scale > 0 and math.isfinite(spacing.origin)
