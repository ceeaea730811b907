"""Masks: written block by block into a folder in progress, finished under their final name, read back.

A block that is stored is done, so an interrupted mask goes on when it is created again with the same settings. The
final name appears only when the mask is complete, and an output that is replaced stays whole until then. Any process
may be killed at any moment, and any number of them may begin, write and finish a mask at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tilesegment.masks.spec import JSON, MaskSpec

if TYPE_CHECKING:
    from tilesegment.masks.completion import MaskStatus, is_complete, open_partial, status
    from tilesegment.masks.reader import Mask, find_mask, open_mask, read_record
    from tilesegment.masks.writer import MaskWriter, create_mask, create_objects, create_probabilities

# imported on first use: they import zarr, which takes half a second
_WHERE = {
    **dict.fromkeys(("Mask", "find_mask", "open_mask", "read_record"), "reader"),
    **dict.fromkeys(("MaskStatus", "is_complete", "open_partial", "status"), "completion"),
    **dict.fromkeys(("MaskWriter", "create_mask", "create_objects", "create_probabilities"), "writer"),
}

__all__ = [
    "JSON",
    "Mask",
    "MaskSpec",
    "MaskStatus",
    "MaskWriter",
    "create_mask",
    "create_objects",
    "create_probabilities",
    "find_mask",
    "is_complete",
    "open_mask",
    "open_partial",
    "read_record",
    "status",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
