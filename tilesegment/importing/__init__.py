"""Models of weights that were trained elsewhere."""

from tilesegment.importing.importing import import_weights

__all__ = ["import_weights"]
