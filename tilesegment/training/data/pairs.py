"""Pairs of image and label, and the layout that they are found in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """An image and its label, each a file or a Zarr folder; nnU-Net's cases have one image file per channel."""

    name: str  # stem of the image's file, or of the case; `val/stem` in a folder val/
    images: tuple[Path, ...]
    label: Path  # an image, or outlines: GeoJSON, labelme, COCO
    entry: str | None = None  # in a COCO file, the image's `file_name`


@dataclass(frozen=True)
class Layout:
    """The layout of a data set."""

    words: str  # for the user
    pairs: tuple[Pair, ...]  # sorted by name
    held_out: tuple[Pair, ...] = ()  # those in a folder val/
    voc: bool = False  # as in Pascal VOC: palette indices are the classes, 255 means not labelled
    names: Mapping[int, str] = field(default_factory=dict)  # of the classes by value, if a file has them
    ignore: int | None = None  # the value that means "not labelled", if a file has it
    warnings: tuple[str, ...] = ()  # what was left out or decided, one sentence each


def words_of(pairs: Sequence[Pair]) -> str:
    """Name the first pairs by their files, and say how many more there are."""
    words = ", ".join(f"{pair.images[0].name} and {pair.label.name}" for pair in pairs[:2])
    return words + (f" and {len(pairs) - 2} more such pairs" if len(pairs) > 2 else "")
