"""Description of a mask, how its array is cut, and the record that every format keeps of it."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.metadata import (
    UNKNOWN_FRAME,
    Frame,
    LabelClass,
    PixelSize,
    Spacing,
    frame_of_size,
    halved_side,
    size_of,
)

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None

STORED = "stored"
"""Key of the fingerprint: a digest of what the image stores."""
UNREADABLE = "unreadable"
"""Key of the record of a mask in progress: part of the image could not be read, and is expected to be repaired."""
RESAMPLED = "resampled"
"""Key of the fingerprint: (y, x) pixels of level 0 per pixel of the level that was computed and predicted."""
_SAMPLED = "content"  # an older digest beside STORED, which does not see the chunks of a Zarr: not compared
_FRAME = "frame"


@dataclass(frozen=True)
class MaskSpec:
    """A mask of class ids (uint8), or what has the same form: probabilities, ids of objects (uint32).

    Attributes:
        shape: (height, width) in pixels.
        depth: planes along z; None for a mask without a z axis.
        block: side of a block in pixels, which is one stored object; a whole number of chunks.
        chunk: side of a chunk in pixels, the smallest part that can be read.
        classes: what the ids mean; the id is the position.
        pixel_size: of the mask's own pixels, in micrometres; None if unknown.
        offset: (y, x) of the mask's first pixel in the image, in pixels of the mask.
        scale: (y, x) pixels of the image's level 0 that one pixel of the mask spans.
        first_plane: plane of the image that is plane 0 of the mask.
        frame: where pixels and planes of the image's level 0 lie, in micrometres where known.
        fingerprint: what decides the pixels; a mask in progress only goes on under the same fingerprint.
        provenance: what else is recorded.
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
        # a chunk is decoded whole: a reader holds at most 256 MiB
        assert 0 < self.chunk <= 1 << 14
        assert self.block in range(self.chunk, 1 << 20, self.chunk), "a block is a whole number of chunks"
        assert 0 < len(self.classes) <= 256, "an id is one byte"

    def layout(self) -> dict[str, Any]:
        """Return all but fingerprint and provenance, for JSON."""
        size = self.pixel_size
        layout = {
            "shape": list(self.shape),
            "depth": self.depth,
            "block": self.block,
            "chunk": self.chunk,
            "classes": [one.as_json() for one in self.classes],
            "pixel_size": None if size is None else [float(size.y), float(size.x)],
            "offset": [float(pixels) for pixels in self.offset],
            "scale": [float(factor) for factor in self.scale],
            "first_plane": self.first_plane,
        }
        # left out if it holds no more than the pixel size
        is_plain = self.frame in (UNKNOWN_FRAME, frame_of_size(size_of(self.frame)))
        return layout if is_plain else layout | {_FRAME: asdict(self.frame)}


