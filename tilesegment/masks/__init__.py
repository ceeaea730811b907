"""Masks: written block by block into a folder in progress, finished under their final name, read back.

What is stored counts as done, so an interrupted mask is gone on with by creating it again with the same settings.
The final name appears only when the mask is complete, and an output that is replaced stays whole until then. Any
process may be killed at any moment, and any number of them may begin, write and end a mask at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tilesegment.masks.spec import JSON, MaskSpec

if TYPE_CHECKING:
    from tilesegment.masks.completion import MaskStatus, is_complete, open_partial, status
    from tilesegment.masks.reader import Mask, is_mask, open_mask
    from tilesegment.masks.survey import Survey
    from tilesegment.masks.writer import MaskWriter, create_mask, create_probabilities

__all__ = [
    "JSON",
    "Mask",
    "MaskSpec",
    "MaskStatus",
    "MaskWriter",
    "Survey",
    "create_mask",
    "create_probabilities",
    "is_complete",
    "is_mask",
    "open_mask",
    "open_partial",
    "status",
]

_LATER = {
    "completion": ("MaskStatus", "is_complete", "open_partial", "status"),
    "reader": ("Mask", "is_mask", "open_mask"),
    "survey": ("Survey",),
    "writer": ("MaskWriter", "create_mask", "create_probabilities"),
}


def __getattr__(name: str) -> Any:
    """What reads and writes comes when it is first asked for: it imports zarr, which takes half a second."""
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
