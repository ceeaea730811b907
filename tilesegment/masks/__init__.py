"""Masks: written block by block into a folder in progress, finished under their final name, read back.

What is stored counts as done, so an interrupted mask is gone on with by creating it again with the same settings.
The final name appears only when the mask is complete, and an output that is replaced stays whole until then.
"""

from typing import TYPE_CHECKING, Any

from tilesegment.masks.spec import JSON, MaskSpec

if TYPE_CHECKING:
    from tilesegment.masks.reader import Mask, open_mask
    from tilesegment.masks.writer import MaskWriter, create_mask, create_probabilities

__all__ = ["JSON", "Mask", "MaskSpec", "MaskWriter", "create_mask", "create_probabilities", "open_mask"]


def __getattr__(name: str) -> Any:
    """Reader and writer come when they are first asked for: they import zarr, which takes half a second."""
    if name in ("MaskWriter", "create_mask", "create_probabilities"):
        from tilesegment.masks import writer

        return getattr(writer, name)
    if name in ("Mask", "open_mask"):
        from tilesegment.masks import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
