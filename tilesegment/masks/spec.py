"""What a mask is, before a pixel is written: its size, how it is stored, what its ids mean, what decided its pixels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from tilesegment.errors import MaskError
from tilesegment.metadata import (
    UNKNOWN_FRAME,
    Frame,
    LabelClass,
    PixelSize,
    Spacing,
    frame_of_size,
    part_of_frame,
    size_of,
)

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None


@dataclass(frozen=True)
class MaskSpec:
    """A mask of class ids (uint8), whole or in progress.

    Attributes:
        shape: (height, width) in pixels.
        depth: planes along z; None for a mask without a z axis.
        block: side in pixels of a block, which is one stored object; a whole number of chunks.
        chunk: side in pixels of a chunk, the least that can be read.
        classes: what the ids mean; the id is the position.
        pixel_size: of the mask's own pixels, in micrometres; None if it is not known.
        offset: (y, x) of the mask's first pixel in the image, in pixels of the mask.
        scale: (y, x) pixels of the image's level 0 that one pixel of the mask stands for.
        first_plane: of the image, that is plane 0 of the mask.
        frame: where pixels and planes of the image's level 0 lie, in micrometres where that is known.
        fingerprint: what decides the pixels; a mask in progress is gone on with only under the same fingerprint.
        provenance: whatever else is recorded.
    """

    shape: tuple[int, int]
    depth: int | None
    block: int
    chunk: int
    classes: tuple[LabelClass, ...]
    pixel_size: PixelSize | None
    offset: tuple[float, float] = (0, 0)
    scale: tuple[float, float] = (1, 1)
    first_plane: int = 0
    frame: Frame = UNKNOWN_FRAME
    fingerprint: Mapping[str, JSON] = field(default_factory=dict)
    provenance: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert min(self.shape) > 0
        assert self.depth is None or self.depth > 0
        # a chunk is decoded whole: 256 MiB is the most that a reader is made to hold
        assert 0 < self.chunk <= 1 << 14
        assert self.block in range(self.chunk, 1 << 20, self.chunk), "a block is a whole number of chunks"
        assert 0 < len(self.classes) <= 256, "an id is one byte"

    def placed(self, image: Frame | None = None) -> Frame:
        """Return where the mask's pixels lie, in the units of `image`, by default of its own image."""
        first = (self.first_plane, *self.offset)
        return part_of_frame(image or self.frame, scale=self.scale, first=first, size=self.pixel_size)

    def layout(self) -> dict[str, Any]:
        """All but fingerprint and provenance, as JSON has it."""
        classes = [{"name": c.name, "colour": c.colour, "value": c.value} for c in self.classes]
        size = self.pixel_size
        # left out where it says no more than the pixel size, as in masks of earlier releases
        is_plain = self.frame in (UNKNOWN_FRAME, frame_of_size(size_of(self.frame)))
        return {
            "shape": list(self.shape),
            "depth": self.depth,
            "block": self.block,
            "chunk": self.chunk,
            "classes": classes,
            "pixel_size": None if size is None else [float(size.y), float(size.x)],
            "offset": [float(pixels) for pixels in self.offset],
            "scale": [float(factor) for factor in self.scale],
            "first_plane": self.first_plane,
        } | ({} if is_plain else {"frame": asdict(self.frame)})


def spec_from_record(record: Mapping[str, Any]) -> MaskSpec:
    """The spec that `record` (an array store's `tilesegment` attribute) was made of.

    Raises:
        MaskError: it is not such a record.
    """
    try:
        layout = record["layout"]
        size = layout["pixel_size"]
        return MaskSpec(
            shape=(int(layout["shape"][0]), int(layout["shape"][1])),
            depth=None if layout["depth"] is None else int(layout["depth"]),
            block=int(layout["block"]),
            chunk=int(layout["chunk"]),
            classes=tuple(LabelClass(c["name"], c["colour"], c["value"]) for c in layout["classes"]),
            pixel_size=None if size is None else PixelSize(float(size[0]), float(size[1])),
            offset=(float(layout["offset"][0]), float(layout["offset"][1])),
            scale=(float(layout["scale"][0]), float(layout["scale"][1])),
            first_plane=int(layout["first_plane"]),
            frame=_frame(layout.get("frame", {})),
            fingerprint=dict(record["fingerprint"]),
            provenance=dict(record["provenance"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
        raise MaskError(f"the mask's record is damaged ({error!r}); compute the mask again") from error


def _frame(record: Mapping[str, Any]) -> Frame:
    """The frame that `record` was made of."""
    spacings = {axis: (float(one["scale"]), float(one["origin"]), one["unit"]) for axis, one in record.items()}
    return Frame(**{axis: Spacing(*spacing) for axis, spacing in spacings.items()})


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` as it comes back from JSON (tuples as lists), so that it can be compared with what is stored."""
    result: dict[str, Any] = json.loads(json.dumps(value))
    return result
