"""The settings of objects as keywords of functions: the fields of `ObjectSettings` with their types."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from tilesegment.stores import Location


class ObjectKeywords(TypedDict, total=False):
    """The fields of `ObjectSettings`; where it takes names, also one, or numbers."""

    classes: str | Sequence[str | int] | None
    border: str | int | None
    grow: float | None
    fill_holes: bool
    min_area: int | None
    touching_border: str
    connectivity: int
    volume: bool
    regions: bool
    simplify: float
    image: str | Path | Location | None
    block: int
