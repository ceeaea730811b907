"""Objects by key on a disk, in memory and on servers: one seam for what is read and written there."""

from tilesegment.stores.location import (
    OPTIONS,
    Location,
    Options,
    Place,
    is_in,
    is_url,
    place_of,
    resolved,
    store_options,
)
from tilesegment.stores.open import store_at
from tilesegment.stores.store import Entry, Store, joined

__all__ = [
    "OPTIONS",
    "Entry",
    "Location",
    "Options",
    "Place",
    "Store",
    "is_in",
    "is_url",
    "joined",
    "place_of",
    "resolved",
    "store_at",
    "store_options",
]