def spec_from_record(record: Mapping[str, Any]) -> MaskSpec:
    """Return the spec that `record` was made from.

    Raises:
        MaskError: it is damaged.
    """
    try:
        layout = record["layout"]
        size, frame = layout["pixel_size"], layout.get(_FRAME, {})
        spacings = {axis: Spacing(float(s["scale"]), float(s["origin"]), s["unit"]) for axis, s in frame.items()}
        return MaskSpec(
            shape=(int(layout["shape"][0]), int(layout["shape"][1])),
            depth=None if layout["depth"] is None else int(layout["depth"]),
            block=int(layout["block"]),
            chunk=int(layout["chunk"]),
            classes=tuple(LabelClass(**one) for one in layout["classes"]),
            pixel_size=None if size is None else PixelSize(float(size[0]), float(size[1])),
            offset=(float(layout["offset"][0]), float(layout["offset"][1])),
            scale=(float(layout["scale"][0]), float(layout["scale"][1])),
            first_plane=int(layout["first_plane"]),
            frame=Frame(**spacings),
            fingerprint=dict(record["fingerprint"]),
            provenance=dict(record["provenance"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
        raise MaskError(f"the mask's record is damaged ({error!r}); compute the mask again") from error


def resampled_of(fingerprint: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the step at which an image was resampled; None if a stored level was predicted.

    Raises:
        MaskError: it is damaged.
    """
    step = fingerprint.get(RESAMPLED)
    try:
        given = None if step is None else (float(step[0]), float(step[1]))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise MaskError(f"the mask's record is damaged ({error!r}); compute the mask again") from error
    if given is not None and not all(math.isfinite(one) and one > 0 for one in given):
        raise MaskError(f"the mask's record is damaged (resampled at {given}); compute the mask again")
    return given


def digest(record: Mapping[str, Any]) -> str:
    """Return a SHA-256 that is equal for equal masks, for a file that cannot hold a record."""
    layout = {key: value for key, value in record["layout"].items() if key != _FRAME}
    fingerprint = {key: value for key, value in record["fingerprint"].items() if key != _SAMPLED}
    same = {"layout": layout, "fingerprint": fingerprint}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def differing(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the settings in which two records differ, with both values; empty if the masks are the same."""
    ignored = {_SAMPLED, *((STORED,) if there.get(UNREADABLE) else ())}
    differences = []
    for part in ("layout", "fingerprint"):
        old, new = there.get(part), now[part]
        if not isinstance(old, dict):
            return "its record is damaged"
        for key in sorted((old.keys() | new.keys()) - ignored):
            if (key in old and key in new and old[key] == new[key]) or (key == _FRAME and key not in old):
                continue
            if key == STORED:
                differences.append("content: the files of the image hold other data than when the mask was begun")
            else:
                differences.append(f"{key}: {_short(old, key)} there, {_short(new, key)} now")
    return "; ".join(dict.fromkeys(differences))


def _short(values: Mapping[str, Any], key: str) -> str:
    text = repr(values[key]) if key in values else "none"
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Grid:
    """How an array (channels, z, y, x) is cut into blocks and chunks: arithmetic only.

    Attributes:
        shape: (height, width).
        depth: planes along z; None without this axis.
        channels: of probabilities; None for ids of classes and objects.
        block, chunk: sides in pixels.
        format: of Zarr, 3 (a block is one shard) or 2 (a block is chunks).
        values: dtype: `uint8` of class ids, `uint32` of objects, `float32` or `uint8` (0 to 255) of probabilities.
        floor: the sides of smaller levels are rounded down, not up: a last odd row or column has no pixel there.
    """

    shape: tuple[int, int]
    depth: int | None
    channels: int | None
    block: int
    chunk: int
    format: int
    values: str = "uint8"
    floor: bool = False

    @property
    def axes(self) -> str:
        """Names of the axes in order, `yx` to `czyx`."""
        return ("" if self.channels is None else "c") + ("" if self.depth is None else "z") + "yx"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.values)

    @property
    def stored(self) -> int:
        """Side of a stored object."""
        return self.block if self.format == 3 else self.chunk

    def sizes(self, channels: int | None, depth: int | None, height: int, width: int) -> tuple[int, ...]:
        """Return the sizes of those axes that the array has."""
        every = {"c": channels, "z": depth, "y": height, "x": width}
        return tuple(every[axis] or 1 for axis in self.axes)

    @property
    def full(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.sizes(self.channels, self.depth, *self.shape)

    @property
    def cut(self) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """Shapes of its chunks and of its shards."""
        shards = self.sizes(self.channels, 1, self.block, self.block) if self.format == 3 else None
        return self.sizes(1, 1, self.chunk, self.chunk), shards

    def count(self, side: int) -> tuple[int, int, int]:
        """Return the number of squares of `side` pixels: planes, rows, columns."""
        rows, columns = (-(-size // side) for size in self.shape)
        return self.depth or 1, rows, columns

    def halved(self, halvings: int) -> "Grid":
        """Return the grid of a level that is halved `halvings` times."""
        height, width = (halved_side(side, halvings, self.floor) for side in self.shape)
        return replace(self, shape=(height, width))

    def blocks(self) -> Iterator[tuple[Region, int]]:
        """Yield region and plane of every block, plane by plane, row by row."""
        for z in range(self.depth or 1):
            for region in Region.of_shape(self.shape).squares(self.block):
                yield region, z

    @property
    def root(self) -> str:
        """Key below which the stored objects of the array lie."""
        return "c" if self.format == 3 else ""

    def keys(self, region: Region, z: int) -> list[str]:
        """Return the keys of the objects that hold `region` of plane `z`, in the array, row by row."""
        side = self.stored
        lead = [str(z) if axis == "z" else "0" for axis in self.axes[:-2]]
        lead = [self.root, *lead] if self.root else lead
        rows, columns = range(region.y0 // side, -(-region.y1 // side)), range(region.x0 // side, -(-region.x1 // side))
        return ["/".join([*lead, str(row), str(column)]) for row in rows for column in columns]
